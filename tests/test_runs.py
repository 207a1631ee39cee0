"""Training: resumed to the bit, seeded alone, refused where it can't go on."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import traceback
from contextlib import nullcontext
from dataclasses import dataclass, replace
from inspect import unwrap
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import SGD, AdamW
from torch.utils._pytree import tree_leaves

from mixbench.bench import catalogue, runs, stop
from mixbench.bench import training as training_module
from mixbench.bench.catalogue import inapplicable
from mixbench.bench.cells import Arrays, BadFile, Cell, Record, Run, Store
from mixbench.bench.desk import Desk
from mixbench.bench.lab import Lab, Report, pick_device, reproducible, tuned
from mixbench.bench.optimizers import optimizer
from mixbench.bench.runs import Unanswered, ask, ask_all, check, fill
from mixbench.bench.settings import Recipe
from mixbench.bench.spec import BadInput, names, one_line
from mixbench.bench.training import Training, epochs_done, patience, resume, train
from mixbench.methods import Method, Net
from mixbench.tasks import Answer, Inapplicable, Metric, Task, Trained, Workplace

SETTING = "digits/small,epochs=3"
TASKS = ["classification", "calibration", "robustness,steps=2"]


CHEAPER = {"stylemix": "stylemix,size=16,p=0.5", "supermix": "supermix,steps=4"}


def weights(training: Training) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(training.objective.state_dict()) if leaf is not None]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Event:
    """What asks this process to end, once it is set."""
    told = Event()
    monkeypatch.setattr(stop, "wanted_back", told.is_set)
    return told


def stopped(run: Run, lab: Lab, epochs: float, told: Event) -> None:
    """Train until so many epochs are done, then be asked to end, in the step that follows."""

    def report(doing: str, done: float, total: int, images: int = 0) -> None:
        if done >= epochs:
            told.set()

    with pytest.raises(stop.Stopped):
        train(run, lab, report)
    told.clear()


@pytest.mark.usefixtures("adain")
@pytest.mark.parametrize("name", names("mixbench.methods"))
def test_a_resumed_training_is_the_same_to_the_bit(name: str, told: Event, tmp_path: Path) -> None:
    method, setting = CHEAPER.get(name, name), SETTING
    if inapplicable(setting, method):
        setting = setting.replace("small", "smallvit")
    assert not inapplicable(setting, method)
    run = Run(setting, method, 0)
    whole = train(run, Lab(Store(tmp_path / "whole")))
    parts = Lab(Store(tmp_path / "parts"))
    stopped(run, parts, 0.5, told)
    stopped(run, parts, 2, told)
    resumed = train(run, parts)
    assert all(a.equal(b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert len(whole.epochs) == len(resumed.epochs) == 3
    for a, b in zip(whole.epochs, resumed.epochs, strict=True):
        assert (a["top1"], a["top5"]) == (b["top1"], b["top5"])


def kept(run: Run, lab: Lab) -> dict[str, Any]:
    """What the run's checkpoint holds."""
    state: dict[str, Any] = torch.load(lab.store.folder(run) / "checkpoint.pt")
    return state


def losses(training: Training) -> list[float]:
    return [epoch["loss"] for epoch in training.epochs]


def assert_identical(one: Training, other: Training) -> None:
    """Weights, history, and what would be drawn next, to the bit."""
    assert all(a.equal(b) for a, b in zip(weights(one), weights(other), strict=True))
    assert losses(one) == losses(other)
    assert [epoch["top1"] for epoch in one.epochs] == [epoch["top1"] for epoch in other.epochs]
    random = [kept(each.run, each.lab)["random"]["cpu"] for each in (one, other)]
    assert random[0].equal(random[1])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Training:
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    return train(Run(SETTING, "multimix", 0), Lab(store))


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.sets(st.integers(0, 46), min_size=1, max_size=3))
@example(steps={15, 31})
def test_a_training_stopped_in_any_steps_ends_the_same_to_the_bit(
    undisturbed: Training, told: Event, steps: set[int]
) -> None:
    with TemporaryDirectory() as folder:
        run, lab = undisturbed.run, Lab(Store(Path(folder)))
        for step in sorted(steps):
            stopped(run, lab, step / 16, told)
            state = kept(run, lab)
            assert 16 * len(state["epochs"]) + len(state["losses"]) == step + 1
        training = train(run, lab)
        assert_identical(training, undisturbed)
        seconds = sum(epoch["seconds"] for epoch in training.epochs)
        assert training.made["seconds"] == pytest.approx(seconds)


def test_a_training_that_saves_after_each_step_is_the_same_and_its_costs_add_up(
    undisturbed: Training, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixbench.bench.training.CHECKPOINT_SECONDS", -1)
    saved, plain = list[int](), Training.save

    def save(self: Training) -> None:
        plain(self)
        saved.append(len(kept(self.run, self.lab)["losses"]))

    monkeypatch.setattr(Training, "save", save)
    training = train(undisturbed.run, lab)
    assert saved == [*range(1, 17)] * 3 + [0]
    assert_identical(training, undisturbed)
    seconds = [epoch["seconds"] for epoch in training.epochs]
    assert training.made["seconds"] == pytest.approx(sum(seconds))
    assert min(seconds) > 0


def test_saving_takes_half_a_percent_of_the_time_unless_minutes_of_work_would_be_lost() -> None:
    taken = [0, 0.004, 0.5, 1.4955, 1.6, 60]
    assert [patience(seconds) for seconds in taken] == [0, 1, 100, 300, 300, 300]


def test_a_training_is_saved_after_its_first_step_then_by_what_that_took_and_at_its_end(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, steps, saved = [0.0], list[float](), list[int]()
    plain_step, plain_save = Training.step, torch.save

    def step(self: Training, x: Tensor, y: Tensor) -> None:
        plain_step(self, x, y)
        clock[0] += 0.9
        steps.append(clock[0])

    def save(state: object, file: Any) -> None:
        plain_save(state, file)
        clock[0] += 0.0725  # so the next is due in 15 s
        saved.append(len(steps))

    monkeypatch.setattr(Training, "step", step)
    monkeypatch.setattr(torch, "save", save)
    monkeypatch.setattr(training_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    run = Run(SETTING, "baseline", 0)
    train(run, lab)
    assert saved == [1, 18, 35, 48]
    train(run, lab)  # what is over is not saved again
    assert saved == [1, 18, 35, 48]


def test_a_checkpoint_of_before_there_were_steps_is_taken_up(
    undisturbed: Training, lab: Lab
) -> None:
    run, path = undisturbed.run, lab.store.folder(undisturbed.run) / "checkpoint.pt"
    with reproducible(run.seed, lab.device):
        training = resume(run, lab)
        training.epoch()
        training.epoch()
        training.save()
    state = kept(run, lab)
    for key in ("losses", "seconds", "others"):
        del state[key]
    torch.save(state, path)
    assert_identical(train(run, lab), undisturbed)


def test_a_report_says_what_is_done_of_an_epoch_and_how_many_images_that_is(lab: Lab) -> None:
    at: list[tuple[Any, ...]] = []
    train(Run("digits/small,epochs=1", "baseline", 0), lab, lambda *what: at.append(what))
    steps = [n / 16 for n in range(16)]
    assert at == [("training", done, 1, 1024) for done in (0.0, *steps, 1.0)]


def test_a_run_without_tasks_is_only_trained(lab: Lab) -> None:
    run = Run("digits/small,epochs=1", "baseline", 0)
    assert fill(run, [], lab) == []
    assert len(kept(run, lab)["epochs"]) == 1
    assert [path.suffix for path in lab.store.folder(run).iterdir()].count(".json") == 0


def test_between_tasks_a_process_that_is_asked_to_end_does(lab: Lab, told: Event) -> None:
    run, names = Run("digits/small,epochs=1", "baseline", 0), ["classification", "calibration"]

    def report(doing: str, done: float, total: int, images: int = 0) -> None:
        if doing == "classification":
            told.set()

    with pytest.raises(stop.Stopped):
        fill(run, names, lab, report)
    assert lab.store.missing(run, names) == ["calibration"]
    assert not lab.store.claimed(run)


def test_within_a_task_a_process_that_is_asked_to_end_does_and_goes_on_later(
    lab: Lab, long: "Long", told: Event
) -> None:
    training, counted = Training(CELL.run, lab), list[float]()

    def report(doing: str, done: float, total: int, images: int = 0) -> None:
        if doing.endswith("counting"):
            counted.append(done)
            told.set()

    with pytest.raises(Unanswered, match="InterruptedError"):
        ask_all([CELL.task], training, lab, lambda *what: None)
    with pytest.raises(stop.Stopped):
        ask_all([CELL.task], training, lab, lambda *what: told.set())
    told.clear()
    ask_all([CELL.task], training, lab, report)
    assert counted == [3]


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_deterministic_run_is_so_and_says_so(lab: Lab, deterministic: bool) -> None:
    lab, seen = replace(lab, deterministic=deterministic), set[tuple[bool, ...]]()

    def report(doing: str, done: float, total: int, images: int = 0) -> None:
        cudnn = torch.backends.cudnn
        modes = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
        seen.add((*modes, cudnn.enabled))

    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
    run = Run("digits/small,epochs=1", "mixup", 0)
    fill(run, TASKS[:1], lab, report)
    assert (deterministic, deterministic, False, True) in seen
    assert not torch.are_deterministic_algorithms_enabled()
    assert before == (torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32)
    record = lab.store.read(Cell(run, TASKS[0]))
    assert record
    for made in (record["made"]["training"], record["made"]["task"]):
        assert made["deterministic"] == deterministic


@pytest.mark.parametrize(
    ("device", "deterministic", "tries"),
    [("cuda", False, True), ("cuda", True, False), ("cpu", False, False)],
)
def test_on_a_gpu_the_fastest_convolutions_are_found_unless_it_is_deterministic(
    lab: Lab, device: str, deterministic: bool, tries: bool
) -> None:
    before = torch.backends.cudnn.benchmark
    with tuned(replace(lab, device=torch.device(device), deterministic=deterministic)):
        assert torch.backends.cudnn.benchmark == tries
    assert torch.backends.cudnn.benchmark == before


def test_a_deterministic_rerun_is_the_same_to_the_bit(tmp_path: Path) -> None:
    one, other = (
        train(Run(SETTING, "mixup", 0), Lab(Store(tmp_path / name), deterministic=True))
        for name in ("one", "other")
    )
    assert_identical(one, other)


@pytest.mark.parametrize(("processes", "fits"), [(3, 2), (7, 4)])
def test_a_batch_that_has_no_equal_parts_is_refused(lab: Lab, processes: int, fits: int) -> None:
    why = f"a batch of 64 has no {processes} equal parts; --gpus-per-run {fits} would fit"
    with pytest.raises(BadInput, match=why):
        check({"digits/small": []}, replace(lab, processes=processes))
    check({"digits/small": []}, replace(lab, processes=fits))


def test_several_processes_need_a_device_that_they_can_share(lab: Lab) -> None:
    with pytest.raises(BadInput, match="on mps, a run can't be trained by several processes"):
        check({"digits/small": []}, replace(lab, processes=2, device=torch.device("mps")))


def test_training_leaves_the_callers_randomness_alone(lab: Lab) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    train(Run("digits/small,epochs=1", "mixup", 0), lab)
    assert torch.rand(3).equal(expected)


def test_seeds_differ_and_methods_share_their_start(lab: Lab) -> None:
    starts = {}
    for method, seed in (("baseline", 0), ("mixup", 0), ("baseline", 1)):
        torch.manual_seed(seed)
        starts[method, seed] = weights(Training(Run(SETTING, method, seed), lab))
    same = zip(starts["baseline", 0], starts["mixup", 0], strict=True)
    assert all(a.equal(b) for a, b in same)
    assert not all(
        a.equal(b) for a, b in zip(starts["baseline", 0], starts["baseline", 1], strict=True)
    )


def test_filling_fills_what_is_missing_and_only_that(lab: Lab) -> None:
    run = Run("digits/small,epochs=1", "mixup", 0)
    assert fill(run, TASKS[:1], lab) == TASKS[:1]
    first = lab.store.path(Cell(run, TASKS[0])).read_text()
    assert fill(run, TASKS, lab) == TASKS[1:]
    assert lab.store.path(Cell(run, TASKS[0])).read_text() == first
    assert lab.store.missing(run, TASKS) == []


def test_a_record_says_what_made_it(lab: Lab) -> None:
    run = Run("digits/small,epochs=1", "mixup", 0)
    fill(run, TASKS[:1], replace(lab, command="mixbench run quickstart"))
    record = json.loads(lab.store.path(Cell(run, TASKS[0])).read_text())
    assert record["made"]["training"]["processes"] == 1
    assert record["made"]["training"]["compiled"] is False
    for made in (record["made"]["training"], record["made"]["task"]):
        assert made["torch"] == torch.__version__
        assert made["device"].startswith("cpu")
        assert made["command"] == "mixbench run quickstart"
        assert made["seconds"] > 0
        assert made["peak_memory_bytes"] > 2**26
        assert {"mixbench", "commit", "python", "time"} <= set(made)


def test_a_record_tells_who_trained_from_who_asked(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("digits/small,epochs=1", "mixup", 0)
    fill(run, TASKS[:1], lab)
    monkeypatch.setattr(runs, "provenance", lambda device, command: {"commit": "another"})
    fill(run, TASKS[1:2], lab)
    record = lab.store.read(Cell(run, TASKS[1]))
    assert record and record["made"]["task"]["commit"] == "another"
    assert record["made"]["training"]["commit"] != "another"


def test_a_claimed_run_is_left_alone(lab: Lab) -> None:
    run = Run(SETTING, "mixup", 0)
    with lab.store.claim(run):
        assert fill(run, TASKS, lab) is None
    assert lab.store.missing(run, TASKS) == TASKS


def test_a_task_cannot_harm_the_next(lab: Lab) -> None:
    training = train(Run("digits/small,epochs=1", "mixup", 0), lab)

    def metrics(task: str) -> dict[str, float]:
        record, _ = ask(task, training, lab)
        answer: dict[str, float] = record["metrics"]
        return answer

    before = metrics("calibration")
    for parameter in training.trained(Workplace()).net.parameters():
        parameter.data.zero_()
    assert metrics("cost,steps=1,warmup=1")
    assert metrics("calibration") == before
    del training.outputs  # what is shared
    assert metrics("calibration") == before


def test_a_set_of_images_is_read_once_for_all_tasks_and_its_cost_is_told(lab: Lab) -> None:
    training = train(Run("digits/small,epochs=1", "mixup", 0), lab)
    (first, _), (second, _) = (
        ask(name, training, lab) for name in ("classification", "calibration")
    )
    assert list(first["made"]["task"]["seconds_of_reading"]) == ["test"]
    assert second["made"]["task"]["seconds_of_reading"] == {}


@dataclass(frozen=True)
class Odd(Task):
    """Answers with whatever it is given."""

    metrics: ClassVar = {"good": Metric("good", "higher")}
    answer: ClassVar[Any] = {}

    def evaluate(self, trained: Trained) -> Answer:
        if isinstance(self.answer, Exception):
            raise self.answer
        answer: Answer = self.answer
        return answer


def pretend(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is spelled, it is this task; and nothing of it is remembered."""
    monkeypatch.setattr(runs, "task", lambda name: task)
    monkeypatch.setattr(catalogue, "live_task", lambda name: task)
    monkeypatch.setattr(catalogue, "task", unwrap(catalogue.task))


def odd(lab: Lab, monkeypatch: pytest.MonkeyPatch, answer: Any) -> tuple[Record, Arrays]:
    """What becomes of an answer."""
    monkeypatch.setattr(Odd, "answer", answer)
    pretend(Odd(), monkeypatch)
    return ask("odd", Training(Run("digits/small,epochs=1", "baseline", 0), lab), lab)


def test_an_answer_is_parted_into_metrics_curves_and_arrays(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"good": 3, "curve": [1.0, 2.0], "points": torch.ones(2, 3)}
    record, arrays = odd(lab, monkeypatch, answer)
    assert (record["metrics"], record["curves"]) == ({"good": 3}, {"curve": [1.0, 2.0]})
    assert arrays["points"].tolist() == [[1.0] * 3] * 2


def test_an_undefined_metric_and_words_are_sorted_out(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, _ = odd(lab, monkeypatch, {"good": None, "classes": ["cat", "dog"]})
    assert (record["metrics"], record["curves"]) == ({"good": None}, {"classes": ["cat", "dog"]})


@pytest.mark.parametrize(
    ("answer", "error", "why"),
    [
        ({"good": math.nan}, ArithmeticError, "good is nan"),
        ({"good": 1.0, "curve": [1.0, math.inf]}, ArithmeticError, "curve is inf"),
        ({"better": 1.0}, TypeError, "there is no good in the answer"),
        ({"good": ["a"]}, TypeError, "good is a list, and should be a number"),
        ({"good": "a"}, TypeError, "good is a str, and should be a number"),
        ({"good": 1.0, "curve": None}, TypeError, "curve is a NoneType, and should be a number"),
        ({"good": 1.0, "curve": "a"}, TypeError, "curve is a str, and should be a number"),
        ({"good": 1.0, "curve": ["a", 1.0]}, TypeError, "curve is a str, and should be a number"),
        ({"good": torch.ones(())}, TypeError, "good is a Tensor, and should be a number"),
        ({"good": [1.0]}, TypeError, "good is a list, and should be a number"),
        ({"good": np.float64(1)}, TypeError, "good is a float64, and should be a number"),
        ({"good": 1.0, "curve": np.ones(2)}, TypeError, "curve is a ndarray, and should be"),
    ],
)
def test_an_answer_that_is_none_is_refused(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, answer: Any, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        odd(lab, monkeypatch, answer)


@dataclass(frozen=True)
class Long(Task):
    """Counts to three, and is cut short at two the first time."""

    metrics: ClassVar = {"count": Metric("count", "neither")}

    def evaluate(self, trained: Trained) -> dict[str, float]:
        before = trained.workplace.kept() or {"count": torch.zeros(())}
        for count in range(int(before["count"]) + 1, 4):
            trained.workplace.report("counting", count, 3)
            trained.workplace.keep({"count": torch.tensor(count)})
            if count == 2:
                raise InterruptedError
        return {"count": float(count)}


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> Long:
    pretend(task := Long(), monkeypatch)
    return task


CELL = Cell(Run("digits/small,epochs=1", "baseline", 0), "long,size=2")


def test_a_task_that_was_cut_short_goes_on_where_it_was(lab: Lab, long: Long) -> None:
    training, told = Training(CELL.run, lab), list[tuple[Any, ...]]()
    for ends in (pytest.raises(Unanswered, match="InterruptedError"), nullcontext()):
        with ends:
            ask_all([CELL.task], training, lab, lambda *what: told.append(what))
    counted = [at[1:] for at in told if at[0] == "long,size=2: counting"]
    assert counted == [(1, 3), (2, 3), (3, 3)]
    record = lab.store.read(CELL)
    assert record and record["metrics"] == {"count": 3}
    assert not lab.store.kept(CELL).exists()


def test_what_a_task_keeps_is_its_own(lab: Lab, long: Long) -> None:
    desk = Desk(CELL, lab)
    assert desk.kept() is None
    desk.keep({"count": torch.tensor(2), "seen": [1.5]})
    assert desk.kept() == {"count": torch.tensor(2), "seen": [1.5]}
    assert Desk(replace(CELL, task="long"), lab).kept() is None


@pytest.mark.parametrize("damage", ["truncated", "stale", "foreign"])
def test_what_was_kept_by_another_is_named_and_left(
    lab: Lab, long: Long, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    desk, path = Desk(CELL, lab), lab.store.kept(CELL)
    desk.keep({"count": torch.tensor(2)})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "stale":
        monkeypatch.setattr(Long, "version", 2)
    else:
        torch.save([1], path)
    with pytest.warns(BadFile, match=f"{re.escape(path.name)} is treated as missing"):
        assert desk.kept() is None


def test_a_question_that_makes_no_sense_is_answered_with_why(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, arrays = odd(lab, monkeypatch, Inapplicable("it mixes\nnothing"))
    assert record["inapplicable"] == "it mixes" and "metrics" not in record
    assert not arrays and record["made"]["task"]["seconds"] > 0


def test_logits_that_are_not_finite_are_an_error(lab: Lab) -> None:
    training = Training(Run("digits/small,epochs=1", "baseline", 0), lab)
    training.objective.net.get_parameter("head.bias").data[3] = torch.nan
    with pytest.raises(ArithmeticError, match="500 of 5,000 logits of test are not finite"):
        ask("classification", training, lab)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty", "another network's"])
def test_a_damaged_checkpoint_is_named_and_training_starts_again(lab: Lab, damage: str) -> None:
    run = Run("digits/small,epochs=1", "baseline", 0)
    whole = train(run, lab)
    path = lab.store.folder(run) / "checkpoint.pt"
    if damage == "foreign":
        torch.save({"hello": 1}, path)
    elif damage == "another network's":
        state = torch.load(path)
        del state["objective"]["net.head.bias"]
        torch.save(state, path)
    else:
        path.write_bytes(path.read_bytes()[: 1000 if damage == "truncated" else 0])
    with pytest.warns(BadFile, match=r"checkpoint\.pt is treated as missing"):
        again = train(run, lab)
    assert all(a.equal(b) for a, b in zip(weights(whole), weights(again), strict=True))


def test_a_checkpoint_of_another_run_is_not_taken_up(lab: Lab) -> None:
    one, other = (Run("digits/small,epochs=1", "baseline", seed) for seed in (0, 1))
    train(one, lab)
    path = lab.store.folder(other) / "checkpoint.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes((lab.store.folder(one) / "checkpoint.pt").read_bytes())
    with pytest.warns(BadFile, match="it is a record of seed 0"):
        train(other, lab)


def test_a_loss_that_is_not_finite_ends_the_run(lab: Lab) -> None:
    @dataclass(frozen=True)
    class Explode(Method):
        def loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
            return super().loss(net, x, y) * torch.inf

    training = Training(Run(SETTING, "baseline", 0), lab)
    training.objective.method = Explode()
    with pytest.raises(ArithmeticError, match=r"the loss is (inf|nan) in epoch 1"):
        training.epoch()


def test_a_metric_that_is_not_finite_is_not_published_and_the_other_tasks_are(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mixbench.tasks.calibration import Calibration

    def evaluate(self: Calibration, trained: Trained) -> dict[str, float]:
        return {"ece": math.nan, "aece": 0.0, "nll": 0.0, "brier": 0.0}

    monkeypatch.setattr(Calibration, "evaluate", evaluate)
    run = Run("digits/small,epochs=1", "baseline", 0)
    with pytest.raises(Unanswered) as unanswered:
        fill(run, ["calibration", "classification"], lab)
    assert one_line(unanswered.value) == "calibration: ArithmeticError: ece is nan"
    assert "in sorted_out" in "".join(traceback.format_exception(unanswered.value))
    assert lab.store.missing(run, ["calibration", "classification"]) == ["calibration"]


def rates(recipe: Recipe) -> list[float]:
    sgd, schedule = optimizer(torch.nn.Linear(1, 1), recipe)
    seen = []
    for _ in range(recipe.epochs):
        seen.append(round(sgd.param_groups[0]["lr"], 6))
        sgd.step()
        schedule.step()
    return seen


def test_the_step_schedule_divides_by_ten_after_each_quarter() -> None:
    assert rates(Recipe(epochs=8)) == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001]
    assert rates(Recipe(epochs=1)) == [0.1]
    assert rates(Recipe(epochs=2)) == [0.1, 0.001]


def test_the_optimizer_is_the_recipes_and_leaves_what_is_frozen() -> None:
    layer = torch.nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    adamw = Recipe(epochs=1, optimizer="adamw", lr=0.3, weight_decay=0.2)
    for kind, recipe in ((SGD, replace(adamw, optimizer="sgd")), (AdamW, adamw)):
        steps, _ = optimizer(layer, recipe)
        (group,) = steps.param_groups
        assert type(steps) is kind
        assert group["params"] == [layer.weight]
        assert (group["lr"], group["weight_decay"]) == (0.3, 0.2)


def test_the_cosine_schedule_falls_to_zero() -> None:
    seen = rates(Recipe(epochs=4, schedule="cosine"))
    assert seen == [0.1, 0.085355, 0.05, 0.014645]


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("digits/small,batch=2000", "digits: 1037 training images can't fill a batch of 2000"),
        ("cifar100/preactresnet18", r"train is missing; .* --data"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_anything_starts(
    lab: Lab, setting: str, why: str
) -> None:
    with pytest.raises(BadInput, match=why):
        check({setting: []}, lab)


def test_a_task_that_can_not_be_asked_is_refused_before_anything_starts(lab: Lab) -> None:
    asked = ["classification", "ood,sets=uniform+isun"]
    with pytest.raises(BadInput, match=r"^ood,sets=.* can't be asked: .*odin/iSUN is missing; get"):
        check({SETTING: asked}, lab)


@pytest.mark.parametrize(
    ("setting", "method", "why"),
    [
        ("digits/small", "manifold,at=pixels+layer9", "no stage 'layer9'; it has pixels, stem"),
        (
            "digits/small",
            "densemultimix,at=pool",
            "no stage 'pool'; it has pixels, stem, .* layer4$",
        ),
        (
            "digits/small",
            "densemultimix,at=layer3,attention=cam",
            "attention=cam needs .* not at=layer3",
        ),
        ("digits/small", "transmix", "the class token's attention in a vision transformer"),
        ("cifar100/preactresnet18", "tokenmix", "vision transformer"),
        ("digits/smallvit", "manifold", "no stage 'layer1'; it has pixels, stem, block1"),
        ("digits/small", "stylemix", r"^there is no vgg_normalised.pth: take it from .*TORCH_HOME"),
        ("digits/smallvit", "transmix", ""),
        ("cifar100/preactresnet18", "puzzlemix", ""),
    ],
)
def test_what_does_not_apply_says_why(setting: str, method: str, why: str) -> None:
    said = inapplicable(setting, method)
    assert re.search(why, said) if why else said == ""
    assert "\n" not in said


TAUGHT = Run("digits/small,epochs=1", "supermix,steps=2", 3)
TEACHER = Run("digits/small,epochs=1", "baseline", 3)


def test_a_teacher_is_the_baseline_of_the_same_setting_and_seed(lab: Lab) -> None:
    assert TAUGHT.teacher == TEACHER
    assert TEACHER.teacher is None


def test_a_teacher_that_is_not_there_is_trained_first(lab: Lab) -> None:
    heard: list[str] = []
    taught = train(TAUGHT, lab, lambda doing, *_: heard.append(doing))
    assert list(dict.fromkeys(heard)) == [
        "waiting for its teacher",
        "training its teacher",
        "training",
    ]
    teacher = train(TEACHER, lab)  # from its checkpoint
    guide = taught.objective.get_submodule("guide").state_dict()
    assert all(guide[key].equal(value) for key, value in teacher.objective.net.state_dict().items())
    start = Training(TAUGHT, lab).objective.net
    assert not all(a.equal(b) for a, b in zip(start.parameters(), guide.values(), strict=False))
    assert lab.store.missing(TEACHER, TASKS) == TASKS


def test_a_teacher_that_is_there_is_not_trained_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(TEACHER, lab)
    trained: list[Run] = []
    plain = Training.epoch

    def epoch(self: Training, report: Report) -> None:
        trained.append(self.run)
        plain(self, report)

    monkeypatch.setattr(Training, "epoch", epoch)
    train(TAUGHT, lab)
    assert trained == [TAUGHT]


def test_a_teacher_is_the_same_whoever_trains_it(tmp_path: Path) -> None:
    alone, within = Lab(Store(tmp_path / "alone")), Lab(Store(tmp_path / "within"))
    train(TAUGHT, within)
    one, other = train(TEACHER, alone), train(TEACHER, within)
    assert all(a.equal(b) for a, b in zip(weights(one), weights(other), strict=True))


def test_a_teacher_that_another_process_trains_is_waited_for(lab: Lab) -> None:
    doing, heard = list[str](), Event()

    def report(what: str, done: float, total: int, images: int = 0) -> None:
        doing.append(what)
        heard.set()

    pupil = Thread(target=train, args=(TAUGHT, lab, report))
    with lab.store.claim(TEACHER):
        pupil.start()
        assert heard.wait(60)
        pupil.join(0.5)
        assert doing == ["waiting for its teacher"]
    pupil.join()
    assert doing[-1] == "training"


def test_what_a_teacher_resolves_to_is_part_of_a_record() -> None:
    parameters = TAUGHT.identity()["parameters"]
    assert parameters["teacher"] == {"version": 1}
    assert "teacher" not in TEACHER.identity()["parameters"]


def test_devices_are_picked_or_refused() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in {"cpu", "cuda"}
    for wrong in ("gpu", "cuda:99", "cpu:x"):
        with pytest.raises(BadInput, match=f"device '{wrong}' can't be used here") as error:
            pick_device(wrong)
        assert "\n" not in str(error.value)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from mixbench.bench.cells import Run, Store
from mixbench.bench import training
from mixbench.bench.lab import Lab
from mixbench.bench.runs import fill
step = 0
plain = torch.optim.SGD.step
def counted(self, *args, **kwargs):
    global step
    step += 1
    if step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, *args, **kwargs)
torch.optim.SGD.step = counted
training.CHECKPOINT_SECONDS = -1
fill(Run({setting!r}, "multimix", 0), {tasks!r}, Lab(Store(Path(sys.argv[1]))))
"""


def test_a_killed_run_goes_on_from_its_checkpoint_and_ends_with_the_same_numbers(
    tmp_path: Path,
) -> None:
    script = KILLED.format(setting=SETTING, tasks=TASKS)
    killed, whole = Lab(Store(tmp_path / "killed")), Lab(Store(tmp_path / "whole"))
    run, done = Run(SETTING, "multimix", 0), []
    for step in (7, 22, 12):  # of 48: after the 6th, 27th and 38th, each saved
        command = [sys.executable, "-c", script, str(killed.store.root), str(step)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert not killed.store.claimed(run)
        state = kept(run, killed)
        done.append(16 * len(state["epochs"]) + len(state["losses"]))
    assert done == [6, 27, 38]
    assert epochs_done(run, killed.store) == 2
    assert fill(run, TASKS, killed) and fill(run, TASKS, whole)
    for task in TASKS:
        one, other = (lab.store.read(Cell(run, task)) for lab in (killed, whole))
        assert one and other
        assert one["metrics"] == other["metrics"]
    assert os.listdir(killed.store.folder(run)).count("checkpoint.pt") == 1
