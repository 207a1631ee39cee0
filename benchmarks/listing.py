"""How long it takes to list what is to do, in stores of many runs.

Every cell that is there is read and checked. The first listing of all also finds out what methods,
tasks and settings resolve to, which the others know.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import click
import torch

from mixbench.bench.cells import Cell, Run, Store, task
from mixbench.bench.formats.markdown import grid
from mixbench.bench.paper import TABLES
from mixbench.bench.provenance import provenance
from mixbench.bench.tables import Table
from mixbench.tasks import Measure

METHODS = tuple(f"mixup,alpha={alpha / 10}" for alpha in range(11, 31))
SETTINGS = tuple(f"digits/small,epochs={epochs}" for epochs in range(1, 6))


def table(columns: Iterable[str], seeds: int) -> Table:
    return Table("listing", "", SETTINGS, METHODS, tuple(columns), seeds)


def fill(store: Store, runs: Iterable[Run], tasks: Iterable[str]) -> None:
    """Write all cells and claims of the runs, without waiting for the disk."""
    made = provenance(torch.device("cpu")) | asdict(Measure())
    for cell in (Cell(run, name) for run in runs for name in tasks):
        metrics = dict.fromkeys(task(cell.task).metrics, 12.345678901234567)
        content = {"metrics": metrics, "made": {"training": made, "task": made}}
        path = store.path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(cell.identity() | content, indent=1) + "\n")
        path.with_name(".claim").touch()


def listing(table: Table, store: Store) -> tuple[int, float]:
    """How many runs lack a cell, and the seconds that it took to find them."""
    start = perf_counter()
    return sum(1 for _ in table.todo(store)), perf_counter() - start


def looking(runs: Iterable[Run], store: Store) -> float:
    """The seconds that it takes to ask of each run whether somebody is at work on it."""
    start = perf_counter()
    for run in runs:
        store.claimed(run)
    return perf_counter() - start


def rows(columns: Iterable[str], seeds: int, folder: Path) -> Iterator[list[str]]:
    """Of a store that is empty, half filled and full: what there is, and how long it takes."""
    asked, store = table(columns, seeds), Store(folder)
    runs, tasks = list(asked.runs()), asked.tasks()
    half = len(runs) // 2
    for done, more in ((0, []), (half, runs[:half]), (len(runs), runs[half:])):
        fill(store, more, tasks)
        lacking, seconds = listing(asked, store)
        assert lacking == len(runs) - done
        claimed = looking(runs, store)
        cells = f"{done * len(tasks):,} of {len(runs) * len(tasks):,}"
        yield [f"{len(runs):,}", cells, f"{seconds:.2f}", f"{claimed:.2f}"]


@click.command(help=__doc__)
@click.option("--seeds", default=100, show_default=True, help="Of each of 100 pairs to train.")
def main(seeds: int) -> None:
    head = ["runs", "cells", "seconds to list", "seconds to ask of each who works on it"]
    body: list[list[str]] = []
    for columns in (("classification",), TABLES["quickstart"].columns):
        with tempfile.TemporaryDirectory() as folder:
            body += rows(columns, seeds, Path(folder))
    click.echo(grid([head, *body]), nl=False)


if __name__ == "__main__":
    main()
