"""Tiny-ImageNet, as published: ROOT/tiny-imagenet-200/, with a flat or a rearranged val folder.

The classes are those of wnids.txt, sorted. The published test images have no labels: those of the
validation set are what is tested on.
"""

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mixbench.bench.data import _cifar, _decode, _imagefolder
from mixbench.bench.data._base import Dataset, Files, Images
from mixbench.bench.data._cached import cached
from mixbench.bench.data._decode import Paths, decoded, pixels
from mixbench.bench.data._layout import anew, existing, published, remedy, rows, some
from mixbench.bench.data._source import Archive, Source
from mixbench.bench.spec import BadInput

FOLDER, SIZE, CLASSES = "tiny-imagenet-200", 64, 200


def read(root: Path) -> Dataset:
    """All images decoded. Raises BadInput if one can't be, or if folders and lists disagree."""
    train, val, classes = _listed(root / FOLDER)
    held = _held(root / f"{FOLDER}-train", train), _held(root / f"{FOLDER}-val", val)
    return Dataset(*held, classes, _cifar.MEAN, _cifar.STD)


def check(root: Path) -> str:
    """Opens all images, which takes a minute or so."""
    folder = root / FOLDER
    found = Dataset(*_listed(folder))
    fix = anew(folder, "tinyimagenet")
    summary = published(folder, found, 100_000, 10_000, CLASSES, fix)
    _decode.check(found, _pixels)
    return summary


def _listed(folder: Path) -> tuple[Files, Files, int]:
    """The files of both splits, and how many classes there are."""
    wnids, train = folder / "wnids.txt", existing(folder, "tinyimagenet") / "train"
    classes = sorted({wnid for (wnid,) in rows(wnids, "tinyimagenet", 1)})
    found = _imagefolder.subfolders(existing(train, "tinyimagenet"))
    _imagefolder.same(wnids, classes, train, found)
    if len(classes) != CLASSES:
        raise BadInput(f"{wnids} should name {CLASSES} classes; it names {len(classes)}")
    test = _validation(existing(folder / "val", "tinyimagenet"), classes)
    return _imagefolder.split(train, classes), test, len(classes)


def _validation(val: Path, classes: list[str]) -> Files:
    """The validation images, from val/images and its annotations, or from a folder per class."""
    flat = val / "images"
    folders = [name for name in _imagefolder.subfolders(val) if name != flat.name]
    images = sorted(_imagefolder.files(flat)) if flat.exists() else []
    if folders and images:
        fix = anew(val, "tinyimagenet")
        raise BadInput(f"{val} has both images and folders per class; {fix}")
    if not folders and not images:
        raise BadInput(f"{val} has no images; {remedy('tinyimagenet')}")
    if folders:
        _imagefolder.same(val, folders, val.with_name("wnids.txt"), classes)
        return _imagefolder.split(val, classes)
    return _annotated(images, val / "val_annotations.txt", classes)


def _annotated(images: list[bytes], annotations: Path, classes: list[str]) -> Files:
    wnid = dict(rows(annotations, "tinyimagenet", 2))
    names = [os.fsdecode(os.path.basename(path)) for path in images]
    if lost := sorted(wnid.keys() - names):
        raise BadInput(f"{annotations} names images that are not there: {some(lost)}")
    if lost := sorted(set(names) - wnid.keys()):
        fix = anew(annotations.parent, "tinyimagenet")
        raise BadInput(f"{annotations} lacks images that are there: {some(lost)}; {fix}")
    _imagefolder.same(annotations, wnid.values(), annotations.parents[1] / "wnids.txt", classes)
    label = {name: i for i, name in enumerate(classes)}
    return Files(np.array(images), torch.tensor([label[wnid[name]] for name in names]))


def _held(stem: Path, split: Files) -> Images:
    return Images(cached(stem, split.paths, _decoded), split.y)


def _decoded(paths: Paths) -> NDArray[np.uint8]:
    return decoded(paths, (3, SIZE, SIZE), _pixels)


def _pixels(path: bytes) -> NDArray[np.uint8]:
    """An image as (3, 64, 64); some are greyscale."""
    image = pixels(path)
    h, w, _ = image.shape
    if (h, w) != (SIZE, SIZE):
        raise BadInput(f"{w} x {h} pixels, and not {SIZE} x {SIZE}")
    return image.transpose(2, 0, 1)


SOURCE = Source(
    "tinyimagenet",
    "Tiny-ImageNet (Le and Yang, Tiny ImageNet Visual Recognition Challenge, 2015)",
    "classification",
    check,
    FOLDER,
    (
        Archive(
            "tiny-imagenet-200.zip",
            (
                "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            ),
            "md5:90528d7ca1a48142e341f4ef8d21d0de",
        ),
    ),
)
