"""The command line about runs that execute elsewhere, fail, or are to be merged."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixbench.bench import paper
from mixbench.bench.cells import Run, Store, method
from mixbench.bench.cli import following, main
from mixbench.bench.tables import Table

SETTING = "digits/small,epochs=1"
TINY = Table("tiny", "Small.", (SETTING,), ("baseline", "mylab.moody"), ("classification",), 1)

MOODY = """
from dataclasses import dataclass
from pathlib import Path
from mixbench.methods import Method

@dataclass(frozen=True)
class Moody(Method):
    def loss(self, net, x, y):
        print("it looks for the sun")
        if not Path("sun").exists():
            raise RuntimeError("it is raining")
        return super().loss(net, x, y)
"""


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(paper, "TABLES", {"tiny": TINY})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab/moody.py").write_text(MOODY)
    yield
    for name in [name for name in sys.modules if name.startswith("mylab")]:
        del sys.modules[name]
    method.cache_clear()


def mixbench(*arguments: str) -> int:
    """The exit code of a command line."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["mixbench", *arguments])
        main()
    return int(end.value.code or 0)


def test_what_failed_is_told_and_retried_and_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = Run(SETTING, "mylab.moody", 0)
    assert mixbench("run", "tiny", "--only", "mylab.moody", "--device", "cpu") == 1
    said = capsys.readouterr()
    assert f"{broken}: RuntimeError: it is raining" in said.out and "it is tried again" in said.out
    assert said.err.startswith(f"mixbench: {broken} failed: RuntimeError: it is raining")

    assert mixbench("status", "tiny", "--watch") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{SETTING}/baseline/0: waiting: classification missing",
        f"{broken}: failed: RuntimeError: it is raining",
        "1 waiting, 1 failed",
    ]
    assert mixbench("logs", str(broken)) == 0
    log = capsys.readouterr().out
    assert log.count("it looks for the sun") == 2  # it was tried twice
    assert log.count("RuntimeError: it is raining") == 2
    assert "mixbench run tiny --only mylab.moody --device cpu" in log

    (tmp_path / "sun").touch()
    assert mixbench("retry", "tiny", "--device", "cpu") == 0
    assert f"[1/1] {broken}: done" in capsys.readouterr().out
    assert not Store(Path("results")).missing(broken, ["classification"])
    assert mixbench("status", "tiny") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 waiting, 1 done"
    assert mixbench("retry", "tiny") == 0
    assert capsys.readouterr().out == "no run has failed\n"


def test_watching_goes_on_as_long_as_a_run_is_at_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, store = Run(SETTING, "baseline", 0), Store(Path("results"))
    (claim := store.claim(run)).__enter__()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            claim.__exit__(None, None, None)

    monkeypatch.setattr(following, "time", type("clock", (), {"sleep": staticmethod(sleep)}))
    assert mixbench("status", "tiny", "--only", "baseline", "--watch") == 0
    sums = [line for line in capsys.readouterr().out.splitlines() if "baseline" not in line]
    assert [line.strip() for line in sums if line.strip()] == [
        "1 running",
        "1 running",
        "1 waiting",
    ]
    assert len(waits) == 2 and time.sleep is not sleep


def test_what_runs_here_is_not_cancelled_but_named(capsys: pytest.CaptureFixture[str]) -> None:
    with Store(Path("results")).claim(Run(SETTING, "baseline", 0)):
        assert mixbench("cancel", "tiny") == 0
    said = capsys.readouterr()
    assert said.out == "0 jobs cancelled\n"
    assert said.err.startswith(f"mixbench: {SETTING}/baseline/0 is no job of Slurm's: end it where")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("run tiny --partition gpu", "--partition is for --on slurm, and this is --on local"),
        ("run tiny --on slurm --jobs 2", "--jobs is for --on local, and this is --on slurm"),
        ("run tiny --on ray --slurm a=b", "--slurm is for --on slurm, and this is --on ray"),
        ("run tiny --address auto", "--address is for --on ray, and this is --on local"),
        ("run tiny --gpus-per-run 1.5", "--gpus-per-run 1.5: it should be a whole number, or"),
        ("run tiny --gpus-per-run 0", "--gpus-per-run 0: it should be a whole number, or a share"),
        ("plan tiny --gpus-per-run -1", "--gpus-per-run -1: it should be a whole number, or"),
        ("run tiny --on slurm --slurm account", "--slurm account: it should be KEY=VALUE, as"),
        ("run tiny --on slurm --time soon", "time 'soon' should be minutes"),
        ("retry tiny --on nowhere", "Invalid value for '--on'"),
        ("logs digits/small/mixup", "no run 'digits/small/mixup'; it should be as in status"),
        ("logs digits/small/mixup/0", "nobody has worked on digits/small/mixup/0 yet"),
        ("merge nowhere", "nowhere"),
        ("plan none", "no table 'none'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    command: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mixbench(*command.split()) == 2
    said = capsys.readouterr()
    (only,) = said.err.splitlines()
    assert only.startswith("mixbench: ") and line in only
    assert not said.out and not list(Path("results").rglob("*.json"))


@pytest.mark.parametrize("command", ["run", "retry"])
def test_without_slurm_its_place_is_refused(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    (error := Store(Path("results")).folder(Run(SETTING, "baseline", 0))).mkdir(parents=True)
    (error / "error.txt").write_text("it broke")
    assert mixbench(command, "tiny", "--on", "slurm") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mixbench: no Slurm here: no sbatch on the PATH; --on local")
