"""Processes of a table that are killed at random moments: nothing is lost, and nothing doubled."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.lab import Lab
from mixbench.bench.runs import fill

KILLS = 20
TASKS = ("classification", "calibration")
SLOW = """
import time
from pathlib import Path
from pydantic.dataclasses import dataclass
from mixbench.methods.{name} import {base}

@dataclass(frozen=True)
class Slow({base}):
    def loss(self, net, x, y):
        if not Path({gate!r}).exists():
            time.sleep(0.1)
        return super().loss(net, x, y)
"""
"""A method that is slow until there is a gate, so that kills find it at work on any machine."""

LAUNCH = f"""
import sys
from pathlib import Path
from mixbench.bench.cells import Run
from mixbench.bench.launch import Job, Terms
from mixbench.bench.launch.local import launch

if __name__ == "__main__":
    runs = [Run("digits/small,epochs=8", method, int(n)) for n in range(6) for method in sys.argv[2:]]
    jobs = [Job(run, {TASKS}) for run in runs]
    assert not launch(jobs, Terms(Path(sys.argv[1]), retries={KILLS}), at_once=2)
"""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="processes are in /proc"
)


def descendants(pid: int) -> Iterator[int]:
    """All processes that a process has started, and those that they have."""
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield int(child)
            yield from descendants(int(child))


def metrics(store: Store, runs: list[Run]) -> dict[str, Any]:
    cells = [Cell(run, task) for run, task in product(runs, TASKS)]
    return {str(store.path(cell).relative_to(store.root)): content(store, cell) for cell in cells}


def content(store: Store, cell: Cell) -> Any:
    record = store.read(cell)
    assert record is not None
    return record["metrics"], record.get("curves")


def test_twenty_kills_lose_no_cell_and_double_none(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, methods = tmp_path / "gate", ("slowly.mixup", "slowly.multimix")
    (tmp_path / "slowly").mkdir()
    for name, base in (("mixup", "Mixup"), ("multimix", "MultiMix")):
        text = SLOW.format(name=name, base=base, gate=str(gate))
        (tmp_path / "slowly" / f"{name}.py").write_text(text)
    (tmp_path / "launch.py").write_text(LAUNCH)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = [sys.executable, str(tmp_path / "launch.py"), str(lab.store.root), *methods]
    draw, kills = random.Random(0), 0
    launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while kills < KILLS:
        time.sleep(draw.uniform(0.1, 2))
        if launcher.poll() is not None:
            assert launcher.returncode == -signal.SIGKILL, "all was done too soon"
            launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        elif below := list(descendants(launcher.pid)):
            victim = launcher.pid if draw.random() < 0.2 else draw.choice(below)
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                kills += 1
            if victim == launcher.pid:
                launcher.wait()
    gate.touch()
    if launcher.wait() == -signal.SIGKILL:
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    undisturbed = Lab(Store(tmp_path / "undisturbed"))
    runs = [Run("digits/small,epochs=8", method, seed) for seed in range(6) for method in methods]
    for run in runs:
        fill(run, TASKS, undisturbed)
    assert metrics(lab.store, runs) == metrics(undisturbed.store, runs)
    files = {str(path.relative_to(lab.store.root)) for path in lab.store.root.rglob("[!.]*.json")}
    assert files == {*metrics(lab.store, runs)}
