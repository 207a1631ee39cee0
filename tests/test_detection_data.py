"""Images with boxes, as VOC and COCO publish them: what is read, and what is refused, and why."""

import json
import re
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
from mixbench.bench.data.detection import coco, known, require, scenes, voc
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
    assert second.areas.tolist() == [9, 199.5]
    assert third.boxes.shape == (0, 4)
    for scene in (first, second, third):
        kinds = scene.boxes.dtype, scene.labels.dtype, scene.ignored.dtype
        assert kinds == (torch.float32, torch.int64, torch.bool)
        assert len(scene.boxes) == len(scene.labels) == len(scene.ignored) == len(scene.areas)


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
    assert first.areas.tolist() == [200, 0]
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
    "a file listed twice": (
        rewrite(lambda content: content["images"][1].update(file_name="000000000009.jpg")),
        r"images listed more than once: 000000000009.jpg",
    ),
    "an area that is no number": (
        rewrite(lambda content: content["annotations"][0].update(area=None)),
        "instances_train2017.json is damaged",
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
        assert scene.areas.tolist() == pytest.approx([each["area"] for each in mine])
        assert scene.image.exists()


def test_a_category_may_be_named_by_a_number(birds: Path) -> None:
    rewrite(lambda content: content["categories"][0].update(name=7))(birds)
    assert coco(birds, "train")[1] == ("zebra", "7")


def test_cocos_areas_are_those_of_the_outlines_where_they_are_annotated(birds: Path) -> None:
    rewrite(lambda content: content["annotations"][0].update(area=77.5))(birds)
    assert coco(birds, "train")[0][0].areas.tolist() == [77.5, 0]


@pytest.fixture
def both_years(devkit: Path) -> Path:
    folder = devkit / "VOCdevkit" / "VOC2012"
    annotate(folder, "2008_000001", thing("sofa", (1, 1, 2, 2)))
    listed(folder, "trainval", "2008_000001")
    return devkit


def named(root: Path, kind: str) -> str:
    """What is named so below ``root``, as a set of the user's own."""
    return f"voc:{root}/VOCdevkit/VOC2007" if kind == "voc" else f"coco:{root}/coco"


def test_voc0712_trains_on_both_years_and_is_tested_on_the_first(both_years: Path) -> None:
    found = scenes("voc0712", both_years)
    images = [str(scene.image.relative_to(both_years / "VOCdevkit")) for scene in found.train]
    first, second = "VOC2007/JPEGImages/00000{}.jpg", "VOC2012/JPEGImages/2008_000001.jpg"
    assert images == [*(first.format(i) for i in (2, 1, 3)), second]
    assert [scene.image.name for scene in found.test] == ["000004.jpg"]
    assert found.classes == detection.VOC_CLASSES
    assert found.classes[found.train[3].labels[0]] == "sofa"


def test_coco_is_tested_on_val(birds: Path) -> None:
    found = scenes("coco", birds)
    assert found.classes == ("zebra", "bird")
    assert [scene.image.parent.name for scene in found.train] == ["train2017"] * 2
    assert [scene.image.name for scene in found.test] == ["000000000005.jpg", "000000000006.jpg"]


def test_a_folder_of_ones_own_has_its_own_classes(devkit: Path, tmp_path: Path) -> None:
    annotate(devkit / "VOCdevkit" / "VOC2007", "000004", thing("raccoon", (1, 1, 2, 2)))
    found = scenes(named(devkit, "voc"), tmp_path / "nowhere")
    assert found.classes == ("cat", "dog", "person", "raccoon")
    assert [len(found.train), len(found.test)] == [3, 1]
    assert found.test[0].labels.tolist() == [3]


def test_a_folder_is_the_same_by_whatever_name(birds: Path, both_years: Path) -> None:
    own, published = scenes(named(birds, "coco"), Path("nowhere")), scenes("coco", birds)
    for one, other in zip(
        [*own.train, *own.test], [*published.train, *published.test], strict=True
    ):
        assert one.image == other.image and one.boxes.equal(other.boxes)
    test = scenes(named(both_years, "voc"), Path("nowhere")).test
    assert test[0].image == scenes("voc0712", both_years).test[0].image


def test_a_path_may_start_at_home(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(birds))
    require("coco:~/coco", Path("nowhere"))
    assert len(scenes("coco:~/coco", Path("nowhere")).train) == 2


LAID_OUT = {
    "voc": "VOC2007 should hold Annotations, JPEGImages and ImageSets/Main/{trainval,test}.txt",
    "coco": "coco should hold annotations/instances_{train,val}2017.json, train2017 and val2017",
}
PARTS = [
    ("voc0712", "VOCdevkit/VOC2007/Annotations"),
    ("voc0712", "VOCdevkit/VOC2007/JPEGImages"),
    ("voc0712", "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt"),
    ("voc0712", "VOCdevkit/VOC2007/ImageSets/Main/test.txt"),
    ("voc0712", "VOCdevkit/VOC2012"),
    ("voc0712", "VOCdevkit/VOC2012/ImageSets/Main/trainval.txt"),
    ("voc:", "VOCdevkit/VOC2007"),
    ("voc:", "VOCdevkit/VOC2007/JPEGImages"),
    ("voc:", "VOCdevkit/VOC2007/ImageSets/Main/test.txt"),
    ("coco", "coco"),
    ("coco", "coco/val2017"),
    ("coco:", "coco/train2017"),
    ("coco:", "coco/annotations/instances_val2017.json"),
]


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_a_missing_part_is_named_with_what_to_do(
    both_years: Path, birds: Path, name: str, part: str
) -> None:
    kind = name[:4].rstrip("0:")
    name, fix = (
        (named(both_years, kind), LAID_OUT[kind])
        if name.endswith(":")
        else (name, f"get it with: mixbench data get {kind}")
    )
    require(name, both_years)
    away(*part.split("/"))(both_years)
    for look in (require, scenes):
        with pytest.raises(BadInput, match=f"{part}.* is missing; .*{re.escape(fix)}") as error:
            look(name, both_years)
        assert "\n" not in str(error.value)


def test_to_require_opens_nothing(devkit: Path) -> None:
    swap("</object>", "<")(devkit)
    require(named(devkit, "voc"), devkit)
    with pytest.raises(BadInput, match=r"000001.xml is damaged .*; .*VOC2007 should hold Annot"):
        scenes(named(devkit, "voc"), devkit)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("voc0721", "no set of scenes 'voc0721'; did you mean voc0712"),
        ("shapes", "did you mean shapes-voc or shapes-coco"),
        ("yolo:there", "; there are: coco, coco:PATH, shapes-coco, shapes-voc, voc0712, voc:PATH"),
    ],
)
def test_an_unknown_name_is_told_what_there_is(tmp_path: Path, name: str, hint: str) -> None:
    assert not known(name)
    for look in (require, scenes):
        with pytest.raises(BadInput, match=hint):
            look(name, tmp_path)


def test_names_are_known_whether_or_not_they_are_there() -> None:
    for name in ("voc0712", "coco", "shapes-voc", "shapes-coco", "voc:nowhere", "coco:nowhere"):
        assert known(name)


@pytest.mark.parametrize("name", ["shapes-voc", "shapes-coco"])
def test_shapes_are_drawn_when_they_are_required(tmp_path: Path, name: str) -> None:
    require(name, tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["shapes"]
    (root := tmp_path / "a file").touch()
    with pytest.raises(BadInput, match="can't be written"):
        require(name, root)


def test_train_and_test_should_have_the_same_classes(birds: Path) -> None:
    def other(content: dict[str, Any]) -> None:
        content["categories"][0]["name"] = "fish"

    rewrite(other)(birds)
    why = "coco train and .*coco val should have the same classes; only one of them has bird, fish"
    with pytest.raises(BadInput, match=why):
        scenes("coco", birds)
    rewrite(lambda content: content["categories"].append({"id": 9, "name": "bird"}))(birds)
    with pytest.raises(BadInput, match="the same classes"):
        scenes("coco", birds)


def test_train_and_test_should_have_their_classes_in_the_same_order(birds: Path) -> None:
    def swapped(content: dict[str, Any]) -> None:
        first, second = content["categories"]
        first["name"], second["name"] = second["name"], first["name"]

    rewrite(swapped)(birds)
    with pytest.raises(BadInput, match="the same classes; they are in another order"):
        scenes("coco", birds)


def test_both_years_should_have_the_same_classes(both_years: Path) -> None:
    annotate(both_years / "VOCdevkit" / "VOC2012", "2008_000001", thing("raccoon", (1, 1, 2, 2)))
    with pytest.raises(BadInput, match=r"VOC2012 trainval and .*VOC2007 test should have the same"):
        scenes("voc0712", both_years)


def test_scenes_without_an_object_on_either_side_are_refused(devkit: Path, birds: Path) -> None:
    folder = devkit / "VOCdevkit" / "VOC2007"
    annotate(folder, "000004", thing("cat", (1, 1, 2, 2), "<difficult>1</difficult>"))
    why = "voc:.* has 1 images to test on, and no objects there"
    with pytest.raises(BadInput, match=why):
        scenes(named(devkit, "voc"), devkit)
    rewrite(lambda content: content["annotations"].clear())(birds)
    with pytest.raises(BadInput, match="coco has 2 images to train on, and no objects there"):
        scenes("coco", birds)


@needs("raccoon-voc")
def test_the_raccoons_are_a_set_of_ones_own() -> None:
    name = f"voc:{SHARED / 'raccoon-voc' / 'VOC2007'}"
    require(name, Path("nowhere"))
    found = scenes(name, Path("nowhere"))
    assert (len(found.train), len(found.test), found.classes) == (150, 50, ("raccoon",))


@needs("coco-mini")
def test_the_real_coco_is_a_set_of_ones_own() -> None:
    name = f"coco:{SHARED / 'coco-mini'}"
    require(name, Path("nowhere"))
    found = scenes(name, Path("nowhere"))
    assert (len(found.train), len(found.test), len(found.classes)) == (64, 40, 80)
