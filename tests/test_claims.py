"""Many processes on one store: no run is trained twice, and nothing is lost."""

import os
import random
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from types import SimpleNamespace

from mixbench.bench import runs
from mixbench.bench.cells import Arrays, BadFile, Cell, Record, Run, task
from mixbench.bench.lab import Lab
from mixbench.bench.runs import fill

WORKERS, KILLS = 64, 16
RUNS = [Run("digits/small", "mixup", seed) for seed in range(40)]
TASKS = ["classification", "calibration"]


class Trace:
    """A file that lines are only added to: which process did what with which run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, run: Run, did: str) -> None:
        with self.path.open("ab", buffering=0) as file:
            file.write(f"{run.seed} {os.getpid()} {did}\n".encode())

    def read(self) -> list[tuple[int, int, str]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [(int(seed), int(pid), did) for seed, pid, did in map(str.split, lines)]

    def of(self, run: Run) -> list[tuple[int, str]]:
        return [(pid, did) for seed, pid, did in self.read() if seed == run.seed]

    def at_work(self) -> list[int]:
        """The processes that have begun with a run and not ended with it."""
        last = {pid: did for _, pid, did in self.read()}
        return [pid for pid, did in last.items() if did != "asked"]


def work(go: Event, order: int, lab: Lab, trace: Trace) -> None:
    """Go through the runs, in an order of its own, until none lacks a cell."""

    def train(run: Run, *_: object) -> SimpleNamespace:
        trace.add(run, "began")
        time.sleep(0.3)
        trace.add(run, "trained")
        return SimpleNamespace(run=run, epochs=[])

    def ask(name: str, training: SimpleNamespace, *_: object) -> tuple[Record, Arrays]:
        time.sleep(0.05)
        metrics = dict.fromkeys(task(name).metrics, 1.0)
        return Cell(training.run, name).identity() | {"metrics": metrics}, {}

    warnings.simplefilter("error", BadFile)
    vars(runs).update(train=train, ask=ask)
    todo = random.Random(order).sample(RUNS, len(RUNS))
    go.wait()
    while todo := [run for run in todo if lab.store.missing(run, TASKS)]:
        for run in todo:
            if fill(run, TASKS, lab):
                trace.add(run, "asked")


@contextmanager
def workers(lab: Lab, trace: Trace) -> Iterator[list[BaseProcess]]:
    """Processes that share what this one has imported, and begin all at once."""
    context, crowd = get_context("fork"), list[BaseProcess]()
    go = context.Event()
    try:
        for order in range(WORKERS):
            crowd.append(context.Process(target=work, args=(go, order, lab, trace)))
            crowd[-1].start()
        go.set()
        yield crowd
    finally:
        for process in crowd:
            process.kill()
            process.join()


def kill_some(crowd: list[BaseProcess], trace: Trace) -> set[int]:
    """Kill processes that are at work on a run, at random moments."""
    draw, killed = random.Random(0), set[int]()
    while len(killed) < KILLS and any(process.is_alive() for process in crowd):
        time.sleep(draw.uniform(0, 0.1))
        at_work = set(trace.at_work()) - killed
        if hit := [process for process in crowd if process.pid in at_work]:
            victim = draw.choice(hit)
            victim.kill()
            victim.join()
            if victim.pid and victim.exitcode == -signal.SIGKILL:
                killed.add(victim.pid)
    return killed


def test_64_workers_train_no_run_twice_and_lose_nothing_though_some_are_killed(
    lab: Lab, tmp_path: Path
) -> None:
    trace = Trace(tmp_path / "trace")
    with workers(lab, trace) as crowd:
        killed = kill_some(crowd, trace)
        for process in crowd:
            process.join()
    assert killed == {process.pid for process in crowd if process.exitcode}
    taken_over = 0
    for run in RUNS:
        assert lab.store.missing(run, TASKS) == []
        holders = [pid for pid, _ in groupby(pid for pid, _ in trace.of(run))]
        assert set(holders[:-1]) <= killed
        assert sorted(holders) == sorted(pid for pid, did in trace.of(run) if did == "began")
        taken_over += len(holders) > 1
    assert taken_over
    assert not list(lab.store.root.rglob("*.aside"))
