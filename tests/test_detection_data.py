"""Images with boxes, as VOC and COCO publish them: what is read, and what is refused, and why."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torchvision.datasets import VOCDetection
from torchvision.datasets.voc import DATASET_YEAR_DICT
from torchvision.ops import box_convert

from mixbench.bench.data import detection, sources
from mixbench.bench.data.detection import coco, voc
from mixbench.bench.spec import BadInput

SHARED = Path(__file__).parents[2] / "shared" / "data"

Damage = Callable[[Path], object]


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (SHARED / name).exists(), reason=f"{name} is not here")


OBJECT = """<object>
  <name>{}</name>{}<pose>Left</pose>
  <part><name>head</name>
    <bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>
  <bndbox><xmax>{}</xmax><xmin>{}</xmin><ymin>{}</ymin><ymax>{}</ymax></bndbox>
</object>"""


def thing(name: str, box: tuple[float, ...], difficult: str = "<difficult>0</difficult>") -> str:
    left, top, right, bottom = box
    return OBJECT.format(name, difficult, right, left, top, bottom)


def annotate(folder: Path, image: str, *things: str) -> None:
    """An image of 40 x 30 pixels, and what is in it."""
    for kind in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    (folder / "JPEGImages" / f"{image}.jpg").touch()
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    text = f"<annotation>{size}{''.join(things)}</annotation>"
    (folder / "Annotations" / f"{image}.xml").write_text(text)


def listed(folder: Path, split: str, *images: str) -> None:
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    path.write_text("".join(f"{image}\n" for image in images))


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    annotate(folder, "000001", thing("dog", (1, 1, 40, 30)))
    hard = thing("cat", (11.5, 5, 20, 25), "<difficult> 1 </difficult>")
    annotate(folder, "000002", thing("person", (3, 4, 5, 6), ""), hard)
    annotate(folder, "000003")
    annotate(folder, "000004", thing("aeroplane", (1, 1, 2, 2)))
    (folder / "Annotations" / "._000001.xml").write_text("hidden")
    (folder / "Annotations" / "notes.txt").write_text("no annotation")
    listed(folder, "trainval", "000002", "000001", "000003")
    listed(folder, "test", "000004")
    return tmp_path


def test_vocs_boxes_become_spans_from_zero(devkit: Path) -> None:
    (second, first, third), classes = voc(devkit, 2007, "trainval")
    assert first.image == devkit / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000001.jpg"
    assert first.boxes.tolist() == [[0, 0, 40, 30]]
    assert second.boxes.tolist() == [[2, 3, 5, 6], [10.5, 4, 20, 25]]
    assert [classes[i] for i in second.labels] == ["person", "cat"]
    assert second.ignored.tolist() == [False, True]
    assert third.boxes.shape == (0, 4)
    for scene in (first, second, third):
        kinds = scene.boxes.dtype, scene.labels.dtype, scene.ignored.dtype
        assert kinds == (torch.float32, torch.int64, torch.bool)
        assert len(scene.boxes) == len(scene.labels) == len(scene.ignored)


def test_vocs_classes_are_the_same_whatever_a_split_has(devkit: Path) -> None:
    assert voc(devkit, 2007, "trainval")[1] == voc(devkit, 2007, "test")[1]
    classes = voc(devkit, 2007, "test")[1]
    assert (len(classes), list(classes)) == (20, sorted(classes))
    assert classes[0] == "aeroplane" and classes[-1] == "tvmonitor"


def test_other_classes_are_those_of_all_annotations(devkit: Path) -> None:
    folder = devkit / "VOCdevkit" / "VOC2007"
    annotate(folder, "000004", thing("raccoon", (1, 1, 2, 2)))
    (_, dog, _), classes = voc(devkit, 2007, "trainval")
    assert classes == ("cat", "dog", "person", "raccoon")
    assert dog.labels.tolist() == [1]
    ((raccoon,), again) = voc(devkit, 2007, "test")
    assert again == classes and raccoon.labels.tolist() == [3]


def annotation(root: Path) -> Path:
    return root / "VOCdevkit" / "VOC2007" / "Annotations" / "000001.xml"


def swap(old: str, new: str) -> Damage:
    def damage(root: Path) -> None:
        text = annotation(root).read_text()
        assert old in text
        annotation(root).write_text(text.replace(old, new))

    return damage


def away(*parts: str) -> Damage:
    def damage(root: Path) -> None:
        path = root.joinpath(*parts)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


REFUSED_VOC: dict[str, tuple[Damage, str]] = {
    "nothing": (away("VOCdevkit"), "VOC2007 is missing; get it with: mixbench data get voc"),
    "no list": (
        away("VOCdevkit", "VOC2007", "ImageSets", "Main", "trainval.txt"),
        "trainval.txt is missing; get it",
    ),
    "no images": (away("VOCdevkit", "VOC2007", "JPEGImages"), "JPEGImages is missing; get it"),
    "a missing image": (
        away("VOCdevkit", "VOC2007", "JPEGImages", "000003.jpg"),
        "trainval.txt names what is not in .*JPEGImages: 000003.jpg; get it with",
    ),
    "a missing annotation": (
        away("VOCdevkit", "VOC2007", "Annotations", "000003.xml"),
        "trainval.txt names what is not in .*Annotations: 000003.xml; get it with",
    ),
    "no XML": (swap("</object>", "<"), r"000001.xml is damaged \(ParseError: "),
    "no size": (swap("width>", "w>"), r"000001.xml is damaged \(annotation has no size/width\)"),
    "no name": (swap("dog", " "), r"000001.xml is damaged \(object has no name\)"),
    "no side": (swap("<xmin>1<", "<xmin><"), r"damaged \(object has no bndbox/xmin\)"),
    "no number": (swap("<xmin>1<", "<xmin>one<"), r"damaged \(ValueError: .*'one'\)"),
    "a box beyond the edge": (
        swap(">40</xmax>", ">42</xmax>"),
        r"000001.jpg \(40 x 30 pixels\) has a box that is not in it",
    ),
    "a box before the edge": (swap("<ymin>1<", "<ymin>-1<"), "has a box that is not in it"),
    "no place": (swap("<xmin>1<", "<xmin>nan<"), "has a box that is not in it"),
}


@pytest.mark.parametrize(("damage", "why"), REFUSED_VOC.values(), ids=REFUSED_VOC)
def test_what_is_missing_or_wrong_in_voc_is_named(devkit: Path, damage: Damage, why: str) -> None:
    damage(devkit)
    for look in (lambda: voc(devkit, 2007, "trainval"), lambda: sources()["voc"].check(devkit)):
        with pytest.raises(BadInput, match=why) as error:
            look()
        assert "\n" not in str(error.value)


def test_a_box_may_be_a_pixel_off(devkit: Path) -> None:
    swap("<xmin>1<", "<xmin>0<")(devkit)
    swap(">30</ymax>", ">31</ymax>")(devkit)
    assert voc(devkit, 2007, "trainval")[0][1].boxes.tolist() == [[-1, 0, 40, 31]]


def test_a_box_inside_out_is_refused(devkit: Path) -> None:
    swap(">40</xmax>", ">0</xmax>")(devkit)
    swap("<xmin>1<", "<xmin>2<")(devkit)
    with pytest.raises(BadInput, match="has a box that is not in it"):
        voc(devkit, 2007, "trainval")


def test_check_counts_vocs_images(devkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="VOC2007 trainval has 3 images; as published it has 5,011"):
        sources()["voc"].check(devkit)
    folder = devkit / "VOCdevkit" / "VOC2012"
    annotate(folder, "2008_000001", thing("sofa", (1, 1, 2, 2)))
    listed(folder, "trainval", "2008_000001")
    counts = {(2007, "trainval"): 3, (2012, "trainval"): 1, (2007, "test"): 1}
    monkeypatch.setattr(detection, "VOC_IMAGES", counts)
    assert sources()["voc"].check(devkit) == "4 to train, 1 to test, 20 classes"
    annotate(folder, "2008_000001", thing("raccoon", (1, 1, 2, 2)))
    with pytest.raises(BadInput, match=r"VOC2012 should have VOC's 20 classes, not .*raccoon"):
        sources()["voc"].check(devkit)


def instances(split: str) -> dict[str, Any]:
    """Two images of 40 x 30 pixels, one without objects; categories with a gap, not in order."""
    first, objects = {"train": 9, "val": 5}[split], [(7, 1.5, 2, 10, 20, 0), (3, 0, 0, 40, 0, 1)]
    return {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i:012}.jpg", "width": 40, "height": 30}
            for i in (first, first + 1)
        ],
        "annotations": [
            {"id": i, "image_id": first, "category_id": kind, "bbox": box, "iscrowd": crowd}
            for i, (kind, *box, crowd) in enumerate(objects)
        ],
        "categories": [{"id": 7, "name": "bird"}, {"id": 3, "name": "zebra"}],
    }


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        content = instances(split)
        path = tmp_path / "coco" / "annotations" / f"instances_{split}2017.json"
        path.write_text(json.dumps(content))
        (tmp_path / "coco" / f"{split}2017").mkdir()
        for image in content["images"]:
            (tmp_path / "coco" / f"{split}2017" / image["file_name"]).touch()
    return tmp_path


def test_cocos_boxes_become_corners_and_categories_labels(birds: Path) -> None:
    (first, second), classes = coco(birds, "val")
    assert classes == ("zebra", "bird")
    assert first.image == birds / "coco" / "val2017" / "000000000005.jpg"
    assert first.boxes.tolist() == [[1.5, 2, 11.5, 22], [0, 0, 40, 0]]
    assert first.labels.tolist() == [1, 0]
    assert first.ignored.tolist() == [False, True]
    assert second.boxes.shape == (0, 4) and second.labels.dtype == torch.int64
    assert second.image.name == "000000000006.jpg"


def rewrite(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(root: Path) -> None:
        content = instances("train")
        change(content)
        path = root / "coco" / "annotations" / "instances_train2017.json"
        path.write_text(json.dumps(content))

    return damage


def cut(root: Path) -> None:
    path = root / "coco" / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text()[:-1])


REFUSED_COCO: dict[str, tuple[Damage, str]] = {
    "nothing": (
        away("coco"),
        "instances_train2017.json is missing; get it with: mixbench data get",
    ),
    "no images": (away("coco", "train2017"), "train2017 is missing; get it with: mixbench data"),
    "a missing image": (
        away("coco", "train2017", "000000000010.jpg"),
        "train2017.json names what is not in .*train2017: 000000000010.jpg; get it with",
    ),
    "no JSON": (cut, r"instances_train2017.json is damaged \(JSONDecodeError: "),
    "no categories": (
        rewrite(lambda content: content.pop("categories")),
        r"damaged \(KeyError: 'categories'\); get it with: mixbench data get coco",
    ),
    "an unknown image": (
        rewrite(lambda content: content["annotations"][0].update(image_id=8)),
        r"damaged \(image_id of annotations, but not listed: 8\)",
    ),
    "an unknown category": (
        rewrite(lambda content: content["annotations"][0].update(category_id=8)),
        r"damaged \(category_id of annotations, but not listed: 8\)",
    ),
    "three numbers": (
        rewrite(lambda content: content["annotations"][0].update(bbox=[1, 2, 3])),
        r"damaged \(ValueError: ",
    ),
    "a box beyond the edge": (
        rewrite(lambda content: content["annotations"][0].update(bbox=[1, 2, 3, 40])),
        r"000000000009.jpg \(40 x 30 pixels\) has a box that is not in it",
    ),
    "a negative width": (
        rewrite(lambda content: content["annotations"][0].update(bbox=[9, 2, -3, 4])),
        "000000000009.jpg .* has a box that is not in it",
    ),
}


@pytest.mark.parametrize(("damage", "why"), REFUSED_COCO.values(), ids=REFUSED_COCO)
def test_what_is_missing_or_wrong_in_coco_is_named(birds: Path, damage: Damage, why: str) -> None:
    damage(birds)
    for look in (lambda: coco(birds, "train"), lambda: sources()["coco"].check(birds)):
        with pytest.raises(BadInput, match=why) as error:
            look()
        assert "\n" not in str(error.value)


def test_check_counts_cocos_images(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"COCO train2017 has 2 images; .* it has 118,287"):
        sources()["coco"].check(birds)
    monkeypatch.setattr(detection, "COCO_IMAGES", {"train": 2, "val": 2})
    with pytest.raises(BadInput, match="COCO should have 80 classes; it has 2"):
        sources()["coco"].check(birds)
    monkeypatch.setattr(detection, "COCO_CLASSES", 2)
    assert sources()["coco"].check(birds) == "2 to train, 2 to test, 2 classes"


@pytest.mark.parametrize("key", ["2007", "2007-test", "2012"])
def test_vocs_archives_are_those_that_torchvision_knows(key: str) -> None:
    known = DATASET_YEAR_DICT[key]
    archives = {archive.name: archive for archive in sources()["voc"].archives}
    archive = archives[known["filename"]]
    assert (archive.urls[0], archive.digest) == (known["url"], f"md5:{known['md5']}")
    assert all(url.endswith(f"/{archive.name}") for url in archive.urls)


def test_cocos_archives_unpack_beside_each_other() -> None:
    archives = sources()["coco"].archives
    assert {archive.into for archive in archives} == {"coco"}
    assert all(url.endswith(f"/{archive.name}") for archive in archives for url in archive.urls)


@needs("raccoon-voc")
@pytest.mark.parametrize(("split", "images"), [("trainval", 150), ("test", 50)])
def test_the_raccoons_are_as_torchvision_reads_them(
    tmp_path: Path, split: str, images: int
) -> None:
    (tmp_path / "VOCdevkit").symlink_to(SHARED / "raccoon-voc")
    scenes, classes = voc(tmp_path, 2007, split)
    expected = VOCDetection(str(tmp_path), "2007", split)
    assert (classes, len(scenes)) == (("raccoon",), images)
    for scene, image, path in zip(scenes, expected.images, expected.annotations, strict=True):
        assert str(scene.image) == image
        content = VOCDetection.parse_voc_xml(ElementTree.parse(path).getroot())["annotation"]
        boxes = [each["bndbox"] for each in content["object"]]
        sides = ("xmin", "ymin", "xmax", "ymax")
        published = torch.tensor([[float(box[side]) for side in sides] for box in boxes])
        assert scene.boxes.equal(published - torch.tensor([1.0, 1, 0, 0]))
        assert not scene.labels.any()


@needs("coco-mini")
@pytest.mark.parametrize(
    ("split", "images", "objects", "crowds"), [("train", 64, 549, 5), ("val", 40, 369, 4)]
)
def test_the_real_coco_is_read(
    tmp_path: Path, split: str, images: int, objects: int, crowds: int
) -> None:
    (tmp_path / "coco").symlink_to(SHARED / "coco-mini")
    scenes, classes = coco(tmp_path, split)
    assert (len(scenes), len(classes), classes[0], classes[-1]) == (
        images,
        80,
        "person",
        "toothbrush",
    )
    assert sum(len(scene.boxes) for scene in scenes) == objects
    assert sum(int(scene.ignored.sum()) for scene in scenes) == crowds
    path = tmp_path / "coco" / "annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text())
    number = {image["file_name"]: image["id"] for image in content["images"]}
    name = {each["id"]: each["name"] for each in content["categories"]}
    for scene in scenes:
        mine = [a for a in content["annotations"] if a["image_id"] == number[scene.image.name]]
        boxes = torch.tensor([each["bbox"] for each in mine]).view(-1, 4)
        torch.testing.assert_close(scene.boxes, box_convert(boxes, "xywh", "xyxy"))
        assert [classes[i] for i in scene.labels] == [name[each["category_id"]] for each in mine]
        assert scene.image.exists()
