"""The scripts of benchmarks/: each runs, and what it prints is what it says."""

import csv
import re
import subprocess
import sys
from pathlib import Path
from runpy import run_path
from typing import Any

import click
import pytest

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("[!_]*.py"))
SMALLEST = {
    "attacks.py": ["--net", "small", "--images", "2", "--batch", "2"],
    "densemultimix.py": ["--shape", "digits", "--rounds", "1"],
    "listing.py": ["--seeds", "1"],
    "together.py": ["--steps", "1", "--rounds", "1", "--device", "cpu"],
}
PAGES = [FOLDER / "README.md", *(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "README.md"]
SHOWN = sorted(
    {
        line.strip()
        for page in PAGES
        for line in re.findall(r"python benchmarks/([^`\n]+)", page.read_text())
    }
)
HISTORY = subprocess.run(
    ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"], capture_output=True, check=False
)

needs_history = pytest.mark.skipif(HISTORY.returncode != 0, reason="there is no history here")


def ran(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def table(text: str) -> list[dict[str, str]]:
    """The rows of the first Markdown table, by the names of their columns."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *body = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in body]


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_is_listed(script: str) -> None:
    assert f"python benchmarks/{script}" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("line", SHOWN)
def test_commands_that_are_shown_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    script, *arguments = line.split()
    command: click.Command = run_path(str(FOLDER / script))["main"]
    assert command.make_context(script, arguments).params
    assert command.help


@pytest.mark.parametrize("script", SMALLEST)
def test_each_runs_at_its_smallest_size(script: str) -> None:
    done = ran(script, *SMALLEST[script])
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What before.py defines."""
    monkeypatch.syspath_prepend(FOLDER)
    return run_path(str(FOLDER / "before.py"))


class Stub:
    """A worker that has its answers ready, and notes who is asked."""

    def __init__(self, name: str, answers: list[float], asked: list[str]) -> None:
        self.name, self.answers, self.asked = name, answers, asked

    def ask(self, question: str, i: int) -> float:
        self.asked.append(self.name)
        return self.answers[i]


def test_ratios_are_those_of_pairs_and_their_spread_that_of_rounds(before: dict[str, Any]) -> None:
    row = before["timed"]([[(1.0, 2.0), (2.0, 2.0), (1.0, 3.0)], [(1.0, 1.0)]])
    assert (row["now / then"], row["least"], row["most"]) == (1.5, 1.0, 2.0)
    assert (row["then, ms"], row["now, ms"]) == (1000.0, 2000.0)
    assert (row["mean then, ms"], row["mean now, ms"]) == (1250.0, 2000.0)


def test_differences_are_relative_to_then(before: dict[str, Any]) -> None:
    assert before["relative"]([(3.0, 6.0), (4.0, 8.0)]) == 0.5


def test_then_and_now_are_asked_first_by_turns(before: dict[str, Any]) -> None:
    asked: list[str] = []
    both = [Stub("then", [1.0, 2.0], asked), Stub("now", [3.0, 4.0], asked)]
    assert [before["in_turn"](both, "step", i) for i in range(2)] == [(1.0, 3.0), (2.0, 4.0)]
    assert asked == ["then", "now", "now", "then"]


def test_draws_that_differ_are_compared_in_the_mean(before: dict[str, Any]) -> None:
    row = before["redrawn"]([Stub("then", [1.0, 1.0], []), Stub("now", [2.0, 4.0], [])], 2)
    assert row["mean loss now - then"] == pytest.approx(2.0)
    assert row["± standard error"] == pytest.approx(1.0)


@needs_history
def test_what_did_not_change_has_the_losses_and_gradients_of_then(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    options = ["--steps", "1", "--rounds", "1", "--precision", "float64", "--out", str(out)]
    done = ran("before.py", "HEAD", "digits/small", "baseline", "nonsense", *options)
    assert done.returncode == 0, done.stderr
    (row,) = table(done.stdout)
    assert row["method"] == "baseline"
    assert row["losses differ by"] == row["gradients differ by"] == "0.0e+00"
    assert row["least"] == row["now / then"] == row["most"]
    assert re.search("^`nonsense`: then: no method 'nonsense'", done.stdout, re.MULTILINE)
    (written,) = csv.DictReader(out.read_text().splitlines())
    assert written.keys() == row.keys()
    assert float(written["then, ms"]) == pytest.approx(float(row["then, ms"]), abs=0.01)


@needs_history
@pytest.mark.parametrize(
    ("revision", "setting", "said"),
    [
        ("nonsense", "digits/small", "this repository has no revision 'nonsense'"),
        ("HEAD", "digits/nonsense", "then: no network 'nonsense'"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(revision: str, setting: str, said: str) -> None:
    done = ran("before.py", revision, setting, "baseline")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {said}")


def test_kernels_are_counted_beyond_those_of_the_baseline() -> None:
    done = ran("kernels.py", "digits/small", "baseline", "multimix", "--batches", "4")
    assert done.returncode == 0, done.stderr
    baseline, multimix = table(done.stdout)
    assert baseline["beyond the baseline's"] == "0"
    assert baseline["waits"] == "0.0"
    assert int(multimix["beyond the baseline's"]) > 0
    assert float(multimix["waits"]) > 0
