"""Commands that follow runs: how far they are, and what they said."""

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mixbench.bench.cli._base import chosen_table, cli, of_a_table, results
from mixbench.bench.spec import BadInput

if TYPE_CHECKING:
    from mixbench.bench.cells import Store
    from mixbench.bench.tables import Table

WATCH_SECONDS = 5.0


@cli.command()
@of_a_table
@click.option("--watch", is_flag=True, help="Again and again, as long as a run is queued or runs.")
def status(watch: bool, **chosen: Any) -> None:
    """Say of each run of a table how far it is, from its files and from Slurm's queue."""
    table, store = chosen_table(**chosen)
    while _say(table, store) and watch:
        time.sleep(WATCH_SECONDS)
        click.clear()


@cli.command()
@results
@click.argument("run", metavar="RUN")
def logs(run: str, results: Path) -> None:
    """Print what the processes of RUN said, which is SETTING/METHOD/SEED as in status."""
    from mixbench.bench.cells import Store
    from mixbench.bench.states import logs, run_of

    store, chosen = Store(results), run_of(run)
    there = [path for path in logs(store, chosen) if path.exists()]
    if not there:
        raise BadInput(f"nobody has worked on {chosen} yet: there is no log in {results}")
    for path in there:
        click.echo(f"==> {path}", err=True)
        with path.open(errors="replace") as file:
            for line in file:
                click.echo(line, nl=False)


def _say(table: "Table", store: "Store") -> bool:
    """Print the state of each run, and their sum. Whether any is queued or at work."""
    from mixbench.bench.states import states

    count: Counter[str] = Counter()
    at_work = False
    for run, state in states(table, store):
        count[state.kind] += 1
        at_work |= state.at_work
        click.echo(f"{run}: {state}")
    click.echo(", ".join(f"{n} {kind}" for kind, n in count.items()))
    return at_work
