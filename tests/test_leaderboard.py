"""The leaderboard: what it trains first, what it asks, and which figures stand beside it."""

import csv
import re
import shlex
from itertools import islice
from pathlib import Path

import pytest
from formats import cifar, trust
from torchvision.datasets import CIFAR100

from mixbench.bench import catalogue
from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.data import Gallery
from mixbench.bench.formats import printed
from mixbench.bench.lab import Lab, open_data
from mixbench.bench.paper import TABLES
from mixbench.bench.reported import reported
from mixbench.bench.runs import check_tasks
from mixbench.bench.settings import Setting
from mixbench.bench.spec import BadInput, names

ROOT = Path(__file__).parents[1]
REPORTED = ROOT / "results" / "reported"
LEADERBOARD = TABLES["leaderboard"]
(SETTING,) = LEADERBOARD.settings
DOUBT = re.compile("headings of (this|its) table")
Row = dict[str, str]


def read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


ROWS = read(REPORTED / "leaderboard.csv")
ELSEWHERE = [
    row
    for path in sorted(REPORTED.glob("*.csv"))
    if path.stem != "leaderboard"
    for row in read(path)
]


def doubts(row: Row) -> set[str]:
    """Those that say by what recipe a figure was made are the leaderboard's own."""
    return {
        DOUBT.sub("headings", doubt)
        for doubt in row["doubt"].split(" | ")
        if doubt and not doubt.startswith("recipe: ")
    }


def same_figure(row: Row, other: Row) -> bool:
    """Whether both are of one place of one source, and the figure is the same, or its complement."""
    place = ("dataset", "network", "name", "std", "source")
    if any(row[key] != other[key] for key in place):
        return False
    if row["metric"].startswith("top1_acc") and other["metric"].startswith("top1_err"):
        return float(row["value"]) == pytest.approx(100 - float(other["value"]), abs=1e-9)
    return other["metric"].startswith(row["metric"]) and row["value"] == other["value"]


def fill(store: Store, run: Run, value: float) -> None:
    """Let every metric of every task of a run be ``value``."""
    for task in LEADERBOARD.tasks():
        cell, rules = Cell(run, task), catalogue.task(task).metrics
        metrics = {name: value for name, rule in rules.items() if not rule.complement}
        store.publish(cell, cell.identity() | {"metrics": metrics})


def test_it_is_of_the_setting_and_the_methods_that_were_asked_for() -> None:
    setting = Setting.parse(SETTING)
    assert (setting.data, setting.net, setting.recipe.epochs) == ("cifar100", "preactresnet18", 200)
    assert setting.recipe.precision == "float32"
    assert LEADERBOARD.methods == (
        *("baseline", "mixup", "cutmix", "manifold", "zetamixup", "alignmixup", "puzzlemix"),
        *("multimix", "densemultimix", "multiple"),
    )


def test_it_asks_all_tasks_but_those_of_other_networks_and_recipes() -> None:
    asked = {task.partition(",")[0] for task in LEADERBOARD.tasks()}
    assert asked == {*names("mixbench.tasks")} - {"detection", "temperature"}
    assert {*LEADERBOARD.tasks()} == {*TABLES["cifar100"].tasks()}


def test_one_seed_of_each_method_comes_first_and_is_not_done_again(tmp_path: Path) -> None:
    store, methods = Store(tmp_path), LEADERBOARD.methods
    first = [run for run, _ in islice(LEADERBOARD.todo(store), len(methods))]
    assert first == [Run(SETTING, method, 0) for method in methods]
    for run in first:
        fill(store, run, 20.0)
    left = [run for run, _ in LEADERBOARD.todo(store)]
    assert left == [Run(SETTING, method, seed) for seed in (1, 2) for method in methods]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['method']}-{row['column']}")
def test_a_figure_is_that_of_another_file_with_all_its_doubts(row: Row) -> None:
    (other,) = (other for other in ELSEWHERE if same_figure(row, other))
    assert doubts(row) - {"conversion: printed as an error of 21.35"} >= doubts(other)
    if other["method"]:
        assert (row["method"], row["column"].split(":")[0]) == (
            other["method"],
            other["column"].split(":")[0].split(",")[0],
        )
        assert other["setting"] == SETTING.partition(",")[0]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['method']}-{row['column']}")
def test_a_figure_says_by_what_recipe_it_was_made(row: Row) -> None:
    (recipe,) = (doubt for doubt in row["doubt"].split(" | ") if doubt.startswith("recipe: "))
    epochs = "200" if row["source"].startswith(("OpenMixup", "zeta-mixup")) else "2000"
    assert re.findall(r"(\d+) epochs", recipe) == [epochs]


def test_figures_of_as_many_epochs_are_taken_where_there_are_some() -> None:
    nearer = {
        row["name"] for row in ELSEWHERE if re.search("CIFAR-100,.*_ep200", ",".join(row.values()))
    }
    accuracies = {r["name"]: r["doubt"] for r in ROWS if r["column"] == "classification:accuracy"}
    assert len(accuracies) == len(LEADERBOARD.methods) - 1  # all but ``multiple``
    taken = {name for name, doubt in accuracies.items() if "200 epochs" in doubt}
    assert taken == nearer & {*accuracies}


def test_what_is_measured_stands_beside_what_is_reported(tmp_path: Path) -> None:
    fill(store := Store(tmp_path), Run(SETTING, "baseline", 0), 24.0)
    text = printed(LEADERBOARD, store, published=reported(LEADERBOARD, REPORTED))
    first = next(line for line in text.splitlines() if line.startswith("| baseline "))
    cells = [cell.strip() for cell in first.split("|")]
    assert cells[1:4] == ["baseline", "**76.00 (1)**", "76.42† (-0.42)"]
    assert "recipe: OpenMixup's, 200 epochs" in text
    assert "2000 epochs, ten times as many as here" in text


def test_the_command_that_needs_no_more_than_cifar100_asks_all_that_can_be_asked_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar(tmp_path, CIFAR100, 100, 200, 128)
    trust(tmp_path, CIFAR100, monkeypatch)
    lab = Lab(Store(tmp_path / "results"), data=tmp_path)
    data = open_data(Setting.parse(SETTING), lab, seed=0)
    gallery, possible = Gallery(data, "cifar100", tmp_path), []
    for task in LEADERBOARD.tasks():
        try:
            check_tasks([task], gallery)
        except BadInput as error:
            assert "get it with: mixbench data get" in str(error)
            continue
        possible.append(task)
    text = (ROOT / "docs" / "leaderboard.md").read_text().replace("\\\n", " ")
    (command,) = (
        line for line in text.splitlines() if line.startswith("mixbench run leaderboard --task")
    )
    words = shlex.split(command)
    spelled = [words[i + 1].partition(":")[0] for i, word in enumerate(words) if word == "--task"]
    assert spelled == possible
