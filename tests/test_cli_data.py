"""The commands about datasets: what they print, and how they refuse."""

import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mixbench.bench import cli, data
from mixbench.bench.data import _fetch
from mixbench.bench.data._source import Archive, Source
from mixbench.bench.spec import BadInput


def holds(name: str) -> Callable[[Path], str]:
    def check(root: Path) -> str:
        if not (root / name).exists():
            raise BadInput(f"{root / name} is missing")
        return f"a file, {name}"

    return check


def zipped(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as pack:
        pack.writestr(zipfile.ZipInfo(name), "content")
    return file.getvalue()


BIRDS = zipped("birds")
DIGEST = f"md5:{hashlib.md5(BIRDS).hexdigest()}"
ARCHIVE = Archive("birds.zip", ("http://127.0.0.1/birds.zip",), DIGEST)
KNOWN = (
    Source("birds", "Birds of some places", "detection", holds("birds"), "birds", (ARCHIVE,)),
    Source(
        "leaves", "Leaves", "classification", holds("leaves"), "leaves", by_hand="ask for leaves"
    ),
    Source("ink", "Drops of ink", "classification", holds("ink"), "ink"),
)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(data, "sources", lambda: {source.name: source for source in KNOWN})
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIXBENCH_DATA", raising=False)
    cli._warned.cache_clear()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ink").touch()
    (tmp_path / "file").touch()


def mixbench(arguments: str) -> int:
    """The exit code of a command line."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["mixbench", *arguments.split()])
        cli.main()
    return int(end.value.code or 0)


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Let the only mirror have this content."""

    def stream(archive: Archive, url: str, part: Path, report: _fetch.Report) -> bool:
        part.write_bytes(content)
        return False

    monkeypatch.setattr(_fetch, "_stream", stream)


def test_datasets_are_listed_by_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert mixbench("data list") == 0
    assert capsys.readouterr().out.splitlines() == [
        "classification",
        "  ink     there    Drops of ink",
        "  leaves  by hand  Leaves",
        "detection",
        "  birds   to get   Birds of some places",
    ]
    assert mixbench("data list --data elsewhere") == 0
    assert "there" not in capsys.readouterr().out


def test_a_dataset_is_got_then_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, BIRDS)
    assert mixbench("data get birds ink") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["birds: a file, birds", "ink: a file, ink"]
    assert printed.err == ""
    serve(monkeypatch, b"")
    assert mixbench("data get birds") == 0
    assert mixbench("data check birds") == 0
    assert capsys.readouterr().out.splitlines() == ["birds: a file, birds"] * 2


def test_all_are_tried_whatever_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, b"<html>")
    assert mixbench("data get birds leaves ink") == 2
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["ink: a file, ink"]
    birds, leaves = printed.err.splitlines()
    assert birds.startswith("mixbench: birds: birds.zip can't be had: 127.0.0.1: its md5 is ")
    assert leaves == "mixbench: leaves: ask for leaves"


def test_all_are_checked_whatever_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert mixbench("data check birds leaves ink") == 2
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["ink: a file, ink"]
    assert printed.err.splitlines() == [
        "mixbench: birds: data/birds is missing",
        "mixbench: leaves: data/leaves is missing",
    ]


def test_the_folders_are_named_with_where_they_come_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert mixbench("data where") == 0
    datasets, weights = capsys.readouterr().out.splitlines()
    assert datasets.startswith(f"datasets: {tmp_path}/data, ") and "(the default; " in datasets
    assert weights.startswith(f"published weights: {tmp_path}/torch/hub/checkpoints, ")
    assert " free (" in datasets and weights.endswith(" free (TORCH_HOME)")
    monkeypatch.setenv("MIXBENCH_DATA", "deep/er")
    assert mixbench("data where") == 0
    (datasets, _) = capsys.readouterr().out.splitlines()
    assert datasets.startswith(f"datasets: {tmp_path}/deep/er, ")
    assert datasets.endswith(" free (MIXBENCH_DATA)")
    monkeypatch.delenv("TORCH_HOME")
    assert mixbench("data where --data x") == 0
    datasets, weights = capsys.readouterr().out.splitlines()
    assert datasets.startswith(f"datasets: {tmp_path}/x, ") and datasets.endswith("(--data)")
    assert weights.endswith("(the default; TORCH_HOME moves it)")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("data get brids", "no dataset 'brids'; did you mean birds"),
        ("data check ink brids", "no dataset 'brids'; did you mean birds"),
        ("data get leaves", "leaves: ask for leaves"),
        ("data get birds --data file", "folder of datasets file can't be written (File exists)"),
        ("data get birds --data file/x", "can't be written (Not a directory); name another with"),
        ("data get", "Missing argument 'NAME...'"),
        ("data check", "Missing argument 'NAME...'"),
        ("data check folder:nowhere", "nowhere"),
        ("data fetch birds", "No such command 'fetch'"),
        ("data list birds", "Got unexpected extra argument (birds)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mixbench(arguments) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("mixbench: ") and why in line
    assert printed.out == ""


def test_an_interrupt_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(_fetch, "_stream", interrupt)
    assert mixbench("data get birds ink") == 130
    printed = capsys.readouterr()
    assert (
        printed.err.splitlines()[-1]
        == "mixbench: interrupted; what is done is kept, and the same command goes on"
    )
    assert printed.out == ""


def test_help_imports_no_torch() -> None:
    script = (
        "import sys; sys.argv = ['mixbench', 'data', '--help']\n"
        "from mixbench.bench.cli import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "where" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
