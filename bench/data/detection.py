"""Images and objects in boxes, as Pascal VOC and COCO lay them out: published, drawn, or one's own.

ROOT/VOCdevkit/VOC<year>/ and ROOT/coco/ are read with whatever images and classes are there;
``check`` wants what was published. Shapes are drawn into ROOT/shapes/ when they are asked for.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from mixbench.bench.data import shapes
from mixbench.bench.data._layout import contents, remedy, some
from mixbench.bench.data._source import Archive, Source
from mixbench.bench.spec import BadInput, choose, one_line
from mixbench.tasks import Scene, Scenes

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


Split = tuple[list[Scene], tuple[str, ...]]
"""The scenes of a split, and the names of the classes."""


@dataclass(frozen=True)
class _Object:
    name: str
    box: tuple[float, float, float, float]
    ignored: bool
    area: float


@dataclass(frozen=True)
class _Annotation:
    width: float
    height: float
    objects: list[_Object]


def scenes(name: str, root: Path) -> Scenes:
    """Those of a set of ``NAMES``, or of a folder of the user's own, "voc:PATH" or "coco:PATH".

    "voc0712" trains on trainval of both years, and is tested on test of 2007; others on trainval
    and test, or on train2017 and val2017. "shapes-voc" and "shapes-coco" are the same scenes.

    Raises BadInput if they are unknown, missing or damaged, if train and test are of different
    classes, or if one of them has no objects.
    """
    layout, folders, fix = _place(name, root)
    train = [layout.read(folder, layout.train, fix) for folder in folders]
    test, classes = layout.read(folders[0], layout.test, fix)
    for folder, (_, others) in zip(folders, train, strict=True):
        _check_same(f"{folder} {layout.train}", others, f"{folders[0]} {layout.test}", classes)
    found = Scenes([scene for part, _ in train for scene in part], test, classes)
    for purpose, part in (("train", found.train), ("test", found.test)):
        if all(scene.ignored.all() for scene in part):
            raise BadInput(f"{name} has {len(part):,} images to {purpose} on, and no objects there")
    return found


def known(name: str) -> bool:
    """Whether it is the name of scenes; they may be missing."""
    return name in NAMES or name.startswith(OWN)


def require(name: str, root: Path) -> None:
    """Raises BadInput if they are unknown or a part is missing; of what is there, none is opened.

    What is to be drawn is drawn.
    """
    layout, folders, fix = _place(name, root)
    parts = [part for folder in folders for part in layout.parts(folder, layout.train)]
    _check_parts([*parts, *layout.parts(folders[0], layout.test)], fix)


def voc(root: Path, year: int, split: str) -> Split:
    """The scenes of ImageSets/Main/<split>.txt, and the names of the classes.

    Published boxes count pixels from 1 and include the last; so 1 is taken from left and top. The
    classes are VOC's 20, or if others are annotated, those of all annotations, sorted.

    Raises BadInput if images or annotations that are listed are missing, or damaged.
    """
    return _voc(root / "VOCdevkit" / f"VOC{year}", split, remedy("voc"))


def coco(root: Path, split: str) -> Split:
    """The scenes of annotations/instances_<split>2017.json, and the names of the classes.

    Labels count the categories in the order of their ids, which have gaps. Some images have no
    objects. Raises BadInput if images that are listed are missing, or annotations are damaged.
    """
    return _coco(root / "coco", split, remedy("coco"))


@dataclass(frozen=True)
class _Layout:
    """How a folder holds scenes.

    train, test: the names of its splits. parts: the paths that a split is read from, by folder and
    split. read: the split, by folder, split, and what to do if it is not whole. holds: all parts,
    in words.
    """

    train: str
    test: str
    parts: Callable[[Path, str], list[Path]]
    read: Callable[[Path, str, str], Split]
    holds: str


def _place(name: str, root: Path) -> tuple[_Layout, list[Path], str]:
    """How and where scenes lie, and what to do if they are not whole.

    All folders have images to train on; the first one has those to test on. What is to be drawn is
    drawn.
    """
    kind, colon, path = name.partition(":")
    if colon and kind in LAYOUTS:
        own = Path(path).expanduser()
        return LAYOUTS[kind], [own], f"{own} should hold {LAYOUTS[kind].holds}"
    choose(name, [*NAMES, *(f"{prefix}PATH" for prefix in OWN)], "set of scenes")
    if name == "voc0712":
        years = [root / "VOCdevkit" / f"VOC{year}" for year in (2007, 2012)]
        return LAYOUTS["voc"], years, remedy("voc")
    if name == "coco":
        return LAYOUTS["coco"], [root / "coco"], remedy("coco")
    (kind, inner), drawn = DRAWN[name], shapes.scenes(root)
    return LAYOUTS[kind], [drawn / inner], f"remove {drawn}, and it is drawn anew"


def _check_same(one: str, classes: Sequence[str], other: str, others: Sequence[str]) -> None:
    if classes != others:
        lone = some(sorted({*classes} ^ {*others}))
        why = f"only one of them has {lone}" if lone else "they are in another order"
        raise BadInput(f"{one} and {other} should have the same classes; {why}")


def _voc_parts(folder: Path, split: str) -> list[Path]:
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    return [folder, listing, folder / "JPEGImages", folder / "Annotations"]


def _voc(folder: Path, split: str, fix: str) -> Split:
    parts = _voc_parts(folder, split)
    _check_parts(parts, fix)
    _, listing, images, annotated = parts
    lines = listing.read_text("utf-8-sig", "surrogateescape").splitlines()
    names = [line.split()[0] for line in lines if line.strip()]
    _check_there(listing, images, [f"{name}.jpg" for name in names], fix)
    _check_there(listing, annotated, [f"{name}.xml" for name in names], fix)
    files = [path for path in _visible(annotated) if path.suffix == ".xml"]
    annotations = {path.stem: _annotation(path, fix) for path in files}
    found = {each.name for annotation in annotations.values() for each in annotation.objects}
    classes = VOC_CLASSES if found <= set(VOC_CLASSES) else tuple(sorted(found))
    return [_scene(images / f"{name}.jpg", annotations[name], classes) for name in names], classes


def _coco_parts(folder: Path, split: str) -> list[Path]:
    return [folder / "annotations" / f"instances_{split}2017.json", folder / f"{split}2017"]


def _coco(folder: Path, split: str, fix: str) -> Split:
    parts = _coco_parts(folder, split)
    _check_parts(parts, fix)
    path, images = parts
    try:
        annotations, classes = _instances(json.loads(path.read_bytes()))
    except Exception as error:  # what is damaged can raise anything
        raise BadInput(f"{path} is damaged ({one_line(error)}); {fix}") from None
    _check_there(path, images, annotations, fix)
    return [_scene(images / name, each, classes) for name, each in annotations.items()], classes


LAYOUTS = {
    "voc": _Layout(
        "trainval",
        "test",
        _voc_parts,
        _voc,
        "Annotations, JPEGImages and ImageSets/Main/{trainval,test}.txt",
    ),
    "coco": _Layout(
        "train",
        "val",
        _coco_parts,
        _coco,
        "annotations/instances_{train,val}2017.json, train2017 and val2017",
    ),
}
DRAWN = {"shapes-voc": ("voc", shapes.VOC), "shapes-coco": ("coco", shapes.COCO)}
"""The layout of what is drawn, and where in its folder it lies."""
NAMES = ("voc0712", "coco", *DRAWN)
OWN = tuple(f"{layout}:" for layout in LAYOUTS)
"""Before the path of a folder of the user's own."""


def check_voc(root: Path) -> str:
    for (year, split), published in VOC_IMAGES.items():
        found, classes = voc(root, year, split)
        _check_count(f"VOC{year} {split}", found, published)
        if classes != VOC_CLASSES:
            raise BadInput(f"VOC{year} should have VOC's {len(VOC_CLASSES)} classes, not {classes}")
    test = VOC_IMAGES[2007, "test"]
    return contents(sum(VOC_IMAGES.values()) - test, test, len(VOC_CLASSES))


def check_coco(root: Path) -> str:
    for split, published in COCO_IMAGES.items():
        found, classes = coco(root, split)
        _check_count(f"COCO {split}2017", found, published)
        if len(classes) != COCO_CLASSES:
            raise BadInput(f"COCO should have {COCO_CLASSES} classes; it has {len(classes)}")
    return contents(COCO_IMAGES["train"], COCO_IMAGES["val"], COCO_CLASSES)


def _check_count(what: str, found: Sequence[Scene], published: int) -> None:
    if len(found) != published:
        raise BadInput(f"{what} has {len(found):,} images; as published it has {published:,}")


def _check_parts(parts: Iterable[Path], fix: str) -> None:
    for path in parts:
        if not path.exists():
            raise BadInput(f"{path} is missing; {fix}")


def _check_there(listing: Path, folder: Path, names: Iterable[str], fix: str) -> None:
    there = {path.name for path in _visible(folder)}
    if lost := sorted(set(names) - there):
        raise BadInput(f"{listing} names what is not in {folder}: {some(lost)}; {fix}")


def _visible(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(os.listdir(folder)) if not name.startswith(".")]


def _annotation(path: Path, fix: str) -> _Annotation:
    """What an XML file of VOC's says. Parts of objects, which have boxes too, are passed over."""
    try:
        tree = ElementTree.parse(path).getroot()
        width, height = _numbers(tree, "size/width", "size/height")
        return _Annotation(width, height, [_object(each) for each in tree.iterfind("object")])
    except Exception as error:  # what is damaged can raise anything
        raise BadInput(f"{path} is damaged ({one_line(error)}); {fix}") from None


def _object(node: ElementTree.Element) -> _Object:
    corners = _numbers(node, *(f"bndbox/{side}" for side in ("xmin", "ymin", "xmax", "ymax")))
    left, top, right, bottom = corners
    difficult = node.findtext("difficult", "0").strip() == "1"
    area = (right - left + 1) * (bottom - top + 1)
    return _Object(_text(node, "name"), (left - 1, top - 1, right, bottom), difficult, area)


def _numbers(node: ElementTree.Element, *tags: str) -> list[float]:
    return [float(_text(node, tag)) for tag in tags]


def _text(node: ElementTree.Element, tag: str) -> str:
    if not (text := node.findtext(tag, "").strip()):
        raise BadInput(f"{node.tag} has no {tag}")
    return text


def _instances(content: Any) -> tuple[dict[str, _Annotation], tuple[str, ...]]:
    """What a JSON file of COCO's says of each file name, and the names of the classes."""
    images = {each["id"]: each for each in content["images"]}
    names = {each["id"]: str(each["name"]) for each in content["categories"]}
    for kind, known in ("image", images), ("category", names):
        found = {each[f"{kind}_id"] for each in content["annotations"]}
        if lost := sorted(found - known.keys()):
            raise BadInput(f"{kind}_id of annotations, but not listed: {some(lost)}")
    objects = defaultdict[int, list[_Object]](list)
    for each in content["annotations"]:
        left, top, width, height = map(float, each["bbox"])
        box, crowd = (left, top, left + width, top + height), bool(each.get("iscrowd", 0))
        name, area = names[each["category_id"]], float(each.get("area", width * height))
        objects[each["image_id"]].append(_Object(name, box, crowd, area))
    files = Counter(each["file_name"] for each in images.values())
    if twice := [name for name, n in files.items() if n > 1]:
        raise BadInput(f"images listed more than once: {some(twice)}")
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
        torch.tensor([each.area for each in objects]).float(),
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
