"""Commands that show results: tables, figures, comparisons, the page; and what a method does."""

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from mixbench.bench.cli._base import (
    chosen_table,
    cli,
    complain,
    data,
    device,
    folder,
    of_a_table,
    results,
    write_aside,
)

if TYPE_CHECKING:
    from mixbench.bench.cells import Store
    from mixbench.bench.sheets import Published
    from mixbench.bench.tables import Table

FORMATS = ("markdown", "csv", "wide", "latex", "html")

reported = click.option(
    "--with-reported", is_flag=True, help="Beside what papers report, and how far that is off."
)

grouped = click.option(
    "--groups", "grouped", is_flag=True, help="Mark what can't be told apart from the best with ≈."
)


@cli.command()
@of_a_table
@click.option("--format", "form", type=click.Choice(FORMATS), default="markdown")
@reported
@grouped
@click.option("--out", type=folder, help="A file to write it to.")
def table(form: str, with_reported: bool, grouped: bool, out: Path | None, **chosen: Any) -> None:
    """Print a table from the cells that there are.

    csv has a number in each row, wide a method; latex needs the packages booktabs and graphicx.
    """
    from mixbench.bench.formats import printed

    table, store = chosen_table(**chosen)
    text = printed(table, store, form, _published(table) if with_reported else None, grouped)
    if out is None:
        print(text, end="")
    else:
        write_aside(out, text)


@cli.command()
@results
@click.option(
    "--format", "forms", type=click.Choice(FORMATS), multiple=True, default=["markdown", "csv"]
)
@reported
@click.option("--out", type=folder, help="A folder, where each table that has numbers is written.")
def tables(results: Path, forms: tuple[str, ...], with_reported: bool, out: Path | None) -> None:
    """List the tables, or write all of them."""
    from mixbench.bench.catalogue import inapplicable
    from mixbench.bench.cells import Store
    from mixbench.bench.paper import TABLES

    if out is None:
        for name, table in TABLES.items():
            runs = [run for run in table.runs() if not inapplicable(run.setting, run.method)]
            print(f"{name}\n    {table.caption} {len(runs)} runs.")
        return
    for table in TABLES.values():
        _write_table(table, Store(results), forms, with_reported, out)


def _write_table(
    table: "Table", store: "Store", forms: tuple[str, ...], with_reported: bool, out: Path
) -> None:
    """Write a table that has numbers, and print where to."""
    from mixbench.bench.formats import FORMATS, SUFFIXES
    from mixbench.bench.sheets import numbered, sheet

    filled = sheet(table, store, _published(table) if with_reported else None)
    if numbered(filled):
        for form in forms:
            path = out / f"{table.name}{SUFFIXES[form]}"
            write_aside(path, FORMATS[form](filled))
            print(path)


def _published(table: "Table") -> "Published":
    from mixbench.bench.reported import reported

    return reported(table)


@cli.command()
@click.argument("a", metavar="METHOD")
@click.argument("b", metavar="OTHER")
@click.option("--table", "name", default="quickstart", help="Whose cells, and whose columns.")
@click.option(
    "--setting", "settings", multiple=True, help="Other than the table's; several can be."
)
@click.option("--task", "columns", multiple=True, help="Other than the table's; several can be.")
@click.option("--seeds", type=click.IntRange(min=1), help="Other than the table's.")
@results
def compare(a: str, b: str, **chosen: Any) -> None:
    """Compare two methods by what both were asked, over equal seeds."""
    from mixbench.bench.compare import compare

    table, store = chosen_table(methods=(a, b), only=True, **chosen)
    print(compare(a, b, table, store), end="")


@cli.command()
@click.argument("figure", metavar="FIGURE")
@of_a_table
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, help="Of which run, if it shows one."
)
@click.option("--out", type=folder, show_default="FIGURE.svg", help="Where to; .svg, .png or .pdf.")
def figure(figure: str, seed: int, out: Path | None, **chosen: Any) -> None:
    """Draw FIGURE of a table's cells, and write the numbers that it shows beside it, as .csv.

    Of all seeds: pareto, ablation, training, eps, heatmap, ranks. Of one: reliability, landscape,
    projection, boxes.
    """
    from mixbench.bench.figures import draw

    table, store = chosen_table(**chosen)
    out = out or Path(f"{figure}.svg")
    for method, why in draw(figure, table, store, seed, out).items():
        complain(f"without {method}: {why}")
    print(out)


@cli.command()
@click.argument("method", metavar="METHOD")
@click.option("--setting", default="digits/small", help="Whose images and network.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the draws.")
@click.option(
    "--out", type=folder, help="Where to; .svg, .png or .pdf.", show_default="show-METHOD.svg"
)
@results
@device
@data
def show(
    method: str, setting: str, seed: int, out: Path | None, results: Path, device: str, data: Path
) -> None:
    """Draw what METHOD does to a batch of images and their targets."""
    from mixbench.bench.cells import Store
    from mixbench.bench.lab import Lab, pick_device
    from mixbench.bench.settings import Setting
    from mixbench.bench.spec import canonical
    from mixbench.bench.specimen import draw
    from mixbench.methods import Method

    name = canonical(method, "mixbench.methods", Method)
    out = out or Path(f"show-{quote(name, safe=',=+')}.svg")
    draw(
        name, str(Setting.parse(setting)), Lab(Store(results), data, pick_device(device)), seed, out
    )
    print(out)


@cli.command()
@click.option("--out", type=folder, default="page", help="The folder of its index.html.")
@results
def page(out: Path, results: Path) -> None:
    """Write the leaderboard: all tables and figures as one HTML file, which needs no network."""
    from mixbench.bench.cells import Store
    from mixbench.bench.page import write
    from mixbench.bench.paper import TABLES

    print(write(Store(results), out, TABLES))


@cli.command()
@click.option("--tensorboard", is_flag=True, help="Training curves, as TensorBoard reads them.")
@click.option("--out", type=folder, required=True, help="A .csv, or TensorBoard's folder.")
@results
def export(tensorboard: bool, out: Path, results: Path) -> None:
    """Write every number of every cell to one CSV file, or curves for TensorBoard.

    In Python, mixbench.bench.results() is the same as a DataFrame.
    """
    from mixbench.bench import export

    if tensorboard:
        export.tensorboard(results, out)
    else:
        write_aside(out, export.csv(export.results(results)))
    print(out)
