"""Caltech-UCSD Birds, as published: ROOT/CUB_200_2011/, split by its train_test_split.txt."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mixbench.bench.data import _decode, _imagefolder
from mixbench.bench.data._base import Dataset, Files
from mixbench.bench.data._layout import anew, existing, published, rows, some
from mixbench.bench.data._source import Archive, Source
from mixbench.bench.spec import BadInput

FOLDER, CLASSES = "CUB_200_2011", 200


def read(root: Path) -> Dataset:
    """Images in the order of images.txt. Raises BadInput if lists and images disagree."""
    folder = existing(root / FOLDER, "cub")
    images = dict(rows(folder / "images.txt", "cub", 2))
    y = _numbers(folder / "image_class_labels.txt", images, range(1, CLASSES + 1)) - 1
    train = _numbers(folder / "train_test_split.txt", images, range(2)).bool()
    if len(rows(folder / "classes.txt", "cub", 1)) != CLASSES:
        raise BadInput(f"{folder / 'classes.txt'} should name {CLASSES} classes")
    _check_there(folder / "images.txt", set(images.values()))
    paths = np.array([os.fsencode(folder / "images" / name) for name in images.values()])
    first, second = (Files(paths[part.numpy()], y[part]) for part in (train, ~train))
    return Dataset(first, second, CLASSES)


def check(root: Path) -> str:
    """Opens all images, which takes a minute or so."""
    folder, found = root / FOLDER, read(root)
    summary = published(folder, found, 5_994, 5_794, CLASSES, anew(folder, "cub"))
    _decode.check(found)
    return summary


def _numbers(path: Path, images: dict[str, str], known: range) -> Tensor:
    """The number that a list gives each image. Raises BadInput if one has none, or another."""
    number = dict(rows(path, "cub", 2))
    if differ := sorted(number.keys() ^ images.keys()):
        raise BadInput(f"{path} and images.txt should have the same images; not so {some(differ)}")
    if other := sorted(set(number.values()) - {str(i) for i in known}):
        raise BadInput(f"{path} has {some(other)}, and should have {known[0]} to {known[-1]}")
    return torch.tensor([int(number[image]) for image in images])


def _check_there(listing: Path, names: set[str]) -> None:
    folder = existing(listing.with_name("images"), "cub")
    start = len(os.fsencode(folder)) + 1
    there = {os.fsdecode(path[start:]) for path in _imagefolder.files(folder)}
    if lost := sorted(names - there):
        raise BadInput(f"{listing} names images that are not there: {some(lost)}")
    if lost := sorted(there - names):
        fix = anew(folder, "cub")
        raise BadInput(f"{listing} lacks images that are there: {some(lost)}; {fix}")


SOURCE = Source(
    "cub",
    "CUB-200-2011 (Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011)",
    "classification",
    check,
    FOLDER,
    (
        Archive(
            "CUB_200_2011.tgz",
            ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
            "md5:97eceeb196236b17998738112f37df78",
        ),
    ),
)
