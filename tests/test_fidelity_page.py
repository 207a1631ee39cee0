"""The page on fidelity: all there is has a section, choices can be typed, and numbers are measured."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from mixbench.bench import catalogue
from mixbench.bench.cells import Store
from mixbench.bench.paper import TABLES
from mixbench.bench.settings import SETTINGS, Setting
from mixbench.bench.spec import names
from mixbench.bench.tables import asked

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "fidelity.md").read_text()
METHODS, TASKS = names("mixbench.methods"), names("mixbench.tasks")
HEADING = ["choice", "ours", "otherwise", "spelling", "moved"]
UNMEASURED = "not measured"
USUAL = {"robustness": "robustness", "ood": "ood,sets=photographs"}
"""What is asked in the table of questions, where nothing is chosen otherwise."""


def section(title: str) -> str:
    """What stands below a heading, up to the next of its level or above."""
    (mark,) = re.findall(rf"^(#+) {re.escape(title)}$", PAGE, re.MULTILINE)
    below = re.split(rf"^{mark} {re.escape(title)}$", PAGE, flags=re.MULTILINE)[1]
    return re.split(rf"^#{{2,{len(mark)}}} ", below, flags=re.MULTILINE)[0]


def rows(text: str) -> Iterator[list[str]]:
    """Of all tables, with their headings."""
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("| ---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


@dataclass(frozen=True)
class Choice:
    spelling: str
    moved: str


CHOICES = [
    Choice(row[3].strip("`"), row[4])
    for row in rows(PAGE)
    if len(row) == len(HEADING) and row != HEADING and row[3].startswith("`")
]


@cache
def scores(table: str) -> pd.DataFrame:
    return TABLES[table].scores(Store(ROOT / "results"))


def differences(found: pd.DataFrame, by: str, spelling: str, usual: str) -> "pd.Series[float]":
    """What one number has more than another, for each seed that has both."""
    values = found.pivot(index="seed", columns=by, values="value")
    values = values.reindex(columns=[spelling, usual])
    return (values[spelling] - values[usual]).dropna()


def moved(spelling: str) -> str:
    """What the page should say of a choice, by the committed cells."""
    name, _, _ = spelling.partition(",")
    if name in METHODS:
        found = scores("cifar100-tiny-choices").query("metric == 'top1'")
        points = differences(found, "method", spelling, name)
        whole = len(points) == TABLES["cifar100-tiny-choices"].seeds
        return f"{points.mean():+.2f} ± {points.std():.2f}" if whole else UNMEASURED
    if name not in USUAL:
        return UNMEASURED
    table = TABLES["cifar100-tiny-questions"]
    found = scores(table.name).query("metric in ('pgd', 'auroc')")
    each = {
        method: differences(found[found.method == method], "task", spelling, USUAL[name])
        for method in table.methods
    }
    if any(len(points) < table.seeds for points in each.values()):
        return UNMEASURED
    return ", ".join(f"{method} {points.mean():+.2f}" for method, points in each.items())


def test_every_method_has_a_row_and_a_section() -> None:
    linked = [row[0] for row in rows(section("What is followed"))][1:]
    assert linked == [f"[{name}](#{name})" for name in METHODS]
    sections = re.findall("^### (.*)$", section("Methods"), re.MULTILINE)
    assert sections == METHODS


def test_every_source_is_the_method_s() -> None:
    for name, source, *_ in list(rows(section("What is followed")))[1:]:
        published = catalogue.method(name[1 : name.index("]")]).source
        assert source.partition(", 3.")[0] in published


def test_every_task_has_a_section() -> None:
    assert re.findall("^### (.*)$", section("Tasks"), re.MULTILINE) == TASKS


def test_every_section_has_a_table_of_choices() -> None:
    for name in (*METHODS, *TASKS, "Recipes"):
        heading, *choices = rows(section(name))
        assert heading == HEADING, name
        assert all(len(row) == len(HEADING) and all(row[2:]) for row in choices), name


def test_no_choice_is_listed_twice_in_a_section() -> None:
    for name in (*METHODS, *TASKS, "Recipes"):
        spellings = [row[3] for row in rows(section(name))]
        assert len(set(spellings)) == len(spellings), name


@pytest.mark.parametrize("spelling", sorted({choice.spelling for choice in CHOICES}))
def test_a_choice_can_be_typed_and_is_no_default(spelling: str) -> None:
    name, _, fields = spelling.partition(",")
    if "/" in name:
        assert str(Setting.parse(spelling)) == spelling
        assert fields or [*SETTINGS].index(name)
    elif name in METHODS:
        assert catalogue.method(spelling).spelling == spelling
        assert fields
    elif ":" in spelling:
        task, (metric,) = asked(spelling)
        assert metric != next(iter(catalogue.task(task).metrics))
    else:
        assert catalogue.task(spelling).spelling == spelling
        assert fields


def test_choices_of_a_method_stand_in_its_section() -> None:
    for name in METHODS:
        spelled = [row[3].strip("`") for row in rows(section(name))][1:]
        assert any(text.split(",")[0] == name for text in spelled) or name == "baseline"
    for name in TASKS:
        spelled = [row[3].strip("`") for row in rows(section(name))][1:]
        assert any(re.split("[,:]", text)[0] == name for text in spelled)


def test_all_that_is_to_be_measured_is_on_the_page() -> None:
    listed = {choice.spelling for choice in CHOICES}
    usual = {text.partition(",")[0] for text in TABLES["cifar100-tiny-choices"].methods}
    assert {*TABLES["cifar100-tiny-choices"].methods} - usual <= listed
    questions = {asked(column)[0] for column in TABLES["cifar100-tiny-questions"].columns}
    assert questions - {*USUAL.values()} <= listed


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.spelling)
def test_what_a_choice_moved_is_what_was_measured(choice: Choice) -> None:
    assert choice.moved == moved(choice.spelling)


def test_every_kind_of_doubt_is_explained() -> None:
    doubts = set()
    for path in (ROOT / "results" / "reported").glob("*.csv"):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                doubts |= {doubt.partition(":")[0] for doubt in row["doubt"].split(" | ")}
    explained = [row[0] for row in rows(section("Numbers to doubt"))][1:]
    assert {"arithmetic", "definition"} <= doubts - {""} <= {*explained}
    assert explained == sorted(explained)


def test_links_lead_somewhere() -> None:
    titles = re.findall("^#+ (.*)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)]*)\)", PAGE):
        path, _, anchor = target.partition("#")
        if path:
            known = Path(path).stem in TABLES  # printed once it is filled
            assert (ROOT / "docs" / path).exists() or known, target
        else:
            assert anchor in anchors, target
