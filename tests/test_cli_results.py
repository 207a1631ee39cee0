"""The command line on results that are there: tables, comparisons, the page, exports."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from mixbench.bench.cli import main

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def mixbench(*arguments: str) -> int:
    """The exit code of a command on the committed results."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["mixbench", *arguments, "--results", str(RESULTS)])
        main()
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("markdown", "| method "),
        ("csv", "table,setting,method,"),
        ("wide", "method,digits/small"),
        ("latex", "% \\usepackage{booktabs"),
        ("html", "<!doctype html>"),
    ],
)
def test_a_table_is_printed_in_each_format(
    form: str, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mixbench("table", "quickstart-vit", "--format", form) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(start)
    assert mixbench("table", "quickstart-vit", "--format", form, "--out", "a/file") == 0
    assert Path("a/file").read_text() == printed


def test_all_tables_that_have_numbers_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert mixbench("tables", "--out", "all") == 0
    written = capsys.readouterr().out.splitlines()
    assert written == [str(path) for path in map(Path, written)]
    assert {"all/quickstart.md", "all/quickstart.csv", "all/detection-demo.md"} <= {*written}
    assert "all/detection.md" not in written
    for path in map(Path, written):
        committed = RESULTS / "tables" / path.name
        assert path.read_text() == committed.read_text(), path


def test_what_was_reported_stands_beside_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert mixbench("table", "multimix-table2", "--with-reported") == 0
    table, _, notes = capsys.readouterr().out.rpartition("\n\n")
    (row,) = [line for line in table.splitlines() if line.startswith("| densemultimix ")]
    assert " 81.93 ± 0.04" in row
    assert "Reported: by arXiv:2311.05538 Table 2; in brackets" in notes
    assert "† " in notes
    assert mixbench("table", "multimix-table2") == 0
    assert "81.93" not in capsys.readouterr().out


def test_two_methods_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert mixbench("compare", "mixup", "baseline", "--table", "quickstart") == 0
    printed = capsys.readouterr().out
    assert "mixup" in printed and "Holm" in printed
    assert len(printed.splitlines()) < 60


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("compare mixup mixup", "mixup"),
        ("compare mixup mixupp", "did you mean"),
        ("compare mixup cutmix --table cifar100", "mixbench run cifar100"),
        ("tables --out file", "file"),
        ("figure nothing quickstart", "no figure 'nothing'"),
        ("show mixupp", "did you mean"),
        ("show mixup --out file.txt", ".svg"),
        ("show transmix", "vision transformer"),
        ("export --out file/results.csv", "file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("")
    assert mixbench(*arguments.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mixbench: ") and why in line


def test_the_page_is_one_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert mixbench("page", "--out", "site") == 0
    assert capsys.readouterr().out == "site/index.html\n"
    assert [path.name for path in Path("site").iterdir()] == ["index.html"]
    assert Path("site/index.html").stat().st_size < 2_000_000


def test_every_number_is_exported(capsys: pytest.CaptureFixture[str]) -> None:
    assert mixbench("export", "--out", "all.csv") == 0
    rows = pd.read_csv("all.csv")
    cell = json.loads((RESULTS / "digits/small/mixup/0/calibration.json").read_text())
    here = rows[
        (rows.setting == "digits/small")
        & (rows.method == "mixup")
        & (rows.seed == 0)
        & (rows.task == "calibration")
    ]
    assert dict(zip(here.metric, here.value, strict=True)) == cell["metrics"]


COMMANDS = [
    "table quickstart",
    "table quickstart --format latex --with-reported",
    "table quickstart --format html",
    "tables",
    "tables --out all",
    "compare mixup cutmix",
    "status quickstart",
    "todo quickstart",
    "export --out all.csv",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_reading_results_imports_no_torch(command: str) -> None:
    script = (
        "import sys\n"
        "from mixbench.bench.cli import main\n"
        "try: main()\n"
        "finally: print({'torch', 'timm', 'torchvision'} & {*sys.modules}, file=sys.stderr)\n"
    )
    arguments = [*command.split(), "--results", str(RESULTS)]
    told = [
        subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
        ).stderr.splitlines()[-1]
        for _ in range(2)
    ]
    assert told[1] == "set()"
