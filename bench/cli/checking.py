"""Commands that compare results with what is expected of them."""

from pathlib import Path

import click

from mixbench.bench.cli._base import cli, folder, results, write_aside
from mixbench.bench.spec import choose


@cli.command()
@click.argument("what", metavar="TABLE|RUN")
@results
def check(what: str, results: Path) -> int:
    """Say whether numbers lie where they should, if the installation is sound.

    Of a RUN, which is SETTING/METHOD/SEED as in status, each is shown; of a TABLE, those that do
    not. Exit codes: 0, all do; 1, some don't, or a cell can't be used; 2, nothing could be checked.
    """
    from mixbench.bench.cells import Store
    from mixbench.bench.check import OUTSIDE, check, of_run, of_table, report
    from mixbench.bench.expected import expected
    from mixbench.bench.paper import TABLES
    from mixbench.bench.states import run_of

    store, name = Store(results), str(Path(what)).removeprefix(f"{results}/")
    if one := "/" in name:
        records, unusable = of_run(run_of(name), store)
    else:
        records, unusable = of_table(TABLES[choose(name, TABLES, "table")], store)
    found = check(records, expected())
    print(report(found, unusable, each=one), end="")
    return int(unusable > 0 or any(checked.kind == OUTSIDE for checked in found))


@cli.command()
@click.option("--out", type=folder, required=True, help="The file, a .csv.")
@results
def expect(out: Path, results: Path) -> None:
    """Write where the numbers of new runs should lie, by the cells of all tables."""
    from mixbench.bench.cells import Store
    from mixbench.bench.expected import measured
    from mixbench.bench.paper import TABLES

    write_aside(out, measured(TABLES.values(), Store(results)))
    print(out)
