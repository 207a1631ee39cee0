"""Datasets, one file each: the file's name is the dataset's, its ``read`` reads it.

Three files hold those that nothing is trained on: ``outside``, ``corrupted``, ``detection``.
"""

import importlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from mixbench.bench.data._base import Dataset, Files, Images
from mixbench.bench.data._gallery import Gallery
from mixbench.bench.data._held import Held, held
from mixbench.bench.data._source import Source
from mixbench.bench.data._streamed import Streamed
from mixbench.bench.spec import FOLDER, choose, names

__all__ = ["FOLDER", "Data", "Dataset", "Files", "Gallery", "Held", "Images", "Source", "Streamed"]
__all__ += ["held", "read", "source", "sources"]

Data = Held | Streamed
"""A dataset in batches, as one run sees it."""


def read(name: str, root: Path) -> Dataset:
    """The dataset of that name, which lies in ``root``. Raises BadInput if it does not."""
    if name.startswith(FOLDER):
        name, root = "folder", Path(name.removeprefix(FOLDER))
    dataset: Dataset = importlib.import_module(f"{__name__}.{name}").read(root)
    return dataset


def source(name: str) -> Source:
    """Where the dataset of that name can be had. Raises BadInput if there is none."""
    if name.startswith(FOLDER):
        from mixbench.bench.data import folder

        return folder.source(Path(name.removeprefix(FOLDER)))
    return sources()[choose(name, sources(), "dataset")]


@cache
def sources() -> Mapping[str, Source]:
    """All datasets that have a name."""
    found: list[Source] = []
    for name in names(__name__):
        module = importlib.import_module(f"{__name__}.{name}")
        found += getattr(module, "SOURCES", ())
        found += [module.SOURCE] if hasattr(module, "SOURCE") else []
    return {each.name: each for each in found}
