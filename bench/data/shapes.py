"""Drawn shapes: one of six in a picture of 64 x 64 pixels, 2,400 to train, 300 to test.

And scenes of up to four of them, 160 x 128 pixels, with boxes, 120 to train, 60 to test: drawn once
to ROOT/shapes/KEY/, in the layouts of VOC (VOCdevkit/VOC2007) and of COCO (coco), the same in both.
"""

import hashlib
import inspect
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from mixbench.bench.data import _shapes
from mixbench.bench.data._base import Dataset, Images
from mixbench.bench.data._layout import contents
from mixbench.bench.data._shapes import KINDS, Box, lone, picture, several
from mixbench.bench.data._source import Source
from mixbench.bench.spec import BadInput

SIZE, TRAIN, TEST = 64, 2_400, 300
WIDTH, HEIGHT, MOST = 160, 128, 4
TRAIN_SCENES, TEST_SCENES = 120, 60
VOC, COCO = Path("VOCdevkit", "VOC2007"), Path("coco")


@dataclass(frozen=True)
class Drawn:
    """A scene: its number, its pixels (h, w, 3), the names of its shapes and their tight boxes."""

    number: int
    pixels: NDArray[np.uint8]
    objects: Sequence[tuple[str, Box]]


def read(root: Path) -> Dataset:
    """As many pictures of each shape, drawn in a few seconds; nothing is read from ``root``."""
    return Dataset(_lone(range(TRAIN)), _lone(range(TRAIN, TRAIN + TEST)), len(KINDS))


def check(root: Path) -> str:
    return contents(TRAIN, TEST, len(KINDS))


def drawn(number: int) -> Drawn:
    """A scene, always the same one; those to train on are numbered first, from 1."""
    draw = np.random.default_rng((1, number))
    shapes = several(draw, MOST, WIDTH, HEIGHT)
    pixels = picture(draw, shapes, WIDTH, HEIGHT)
    return Drawn(number, pixels, [(shape.kind, box) for shape, box in shapes.items()])


def scenes(root: Path) -> Path:
    """The folder that holds all scenes, in VOC's and in COCO's layout. They are drawn if need be.

    Raises BadInput if it can't be written.
    """
    folder = root / "shapes" / _key()
    try:
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f".{folder.name}.lock")):
                _make(folder)
    except OSError as error:
        raise BadInput(
            f"{folder.parent} can't be written ({error.strerror}); "
            "name another folder of datasets with --data"
        ) from None
    return folder


def _lone(numbers: range) -> Images:
    labels = [number % len(KINDS) for number in numbers]
    pixels = np.stack([_one(number, KINDS[y]) for number, y in zip(numbers, labels, strict=True)])
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels))


def _one(number: int, kind: str) -> NDArray[np.uint8]:
    draw = np.random.default_rng((0, number))
    return picture(draw, [lone(draw, kind, SIZE)], SIZE, SIZE)


@cache
def _key() -> str:
    """Stands for the code that draws, so that what it drew before a change is not taken for it."""
    code = inspect.getsource(_shapes), inspect.getsource(sys.modules[__name__])
    return hashlib.sha256("".join(code).encode()).hexdigest()[:16]


def _make(folder: Path) -> None:
    """Draw the scenes aside, unless they are there; one process at a time."""
    if folder.exists():
        return
    aside = folder.with_name(f".{folder.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)  # what a kill left
    try:
        found = [drawn(number) for number in range(1, TRAIN_SCENES + TEST_SCENES + 1)]
        train, test = found[:TRAIN_SCENES], found[TRAIN_SCENES:]
        _write_voc(aside / VOC, trainval=train, test=test)
        _write_coco(aside / COCO, train2017=train, val2017=test)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_voc(folder: Path, **splits: list[Drawn]) -> None:
    pictures, annotations, lists = (
        _made(folder / name) for name in ("JPEGImages", "Annotations", "ImageSets/Main")
    )
    for split, found in splits.items():
        for scene in found:
            _save(scene, pictures / f"{scene.number:06}.jpg")
            _annotation(scene).write(annotations / f"{scene.number:06}.xml")
        (lists / f"{split}.txt").write_text("".join(f"{scene.number:06}\n" for scene in found))


def _annotation(scene: Drawn) -> "ElementTree.ElementTree[ElementTree.Element]":
    root = ElementTree.Element("annotation")
    _add(root, filename=f"{scene.number:06}.jpg")
    _add(ElementTree.SubElement(root, "size"), width=WIDTH, height=HEIGHT, depth=3)
    for name, (left, top, right, bottom) in scene.objects:
        node = ElementTree.SubElement(root, "object")
        _add(node, name=name, difficult=0)
        corners = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        _add(ElementTree.SubElement(node, "bndbox"), **corners)
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def _add(node: ElementTree.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(node, tag).text = str(text)


def _write_coco(folder: Path, **splits: list[Drawn]) -> None:
    annotations = _made(folder / "annotations")
    for split, found in splits.items():
        pictures = _made(folder / split)
        for scene in found:
            _save(scene, pictures / f"{scene.number:012}.jpg")
        (annotations / f"instances_{split}.json").write_text(json.dumps(_instances(found)))


def _instances(found: list[Drawn]) -> dict[str, Any]:
    objects = [(scene.number, *each) for scene in found for each in scene.objects]
    return {
        "images": [
            {
                "id": scene.number,
                "file_name": f"{scene.number:012}.jpg",
                "width": WIDTH,
                "height": HEIGHT,
            }
            for scene in found
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": KINDS.index(name) + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
            }
            for number, (image, name, (left, top, right, bottom)) in enumerate(objects, 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(KINDS, 1)],
    }


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _save(scene: Drawn, path: Path) -> None:
    Image.fromarray(scene.pixels).save(path, quality=95)


SOURCE = Source(
    "shapes",
    "Circles, crosses, rings, squares, stars and triangles, drawn by this suite",
    "classification",
    check,
)
