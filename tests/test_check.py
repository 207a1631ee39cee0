"""The command check: sound cells, doctored ones, and none."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from mixbench.bench.cells import Cell, Record, Run
from mixbench.bench.check import check, report
from mixbench.bench.cli import main
from mixbench.bench.expected import MEASURED, Range
from mixbench.bench.spec import BadInput
from mixbench.bench.tables import Column

RESULTS = Path(__file__).parents[1] / "results"
NAME = "digits/small/mixup/0"
RUN = Run("digits/small", "mixup", 0)
CELLS: dict[Cell, Record] = {
    Cell(RUN, "robustness"): {"metrics": {"fgsm": 40.0, "pgd": 75.5}},
    Cell(RUN, "embedding"): {"metrics": {"alignment": 0.1, "uniformity": None, "knn": 9.0}},
    Cell(RUN, "intrusion"): {"inapplicable": "there are no mixtures"},
}
RANGES = {
    (Column(RUN.setting, "robustness", "fgsm"), "mixup"): Range(40, 41, "a paper"),
    (Column(RUN.setting, "robustness", "pgd"), "mixup"): Range(70, 75.25, "some cells", 3),
    (Column(RUN.setting, "embedding", "alignment"), "mixup"): Range(0.2, 0.3, "a paper"),
    (Column(RUN.setting, "embedding", "knn"), "cutmix"): Range(0, 1, "a paper"),
}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The cells of a committed run."""
    shutil.copytree(RESULTS / NAME, tmp_path / "results" / NAME)
    return tmp_path / "results"


def mixbench(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["mixbench", *arguments])
        main()
    return int(end.value.code or 0)


def test_golden() -> None:
    """All numbers of a run, then those outside, then how many."""
    assert report(check(CELLS, RANGES), 0, each=True) == (
        "| column              | measured |       expected |     verdict |\n"
        "| ------------------- | -------: | -------------: | ----------: |\n"
        "| robustness:fgsm     |    40.00 | 40.00 to 41.00 | as expected |\n"
        "| robustness:pgd      |    75.50 | 70.00 to 75.25 |  0.25 above |\n"
        "| embedding:alignment |    0.100 | 0.200 to 0.300 |   0.1 below |\n"
        "| embedding:knn       |     9.00 |              - |           - |\n"
        "\n"
        "digits/small/mixup/0, robustness:pgd: 75.50 is 0.25 above 70.00 to 75.25, "
        "by 3 seeds in some cells\n"
        "digits/small/mixup/0, embedding:alignment: 0.100 is 0.1 below 0.200 to 0.300, "
        "by a paper\n"
        "Of 1 number with a measured range, about 0.005 of new seeds would lie outside by chance.\n"
        "1 as expected, 2 outside, 1 nothing is expected of.\n"
    )


def test_of_a_table_only_what_is_outside_is_said() -> None:
    found = check(CELLS, RANGES)
    assert report(found, 0, each=True).endswith("\n\n" + report(found, 0, each=False))
    assert "|" not in report(found, 0, each=False)


def test_chance_is_spoken_of_where_ranges_were_measured() -> None:
    published = {place: found for place, found in RANGES.items() if found.n is None}
    assert "chance" not in report(check(CELLS, published), 0, each=False)


def test_numbers_of_which_nothing_is_expected_are_no_success() -> None:
    with pytest.raises(BadInput, match="what to expect of these 4 numbers; mixbench run quick"):
        report(check(CELLS, {}), 0, each=True)


@pytest.mark.parametrize("table", ["quickstart", "quickstart-vit", "cifar100-tiny"])
def test_committed_cells_are_as_expected(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert mixbench("check", table, "--results", str(RESULTS)) == 0
    assert ", 0 outside, " in capsys.readouterr().out.splitlines()[-1]


def test_a_sound_run_is_as_expected(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mixbench("check", NAME) == 0
    printed = capsys.readouterr().out
    assert "| classification:top1 " in printed
    assert printed.endswith("20 as expected, 0 outside, 7 nothing is expected of.\n")


@pytest.mark.parametrize("what", [NAME, "quickstart"])
def test_five_points_are_noticed(
    what: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / NAME / "classification.json"
    record = json.loads(path.read_text())
    record["metrics"]["top1"] += 5
    path.write_text(json.dumps(record))
    assert mixbench("check", what) == 1
    printed = capsys.readouterr().out
    assert f"\n{NAME}, classification:top1: 6.40 is 3.5 above 0.00 to 2.88, by 3" in f"\n{printed}"
    assert ", 1 outside, " in printed.splitlines()[-1]
    assert ("|" in printed) == (what == NAME)


@pytest.mark.parametrize("what", [NAME, "quickstart"])
def test_a_stale_cell_is_named_and_no_success(
    what: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / NAME / "calibration.json"
    record = json.loads(path.read_text())
    record["parameters"]["task"]["bins"] = len(what)  # each complaint is said once
    path.write_text(json.dumps(record))
    assert mixbench("check", what) == 1
    said = capsys.readouterr()
    assert "calibration.json is treated as missing: it is stale: task.bins was " in said.err
    assert "calibration" not in said.out
    assert said.out.endswith(" nothing is expected of.\n1 file can't be used.\n")


@pytest.mark.parametrize("what", [NAME, "quickstart"])
def test_a_network_that_diverged_is_no_success(
    what: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / NAME / "calibration.json"
    record = json.loads(path.read_text())
    record["metrics"] = dict.fromkeys(record["metrics"], float("nan"))
    path.write_text(json.dumps(record))
    assert mixbench("check", what) == 1
    assert capsys.readouterr().out.endswith("\n1 file can't be used.\n")


def test_seeds_that_a_table_does_not_have_are_checked_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / NAME).rename((folder / NAME).with_name("11"))
    for path in (folder / NAME).with_name("11").glob("*.json"):
        record = json.loads(path.read_text()) | {"seed": 11}
        path.write_text(json.dumps(record))
    assert mixbench("check", "quickstart") == 0
    assert " 0 outside, " in capsys.readouterr().out


@pytest.mark.parametrize("what", [f"results/{NAME}", f"./results/{NAME}/", f"{NAME}/"])
def test_a_run_may_be_named_by_its_folder(what: str, folder: Path) -> None:
    assert mixbench("check", what) == 0


def test_more_seeds_are_trained_for_one_that_is_not_there(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mixbench("check", "digits/small/mixup/7") == 2
    assert "--only --setting digits/small --seeds 8 --results results" in capsys.readouterr().err
    assert mixbench("check", "digits/small/transmix/0") == 2
    assert "transmix is not applicable to digits/small: it needs" in capsys.readouterr().err


def test_a_run_with_a_file_of_another_is_checked_without_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(folder / NAME / "calibration.json", folder / NAME / "classification.json")
    (folder / NAME / "notes.json").write_text("[]")
    assert mixbench("check", NAME) == 1
    said = capsys.readouterr()
    assert "classification" not in said.out
    assert said.err.count("is treated as missing") == 2
    assert said.out.endswith("\n2 files can't be used.\n")


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("quickstart", "no cells of quickstart in results; to have some: mixbench run quickstart"),
        (NAME, f"no cells of {NAME} in results; to have some: mixbench run quickstart mixup "),
        ("quickstrat", "no table 'quickstrat'; did you mean quickstart"),
        ("digits/small/mixpu/0", "no run 'digits/small/mixpu/0'"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    what: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mixbench("check", what) == 2
    said = capsys.readouterr()
    assert why in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_run_of_which_nothing_is_expected_ends_with_2(folder: Path) -> None:
    other = folder / "digits/small/mixup,alpha=0.3/0"
    for path in (folder / NAME).glob("*.json"):
        record = json.loads(path.read_text()) | {"method": "mixup,alpha=0.3"}
        record["parameters"]["method"]["alpha"] = 0.3
        other.mkdir(parents=True, exist_ok=True)
        (other / path.name).write_text(json.dumps(record))
    assert mixbench("check", "digits/small/mixup,alpha=0.3/0") == 2


def test_the_committed_ranges_are_written_by_one_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert mixbench("expect", "--out", "a/file.csv", "--results", str(RESULTS)) == 0
    assert capsys.readouterr().out == "a/file.csv\n"
    committed = RESULTS / "expected" / MEASURED
    assert Path("a/file.csv").read_bytes() == committed.read_bytes()
