"""What commands share: the group, options of several, and how complaints look."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mixbench.bench.spec import BadInput, choose

if TYPE_CHECKING:
    from mixbench.bench.cells import Store
    from mixbench.bench.tables import Table

Command = Callable[..., Any]

folder = click.Path(file_okay=True, path_type=Path)


@click.group(context_settings={"show_default": True})
def cli() -> None:
    """Train mixup methods, ask every trained network the same questions, print the tables.

    METHOD is a spelling such as mixup,alpha=0.2 or, from a module of your own, mylab.newmix,cells=8;
    it adds a row to the table, or is one of the only rows.
    """


def options(*each: Command) -> Callable[[Command], Command]:
    """Several options of a command, as one decorator."""

    def add(command: Command) -> Command:
        for option in reversed(each):
            command = option(command)
        return command

    return add


results = click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default="results",
    help="Folder of results.",
)

of_a_table = options(
    click.argument("name", metavar="TABLE"),
    click.argument("methods", metavar="[METHOD]...", nargs=-1),
    click.option("--only", is_flag=True, help="No rows but the METHODs."),
    click.option(
        "--task",
        "columns",
        multiple=True,
        help="Other than the table's: TASK or TASK:METRIC; several can be.",
    ),
    click.option(
        "--setting", "settings", multiple=True, help="Other than the table's; several can be."
    ),
    click.option("--seeds", type=click.IntRange(min=1), help="Other than the table's."),
    results,
)
"""The arguments of every command about a table."""

device = click.option(
    "--device", default="auto", help="cpu, cuda, cuda:1, ...; auto is every GPU, if there is one."
)

data = click.option(
    "--data", type=folder, default="data", envvar="MIXBENCH_DATA", help="Folder of datasets."
)

eager = click.option(
    "--eager",
    is_flag=True,
    help="Steps are not compiled, nor recorded as CUDA graphs; on a CPU they never are.",
)

workers = click.option(
    "--workers",
    type=click.IntRange(min=0),
    show_default="an equal share of the cores, at most 16",
    help="Processes that read image files, for each run.",
)


def gpus_per_run(context: click.Context, option: click.Parameter, gpus: float) -> float:
    """A share of one GPU, or a whole number of them."""
    if not (0.01 <= gpus < math.inf and (gpus < 1 or gpus == int(gpus))):
        raise BadInput(
            f"--gpus-per-run {gpus:g}: it should be a whole number, or a share of one, as 0.5"
        )
    return gpus


gpus = click.option(
    "--gpus-per-run",
    "gpus",
    type=float,
    default=1,
    callback=gpus_per_run,
    help="On 2 and more, a run trains by DDP; of 0.5, two share one.",
)


def chosen_table(
    name: str,
    methods: Sequence[str],
    only: bool,
    settings: Sequence[str],
    columns: Sequence[str],
    seeds: int | None,
    results: Path,
) -> tuple["Table", "Store"]:
    """The table that the arguments stand for, and where its cells are."""
    from mixbench.bench.cells import Store
    from mixbench.bench.paper import TABLES
    from mixbench.bench.settings import Setting

    table = TABLES[choose(name, TABLES, "table")]
    if only and not methods:
        raise BadInput("--only leaves no rows: name the methods")
    table = replace(table, methods=() if only else table.methods).add(*methods)
    if settings:
        spelled = dict.fromkeys(str(Setting.parse(text)) for text in settings)
        table = replace(table, settings=tuple(spelled), caption=f"Rows and columns of `{name}`.")
    if columns:
        table = replace(table, columns=tuple(dict.fromkeys(columns)), caption=f"Rows of `{name}`.")
    for method in methods:
        if why := table.refusal(method):
            raise BadInput(f"{method}: {why}")
    return replace(table, seeds=seeds or table.seeds), Store(results)


def complain(line: str) -> None:
    print(f"mixbench: {line}", file=sys.stderr)


def write_aside(out: Path, text: str) -> None:
    """Write a file, all of it or nothing. Raises BadInput if that can't be done."""
    from mixbench.bench.cells import written_aside

    if out.is_dir():
        raise BadInput(f"{out} is a folder: name a file in it")
    try:
        with written_aside(out) as path:
            path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise BadInput(f"{out} can't be written: {error.strerror}") from None
