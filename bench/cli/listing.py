"""Commands that list what can be run, and time it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mixbench.bench.cli._base import (
    cli,
    data,
    device,
    eager,
    workers,
    write_aside,
)
from mixbench.bench.spec import canonical, find, names, resolved, write


@cli.command()
@click.option(
    "--steps", type=click.IntRange(min=1), default=20, help="Turns of each; on a GPU, of ten steps."
)
@click.option(
    "--warmup", type=click.IntRange(min=1), default=5, help="Turns before those, of as many steps."
)
@click.option(
    "--against",
    multiple=True,
    metavar="PEER",
    help="timm or torchvision, in a loop as its documentation shows; both can be.",
)
@eager
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="A .csv for all numbers."
)
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
    against: Sequence[str],
    eager: bool,
    out: Path | None,
    workers: int | None,
    device: str,
    data: Path,
) -> None:
    """Time training by methods, all if none is named, beside the baseline's and the machine's limit."""
    from mixbench.bench import speed, stop
    from mixbench.bench.cells import Store
    from mixbench.bench.lab import Lab, pick_device
    from mixbench.bench.launch import share
    from mixbench.bench.paper import METHODS
    from mixbench.bench.settings import Setting
    from mixbench.methods import Method

    name = str(Setting.parse(setting))
    lab = Lab(Store(Path()), data, pick_device(device), share(workers, 1), eager=eager)
    rows = [canonical(text, "mixbench.methods", Method) for text in chosen] or METHODS
    stop.as_interrupt()  # so that processes at rest are let go of
    found = speed.speed(name, rows, lab, steps, warmup, against)
    print(found.markdown(), end="")
    if out:
        write_aside(out, found.csv())


@cli.command()
@click.option("--properties", is_flag=True, help="What each of them mixes, as seen at work.")
def methods(properties: bool) -> None:
    """List the methods, with their parameters."""
    if properties:
        from mixbench.bench.paper import METHODS
        from mixbench.bench.properties import markdown, read_published
        from mixbench.bench.reported import shipped

        print(markdown(METHODS, read_published(shipped() / "multimix-table1.csv")), end="")
        return
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


def _describe(package: str, base: type[Any]) -> None:
    for name in names(package):
        kind = find(name, package, base)
        summary = (kind.__doc__ or "").partition("\n")[0]
        print(f"{name}\n    {summary}")
        if parameters := _parameters(kind()):
            print(f"    {parameters}")


def _parameters(thing: object) -> str:
    return ",".join(f"{key}={write(getattr(thing, key))}" for key in resolved(thing))
