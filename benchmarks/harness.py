"""What mixbench costs beside training and testing: help, tables, the start of a run, its records.

Commands are run as a user runs them, in processes of their own, with what a command before them has
remembered. Shares of a run are seconds within the functions that are named, in this process.
"""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any
from unittest.mock import patch

import click
import torch
from tables import fill as fill_table

from mixbench.bench import runs
from mixbench.bench.cells import Run, Store
from mixbench.bench.formats.markdown import grid
from mixbench.bench.lab import Lab
from mixbench.bench.launch import heartbeat
from mixbench.bench.paper import TABLES
from mixbench.bench.provenance import device_name
from mixbench.bench.training import Training

MIXBENCH = [sys.executable, "-m", "mixbench.bench"]
IMPORTS = [sys.executable, "-c", "import mixbench.bench.launch.local, torch._dynamo"]
TASKS = ("classification", "calibration")
BRIEF = "digits/small,epochs=1"
POLL_SECONDS = 0.01

OWN = {
    "checkpoints": (Training, "save"),
    "what made it": (Training, "note"),
    "progress": (heartbeat.Heartbeat, "__call__"),
    "whether to save or to end": (Training, "due"),
    "records": (Store, "publish"),
}
WORK = {
    "steps": (Training, "step"),
    "tests after epochs": (Training, "end_epoch"),
    "tasks": (runs, "ask"),
}


def seconds(command: Sequence[str]) -> float:
    start = perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - start


def printing(count: int, results: Path) -> float:
    """The seconds that it takes to print the quickstart of so many cells."""
    table, source = TABLES["quickstart"], Store(results)
    seeds = -(-count // len(replace(table, seeds=1).records(source)))
    with TemporaryDirectory() as folder:
        fill_table(replace(table, seeds=seeds), source, Store(Path(folder)))
        print_it = [*MIXBENCH, "table", table.name, "--seeds", str(seeds), "--results", folder]
        seconds(print_it)
        return seconds(print_it)


def start() -> float:
    """The seconds from typing a command to the first step of its run, which is saved at once."""
    run = Run(BRIEF, "baseline", 0)
    table = ["quickstart", "--only", run.method, "--setting", run.setting, "--seeds", "1"]
    with TemporaryDirectory() as folder:
        where = ["--task", "classification", "--device", "cpu", "--results", folder]
        checkpoint, began = Store(Path(folder)).checkpoint(run), perf_counter()
        command = [*MIXBENCH, "run", *table, *where]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            while not checkpoint.exists():
                assert process.poll() is None
                sleep(POLL_SECONDS)
            return perf_counter() - began


@contextmanager
def timed(parts: dict[str, tuple[Any, str]]) -> Iterator[dict[str, float]]:
    """The seconds that were spent within each of the functions."""
    spent: defaultdict[str, float] = defaultdict(float)

    def timing(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            start = perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += perf_counter() - start

        return call

    with ExitStack() as patches:
        for part, (owner, name) in parts.items():
            patches.enter_context(patch.object(owner, name, timing(part, getattr(owner, name))))
        yield spent


def shares(run: Run, data: Path) -> Iterator[list[str]]:
    """The seconds of a run by what they went to, and their shares of all, but for imports."""
    with TemporaryDirectory() as folder:
        runs.fill(replace(run, setting=BRIEF), TASKS, Lab(Store(Path(folder))))
    with TemporaryDirectory() as folder, timed(OWN | WORK) as spent:
        lab = Lab(Store(Path(folder)), data)
        beat = heartbeat.Heartbeat(heartbeat.path(lab.store, run), lambda beat: None)
        start = perf_counter()
        runs.fill(run, TASKS, lab, beat)
        beat.end()
        total = perf_counter() - start
    own, work = sum(spent[part] for part in OWN), sum(spent[part] for part in WORK)
    sums = {"the harness": own, "data, network, batches": total - own - work, "all": total}
    for part, taken in (spent | sums).items():
        yield [part, f"{taken:.3f}", f"{100 * taken / total:.2f}"]


@click.command(help=__doc__)
@click.option("--count", default=10_000, show_default=True, help="Of cells of a table, at least.")
@click.option("--rounds", default=5, show_default=True, help="Of each command.")
@click.option("--results", type=Path, default="results", show_default=True)
@click.option("--data", type=Path, help="With tinycifar100: a run on it is looked at, too.")
def main(count: int, rounds: int, results: Path, data: Path | None) -> None:
    ways: dict[str, Callable[[], float]] = {
        "`mixbench --help`": lambda: seconds([*MIXBENCH, "--help"]),
        f"`mixbench table` of {count:,} cells": lambda: printing(count, results),
        "`mixbench run`, to the first step": start,
        "imports of a process that trains": lambda: seconds(IMPORTS),
    }
    taken = [[way() for way in ways.values()] for _ in range(rounds)]
    columns = zip(ways, *taken, strict=True)
    rows = [[name, f"{median(each):.2f}", f"{min(each):.2f}"] for name, *each in columns]
    click.echo(grid([["command", "seconds, median", "least"], *rows]))
    settings = ["digits/small"]
    settings += ["tinycifar100/preactresnet18-narrow,epochs=3"] if data else []
    for setting in settings:
        body = shares(Run(setting, "multimix", 0), data or Path("data"))
        click.echo(grid([[f"`{setting}`, multimix", "seconds", "%"], *body]))
    click.echo(f"{device_name(torch.device('cpu'))}, torch {torch.__version__}.")


if __name__ == "__main__":
    main()
