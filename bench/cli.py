"""The command line. Torch is imported by the commands that need it, so that help comes at once."""

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mixbench.bench.spec import BadInput, canonical, choose, find, names, resolved, write

if TYPE_CHECKING:
    from mixbench.bench.cells import Run, Store
    from mixbench.bench.tables import Table

Command = Callable[..., None]

_folder = click.Path(file_okay=True, path_type=Path)


@click.group(context_settings={"show_default": True})
def cli() -> None:
    """Train mixup methods, ask every trained network the same questions, print the tables.

    METHOD is a spelling such as mixup,alpha=0.2 or, from a module of your own, mylab.newmix,cells=8;
    it adds a row to the table.
    """


def _of_a_table(command: Command) -> Command:
    """The arguments of every command about a table."""
    for add in (
        click.option("--results", type=_folder, default="results", help="Folder of results."),
        click.option("--seeds", type=click.IntRange(min=1), help="Other than the table's."),
        click.argument("methods", metavar="[METHOD]...", nargs=-1),
        click.argument("name", metavar="TABLE"),
    ):
        command = add(command)
    return command


_device = click.option(
    "--device", default="auto", help="cpu, cuda, cuda:1, ...; auto is a GPU if it can."
)
_data = click.option(
    "--data", type=_folder, default="data", envvar="MIXBENCH_DATA", help="Folder of datasets."
)


@cli.command()
@_of_a_table
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    help="How many runs at once, each on one CPU thread.",
)
@_device
@_data
def run(jobs: int, device: str, data: Path, **chosen: Any) -> None:
    """Fill what is missing of a table, then print it."""
    from mixbench.bench.launch.local import Job, launch
    from mixbench.bench.runs import Lab, check, pick_device

    table, store = _table(**chosen)
    lab = Lab(store, data, pick_device(device))
    missing = [Job(run, tuple(tasks)) for run, tasks in table.todo(store)]
    if missing:
        store.check_writable()
        check({job.run.setting for job in missing}, lab)
    failed = launch(missing, lab, jobs) if missing else {}
    print(table.markdown(store), end="")
    for lost, why in failed.items():
        _complain(f"{lost} failed: {why}")
    sys.exit(1 if failed else 0)


@cli.command()
@_of_a_table
def todo(**chosen: Any) -> None:
    """List the runs of a table that lack cells, and which."""
    table, store = _table(**chosen)
    for run, tasks in table.todo(store):
        print(f"{run}: {' '.join(tasks)}")


@cli.command()
@_of_a_table
def status(**chosen: Any) -> None:
    """Say of each run of a table how far it is."""
    table, store = _table(**chosen)
    count: Counter[str] = Counter()
    for run in table.runs():
        state = _state(run, table, store)
        count[state.partition(":")[0]] += 1
        print(f"{run}: {state}")
    print(", ".join(f"{n} {state}" for state, n in count.items()))


@cli.command()
@_of_a_table
@click.option("--format", "form", type=click.Choice(["markdown", "csv"]), default="markdown")
@click.option("--out", type=_folder, help="A file to write it to.")
def table(form: str, out: Path | None, **chosen: Any) -> None:
    """Print a table from the cells that there are."""
    from mixbench.bench.cells import written_aside

    table, store = _table(**chosen)
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
@click.option("--steps", type=click.IntRange(min=1), default=20)
@click.option("--warmup", type=click.IntRange(min=0), default=5)
@_device
@_data
@click.argument("setting", metavar="SETTING")
@click.argument("chosen", metavar="[METHOD]...", nargs=-1)
def speed(
    setting: str, chosen: Sequence[str], steps: int, warmup: int, device: str, data: Path
) -> None:
    """Time training steps of methods, all if none is named, beside the baseline's."""
    from mixbench.bench import speed
    from mixbench.bench.cells import Store
    from mixbench.bench.paper import METHODS
    from mixbench.bench.runs import Lab, pick_device
    from mixbench.bench.settings import Setting
    from mixbench.methods import Method

    name, lab = str(Setting.parse(setting)), Lab(Store(Path()), data, pick_device(device))
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


def _table(
    name: str, methods: Sequence[str], seeds: int | None, results: Path
) -> tuple["Table", "Store"]:
    """The table that the arguments stand for, and where its cells are."""
    from mixbench.bench.cells import Store
    from mixbench.bench.paper import TABLES

    table = TABLES[choose(name, TABLES, "table")].add(*methods)
    for method in methods:
        if why := table.refusal(method):
            raise BadInput(f"{method}: {why}")
    return replace(table, seeds=seeds or table.seeds), Store(results)


def _state(run: "Run", table: "Table", store: "Store") -> str:
    from mixbench.bench.runs import inapplicable

    missing, folder = store.missing(run, table.tasks()), store.folder(run)
    if not missing:
        return "done"
    if why := inapplicable(run.setting, run.method):
        return f"not applicable: {why}"
    if store.claimed(run):
        return f"running: {', '.join(missing)} to come"
    if (log := folder / "error.txt").exists():
        return f"failed: {log.read_text().strip().rpartition(chr(10))[2]}"
    begun = (folder / "checkpoint.pt").exists() or len(missing) < len(table.tasks())
    return f"{'begun' if begun else 'waiting'}: {', '.join(missing)} missing"


def _describe(package: str, base: type[Any]) -> None:
    for name in names(package):
        kind = find(name, package, base)
        summary = (kind.__doc__ or "").partition("\n")[0]
        print(f"{name}\n    {summary}")
        if parameters := _parameters(kind()):
            print(f"    {parameters}")


def _parameters(thing: object) -> str:
    return ",".join(f"{key}={write(getattr(thing, key))}" for key in resolved(thing))


def main() -> None:
    """Run the command line; what the user got wrong ends in one line and exit code 2."""
    sys.path.append(str(Path.cwd()))  # where a module of the user's own may lie
    warnings.showwarning = _warn_once
    code = 2
    try:
        code = cli(standalone_mode=False) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except BadInput as error:
        _complain(str(error))
    except click.ClickException as error:
        _complain(error.format_message())
    except OSError as error:
        _complain(f"{error.filename or 'the system'}: {error.strerror or error}")
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted; what is done is kept")
        code = 130
    sys.exit(code)


@cache
def _warned(line: str) -> None:
    _complain(line)


def _warn_once(message: Warning | str, *_: Any, **__: Any) -> None:
    """Say a warning on one line, unless a run in another process said the same."""
    _warned(str(message))


def _complain(line: str) -> None:
    print(f"mixbench: {line}", file=sys.stderr)
