"""Plans: goldens from pretended cells, and what is probed where there are none."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.filesize import decimal

from mixbench.bench import plan as plans
from mixbench.bench.cells import BadFile, Cell, Record, Run, Store, task
from mixbench.bench.lab import Lab
from mixbench.bench.plan import WARMUP, plan
from mixbench.bench.spec import BadInput
from mixbench.bench.speed import Subject
from mixbench.bench.tables import Table
from mixbench.bench.training import train
from mixbench.tasks import Measure

SETTING = "digits/small,epochs=10,batch=100"
HERE = "Accelerator"
EARLIER = 7
"""A seed that is in no table."""

TABLE = Table(
    name="tiny",
    caption="A caption.",
    settings=(SETTING,),
    methods=("baseline", "mixup", "cutmix", "transmix"),
    columns=("classification:top1", "robustness"),
    seeds=3,
)
MIXUP = replace(TABLE, methods=("mixup",), columns=("classification:top1",))


@pytest.fixture(autouse=True, scope="module")
def here() -> Iterator[None]:
    """The device has a name that is the same on all machines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "device_name", lambda device: HERE)
        yield


def made(seconds: float, device: str = HERE) -> Record:
    """What made a training: 10 epochs of 36,000 images in full batches, and tests on 3,600."""
    images = {"train": 36_099, "test": 3_600}
    return {"device": device, "seconds": seconds, "images": images}


def asked(seconds: float, device: str = HERE) -> Record:
    return {"device": device, "seconds": seconds}


def put(store: Store, run: Run, task_name: str, training: Record, answering: Record) -> None:
    cell = Cell(run, task_name)
    metrics = dict.fromkeys(task(task_name).metrics, 0.0)
    how = {"training": training, "task": answering}
    store.publish(cell, cell.identity() | {"metrics": metrics, "made": how})


def put_checkpoint(store: Store, run: Run, epochs: int, size: int = 1_000_000) -> None:
    store.folder(run).mkdir(parents=True, exist_ok=True)
    content = torch.zeros(size, dtype=torch.uint8)
    state = run.identity() | {"epochs": [{}] * epochs, "objective": content}
    torch.save(state, store.checkpoint(run))


def fill(store: Store, method: str, seed: int, *tasks: str, seconds: float = 3600.0) -> None:
    """A run that took an hour, or other seconds, to train; asking took 36 s a task, and 36 more."""
    run = Run(SETTING, method, seed)
    put_checkpoint(store, run, epochs=10)
    for number, name in enumerate(tasks, 1):
        put(store, run, name, made(seconds), asked(number * 36.0))


def table_rows(text: str) -> dict[str, list[str]]:
    """The cells of each row, by what its first one says."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {first.strip(): [each.strip() for each in rest] for first, *rest in lines}


def caption(text: str) -> str:
    return text.splitlines()[-1]


def test_golden_of_a_half_filled_table(lab: Lab) -> None:
    for seed in range(3):
        fill(lab.store, "baseline", seed, "classification", "robustness")
    fill(lab.store, "mixup", 0, "classification", "robustness", seconds=1800.0)
    fill(lab.store, "mixup", 1, "classification", seconds=7200.0)
    fill(lab.store, "cutmix", 0, "classification", seconds=1800.0)
    assert plan(TABLE, lab) == (
        "| method | to train | to ask | images/s |     from | hours per run | GPU hours |       disk |\n"
        "| ------ | -------: | -----: | -------: | -------: | ------------: | --------: | ---------: |\n"
        "| mixup  |        1 |      1 |       80 | measured |          1.41 |      1.43 |     1.0 MB |\n"
        "| cutmix |        2 |      1 |      200 | measured |      0.56 + ? |  1.12 + ? | 2.0 MB + ? |\n"
        "| total  |        3 |      2 |          |          |      1.41 + ? |  2.54 + ? | 3.0 MB + ? |\n"
        "\n"
        "What is left of `tiny`, in `digits/small,epochs=10,batch=100`; hours per run are those of "
        "the longest, and tests after epochs count as training. Not counted (?), as no earlier run "
        "tells: `robustness`.\n"
    )


def test_nothing_to_do_is_one_line(lab: Lab) -> None:
    fill(lab.store, "mixup", 0, "classification")
    assert plan(replace(MIXUP, seeds=1), lab) == "Nothing is left to do of `tiny`.\n"


def test_what_does_not_apply_costs_nothing(lab: Lab) -> None:
    fill(lab.store, "mixup", EARLIER, "classification")
    text = plan(replace(MIXUP, methods=("mixup", "transmix")), lab)
    assert text == plan(MIXUP, lab)
    assert "transmix" not in text


def test_the_median_over_earlier_seeds_counts(lab: Lab) -> None:
    for seed, seconds in enumerate((60.0, 3600.0, 72000.0), EARLIER):
        run = Run(SETTING, "mixup", seed)
        put(lab.store, run, "classification", made(seconds), asked(10 * seconds))
    assert table_rows(plan(MIXUP, lab))["mixup"][2:5] == ["100", "measured", "11.1"]


def test_a_run_counts_once_however_many_cells_it_has(lab: Lab) -> None:
    fill(lab.store, "mixup", EARLIER, "classification", "robustness", "cost", seconds=60.0)
    for seed in (EARLIER + 1, EARLIER + 2):
        fill(lab.store, "mixup", seed, "classification")
    assert table_rows(plan(MIXUP, lab))["mixup"][2] == "100"


def test_runs_that_only_lack_tasks_have_no_speed(lab: Lab) -> None:
    for seed in range(3):
        fill(lab.store, "mixup", seed, "classification")
    rows = table_rows(plan(replace(MIXUP, columns=("robustness",)), lab))
    assert rows["mixup"] == ["0", "3", "", "", "?", "?", "?"]


def test_what_a_checkpoint_holds_is_not_trained_again(lab: Lab) -> None:
    fill(lab.store, "mixup", EARLIER, "classification")
    for seed, epochs in enumerate((10, 5, 0)):
        put_checkpoint(lab.store, Run(SETTING, "mixup", seed), epochs)
    mixup = table_rows(plan(MIXUP, lab))["mixup"]
    assert mixup == ["2", "1", "100", "measured", "1.11", "1.68", "1.0 MB"]


def taught(lab: Lab, *methods: str) -> dict[str, list[str]]:
    """The plan of a table with a method that learns from the baseline, both known."""
    for method in ("baseline", "supermix"):
        fill(lab.store, method, EARLIER, "classification")
    return table_rows(plan(replace(MIXUP, methods=methods), lab))


def test_teachers_that_are_in_no_row_are_counted(lab: Lab) -> None:
    rows = taught(lab, "supermix")
    assert rows["supermix"][:2] == ["3", "0"] and rows["supermix"][5] == "3.33"
    assert rows["baseline (teacher)"][:2] == ["3", "0"]
    assert rows["baseline (teacher)"][5] == "3.3"
    assert rows["total"][:2] == ["6", "0"] and rows["total"][5] == "6.63"


def test_teachers_that_are_trained_or_in_a_row_are_not_counted_again(lab: Lab) -> None:
    assert taught(lab, "baseline", "supermix")["baseline"][:2] == ["3", "0"]
    for seed in range(2):
        put_checkpoint(lab.store, Run(SETTING, "baseline", seed), epochs=10)
    assert taught(lab, "supermix")["baseline (teacher)"][:2] == ["1", "0"]


def test_a_row_names_its_setting_if_there_are_several(lab: Lab) -> None:
    other = "digits/small,epochs=10,batch=200"
    table = replace(MIXUP, settings=(SETTING, other), columns=("cost",))
    fill(lab.store, "mixup", EARLIER, "cost")
    put(lab.store, Run(other, "mixup", EARLIER), "cost", made(7200.0), asked(0.0))
    rows = table_rows(plan(table, lab))
    assert rows[f"{SETTING}: mixup"][:6] == ["3", "0", "100", "measured", "1.11", "3.33"]
    assert rows[f"{other}: mixup"][:6] == ["3", "0", "50", "measured", "2.2", "6.6"]


def test_numbers_of_the_device_here_are_preferred(lab: Lab) -> None:
    for seed, (device, hours) in enumerate([("Other", 9), ("Other", 9), (HERE, 1)], EARLIER):
        training, answering = made(hours * 3600.0, device), asked(hours * 36.0, device)
        put(lab.store, Run(SETTING, "mixup", seed), "classification", training, answering)
    text = plan(MIXUP, lab)
    assert table_rows(text)["mixup"][2:6] == ["100", "measured", "1.11", "3.33"]
    assert "Other" not in text


def test_other_devices_that_numbers_are_from_are_named_once(lab: Lab) -> None:
    table = replace(MIXUP, methods=("mixup", "cutmix"))
    for method in table.methods:
        training, answering = made(3600.0, "Other"), asked(36.0, "Third")
        put(lab.store, Run(SETTING, method, EARLIER), "classification", training, answering)
        put(lab.store, Run(SETTING, method, EARLIER), "cost", training, asked(36.0, "Fourth"))
    text = plan(table, lab)
    assert "Numbers are from another device than the one here: `Other`, `Third`." in caption(text)
    assert "GPU hours" in text


def test_hours_of_a_cpu_are_not_called_those_of_a_gpu(lab: Lab) -> None:
    run = Run(SETTING, "mixup", EARLIER)
    put(lab.store, run, "classification", made(9.0, "cpu old"), asked(9.0, "cpu old"))
    text = plan(MIXUP, lab)
    assert "CPU hours" in text and "GPU" not in text


def test_several_gpus_train_faster_and_tasks_take_as_long(lab: Lab) -> None:
    fill(lab.store, "mixup", EARLIER, "cost", "classification")  # 72 s for the second
    text = plan(MIXUP, lab, gpus=4)
    assert table_rows(text)["mixup"][2:6] == ["100", "measured", "0.295", "3.54"]
    assert "Training is taken to be 4 times as fast on 4 GPUs as on one." in caption(text)
    text = plan(MIXUP, lab, gpus=0.5)
    assert table_rows(text)["mixup"][2:6] == ["100", "measured", "1.12", "1.68"]
    assert "Training is taken to be 1 times as fast on 0.5 GPUs as on one." in caption(text)


def test_what_processes_trained_together_is_counted_for_one_device(lab: Lab) -> None:
    together = made(3600.0) | {"processes": 4}
    put(lab.store, Run(SETTING, "mixup", EARLIER), "classification", together, asked(36.0))
    assert table_rows(plan(MIXUP, lab))["mixup"][2:5] == ["25", "measured", "4.41"]
    assert table_rows(plan(MIXUP, lab, gpus=4))["mixup"][2:5] == ["25", "measured", "1.11"]


def test_few_hours_are_not_printed_as_none(lab: Lab) -> None:
    put(lab.store, Run(SETTING, "mixup", EARLIER), "cost", made(9.0), asked(0.0))
    rows = table_rows(plan(replace(MIXUP, columns=("cost", "robustness")), lab))
    assert rows["mixup"][4:6] == ["< 0.01 + ?", "< 0.01 + ?"]


def test_cells_cost_what_earlier_ones_did_with_what_lies_beside_them(lab: Lab) -> None:
    fill(lab.store, "mixup", EARLIER, "classification")
    earlier = lab.store.path(Cell(Run(SETTING, "mixup", EARLIER), "classification"))
    earlier.with_suffix(".npz").write_bytes(bytes(5_000_000))
    assert table_rows(plan(replace(MIXUP, seeds=1), lab))["mixup"][-1] == "6.0 MB"


def test_no_dataset_is_needed_where_cells_tell_all(lab: Lab) -> None:
    setting = "cifar100/preactresnet18,epochs=10"
    table = replace(MIXUP, settings=(setting,))
    with pytest.raises(BadInput, match="mixbench data get cifar100"):
        plan(table, lab)
    put(lab.store, Run(setting, "mixup", EARLIER), "classification", made(3600.0), asked(36.0))
    text = plan(table, lab)
    mixup = table_rows(text)["mixup"]
    assert mixup[4] == "1.11" and mixup[6].endswith(" kB + ?")
    assert caption(text).endswith("Not counted (?), as no earlier run tells: `checkpoint.pt`.")


def test_files_whose_names_stand_for_nothing_today_tell_nothing(lab: Lab) -> None:
    fill(lab.store, "mixup", EARLIER, "classification")
    before = plan(MIXUP, lab)
    folder = lab.store.folder(Run(SETTING, "mixup", EARLIER))
    cell = (folder / "classification.json").read_text()
    (folder / "clairvoyance.json").write_text(cell)
    (other := folder.with_name("7-copy")).mkdir()
    (other / "classification.json").write_text(cell)
    assert plan(MIXUP, lab) == before


@pytest.mark.parametrize(
    ("training", "part"),
    [
        ({"device": HERE}, "training.seconds"),
        ({}, "training.device"),
        (made(0.0), "training.seconds"),
        (made(float("inf")), "training.seconds"),
        (made(1.0) | {"images": 5}, "training.images"),
        (made(1.0) | {"images": {"train": -1, "test": 0}}, "training.images.train"),
    ],
)
def test_a_cell_that_does_not_tell_what_it_took_is_named_and_not_counted(
    lab: Lab, training: Record, part: str
) -> None:
    fill(lab.store, "mixup", EARLIER, "classification")
    before = plan(MIXUP, lab)
    put(lab.store, Run(SETTING, "mixup", EARLIER + 1), "classification", training, asked(9.0))
    with pytest.warns(BadFile, match=f"missing: what made it has no {part} that"):
        assert plan(MIXUP, lab) == before


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """How many steps each measure of two seconds holds; the first number is of those outside."""
    counts = [0]
    step = Subject.step

    def counted(subject: Subject, x: torch.Tensor, y: torch.Tensor) -> None:
        counts[-1] += 1
        step(subject, x, y)

    @contextmanager
    def two_seconds(device: torch.device) -> Iterator[Measure]:
        counts.append(0)
        yield Measure(seconds=2.0)

    monkeypatch.setattr(Subject, "step", counted)
    monkeypatch.setattr(plans, "measured", two_seconds)
    return lambda: counts


def test_a_method_without_cells_is_probed(lab: Lab, steps: Callable[[], list[int]]) -> None:
    table = replace(
        TABLE, settings=("digits/small,epochs=150",), methods=("mixup",), columns=("cost",), seeds=2
    )
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    text = plan(table, lab, steps=20)
    assert torch.rand(3).equal(expected)
    assert steps() == [WARMUP, 20]
    images, rate = 1024 + 500, 20 * 64 / 2.0  # of an epoch, in full batches, and its test
    hours = 150 * images / rate / 3600
    assert table_rows(text)["mixup"][:5] == ["2", "0", "640", "probe", f"{hours:.3g} + ?"]
    assert caption(text).endswith("Not counted (?), as no earlier run tells: `cost`.")


def test_only_what_is_not_known_is_probed(lab: Lab, steps: Callable[[], list[int]]) -> None:
    fill(lab.store, "mixup", EARLIER, "classification")
    table = replace(TABLE, methods=("mixup", "cutmix"), columns=("classification:top1",))
    text = plan(table, lab, steps=1)
    assert steps() == [WARMUP, 1]
    assert [table_rows(text)[name][3] for name in table.methods] == ["measured", "probe"]


@pytest.mark.parametrize("setting", ["digits/small,epochs=1", "digits/smallvit,epochs=1,warmup=0"])
def test_a_probe_foresees_the_size_of_a_checkpoint(setting: str, lab: Lab) -> None:
    table = replace(MIXUP, settings=(setting,), seeds=1)
    foreseen = table_rows(plan(table, lab, steps=1))["mixup"][-1]
    train(run := Run(setting, "mixup", 0), lab)
    actual = decimal(lab.store.checkpoint(run).stat().st_size)
    (number, unit, *_), (actual_number, actual_unit) = foreseen.split(), actual.split()
    assert unit == actual_unit
    assert float(number) == pytest.approx(float(actual_number), rel=0.1)


SECONDS = st.floats(1, 1e6)
CELLS = st.sampled_from(
    [(m, s, t) for m in TABLE.methods[:3] for s in range(3) for t in ("classification", "cost")]
)


@settings(max_examples=20, deadline=None)
@given(st.lists(SECONDS, min_size=3, max_size=3), st.sets(CELLS, max_size=17))
def test_totals_add_up(seconds: list[float], there: set[tuple[str, int, str]]) -> None:
    table = replace(TABLE, methods=TABLE.methods[:3], columns=("classification:top1", "cost"))
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Store(Path(folder)))
        for method, each in zip(table.methods, seconds, strict=True):
            fill(lab.store, method, EARLIER, "classification", "cost", seconds=each)
        for method, seed, name in there:
            put(lab.store, Run(SETTING, method, seed), name, made(60.0), asked(9.0))
        rows = table_rows(plan(table, lab))
        left = {run for run, _ in table.todo(lab.store)}
    parts = [rows[method] for method in table.methods if method in rows]
    assert sum(int(part[0]) + int(part[1]) for part in parts) == len(left)
    for column in (0, 1, 5):
        numbers = [float(part[column]) for part in parts]
        assert float(rows["total"][column]) == pytest.approx(sum(numbers), rel=0.01)
    longest = max(float(part[4]) for part in parts)
    assert float(rows["total"][4]) == pytest.approx(longest, rel=0.01)
