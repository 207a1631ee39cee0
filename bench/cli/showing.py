"""Commands that show what there is: tables and figures of results, and what can be run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mixbench.bench.cli._base import (
    chosen_table,
    cli,
    complain,
    data,
    device,
    folder,
    of_a_table,
    workers,
)
from mixbench.bench.spec import BadInput, canonical, find, names, resolved, write


@cli.command()
@of_a_table
@click.option("--format", "form", type=click.Choice(["markdown", "csv"]), default="markdown")
@click.option("--out", type=folder, help="A file to write it to.")
def table(form: str, out: Path | None, **chosen: Any) -> None:
    """Print a table from the cells that there are."""
    from mixbench.bench.cells import written_aside

    table, store = chosen_table(**chosen)
    text = table.markdown(store) if form == "markdown" else table.csv(store)
    if out is None:
        print(text, end="")
        return
    try:
        with written_aside(out) as path:
            path.write_text(text)
    except OSError as error:
        raise BadInput(f"{out} can't be written: {error.strerror}") from None


@cli.command()
@click.argument("figure", metavar="FIGURE")
@of_a_table
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Which run of each method.")
@click.option("--out", type=folder, show_default="FIGURE.svg", help="Where to; .svg, .png or .pdf.")
def figure(figure: str, seed: int, out: Path | None, **chosen: Any) -> None:
    """Draw FIGURE of a table's cells: reliability, landscape or projection.

    The numbers that it shows are written beside it, with the suffix .csv.
    """
    from mixbench.bench.figures import draw

    table, store = chosen_table(**chosen)
    out = out or Path(f"{figure}.svg")
    for method, why in draw(figure, table, store, seed, out).items():
        complain(f"without {method}: {why}")
    print(out)


@cli.command()
@click.option("--steps", type=click.IntRange(min=1), default=20)
@click.option("--warmup", type=click.IntRange(min=0), default=5)
@workers
@device
@data
@click.argument("setting", metavar="SETTING")
@click.argument("chosen", metavar="[METHOD]...", nargs=-1)
def speed(
    setting: str,
    chosen: Sequence[str],
    steps: int,
    warmup: int,
    workers: int | None,
    device: str,
    data: Path,
) -> None:
    """Time training steps of methods, all if none is named, beside the baseline's."""
    from mixbench.bench import speed
    from mixbench.bench.cells import Store
    from mixbench.bench.lab import Lab, pick_device
    from mixbench.bench.launch import share
    from mixbench.bench.paper import METHODS
    from mixbench.bench.settings import Setting
    from mixbench.methods import Method

    name = str(Setting.parse(setting))
    lab = Lab(Store(Path()), data, pick_device(device), share(workers, 1))
    rows = [canonical(text, "mixbench.methods", Method) for text in chosen] or METHODS
    print(speed.speed(name, rows, lab, steps, warmup), end="")


@cli.command()
def methods() -> None:
    """List the methods, with their parameters."""
    from mixbench.methods import Method

    _describe("mixbench.methods", Method)


@cli.command()
def tasks() -> None:
    """List the tasks, with their parameters."""
    from mixbench.tasks import Task

    _describe("mixbench.tasks", Task)


@cli.command()
def settings() -> None:
    """List the settings, with their recipes."""
    from mixbench.bench.settings import SETTINGS

    for name, setting in SETTINGS.items():
        print(f"{name}\n    {_parameters(setting.recipe)}")


@cli.command()
def tables() -> None:
    """List the tables."""
    from mixbench.bench.paper import TABLES
    from mixbench.bench.runs import inapplicable

    for name, table in TABLES.items():
        runs = [run for run in table.runs() if not inapplicable(run.setting, run.method)]
        print(f"{name}\n    {table.caption} {len(runs)} runs.")


def _describe(package: str, base: type[Any]) -> None:
    for name in names(package):
        kind = find(name, package, base)
        summary = (kind.__doc__ or "").partition("\n")[0]
        print(f"{name}\n    {summary}")
        if parameters := _parameters(kind()):
            print(f"    {parameters}")


def _parameters(thing: object) -> str:
    return ",".join(f"{key}={write(getattr(thing, key))}" for key in resolved(thing))
