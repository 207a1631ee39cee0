"""Pascal VOC, ROOT/VOCdevkit/VOC<year>/, and COCO 2017, ROOT/coco/: images and objects in boxes.

Both are read with whatever images and classes are there; ``check`` wants what was published.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from mixbench.bench.data._layout import contents, existing, remedy, rows, some
from mixbench.bench.data._source import Archive, Source
from mixbench.bench.spec import BadInput, one_line

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
VOC_IMAGES = {(2007, "trainval"): 5_011, (2012, "trainval"): 11_540, (2007, "test"): 4_952}
COCO_IMAGES, COCO_CLASSES = {"train": 118_287, "val": 5_000}, 80


@dataclass(frozen=True)
class Scene:
    """An image, and the k objects in it.

    boxes: (k, 4) float, in pixels: left, top, right, bottom. The first pixel spans 0 to 1, so that
        (0, 0, width, height) is the whole image. They are as annotated: COCO has some of no area.
    labels: (k,) int64.
    ignored: (k,) bool: difficult ones (VOC) and crowds (COCO), which are neither hit nor missed.
    """

    image: Path
    boxes: Tensor
    labels: Tensor
    ignored: Tensor


@dataclass(frozen=True)
class _Object:
    name: str
    box: tuple[float, float, float, float]
    ignored: bool


@dataclass(frozen=True)
class _Annotation:
    width: float
    height: float
    objects: list[_Object]


def voc(root: Path, year: int, split: str) -> tuple[list[Scene], tuple[str, ...]]:
    """The scenes of ImageSets/Main/<split>.txt, and the names of the classes.

    Published boxes count pixels from 1 and include the last; so 1 is taken from left and top. The
    classes are VOC's 20, or if others are annotated, those of all annotations, sorted.

    Raises BadInput if images or annotations that are listed are missing, or damaged.
    """
    folder = existing(root / "VOCdevkit" / f"VOC{year}", "voc")
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    names = [name for (name,) in rows(listing, "voc", 1)]
    _check_there(listing, folder / "JPEGImages", "voc", [f"{name}.jpg" for name in names])
    _check_there(listing, folder / "Annotations", "voc", [f"{name}.xml" for name in names])
    files = [path for path in _visible(folder / "Annotations") if path.suffix == ".xml"]
    annotations = {path.stem: _annotation(path) for path in files}
    found = {each.name for annotation in annotations.values() for each in annotation.objects}
    classes = VOC_CLASSES if found <= set(VOC_CLASSES) else tuple(sorted(found))
    scenes = [
        _scene(folder / "JPEGImages" / f"{name}.jpg", annotations[name], classes) for name in names
    ]
    return scenes, classes


def coco(root: Path, split: str) -> tuple[list[Scene], tuple[str, ...]]:
    """The scenes of annotations/instances_<split>2017.json, and the names of the classes.

    Labels count the categories in the order of their ids, which have gaps. Some images have no
    objects. Raises BadInput if images that are listed are missing, or annotations are damaged.
    """
    path = root / "coco" / "annotations" / f"instances_{split}2017.json"
    folder = root / "coco" / f"{split}2017"
    existing(path, "coco")
    try:
        annotations, classes = _instances(json.loads(path.read_bytes()))
    except Exception as error:  # what is damaged can raise anything
        raise BadInput(f"{path} is damaged ({one_line(error)}); {remedy('coco')}") from None
    _check_there(path, folder, "coco", annotations)
    return [_scene(folder / name, each, classes) for name, each in annotations.items()], classes


def check_voc(root: Path) -> str:
    for (year, split), published in VOC_IMAGES.items():
        scenes, classes = voc(root, year, split)
        _check_count(f"VOC{year} {split}", scenes, published)
        if classes != VOC_CLASSES:
            raise BadInput(f"VOC{year} should have VOC's {len(VOC_CLASSES)} classes, not {classes}")
    test = VOC_IMAGES[2007, "test"]
    return contents(sum(VOC_IMAGES.values()) - test, test, len(VOC_CLASSES))


def check_coco(root: Path) -> str:
    for split, published in COCO_IMAGES.items():
        scenes, classes = coco(root, split)
        _check_count(f"COCO {split}2017", scenes, published)
        if len(classes) != COCO_CLASSES:
            raise BadInput(f"COCO should have {COCO_CLASSES} classes; it has {len(classes)}")
    return contents(COCO_IMAGES["train"], COCO_IMAGES["val"], COCO_CLASSES)


def _check_count(what: str, scenes: Sequence[Scene], published: int) -> None:
    if len(scenes) != published:
        raise BadInput(f"{what} has {len(scenes):,} images; as published it has {published:,}")


def _check_there(listing: Path, folder: Path, dataset: str, names: Iterable[str]) -> None:
    there = {path.name for path in _visible(existing(folder, dataset))}
    if lost := sorted(set(names) - there):
        raise BadInput(f"{listing} names what is not in {folder}: {some(lost)}; {remedy(dataset)}")


def _visible(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(os.listdir(folder)) if not name.startswith(".")]


def _annotation(path: Path) -> _Annotation:
    """What an XML file of VOC's says. Parts of objects, which have boxes too, are passed over."""
    try:
        tree = ElementTree.parse(path).getroot()
        width, height = _numbers(tree, "size/width", "size/height")
        return _Annotation(width, height, [_object(each) for each in tree.iterfind("object")])
    except Exception as error:  # what is damaged can raise anything
        raise BadInput(f"{path} is damaged ({one_line(error)}); {remedy('voc')}") from None


def _object(node: ElementTree.Element) -> _Object:
    corners = _numbers(node, *(f"bndbox/{side}" for side in ("xmin", "ymin", "xmax", "ymax")))
    left, top, right, bottom = corners
    difficult = node.findtext("difficult", "0").strip() == "1"
    return _Object(_text(node, "name"), (left - 1, top - 1, right, bottom), difficult)


def _numbers(node: ElementTree.Element, *tags: str) -> list[float]:
    return [float(_text(node, tag)) for tag in tags]


def _text(node: ElementTree.Element, tag: str) -> str:
    if not (text := node.findtext(tag, "").strip()):
        raise BadInput(f"{node.tag} has no {tag}")
    return text


def _instances(content: Any) -> tuple[dict[str, _Annotation], tuple[str, ...]]:
    """What a JSON file of COCO's says of each file name, and the names of the classes."""
    images = {each["id"]: each for each in content["images"]}
    names = {each["id"]: each["name"] for each in content["categories"]}
    for kind, known in ("image", images), ("category", names):
        found = {each[f"{kind}_id"] for each in content["annotations"]}
        if lost := sorted(found - known.keys()):
            raise BadInput(f"{kind}_id of annotations, but not listed: {some(lost)}")
    objects = defaultdict[int, list[_Object]](list)
    for each in content["annotations"]:
        left, top, width, height = each["bbox"]
        box, crowd = (left, top, left + width, top + height), bool(each.get("iscrowd", 0))
        objects[each["image_id"]].append(_Object(names[each["category_id"]], box, crowd))
    annotations = {
        each["file_name"]: _Annotation(each["width"], each["height"], objects[number])
        for number, each in images.items()
    }
    return annotations, tuple(names[number] for number in sorted(names))


def _scene(image: Path, annotation: _Annotation, classes: Sequence[str]) -> Scene:
    objects = annotation.objects
    boxes = torch.tensor([each.box for each in objects]).float().view(-1, 4)
    _check_inside(image, boxes, annotation)
    return Scene(
        image,
        boxes,
        torch.tensor([classes.index(each.name) for each in objects], dtype=torch.int64),
        torch.tensor([each.ignored for each in objects], dtype=torch.bool),
    )


def _check_inside(image: Path, boxes: Tensor, annotation: _Annotation) -> None:
    """Raises BadInput if a box reaches more than a pixel, as rounding may make it, beyond an edge."""
    low, high = boxes[:, :2], boxes[:, 2:]
    size = torch.tensor([annotation.width, annotation.height])
    if not ((low >= -1) & (low <= high) & (high <= size + 1)).all():
        where = f"{annotation.width:g} x {annotation.height:g} pixels"
        raise BadInput(f"{image} ({where}) has a box that is not in it; its annotation is wrong")


def _voc_archive(year: int, name: str, md5: str) -> Archive:
    hosts = ("https://thor.robots.ox.ac.uk/pascal/VOC", "http://host.robots.ox.ac.uk/pascal/VOC")
    return Archive(name, tuple(f"{host}/voc{year}/{name}" for host in hosts), f"md5:{md5}")


def _coco_archive(folder: str, name: str, md5: str) -> Archive:
    hosts = ("http://images.cocodataset.org", "https://s3.amazonaws.com/images.cocodataset.org")
    return Archive(name, tuple(f"{host}/{folder}/{name}" for host in hosts), f"md5:{md5}", "coco")


SOURCES = (
    Source(
        "voc",
        "Pascal VOC 2007 and 2012 (Everingham et al., The Pascal Visual Object Classes, 2010)",
        "detection",
        check_voc,
        "VOCdevkit",
        (
            _voc_archive(2007, "VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
            _voc_archive(2007, "VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
            _voc_archive(2012, "VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd"),
        ),
    ),
    Source(
        "coco",
        "COCO 2017 (Lin et al., 1405.0312)",
        "detection",
        check_coco,
        "coco",
        (
            _coco_archive(
                "annotations", "annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c"
            ),
            _coco_archive("zips", "val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
            _coco_archive("zips", "train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
        ),
    ),
)
