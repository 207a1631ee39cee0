"""The command line. Torch is imported by the commands that need it, so that help comes at once."""

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.filesize import decimal

from mixbench.bench.spec import BadInput, canonical, choose, find, names, resolved, write

if TYPE_CHECKING:
    from mixbench.bench.cells import Run, Store
    from mixbench.bench.data import Source
    from mixbench.bench.launch.local import Job
    from mixbench.bench.tables import Table

MOST_WORKERS = 16  # more than one GPU can be fed by

Command = Callable[..., None]

_folder = click.Path(file_okay=True, path_type=Path)


@click.group(context_settings={"show_default": True})
def cli() -> None:
    """Train mixup methods, ask every trained network the same questions, print the tables.

    METHOD is a spelling such as mixup,alpha=0.2 or, from a module of your own, mylab.newmix,cells=8;
    it adds a row to the table, or is one of the only rows.
    """


def _of_a_table(command: Command) -> Command:
    """The arguments of every command about a table."""
    for add in (
        click.option("--results", type=_folder, default="results", help="Folder of results."),
        click.option("--seeds", type=click.IntRange(min=1), help="Other than the table's."),
        click.option(
            "--setting", "settings", multiple=True, help="Other than the table's; several can be."
        ),
        click.option(
            "--task",
            "columns",
            multiple=True,
            help="Other than the table's: TASK or TASK:METRIC; several can be.",
        ),
        click.option("--only", is_flag=True, help="No rows but the METHODs."),
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


_workers = click.option(
    "--workers",
    type=click.IntRange(min=0),
    show_default="an equal share of the cores, at most 16",
    help="Processes that read image files, for each run.",
)


@cli.command()
@_of_a_table
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    help="How many runs at once, each on one CPU thread.",
)
@_workers
@_device
@_data
def run(jobs: int, workers: int | None, device: str, data: Path, **chosen: Any) -> None:
    """Fill what is missing of a table, then print it."""
    from mixbench.bench.launch.local import Job, launch
    from mixbench.bench.runs import Lab, check, pick_device

    table, store = _table(**chosen)
    lab = Lab(store, data, pick_device(device), _share(workers, jobs))
    missing = [Job(run, tuple(tasks)) for run, tasks in table.todo(store)]
    if missing:
        store.check_writable()
        check(_wanted(missing), lab)
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
@click.argument("figure", metavar="FIGURE")
@_of_a_table
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Which run of each method.")
@click.option(
    "--out", type=_folder, show_default="FIGURE.svg", help="Where to; .svg, .png or .pdf."
)
def figure(figure: str, seed: int, out: Path | None, **chosen: Any) -> None:
    """Draw FIGURE of a table's cells: reliability, landscape or projection.

    The numbers that it shows are written beside it, with the suffix .csv.
    """
    from mixbench.bench.figures import draw

    table, store = _table(**chosen)
    out = out or Path(f"{figure}.svg")
    for method, why in draw(figure, table, store, seed, out).items():
        _complain(f"without {method}: {why}")
    print(out)


@cli.command()
@click.option("--steps", type=click.IntRange(min=1), default=20)
@click.option("--warmup", type=click.IntRange(min=0), default=5)
@_workers
@_device
@_data
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
    from mixbench.bench.paper import METHODS
    from mixbench.bench.runs import Lab, pick_device
    from mixbench.bench.settings import Setting
    from mixbench.methods import Method

    name = str(Setting.parse(setting))
    lab = Lab(Store(Path()), data, pick_device(device), _share(workers, 1))
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


@cli.group()
def data() -> None:
    """List, download and check datasets."""


_names = click.argument("names", metavar="NAME...", nargs=-1, required=True)


@data.command("list")
@_data
def data_list(data: Path) -> None:
    """List the datasets, and whether they are there."""
    from mixbench.bench.data import sources

    known = sorted(sources().values(), key=lambda source: (source.use, source.name))
    name_width = max(len(source.name) for source in known)
    for use, some in groupby(known, key=lambda source: source.use):
        print(use)
        for source in some:
            print(f"  {source.name:{name_width}}  {_whether(source, data):7}  {source.title}")


@data.command("get")
@_data
@_names
def data_get(names: Sequence[str], data: Path) -> None:
    """Make datasets be there: download, verify and unpack what is missing.

    It can be stopped and run again, and goes on.
    """
    from mixbench.bench.data._fetch import get, progress

    def shown(source: "Source") -> str:
        with progress() as report:
            return get(source, data, report)

    _of_each(names, shown)


@data.command("check")
@_data
@_names
def data_check(names: Sequence[str], data: Path) -> None:
    """Say what there is of datasets, and what is missing or wrong."""
    _of_each(names, lambda source: source.check(data))


@data.command("speed")
@click.option("--batches", type=click.IntRange(min=1), default=300)
@click.option("--rounds", type=click.IntRange(min=1), default=5)
@_workers
@_device
@_data
@click.argument("setting", metavar="SETTING")
def data_speed(
    setting: str, batches: int, rounds: int, workers: int | None, device: str, data: Path
) -> None:
    """Time how fast the images of a setting are read, cropped and brought to the device."""
    from mixbench.bench.cells import Store
    from mixbench.bench.reading import reading
    from mixbench.bench.runs import Lab, pick_device
    from mixbench.bench.settings import Setting

    lab = Lab(Store(Path()), data, pick_device(device), _share(workers, 1))
    print(reading(str(Setting.parse(setting)), lab, batches, rounds), end="")


@data.command("where")
@_data
@click.pass_context
def data_where(context: click.Context, data: Path) -> None:
    """Name the folders of datasets and of published weights, and what is free there."""
    from torch.hub import get_dir

    asked = context.get_parameter_source("data")
    given = "the default; name another with --data or MIXBENCH_DATA"
    if asked is ParameterSource.COMMANDLINE:
        given = "--data"
    if asked is ParameterSource.ENVIRONMENT:
        given = "MIXBENCH_DATA"
    home = "TORCH_HOME" if "TORCH_HOME" in os.environ else "the default; TORCH_HOME moves it"
    print(f"datasets: {_free(data)} ({given})")
    print(f"published weights: {_free(Path(get_dir(), 'checkpoints'))} ({home})")


def _of_each(names: Sequence[str], look: Callable[["Source"], str]) -> None:
    """Print what is found of each dataset; those that fail end in exit code 2, after the others."""
    from mixbench.bench.data import source

    failed = False
    for each in [source(name) for name in names]:
        try:
            print(f"{each.name}: {look(each)}", flush=True)
        except (BadInput, OSError) as error:
            _complain(f"{each.name}: {error}")
            failed = True
    sys.exit(2 if failed else 0)


def _whether(source: "Source", data: Path) -> str:
    """Whether it seems to be there; only its check, which may take long, looks into it."""
    if not source.where or (data / source.where).exists():
        return "there"
    return "to get" if source.archives else "by hand"


def _free(folder: Path) -> str:
    """A folder, which need not be there, and how much can be written to it."""
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return f"{folder}, {decimal(disk_usage(there).free)} free"


def _table(
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


def _wanted(jobs: Sequence["Job"]) -> dict[str, list[str]]:
    """The tasks that some run of a setting lacks, by setting."""
    wanted: dict[str, dict[str, None]] = {}
    for job in jobs:
        wanted.setdefault(job.run.setting, {}).update(dict.fromkeys(job.tasks))
    return {setting: list(tasks) for setting, tasks in wanted.items()}


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


def _share(workers: int | None, jobs: int) -> int:
    """How many processes read the files of one run, of so many at once."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MOST_WORKERS, max(1, (cores or 1) // jobs))


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
        where = os.fsdecode(error.filename) if error.filename else "the system"
        _complain(f"{where}: {error.strerror or error}")
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
