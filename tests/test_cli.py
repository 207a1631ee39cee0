"""The command line: what it prints, and how it refuses."""

import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from mixbench.bench import paper
from mixbench.bench.cli import main
from mixbench.bench.tables import Table

TINY = Table(
    name="tiny",
    caption="A small table.",
    settings=("digits/small,epochs=1",),
    methods=("baseline", "mixup"),
    columns=("classification:top1", "calibration"),
    seeds=1,
)


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stretched = replace(TINY, name="stretched", settings=("digits/small,epochs=1,batch=5000",))
    cifar = replace(TINY, name="cifar", settings=("cifar100/preactresnet18,epochs=1",))
    monkeypatch.setattr(paper, "TABLES", {t.name: t for t in (TINY, stretched, cifar)})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def mixbench(*arguments: str) -> int:
    """The exit code of a command line."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["mixbench", *arguments])
        main()
    return int(end.value.code or 0)


def test_a_table_is_run_told_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert mixbench("todo", "tiny") == 0
    assert capsys.readouterr().out.splitlines() == [
        "digits/small,epochs=1/baseline/0: classification calibration",
        "digits/small,epochs=1/mixup/0: classification calibration",
    ]
    assert mixbench("run", "tiny", "mixup,alpha=0.2", "--device", "cpu") == 0
    out = capsys.readouterr().out
    assert "[3/3]" in out and "| mixup,alpha=0.2 |" in out
    assert mixbench("todo", "tiny", "mixup,alpha=0.2") == 0
    assert capsys.readouterr().out == ""
    assert mixbench("table", "tiny", "mixup,alpha=0.20") == 0
    printed = capsys.readouterr().out
    assert out.endswith(printed)
    assert mixbench("status", "tiny", "--seeds", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "digits/small,epochs=1/baseline/0: done"
    assert lines[2].endswith("/baseline/1: waiting: classification, calibration missing")
    assert lines[-1] == "2 done, 2 waiting"


def test_what_does_not_apply_is_told_apart_from_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = replace(TINY, methods=("baseline", "transmix"))
    monkeypatch.setattr(paper, "TABLES", {"tiny": mixed})
    assert mixbench("todo", "tiny") == 0
    assert "transmix" not in capsys.readouterr().out
    assert mixbench("status", "tiny") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(
        "digits/small,epochs=1/transmix/0: not applicable: it needs the class"
    )
    assert lines[-1] == "1 waiting, 1 not applicable"


def test_rows_and_settings_can_be_other_than_the_tables(
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = ["--setting", "digits/small,epochs=2", "--only", "mixup,alpha=2", "--seeds", "1"]
    assert mixbench("todo", "tiny", *other) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("digits/small,epochs=2/mixup,alpha=2/0: ")
    assert mixbench("table", "tiny", *other) == 0
    printed = capsys.readouterr().out
    assert "Rows and columns of `tiny`. Setting: `digits/small,epochs=2`." in printed
    assert [line for line in printed.splitlines() if line.startswith("| mixup,alpha=2 ")]
    assert "baseline" not in printed


def test_other_tasks_can_be_asked(capsys: pytest.CaptureFixture[str]) -> None:
    columns = ["--task", "calibration:nll", "--task", "robustness,steps=1", "--task", "calibration"]
    assert mixbench("todo", "tiny", *columns) == 0
    first, _ = capsys.readouterr().out.splitlines()
    assert first == "digits/small,epochs=1/baseline/0: calibration robustness,steps=1"
    assert mixbench("table", "tiny", *columns) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split("|")[2].strip() == "NLL, nats"
    assert "Rows of `tiny`." in out


def test_only_what_is_missing_has_to_be_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["--only", "mixup", "--device", "cpu", "--task", "robustness,steps=1"]
    assert mixbench("run", "tiny", *rows) == 0
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    assert mixbench("run", "tiny", *rows, "--task", "calibration") == 0
    capsys.readouterr()
    assert mixbench("run", "tiny", *rows, "--task", "robustness,steps=2") == 2
    assert "robustness,steps=2 can't be asked: robustness needs" in capsys.readouterr().err


def test_a_figure_is_drawn_of_what_was_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = replace(TINY, methods=("mixup", "transmix"), columns=("landscape,pairs=20",))
    monkeypatch.setattr(paper, "TABLES", {"tiny": mixed})
    assert mixbench("run", "tiny", "--device", "cpu") == 0
    capsys.readouterr()
    assert mixbench("figure", "landscape", "tiny", "--out", "deep/a.svg") == 0
    printed = capsys.readouterr()
    assert printed.out == "deep/a.svg\n"
    assert printed.err.startswith("mixbench: without transmix: not applicable, it needs")
    assert (tmp_path / "deep/a.svg").read_text().startswith("<?xml")
    assert (tmp_path / "deep/a.csv").read_text().startswith("method,position,accuracy,confidence\n")


@pytest.mark.parametrize("setting", ["digits/small", "folder:mine/small,batch=4,size=8"])
def test_the_data_path_is_timed(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, name in product(("train", "val"), ("one", "two")):
        (where := tmp_path / "mine" / split / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (9, 9)).save(where / f"{i}.png")
    arguments = ["--batches", "2", "--rounds", "2", "--workers", "0", "--device", "cpu"]
    assert mixbench("data", "speed", setting, *arguments) == 0
    head, _, ours, *_, caption = capsys.readouterr().out.splitlines()
    assert head.split("|")[2:4] == [" augmented ", " shuffled only "]
    name, *rates = [cell.strip() for cell in ours.strip("|").split("|")]
    assert name == "mixbench" and all(int(rate) > 0 for rate in rates)
    assert (
        setting.removeprefix("folder:") in caption
        and "The median of 2 times the first 2 batches" in caption
    )


def test_a_table_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mixbench("table", "tiny", "--format", "csv", "--out", "deep/tiny.csv") == 0
    assert (
        tmp_path / "deep/tiny.csv"
    ).read_text() == "table,setting,method,task,metric,seed,value\n"
    assert capsys.readouterr().out == ""


def test_everything_there_is_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for command, expected in (
        ("methods", "multimix"),
        ("tasks", "steps=20"),
        ("settings", "cifar100/preactresnet18"),
        ("tables", "tiny"),
    ):
        assert mixbench(command) == 0
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("run tiney", "no table 'tiney'; did you mean tiny"),
        ("run tiny mixpu", "no method 'mixpu'; did you mean mixup"),
        ("run tiny mixup,alpa=1", "no field 'alpa'; did you mean alpha"),
        ("run tiny mixup,alpha=-1", "alpha: it should be greater than 0, not '-1'"),
        ("run tiny nobody.newmix", "nobody.newmix can't be imported"),
        ("run tiny manifold,at=layer9", "no stage 'layer9'"),
        ("run tiny transmix", "transmix: it needs the class token's attention"),
        ("todo tiny stylemix", "stylemix: there is no vgg_normalised.pth: take it from github.com"),
        ("speed digits/tiny", "no network 'tiny'"),
        ("speed digits/small mixpu", "no method 'mixpu'"),
        ("speed digits/small --steps 0", "0 is not in the range x>=1"),
        ("run tiny --results file", "'--results': Directory 'file' is a file"),
        ("run tiny --device abacus", "device 'abacus' can't be used here"),
        ("run tiny --only", "--only leaves no rows: name the methods"),
        ("run tiny --setting digits/smal", "no network 'smal'; did you mean small"),
        ("run tiny --setting folder:none/small", "none is missing; it should hold train and val"),
        ("run tiny --workers -1", "-1 is not in the range x>=0"),
        ("data speed digits/smal", "no network 'smal'"),
        ("run tiny --jobs 0", "0 is not in the range x>=1"),
        ("run tiny --seeds many", "'many' is not a valid integer"),
        ("run tiny --task classificaton", "no task 'classificaton'; did you mean classification"),
        ("table tiny --task calibration:ecce", "no metric of calibration 'ecce'; did you mean"),
        ("todo tiny --task calibration,bins=0", "bins: it should be greater than 0"),
        ("run tiny --task ood", "ood can't be asked: data/odin/LSUN is missing; get it with"),
        ("figure landscap tiny", "no figure 'landscap'; did you mean landscape"),
        ("figure landscape tiny", "tiny has no column of landscape: add --task landscape"),
        ("figure reliability tiny", "no calibration of seed 0; `mixbench run tiny` makes cells"),
        ("figure reliability tiny --out a.jpg", "should end in .svg or .png or .pdf, unlike a.jpg"),
        ("run stretched", "digits: 1037 training images can't fill a batch of 5000"),
        ("run cifar --data nowhere", "nowhere/cifar-100-python/train is missing"),
        ("table tiny --format word", "'word' is not one of"),
        ("table tiny --out file/table.md", "file/table.md can't be written"),
        ("tabel tiny", "No such command 'tabel'"),
        ("table", "Missing argument 'TABLE'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert mixbench(*arguments.split()) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("mixbench: ") and why in line
    assert printed.out == ""


def test_a_bad_cell_is_named_on_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results/digits/small,epochs=1/mixup/0/classification.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert mixbench("todo", "tiny") == 0
    printed = capsys.readouterr()
    assert "/mixup/0: classification calibration" in printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith("mixbench: results/digits/small,epochs=1/mixup/0/classification.json is")


def test_a_reader_that_has_enough_is_no_error() -> None:
    script = "from mixbench.bench.cli import main; main()"
    command = [sys.executable, "-c", script, "methods"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


def test_a_claim_that_cannot_be_made_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results/digits/small,epochs=1/mixup/0/.claim").mkdir(parents=True)
    assert mixbench("status", "tiny") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mixbench: ") and ".claim: Is a directory" in line


def test_help_imports_no_torch() -> None:
    script = (
        "import sys; sys.argv = ['mixbench', '--help']\n"
        "from mixbench.bench.cli import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "Commands:" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
