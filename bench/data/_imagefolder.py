"""Images in a folder per class, found without opening any. What is hidden is passed over."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from mixbench.bench.data._base import Dataset, Files
from mixbench.bench.data._layout import some
from mixbench.bench.spec import BadInput

IMAGES = (b".jpg", b".jpeg", b".png", b".ppm", b".bmp", b".pgm", b".tif", b".tiff", b".webp")
"""torchvision's IMG_EXTENSIONS."""


def read(train: Path, test: Path) -> Dataset:
    """The classes are the names of the folders, sorted. Raises BadInput if they differ."""
    classes = subfolders(train)
    same(train, classes, test, subfolders(test))
    if not classes:
        raise BadInput(f"{train} has no folders; each class should have one, with its images")
    return Dataset(split(train, classes), split(test, classes), len(classes))


def subfolders(folder: Path) -> list[str]:
    """Their names, sorted."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def same(one: Path, classes: Iterable[str], other: Path, others: Iterable[str]) -> None:
    """Raises BadInput, naming the classes that only one of them has."""
    here, there = set(classes), set(others)
    lone = [
        f"only {path} has {some(sorted(lost))}"
        for path, lost in ((one, here - there), (other, there - here))
        if lost
    ]
    if lone:
        raise BadInput(f"{one} and {other} should have the same classes; {'; '.join(lone)}")


def split(folder: Path, classes: Sequence[str], extensions: tuple[bytes, ...] = IMAGES) -> Files:
    """The files of each class, sorted by path. Raises BadInput, naming a class that has none."""
    found = [sorted(files(folder / name, extensions)) for name in classes]
    for name, paths in zip(classes, found, strict=True):
        if not paths:
            kinds = ", ".join(os.fsdecode(extension) for extension in extensions)
            raise BadInput(f"{folder / name} has no files ({kinds}); each class should have some")
    counts = torch.tensor([len(paths) for paths in found])
    y = torch.arange(len(classes)).repeat_interleave(counts)
    return Files(np.array([path for paths in found for path in paths]), y)


def files(folder: Path, extensions: tuple[bytes, ...] = IMAGES) -> Iterator[bytes]:
    """The paths of the files that end so, in any case, in a folder and those below it."""
    return _files(os.fsencode(folder), extensions)


def _files(folder: bytes, extensions: tuple[bytes, ...]) -> Iterator[bytes]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            if entry.is_dir():
                yield from _files(entry.path, extensions)
            elif entry.name.lower().endswith(extensions) and entry.is_file():
                yield entry.path
