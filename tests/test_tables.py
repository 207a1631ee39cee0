"""Tables: goldens made by hand, and the declarations."""

from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.formats import printed
from mixbench.bench.formats._blocks import WIDEST
from mixbench.bench.paper import APART, TABLES
from mixbench.bench.settings import Setting
from mixbench.bench.sheets import EPOCH_RULE
from mixbench.bench.spec import BadInput, canonical, names
from mixbench.bench.tables import Table, asked
from mixbench.methods import Method
from mixbench.tasks import Task

TABLE = Table(
    name="tiny",
    caption="A caption.",
    settings=("digits/small",),
    methods=("baseline", "mixup", "cutmix", "manifold"),
    columns=("robustness", "classification:top1"),
    seeds=3,
)


def put(
    store: Store, method: str, seed: int, task: str, metrics: Mapping[str, float | None]
) -> None:
    cell = Cell(Run("digits/small", method, seed), task)
    store.publish(cell, cell.identity() | {"metrics": metrics})


def top1(value: float) -> dict[str, float]:
    others = ("top1_best", "top1_median", "top5", "top5_best", "top5_median")
    return {"top1": value} | dict.fromkeys(others, 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for seed, pgd in enumerate((1.0, 2.0, 3.0)):
        put(store, "baseline", seed, "robustness", {"fgsm": 50.0, "pgd": pgd})
        put(store, "mixup", seed, "robustness", {"fgsm": 40.0, "pgd": 2.004})
        put(store, "cutmix", seed, "robustness", {"fgsm": 60.0, "pgd": 4.0})
    put(store, "baseline", 0, "classification", top1(1.0))
    put(store, "baseline", 1, "classification", top1(2.0))
    put(store, "mixup", 2, "classification", top1(1.0))
    return store


def test_markdown_golden(store: Store) -> None:
    assert printed(TABLE, store) == (
        "| method   |    FGSM error, % |    PGD error, % |    top-1 error, % |\n"
        "| -------- | ---------------: | --------------: | ----------------: |\n"
        "| baseline |   *50.00 ± 0.00* | **2.00 ± 1.00** | *1.50 ± 0.71 (2)* |\n"
        "| mixup    | **40.00 ± 0.00** | **2.00 ± 0.00** |      **1.00 (1)** |\n"
        "| cutmix   |     60.00 ± 0.00 |   *4.00 ± 0.00* |                 - |\n"
        "| manifold |                - |               - |                 - |\n"
        "\n"
        "A caption. Setting: `digits/small`. Mean ± standard deviation over n = 3 seeds (n of a cell "
        "that has fewer in brackets), best in bold, second best in italics, missing as -. "
        f"{EPOCH_RULE}\n"
    )


def test_what_does_not_apply_is_not_missing(store: Store) -> None:
    table = replace(
        TABLE, methods=("mixup", "cutmix", "transmix"), columns=("classification:top1",)
    )
    assert printed(table, store) == (
        "| method   | top-1 error, % |\n"
        "| -------- | -------------: |\n"
        "| mixup    |   **1.00 (1)** |\n"
        "| cutmix   |              - |\n"
        "| transmix |            n/a |\n"
        "\n"
        "A caption. Setting: `digits/small`. Mean ± standard deviation over n = 3 seeds (n of a cell "
        "that has fewer in brackets), best in bold, second best in italics, missing as -. "
        f"{EPOCH_RULE} Not applicable to `digits/small`: `transmix`, it needs the class token's "
        "attention in a vision transformer; the network has no class token.\n"
    )
    assert {run.method for run, _ in table.todo(store)} == {"mixup", "cutmix"}


def test_a_number_that_is_there_is_printed_whether_or_not_it_could_be_made_here(
    store: Store,
) -> None:
    put(store, "transmix", 0, "classification", top1(5.0))
    table = replace(TABLE, methods=("transmix",), columns=("classification:top1",))
    assert "5.00" in printed(table, store)


def test_what_a_task_says_of_a_method_is_told_once(store: Store) -> None:
    for method, seed in (("baseline", 0), ("baseline", 1), ("cutmix", 0)):
        cell = Cell(Run("digits/small", method, seed), "cost")
        store.publish(cell, cell.identity() | {"inapplicable": "it mixes nothing"})
    table = replace(TABLE, columns=("cost:terms",))
    lines = printed(table, store).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:6]] == ["n/a", "-", "n/a", "-"]
    assert lines[-1].endswith(
        "No `cost` of `baseline` (2 of 3), `cutmix` (1 of 3): it mixes nothing."
    )
    assert printed(table, store, "csv").count("\n") == 1


UNDEFINED: dict[str, float | None] = {"fgsm": 50.0, "pgd": None}


def test_what_is_undefined_is_neither_missing_nor_counted(store: Store) -> None:
    for seed in range(3):
        put(store, "cutmix", seed, "robustness", UNDEFINED)
    put(store, "mixup", 0, "robustness", UNDEFINED)
    table = replace(TABLE, columns=("robustness",))
    assert printed(table, store) == (
        "| method   |    FGSM error, % |        PGD error, % |\n"
        "| -------- | ---------------: | ------------------: |\n"
        "| baseline |   *50.00 ± 0.00* |     **2.00 ± 1.00** |\n"
        "| mixup    | **43.33 ± 5.77** | **2.00 ± 0.00 (2)** |\n"
        "| cutmix   |   *50.00 ± 0.00* |                 n/a |\n"
        "| manifold |                - |                   - |\n"
        "\n"
        "A caption. Setting: `digits/small`. Mean ± standard deviation over n = 3 seeds (n of a cell "
        "that has fewer in brackets), best in bold, second best in italics, missing as -. "
        f"{EPOCH_RULE} Undefined for what was looked at: PGD error, %.\n"
    )
    assert not {"cutmix", "mixup"} & {run.method for run, _ in table.todo(store)}


def test_the_undefined_is_told_by_its_heading(store: Store) -> None:
    put(store, "cutmix", 0, "robustness,steps=5", UNDEFINED)
    two = ("digits/small", "digits/small,epochs=2")
    table = replace(TABLE, settings=two, columns=("robustness", "robustness,steps=5"))
    assert printed(table, store).endswith(
        " Undefined for what was looked at: digits/small: PGD error, % (robustness,steps=5).\n"
    )


def test_what_does_not_apply_is_not_told_as_undefined(store: Store) -> None:
    cell = Cell(Run("digits/small", "manifold", 0), "robustness")
    store.publish(cell, cell.identity() | {"inapplicable": "it mixes nothing"})
    assert "Undefined" not in printed(TABLE, store)


def test_the_undefined_has_no_line_in_csv_so_that_pandas_reads_numbers(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "mixup", 0, "robustness", UNDEFINED)
    text = printed(TABLE, store, "csv")
    assert text.splitlines()[1:] == ["tiny,digits/small,mixup,robustness,fgsm,0,50.0"]
    assert pd.read_csv(StringIO(text)).value.dtype == float


def test_many_columns_stand_in_several_grids_with_tasks_in_one_piece(tmp_path: Path) -> None:
    tasks = ("cost", "calibration", "cost,steps=2", "robustness")
    text = printed(replace(TABLE, columns=tasks), Store(tmp_path))
    heads = [line for line in text.splitlines() if line.startswith("| method")]
    sizes = [len(asked(task)[1]) for task in tasks]
    assert sum(sizes[:3]) <= WIDEST < sum(sizes)
    assert [head.count("|") - 2 for head in heads] == [sum(sizes[:3]), sizes[3]]
    assert text.count("| baseline ") == 2


def test_headings_that_are_the_same_say_of_which_task_they_are(tmp_path: Path) -> None:
    columns = ("robustness:pgd", "robustness,eps=0.5:pgd", "calibration:ece")
    head = printed(replace(TABLE, columns=columns), Store(tmp_path)).splitlines()[0]
    assert [title.strip() for title in head.split("|")[2:-1]] == [
        "PGD error, % (robustness)",
        "PGD error, % (robustness,eps=0.5)",
        "ECE, %",
    ]


@pytest.mark.parametrize(
    ("column", "task", "metrics"),
    [
        ("robustness", "robustness", ["fgsm", "pgd"]),
        ("robustness,steps=20,eps=0.5", "robustness,eps=0.5", ["fgsm", "pgd"]),
        ("classification:top5", "classification", ["top5"]),
        ("ood,sets=folder:/a/b:fpr95", "ood,sets=folder:/a/b", ["fpr95"]),
        ("ood,sets=folder:/a/b:auroc_folder:/a/b", "ood,sets=folder:/a/b", ["auroc_folder:/a/b"]),
        ("detection,data=coco:ap", "detection,data=coco", ["ap"]),
        ("detection,data=coco:/a/b:ap_small", "detection,data=coco:/a/b", ["ap_small"]),
        ("detection,data=voc:/a/b:map", "detection,data=voc:/a/b", ["map"]),
        ("detection,lr=1,data=voc:/a:map", "detection,data=voc:/a,lr=1", ["map"]),
    ],
)
def test_a_column_is_a_task_or_a_metric_of_one(column: str, task: str, metrics: list[str]) -> None:
    assert asked(column) == (task, metrics)


@pytest.mark.parametrize("colon", ["folder:", "uniform+folder-crop:"])
@pytest.mark.parametrize("path", ["/a/b", "photos", "./photos/"])
def test_the_colon_before_a_path_is_not_that_of_a_metric(colon: str, path: str) -> None:
    task, metrics = asked(f"ood,sets={colon}{path}")
    assert task == f"ood,sets={colon}{Path(path).resolve()}" and "auroc" in metrics


@pytest.mark.parametrize("kind", ["voc", "coco"])
@pytest.mark.parametrize("path", ["/a/b", "photos"])
@pytest.mark.parametrize("rest", ["", ",detector=faster-rcnn"])
def test_neither_is_that_of_scenes(kind: str, path: str, rest: str) -> None:
    column = f"detection,data={kind}:{path}{rest}"
    task, metrics = asked(column)
    assert task == f"detection,data={kind}:{Path(path).resolve()}{rest}"
    assert ("map" if kind == "voc" else "ap") in metrics


@pytest.mark.parametrize(
    "column", ["detection:mapp", "detection,data=voc0712:mapp", "detection,data=shapes-voc:mapp"]
)
def test_a_set_that_has_no_path_has_metrics(column: str) -> None:
    with pytest.raises(BadInput, match=r"no metric of detection.* 'mapp'; did you mean map"):
        asked(column)


def test_an_unknown_metric_is_named_with_its_like() -> None:
    with pytest.raises(BadInput, match="no metric of classification 'top3'; did you mean top"):
        asked("classification:top3")


def test_methods_with_a_helper_are_marked(store: Store) -> None:
    table = replace(TABLE, methods=("mixup", "supermix", "stylemix"))
    marked = "Not like for like, as they ask a network trained before: `supermix`, `stylemix`."
    assert marked in printed(table, store)
    assert "like for like" not in printed(TABLE, store)


def test_a_method_that_applies_to_one_of_the_settings_is_not_refused() -> None:
    both = replace(TABLE, settings=("digits/small", "digits/smallvit"))
    assert both.refusal("transmix") == ""
    assert "vision transformer" in TABLE.refusal("transmix")
    assert TABLE.refusal("mixup") == ""


def test_csv_golden(store: Store) -> None:
    lines = printed(TABLE, store, "csv").splitlines()
    assert lines[0] == "table,setting,method,task,metric,seed,value"
    assert lines[1:6] == [
        "tiny,digits/small,baseline,robustness,fgsm,0,50.0",
        "tiny,digits/small,baseline,robustness,pgd,0,1.0",
        "tiny,digits/small,baseline,classification,top1,0,1.0",
        "tiny,digits/small,baseline,classification,top1_best,0,0.0",
        "tiny,digits/small,baseline,classification,top1_median,0,0.0",
    ]
    assert len(lines) == 1 + 9 * 2 + 3 * 6


def test_an_empty_table_prints_what_is_missing(tmp_path: Path) -> None:
    text = printed(TABLE, Store(tmp_path / "nowhere"))
    assert text.count("|             - |") == 4
    assert not (tmp_path / "nowhere").exists()
    assert printed(TABLE, Store(tmp_path), "csv") == "table,setting,method,task,metric,seed,value\n"


def test_higher_is_better_where_the_metric_says_so_and_neither_is_never_marked(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    for method, speed in (("baseline", 900.0), ("mixup", 800.0), ("cutmix", 700.0)):
        put(store, method, 0, "cost", {"speed": speed, "memory": 100.0, "terms": 64.0})
    table = Table("t", "", ("digits/small",), ("baseline", "mixup", "cutmix"), ("cost",), seeds=1)
    assert printed(table, store).splitlines()[2:5] == [
        "| baseline |           **900** |          **100** |                   64 |",
        "| mixup    |             *800* |          **100** |                   64 |",
        "| cutmix   |               700 |          **100** |                   64 |",
    ]


def test_a_table_over_settings_says_which_column_is_of_which(tmp_path: Path) -> None:
    store = Store(tmp_path)
    cell = Cell(Run("digits/small,epochs=2", "mixup", 0), "classification")
    store.publish(cell, cell.identity() | {"metrics": top1(3.0)})
    two = ("digits/small", "digits/small,epochs=2")
    table = Table("t", "", two, ("mixup",), ("classification:top1",), seeds=1)
    head, _, row = printed(table, store).splitlines()[:3]
    assert "| digits/small |" in head and "| digits/small,epochs=2 |" in head
    assert " All numbers: top-1 error, %. Setting: " in printed(table, store)
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["-", "**3.00**"]


def test_a_bad_cell_is_warned_of_and_printed_as_missing(store: Store) -> None:
    cell = Cell(Run("digits/small", "mixup", 2), "classification")
    store.path(cell).write_text("{")
    with pytest.warns(UserWarning, match="is treated as missing"):
        text = printed(TABLE, store)
    (row,) = (line for line in text.splitlines() if line.startswith("| mixup "))
    assert row.split("|")[-2].strip() == "-"


def test_todo_lists_each_run_with_the_tasks_that_it_lacks(store: Store) -> None:
    todo = {str(run): tasks for run, tasks in TABLE.todo(store)}
    assert todo["digits/small/baseline/2"] == ["classification"]
    assert todo["digits/small/manifold/0"] == ["robustness", "classification"]
    assert "digits/small/baseline/0" not in todo
    assert len(todo) == 12 - 3


def test_adding_rows_adds_each_once_and_canonically() -> None:
    more = TABLE.add("mixup,alpha=1.0", "mixup,alpha=0.20", "mixup,alpha=0.2")
    assert more.methods == (*TABLE.methods, "mixup,alpha=0.2")


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_declared_table_is_spelled_canonically_and_has_its_columns(name: str) -> None:
    table: Table = TABLES[name]
    assert table.name == name
    for method in table.methods:
        assert canonical(method, "mixbench.methods", Method) == method
    for task in table.tasks():
        assert canonical(task, "mixbench.tasks", Task) == task
    for setting in table.settings:
        assert str(Setting.parse(setting)) == setting
    for column in table.each_column():
        assert column.rule.title


def test_the_quickstart_has_all_methods_and_all_tasks_but_those_apart() -> None:
    quickstart: Any = TABLES["quickstart"]
    assert set(quickstart.methods) == set(names("mixbench.methods"))
    asked_of = [task.partition(",")[0] for task in quickstart.tasks()]
    assert sorted([*asked_of, *APART]) == names("mixbench.tasks")
    assert quickstart.methods[0] == "baseline"
