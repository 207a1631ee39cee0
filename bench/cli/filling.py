"""Commands that fill tables: on this machine, by Slurm, by Ray; what it would cost; merging."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mixbench.bench import stop
from mixbench.bench.cli._base import (
    chosen_table,
    cli,
    complain,
    data,
    device,
    eager,
    folder,
    gpus,
    of_a_table,
    options,
    results,
    workers,
)
from mixbench.bench.spec import BadInput, counted

if TYPE_CHECKING:
    from mixbench.bench.cells import Run, Store
    from mixbench.bench.launch import Job, Terms
    from mixbench.bench.tables import Table

ONLY_FOR = {
    "at_once": "local",
    "address": "ray",
    "partition": "slurm",
    "time": "slurm",
    "array_limit": "slurm",
    "extra": "slurm",
    "tasks_apart": "slurm",
    "wait": "slurm",
}
"""The options that only one place has."""

how_to_run = options(
    click.option(
        "--on",
        "place",
        type=click.Choice(["local", "slurm", "ray"]),
        default="local",
        help="This machine, jobs of Slurm's, or tasks of Ray's.",
    ),
    gpus,
    click.option(
        "--retries",
        type=click.IntRange(min=0),
        default=1,
        help="How often a run that fails, or whose process dies, is tried again.",
    ),
    click.option(
        "--deterministic", is_flag=True, help="The same bits again, on a GPU too, if slower."
    ),
    eager,
    click.option(
        "--jobs",
        "at_once",
        type=click.IntRange(min=1),
        default=1,
        help="local: how many runs at once, each on one CPU thread and one GPU.",
    ),
    click.option("--address", help="ray: of a cluster; else one is started on this machine."),
    click.option("--partition", help="slurm: where to; else Slurm's default."),
    click.option("--time", default="24:00:00", help="slurm: of a job, which goes on in another."),
    click.option("--array-limit", type=click.IntRange(min=1), help="slurm: jobs at once."),
    click.option(
        "--slurm",
        "extra",
        metavar="KEY=VALUE",
        multiple=True,
        help="slurm: any option of sbatch's, as account=lab; several can be.",
    ),
    click.option(
        "--tasks-apart", is_flag=True, help="slurm: ask tasks in jobs of their own, on one GPU."
    ),
    click.option("--wait", is_flag=True, help="slurm: until all is done, and print the table."),
    workers,
    device,
    data,
)
"""The options of every command that starts runs."""


@cli.command()
@of_a_table
@how_to_run
def run(**given: Any) -> None:
    """Fill what is missing of a table, then print it.

    On Slurm it returns as soon as the jobs are in the queue.
    """
    from mixbench.bench.launch import Job

    chosen, ways = _parted(given)
    table, store = chosen_table(**chosen)
    _fill(table, store, [Job(run, tuple(tasks)) for run, tasks in table.todo(store)], **ways)


@cli.command()
@of_a_table
@how_to_run
def retry(**given: Any) -> None:
    """Try those runs of a table again that failed, and no others."""
    from mixbench.bench.launch import Job
    from mixbench.bench.states import states

    chosen, ways = _parted(given)
    table, store = chosen_table(**chosen)
    failed = {run for run, state in states(table, store) if state.kind == "failed"}
    todo = [Job(run, tuple(tasks)) for run, tasks in table.todo(store) if run in failed]
    if not todo:
        print("no run has failed")
        return
    _fill(table, store, todo, **ways)


@cli.command()
@of_a_table
def cancel(**chosen: Any) -> None:
    """Take the runs of a table out of Slurm's queue; what they have trained is kept.

    Runs that share a job end together.
    """
    from mixbench.bench.launch.scheduler import withdraw
    from mixbench.bench.states import states

    table, store = chosen_table(**chosen)
    there = [(run, state) for run, state in states(table, store) if state.at_work]
    queued = [run for run, state in there if state.job]
    number = withdraw(queued, store) if queued else 0
    print(f"{counted(number, 'job')} cancelled")
    for run, state in there:
        if not state.job:
            complain(f"{run} is no job of Slurm's: end it where it runs ({state.more})")


@cli.command()
@of_a_table
def todo(**chosen: Any) -> None:
    """List the runs of a table that lack cells, and which."""
    table, store = chosen_table(**chosen)
    for run, tasks in table.todo(store):
        print(f"{run}: {' '.join(tasks)}")


@cli.command()
@of_a_table
@gpus
@click.option("--steps", type=click.IntRange(min=1), default=20, help="Of a probe.")
@device
@data
def plan(gpus: float, steps: int, device: str, data: Path, **chosen: Any) -> None:
    """Say what it would cost to fill what is missing of a table.

    From what earlier cells took, or else from a few steps of training here.
    """
    from mixbench.bench import plan
    from mixbench.bench.lab import Lab, pick_device
    from mixbench.bench.launch import share

    table, store = chosen_table(**chosen)
    lab = Lab(store, data, pick_device(device), share(None, 1))
    print(plan.plan(table, lab, gpus, steps), end="")


@cli.command()
@click.argument("folders", metavar="DIR...", type=folder, nargs=-1, required=True)
@results
def merge(folders: Sequence[Path], results: Path) -> None:
    """Copy the cells of other folders of results into one; nothing that is there is overwritten."""
    from mixbench.bench import merge
    from mixbench.bench.cells import Store

    merged = merge.merge(folders, Store(results))
    for path, why in merged.conflicts.items():
        complain(f"{path} is a conflict: {why}")
    for path, why in merged.left_out.items():
        complain(f"{path} is left out: {why}")
    print(
        f"{counted(merged.copied, 'cell')} copied, {merged.already_there} there already, "
        f"{counted(len(merged.conflicts), 'conflict')}, {len(merged.left_out)} left out"
    )
    sys.exit(1 if merged.conflicts or merged.left_out else 0)


def _parted(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that choose a table, and those that say how to run; of the latter, all fit."""
    context = click.get_current_context()
    for option, place in ONLY_FOR.items():
        typed = context.get_parameter_source(option) is not ParameterSource.DEFAULT
        if typed and given["place"] != place:
            (spelled,) = [p.opts[0] for p in context.command.params if p.name == option]
            raise BadInput(f"{spelled} is for --on {place}, and this is --on {given['place']}")
    about_table = ("name", "methods", "only", "columns", "settings", "seeds", "results")
    chosen = {key: given[key] for key in about_table}
    return chosen, {key: value for key, value in given.items() if key not in chosen}


def _fill(
    table: "Table",
    store: "Store",
    jobs: Sequence["Job"],
    *,
    place: str,
    data: Path,
    device: str,
    gpus: float,
    workers: int | None,
    retries: int,
    deterministic: bool,
    eager: bool,
    **ways: Any,
) -> None:
    """Do the jobs at a place; then print the table, and what failed, which ends in exit code 1."""
    from mixbench.bench.formats import printed
    from mixbench.bench.launch import Terms

    terms = Terms(store.root, data, device, gpus, workers, retries, deterministic, eager)
    failed: dict[Run, str] | None = {}
    if jobs:
        stop.as_interrupt()
        store.check_writable()
        _check(jobs, terms, here=place == "local")
        failed = _at(place, jobs, terms, **ways)
    if failed is None:
        return
    print(printed(table, store), end="")
    for lost, why in failed.items():
        complain(f"{lost} failed: {why}")
    sys.exit(1 if failed else 0)


def _check(jobs: Sequence["Job"], terms: "Terms", here: bool) -> None:
    """Raises BadInput for what would keep a run from being filled, as far as it is seen here."""
    from mixbench.bench.lab import pick_device
    from mixbench.bench.runs import check

    lab = terms.lab(pick_device(terms.device if here else "cpu"))
    wanted: dict[str, dict[str, None]] = {}
    for job in jobs:
        wanted.setdefault(job.run.setting, {}).update(dict.fromkeys(job.tasks))
    check({setting: list(tasks) for setting, tasks in wanted.items()}, lab)


def _at(
    place: str,
    jobs: Sequence["Job"],
    terms: "Terms",
    *,
    at_once: int,
    address: str | None,
    **ways: Any,
) -> "dict[Run, str] | None":
    """Do the jobs at a place: the runs that failed, and why; None if they are left to a queue."""
    if place == "local":
        from mixbench.bench.launch import local

        return local.launch(jobs, terms, at_once)
    if place == "ray":
        from mixbench.bench.launch import ray

        return ray.launch(jobs, terms, address)
    return _by_slurm(jobs, terms, **ways)


def _by_slurm(
    jobs: Sequence["Job"],
    terms: "Terms",
    *,
    partition: str | None,
    time: str,
    array_limit: int | None,
    extra: Sequence[str],
    tasks_apart: bool,
    wait: bool,
) -> "dict[Run, str] | None":
    from mixbench.bench.launch import slurm
    from mixbench.bench.launch.scheduler import Allocation, minutes

    pairs = dict(_pair(text) for text in extra)
    allocation = Allocation(partition, minutes(time), array_limit, tasks_apart, pairs)
    return slurm.launch(jobs, terms, allocation, stay=wait)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadInput(f"--slurm {text}: it should be KEY=VALUE, as account=lab, or exclusive=")
    return key.lstrip("-"), value
