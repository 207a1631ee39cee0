"""Lines that the readers share: what is there, what is missing, and what was published."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from mixbench.bench.data._base import Dataset
from mixbench.bench.spec import BadInput


def existing(path: Path, dataset: str) -> Path:
    """``path`` itself. Raises BadInput, which says how to get the dataset, if it is not there."""
    if not path.exists():
        raise BadInput(f"{path} is missing; {remedy(dataset)}")
    return path


def remedy(dataset: str) -> str:
    return f"get it with: mixbench data get {dataset}, or name the folder of datasets with --data"


def anew(folder: Path, dataset: str) -> str:
    """What to do about surplus files: ``get`` leaves those that it does not replace."""
    return f"remove {folder}, then {remedy(dataset)}"


def rows(path: Path, dataset: str, columns: int) -> list[list[str]]:
    """The first words of each line of a table. Raises BadInput if it, or a word, is missing."""
    lines = existing(path, dataset).read_text("utf-8", "surrogateescape").splitlines()
    table = [line.split()[:columns] for line in lines if line.strip()]
    for number, row in enumerate(table, 1):
        if len(row) < columns:
            raise BadInput(f"{path}: line {number} has {len(row)} words, and should have {columns}")
    return table


def some(names: Iterable[object], show: int = 3) -> str:
    """The first names, and how many more there are: "a, b, c and 4 more"."""
    rest = iter(names)
    first, more = ", ".join(str(name) for name in islice(rest, show)), sum(1 for _ in rest)
    return f"{first} and {more:,} more" if more else first


def contents(train: int, test: int, classes: int) -> str:
    return f"{train:,} to train, {test:,} to test, {classes:,} classes"


def published(
    folder: Path, found: Dataset, train: int, test: int, classes: int, otherwise: str
) -> str:
    """What was found, in a few words. Raises BadInput if it is not what was published.

    otherwise: what to do then.
    """
    here = contents(len(found.train), len(found.test), found.classes)
    there = contents(train, test, classes)
    if here != there:
        raise BadInput(f"{folder} has {here}; as published it has {there}; {otherwise}")
    return here
