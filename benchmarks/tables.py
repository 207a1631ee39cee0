"""How long it takes to print tables of many cells, each in a process of its own.

Cells are those of RESULTS under other seeds, and those that are missing there are missing here. Cold:
nothing is remembered of what spellings stand for, so torch is imported to find out.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from os import environ
from pathlib import Path

import click

from mixbench.bench.cells import Store
from mixbench.bench.formats import FORMATS
from mixbench.bench.formats.markdown import grid
from mixbench.bench.paper import TABLES
from mixbench.bench.tables import Table

SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
start = perf_counter()
from mixbench.bench.cells import Store
from mixbench.bench.formats import FORMATS
from mixbench.bench.paper import TABLES
from mixbench.bench.sheets import sheet
name, seeds, folder = sys.argv[1:]
filled = sheet(replace(TABLES[name], seeds=int(seeds)), Store(Path(folder)))
for form in FORMATS.values():
    form(filled)
print(len(filled.records), perf_counter() - start, process_time(), "torch" in sys.modules)
"""


def fill(table: Table, source: Store, store: Store) -> None:
    """Copy the cells of a table to all of its seeds, without waiting for the disk."""
    for cell, record in replace(table, seeds=1).records(source).items():
        for seed in range(table.seeds):
            path = store.path(replace(cell, run=replace(cell.run, seed=seed)))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record | {"seed": seed}, indent=1) + "\n")


def printing(name: str, seeds: int, store: Store, cache: Path) -> list[str]:
    """How many cells were read, the seconds that passed, those of CPU, and whether torch was asked."""
    command = [sys.executable, "-c", SCRIPT, name, str(seeds), str(store.root)]
    here: Mapping[str, str] = environ | {"XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=here)
    number, seconds, cpu, torch = done.stdout.split()
    asked = "yes" if torch == "True" else "no"
    return [f"{int(number):,}", f"{float(seconds):.2f}", f"{float(cpu):.2f}", asked]


@click.command(help=__doc__)
@click.option("--count", default=10_000, show_default=True, help="Of cells, at least.")
@click.option("--results", type=Path, default="results", show_default=True)
def main(count: int, results: Path) -> None:
    head = ["table", "catalogue", "cells", "seconds", "of CPU", "torch"]
    body: list[list[str]] = []
    for name, table in TABLES.items():
        there = len(replace(table, seeds=1).records(Store(results)))
        if not there:
            continue
        seeds = -(-count // there)
        with tempfile.TemporaryDirectory() as folder:
            store, cache = Store(Path(folder, "results")), Path(folder, "cache")
            fill(replace(table, seeds=seeds), Store(results), store)
            for how in ("cold", "warm"):
                body.append([name, how, *printing(name, seeds, store, cache)])
    click.echo(grid([head, *body]), nl=False)
    click.echo(f"\nEach in {', '.join(FORMATS)}.")


if __name__ == "__main__":
    main()
