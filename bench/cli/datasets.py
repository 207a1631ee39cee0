"""Commands about datasets."""

import os
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from rich.filesize import decimal

from mixbench.bench.cli import _base
from mixbench.bench.cli._base import cli, complain, device, workers
from mixbench.bench.spec import BadInput

if TYPE_CHECKING:
    from mixbench.bench.data import Source


@cli.group()
def data() -> None:
    """List, download and check datasets."""


_names = click.argument("names", metavar="NAME...", nargs=-1, required=True)


@data.command("list")
@_base.data
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
@_base.data
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
@_base.data
@_names
def data_check(names: Sequence[str], data: Path) -> None:
    """Say what there is of datasets, and what is missing or wrong."""
    _of_each(names, lambda source: source.check(data))


@data.command("speed")
@click.option("--batches", type=click.IntRange(min=1), default=300)
@click.option("--rounds", type=click.IntRange(min=1), default=5)
@workers
@device
@_base.data
@click.argument("setting", metavar="SETTING")
def data_speed(
    setting: str, batches: int, rounds: int, workers: int | None, device: str, data: Path
) -> None:
    """Time how fast the images of a setting are read, cropped and brought to the device."""
    from mixbench.bench.cells import Store
    from mixbench.bench.lab import Lab, pick_device
    from mixbench.bench.launch import share
    from mixbench.bench.reading import reading
    from mixbench.bench.settings import Setting

    lab = Lab(Store(Path()), data, pick_device(device), share(workers, 1))
    print(reading(str(Setting.parse(setting)), lab, batches, rounds), end="")


@data.command("where")
@_base.data
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
            complain(f"{each.name}: {error}")
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
