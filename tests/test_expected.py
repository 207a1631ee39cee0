"""What is expected: prediction intervals by hand, the committed files, and damaged ones."""

import csv
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixbench.bench import expected as module
from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.expected import (
    HEADS,
    MEASURED,
    MISSED,
    NEVER_NEGATIVE,
    OF_THE_MACHINE,
    PUBLISHED,
    WIDE,
    Range,
    expected,
    measured,
    numbers,
    pooled,
    predicted,
    shipped,
)
from mixbench.bench.paper import TABLES
from mixbench.bench.settings import Setting
from mixbench.bench.spec import BadInput, canonical
from mixbench.bench.tables import Column, Table, asked
from mixbench.methods import Method

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
FOLDER = RESULTS / "expected"
SMALL = "digits/small"
TOP1 = Column(SMALL, "classification", "top1")
HEAD = ",".join(HEADS)
ROW = "digits/small,mixup,classification:top1,1.0,2.0,3,somebody"
TABLE = Table(
    name="tiny",
    caption="A caption.",
    settings=(SMALL,),
    methods=("baseline", "mixup"),
    columns=("classification", "cost", "robustness"),
)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def put(store: Store, task: str, method: str, values: Sequence[Mapping[str, float | None]]) -> None:
    """Cells of seeds 0, 1, ..."""
    for seed, metrics in enumerate(values):
        cell = Cell(Run(SMALL, method, seed), task)
        store.publish(cell, cell.identity() | {"metrics": metrics})


def robustness(store: Store, method: str, *fgsm: float | None, pgd: float = 50.0) -> None:
    put(store, "robustness", method, [{"fgsm": value, "pgd": pgd} for value in fgsm])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files without a row."""
    for name in (MEASURED, PUBLISHED):
        (tmp_path / name).write_text(f"{HEAD}\n")
    return tmp_path


def write(folder: Path, name: str, *lines: str) -> Path:
    (folder / name).write_text("\n".join([HEAD, *lines]) + "\n")
    return folder


def test_seeds_of_several_methods_share_their_deviation() -> None:
    """Variances 1 and 4, of 2 degrees of freedom each; one seed has none."""
    std, freedom = pooled([[1, 2, 3], [2, 4, 6], [100]])
    assert (std**2, freedom) == pytest.approx((2.5, 4))


def test_without_two_seeds_there_is_no_deviation() -> None:
    assert pooled([[1.0], [2.0]]) == (0, 0)


def test_a_prediction_interval_by_hand() -> None:
    """Of 4 degrees of freedom, t is 8.610: 8.610 x sqrt(2.5) x sqrt(1 + 1/3) is 15.72."""
    low, high = predicted([1, 2, 3], 2.5**0.5, 4)
    assert (low, high) == pytest.approx((2 - 15.72, 2 + 15.72), abs=0.005)


def test_one_more_seed_lies_outside_as_often_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of a hundred times, at a tail of 5 %: three methods, three seeds and one more of each."""
    monkeypatch.setattr(module, "TAIL", 0.05)
    outside = 0
    for draw in np.random.default_rng(0).normal(5, 2, (2000, 10)).tolist():
        samples = [draw[:3], draw[3:6], draw[6:9]]
        low, high = predicted(samples[0], *pooled(samples))
        outside += not low <= draw[9] <= high
    assert 160 < outside < 240


def test_ranges_by_hand(tmp_path: Path) -> None:
    """Of variance 1 and 4 degrees of freedom, 8.610 x sqrt(1 + 1/3) is 9.94. Errors under PGD are all
    the same, and say nothing of how they would vary.
    """
    robustness(store := Store(tmp_path), "baseline", 41, 42, 43)
    robustness(store, "mixup", 4, 5, 6, None)
    found = rows(measured([TABLE], store))
    assert [(row["method"], row["column"], row["n"]) for row in found] == [
        ("baseline", "robustness:fgsm", "3"),
        ("mixup", "robustness:fgsm", "3"),
    ]
    lows, highs = zip(*[(float(r["low"]), float(r["high"])) for r in found], strict=True)
    assert lows == pytest.approx((42 - 9.94, 0), abs=0.005)  # no error is below 0
    assert highs == pytest.approx((42 + 9.94, 5 + 9.94), abs=0.005)


def test_a_cell_of_two_tables_counts_once(tmp_path: Path) -> None:
    robustness(store := Store(tmp_path), "mixup", 41, 42)
    again = replace(TABLE, name="again", columns=("robustness:pgd",))
    assert measured([TABLE, again], store) == measured([TABLE], store)


def test_what_depends_on_the_machine_is_not_expected(tmp_path: Path) -> None:
    speeds = [{"speed": s, "memory": s, "terms": s} for s in (1.0, 2.0)]
    put(store := Store(tmp_path), "cost", "mixup", speeds)
    assert [row["column"] for row in rows(measured([TABLE], store))] == ["cost:terms"]


def test_a_range_that_says_too_little_is_left_out(tmp_path: Path) -> None:
    """Of seven degrees of freedom and pooled variance 1, t sqrt(4/3) is 6.2: 12.5 points wide."""
    samples = [[50.0, 51.0, 52.0]] * 3
    for method, sample in zip(("baseline", "mixup", "cutmix"), samples, strict=True):
        robustness(store := Store(tmp_path), method, *sample)
    table = replace(TABLE, methods=("baseline", "mixup", "cutmix"))
    low, high = predicted(samples[0], *pooled(samples))
    assert high - low < WIDE < 3 * (high - low)
    assert len(rows(measured([table], store))) == 3
    for method in table.methods:
        robustness(store, method, 47.0, 50.0, 53.0)
    assert rows(measured([table], store)) == []


def test_without_cells_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"there are no cells in {tmp_path}"):
        measured(TABLES.values(), Store(tmp_path))


def test_the_committed_ranges_are_those_of_the_committed_cells() -> None:
    """If not: mixbench expect --out results/expected/measured.csv."""
    committed = (FOLDER / MEASURED).read_bytes()
    assert measured(TABLES.values(), Store(RESULTS)).encode() == committed


def left_out() -> Iterator[tuple[Run, bool]]:
    """Whether each number of a committed cell lies where the other seeds say, and its run."""
    records = {c: r for table in TABLES.values() for c, r in table.records(Store(RESULTS)).items()}
    found: dict[Column, dict[str, dict[int, float]]] = {}
    for column, run, value in numbers(records):
        if column.metric not in OF_THE_MACHINE:
            found.setdefault(column, {}).setdefault(run.method, {})[run.seed] = value
    for column, methods in found.items():
        for seed in {seed for values in methods.values() for seed in values}:
            others = {
                m: [v for s, v in values.items() if s != seed] for m, values in methods.items()
            }
            std, freedom = pooled([sample for sample in others.values() if sample])
            for method, values in methods.items():
                if std and seed in values and others[method]:
                    low, high = predicted(others[method], std, freedom)
                    yield Run(column.setting, method, seed), low <= values[seed] <= high


def test_a_sound_number_is_missed_as_seldom_as_is_said() -> None:
    found = [*left_out()]
    missed = [run for run, inside in found if not inside]
    assert len(found) > 1000
    assert len(missed) <= MISSED * len(found)
    runs = {run for run, _ in found}
    page = " ".join((ROOT / "docs" / "fidelity.md").read_text().split())
    assert (
        f"{100 * len(missed) / len(found):.1f} % of its numbers lay outside, "
        f"and {len({*missed})} of {len(runs)} runs had one"
    ) in page


@pytest.mark.parametrize("name", [MEASURED, PUBLISHED])
def test_a_committed_file_is_canonical(name: str) -> None:
    text = (FOLDER / name).read_bytes().decode()
    assert "\r" not in text
    places = [(row["setting"], row["method"], row["column"]) for row in rows(text)]
    assert len({*places}) == len(places) > 10
    for setting, method, column in places:
        task, metrics = asked(column)
        assert f"{task}:{metrics[0]}" == column
        assert str(Setting.parse(setting)) == setting
        assert canonical(method, "mixbench.methods", Method) == method


NAMES = {
    "baseline": "Baseline",
    "mixup": "Input mixup",
    "cutmix": "CutMix",
    "cutmix,p=1": "CutMix",
    "manifold": "Manifold mixup",
    "saliencymix": "SaliencyMix",
    "puzzlemix": "PuzzleMix",
    "comixup": "Co-Mixup",
    "zetamixup": "zeta-Mixup",
    "alignmixup": "AlignMixup",
}
"""What other sources call methods."""

FIGURE = re.compile(r"([\d.]+) % error, ([^;]+)")
WITHOUT_FILE = "arXiv:1710.09412"


def published() -> list[dict[str, str]]:
    return rows((FOLDER / PUBLISHED).read_text())


def test_a_published_range_is_around_the_figures_that_its_source_names() -> None:
    for row in published():
        figures = [float(figure) for figure, _ in FIGURE.findall(row["source"])]
        (half,) = re.findall(r"; ± ([\d.]+) points", row["source"])
        assert float(row["low"]) == pytest.approx(min(figures) - float(half))
        assert float(row["high"]) == pytest.approx(max(figures) + float(half))
        assert not row["n"]


def test_a_figure_that_is_named_is_one_that_is_reported() -> None:
    others = rows((RESULTS / "reported" / "second-sources.csv").read_text())
    for row in published():
        data = row["setting"].partition("/")[0].replace("imagenet", "imagenet-1k")
        data = data.replace("tinyimagenet-1k", "tinyimagenet")
        known = [
            (round(value if "err" in r["metric"] else 100 - value, 2), r["source"])
            for r in others
            if r["name"] == NAMES[row["method"]]
            and r["dataset"].lower().replace("-", "") == data.replace("-", "")
            and (value := float(r["value"]))
        ]
        for figure, source in FIGURE.findall(row["source"]):
            if not source.startswith(WITHOUT_FILE):
                name = source.partition(" ")[0].rstrip(",")
                assert any(float(figure) == v and s.startswith(name) for v, s in known), row


def test_what_stands_beside_the_leaderboard_is_as_expected() -> None:
    beside = rows((RESULTS / "reported" / "leaderboard.csv").read_text())
    ranges = expected(FOLDER)
    found = 0
    for row in beside:
        column = Column(row["setting"], "classification", "top1")
        if row["column"] == "classification:accuracy" and (column, row["method"]) in ranges:
            assert ranges[column, row["method"]].off(100 - float(row["value"])) == 0
            found += 1
    assert found == 6


def test_metrics_that_are_never_negative_are_some_of_ours() -> None:
    columns = {column for table in TABLES.values() for column in table.each_column()}
    assert {*NEVER_NEGATIVE, *OF_THE_MACHINE} <= {column.metric for column in columns}


def test_measured_goes_before_published(folder: Path) -> None:
    sources = []
    for name in (PUBLISHED, MEASURED):
        write(folder, name, ROW.replace("somebody", name))
        sources.append(expected(folder)[TOP1, "mixup"].source)
    assert sources == [PUBLISHED, MEASURED]


def test_a_range_says_how_many_seeds_it_is_from(folder: Path) -> None:
    (found,) = expected(write(folder, MEASURED, ROW)).values()
    assert found.origin == "3 seeds in somebody"
    assert replace(found, n=None).origin == "somebody"


@given(low=st.integers(-9, 9), high=st.integers(-9, 9), value=st.integers(-20, 20))
def test_a_value_is_off_by_what_lies_between_it_and_the_range(
    low: int, high: int, value: int
) -> None:
    low, high = min(low, high), max(low, high)
    off = Range(low, high, "").off(value)
    assert (off == 0) == (low <= value <= high)
    assert value - off == min(max(value, low), high)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (ROW.replace("1.0", "low"), "low: Input should be a valid number"),
        (ROW.replace("2.0", "inf"), "high: Input should be a finite number"),
        (ROW.replace("1.0", "2.5"), "low, 2.5, should not be above high, 2"),
        (ROW.replace(",3,", ",0,"), "n: "),
        (ROW.replace("mixup", "mixpu"), "no method 'mixpu'; did you mean mixup"),
        (ROW.replace("digits/", "nowhere/"), "no dataset 'nowhere'"),
        (
            ROW.replace("classification:top1", "robustness"),
            "robustness should name one metric: fgsm, pgd",
        ),
        (ROW.replace("top1", "accuracy"), "accuracy is in no cell; name top1"),
        ("digits/small,mixup", "column: "),
        (f"{ROW},more", "None: "),
    ],
)
def test_a_damaged_row_is_named(folder: Path, line: str, why: str) -> None:
    write(folder, PUBLISHED, ROW, line)
    with pytest.raises(BadInput) as error:
        expected(folder)
    message = str(error.value)
    assert message.startswith(f"{folder / PUBLISHED}, line 3: ")
    assert why in message
    assert "\n" not in message


def test_the_files_are_installed() -> None:
    assert {path.name for path in shipped().glob("*.csv")} == {MEASURED, PUBLISHED}
    assert expected() == expected(FOLDER)


def test_files_that_are_not_installed_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixbench.bench.expected.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="install mixbench again"):
        expected()


def test_reading_what_is_expected_needs_no_torch() -> None:
    code = "import sys, mixbench.bench.check; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
