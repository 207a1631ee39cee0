"""Launching: processes share the work, and what fails is told."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mixbench.bench.cells import Run, Store
from mixbench.bench.lab import Lab
from mixbench.bench.launch import Job, Terms, heartbeat
from mixbench.bench.launch.local import launch

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
from mixbench.bench.cells import Run
from mixbench.bench.launch import Job, Terms
from mixbench.bench.launch.local import launch

if __name__ == "__main__":
    jobs = [Job(Run(sys.argv[2], method, 0), {TASKS}) for method in {METHODS}]
    assert not launch(jobs, Terms(Path(sys.argv[1])), at_once=1)
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
    assert launch(jobs, Terms(lab.store.root), at_once=2) == {}
    assert all(not lab.store.missing(each.run, each.tasks) for each in jobs)
    out = capfd.readouterr().out
    assert "[4/4]" in out
    assert out.count(": done\n") == 4


@pytest.mark.parametrize("eager", [True, False])
def test_whether_steps_are_eager_reaches_those_who_take_them(lab: Lab, eager: bool) -> None:
    terms = Terms(lab.store.root, eager=eager)
    assert terms.lab(torch.device("cpu")).eager == eager


def test_what_fails_or_is_killed_is_told_and_the_others_go_on(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    broken = job(hostile(tmp_path, "broken", "raise RuntimeError('it is broken')"))
    killed = job(hostile(tmp_path, "killed", f"os.kill(os.getpid(), {signal.SIGKILL.value})"))
    fine = job("baseline")
    failed = launch([broken, killed, fine], Terms(lab.store.root), at_once=2)
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


def test_a_run_that_another_process_has_claimed_is_waited_for(lab: Lab, tmp_path: Path) -> None:
    claimed = job("mixup")
    hold = (
        "import sys, time; from pathlib import Path\n"
        "from mixbench.bench.cells import Run, Store\n"
        f"with Store(Path(sys.argv[1])).claim(Run({SETTING!r}, 'mixup', 0)):\n"
        "    print(flush=True); time.sleep(4); Path(sys.argv[2]).touch()\n"
    )
    released = tmp_path / "released"
    command = [sys.executable, "-c", hold, str(lab.store.root), str(released)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline()
    assert launch([claimed], Terms(lab.store.root), at_once=1) == {}
    assert released.exists()
    holder.wait()
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


def test_a_failure_is_told_by_its_first_line_and_forgotten_when_it_is_over(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    what = (
        "if os.path.exists({folder!r} + '/dry'): return super().loss(net, x, y)\n"
        "        raise RuntimeError('it rains\\nCompile with umbrella')"
    )
    wet = job(hostile(tmp_path, "wet", what.format(folder=str(tmp_path))))
    assert launch([wet], Terms(lab.store.root), at_once=1)[wet.run].startswith(
        "RuntimeError: it rains (see"
    )
    assert lab.store.failure(wet.run) == "RuntimeError: it rains"
    (tmp_path / "dry").touch()
    assert launch([wet], Terms(lab.store.root), at_once=1) == {}
    assert lab.store.failure(wet.run) == ""


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_table_that_is_told_to_end_saves_in_the_middle_of_an_epoch(
    ending: signal.Signals, tmp_path: Path
) -> None:
    setting = "digits/small,epochs=1000000"
    table = ["quickstart", "--only", "baseline", "--setting", setting, "--seeds", "1"]
    only = ["--task", "classification", "--device", "cpu", "--results", str(tmp_path)]
    command = [sys.executable, "-m", "mixbench.bench", "run", *table, *only]
    run, store = Run(setting, "baseline", 0), Store(tmp_path)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while not store.checkpoint(run).exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(ending)
        assert process.stderr
        said = process.stderr.read().decode()
    assert process.returncode == 130
    assert (
        said.strip() == "mixbench: interrupted; what is done is kept, and the same command goes on"
    )
    assert torch.load(store.checkpoint(run))["losses"].numel() > 0
    assert heartbeat.read(store, run) is None and not store.claimed(run)
