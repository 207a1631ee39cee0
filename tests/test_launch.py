"""Launching: processes share the work, and what fails is told."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mixbench.bench.cells import Run, Store
from mixbench.bench.launch.local import Job, launch
from mixbench.bench.runs import Lab

SETTING = "digits/small,epochs=2"
TASKS = ("classification",)
METHODS = ("baseline", "mixup", "cutmix", "manifold")

HOSTILE = """
import os
from dataclasses import dataclass
from mixbench.methods import Method

@dataclass(frozen=True)
class Hostile(Method):
    def loss(self, net, x, y):
        {what}
"""

LAUNCH = f"""
import sys
from pathlib import Path
from mixbench.bench.cells import Run, Store
from mixbench.bench.launch.local import Job, launch
from mixbench.bench.runs import Lab

if __name__ == "__main__":
    jobs = [Job(Run(sys.argv[2], method, 0), {TASKS}) for method in {METHODS}]
    assert not launch(jobs, Lab(Store(Path(sys.argv[1]))), at_once=1)
"""


def job(method: str) -> Job:
    return Job(Run(SETTING, method, 0), TASKS)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "launch.py"
    path.write_text(LAUNCH)
    return path


def hostile(folder: Path, name: str, what: str) -> str:
    """A method of the user's own that does something bad; its spelling."""
    (folder / "mylab").mkdir(exist_ok=True)
    (folder / "mylab" / f"{name}.py").write_text(HOSTILE.format(what=what))
    return f"mylab.{name}"


def test_jobs_are_filled_and_each_end_is_told(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = [job(method) for method in METHODS]
    assert launch(jobs, lab, at_once=2) == {}
    assert all(not lab.store.missing(each.run, each.tasks) for each in jobs)
    out = capfd.readouterr().out
    assert "[4/4]" in out
    assert out.count(": done\n") == 4


def test_what_fails_or_is_killed_is_told_and_the_others_go_on(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    broken = job(hostile(tmp_path, "broken", "raise RuntimeError('it is broken')"))
    killed = job(hostile(tmp_path, "killed", f"os.kill(os.getpid(), {signal.SIGKILL.value})"))
    fine = job("baseline")
    failed = launch([broken, killed, fine], lab, at_once=2)
    assert set(failed) == {broken.run, killed.run}
    assert failed[broken.run].startswith("RuntimeError: it is broken (see ")
    assert failed[killed.run].startswith("its process ended with exit code -9, at ")
    log = lab.store.folder(broken.run) / "error.txt"
    assert "RuntimeError: it is broken" in log.read_text()
    assert not lab.store.missing(fine.run, TASKS)
    assert not lab.store.claimed(killed.run)
    assert f"{broken.run}: failed: RuntimeError" in capfd.readouterr().out


def test_two_processes_share_a_table_and_train_no_run_twice(script: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(script), str(tmp_path / "results"), SETTING]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    for method in METHODS:
        run = str(job(method).run)
        ends = [line for out in outs for line in out.splitlines() if f"{run}: done" in line]
        assert sorted(end.split(": ")[1] for end in ends) == ["done", "done by another process"]
        started = sum(f"{run}: training, 0 of 2" in out for out in outs)
        assert started == 1


def test_a_run_that_another_process_has_claimed_is_waited_for(lab: Lab, script: Path) -> None:
    claimed = job("mixup")
    hold = (
        "import sys, time; from pathlib import Path\n"
        "from mixbench.bench.cells import Run, Store\n"
        f"with Store(Path(sys.argv[1])).claim(Run({SETTING!r}, 'mixup', 0)):\n"
        "    print(flush=True); time.sleep(4)\n"
    )
    command = [sys.executable, "-c", hold, str(lab.store.root)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline()
    assert launch([claimed], lab, at_once=1) == {}
    assert holder.poll() is not None
    assert not lab.store.missing(claimed.run, TASKS)


def test_workers_end_with_the_process_that_launched_them(script: Path, tmp_path: Path) -> None:
    store, setting = Store(tmp_path / "results"), "digits/small,epochs=100000"
    command = [sys.executable, str(script), str(store.root), setting]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    run = Run(setting, METHODS[0], 0)
    while not (store.folder(run) / "checkpoint.pt").exists():
        assert parent.poll() is None
        time.sleep(0.1)
    assert store.claimed(run)
    parent.kill()
    parent.wait()
    for _ in range(300):
        if not store.claimed(run):
            break
        time.sleep(0.1)
    assert not store.claimed(run)
