"""Drawn shapes: pictures to classify, and scenes in the layouts of VOC and COCO."""

import hashlib
import inspect
import json
import shutil
import signal
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mixbench.bench import data
from mixbench.bench.data import Dataset, Images, _shapes, shapes
from mixbench.bench.data._shapes import KINDS, Box, Shape, box, lone, mask, picture, several
from mixbench.bench.data.detection import scenes
from mixbench.bench.data.shapes import HEIGHT, MOST, WIDTH, Drawn, drawn
from mixbench.bench.spec import BadInput

NUMBERS = range(1, shapes.TRAIN_SCENES + shapes.TEST_SCENES + 1)
SMALL, MEDIUM = 32**2, 96**2


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return data.read("shapes", Path())


@pytest.fixture(scope="module")
def all_drawn() -> list[Drawn]:
    return [drawn(number) for number in NUMBERS]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three scenes to train on and two to test on are all there are."""
    monkeypatch.setattr(shapes, "TRAIN_SCENES", 3)
    monkeypatch.setattr(shapes, "TEST_SCENES", 2)


def area(box: Box) -> int:
    left, top, right, bottom = box
    return max(right - left, 0) * max(bottom - top, 0)


def iou(one: Box, other: Box) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    both = area((*low, *high))
    return both / (area(one) + area(other) - both)


def digest(*arrays: NDArray[np.uint8]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


@pytest.mark.parametrize(("split", "count"), [("train", 2_400), ("test", 300)])
def test_there_are_as_many_pictures_of_each_shape(dataset: Dataset, split: str, count: int) -> None:
    images = getattr(dataset, split)
    assert isinstance(images, Images)
    assert images.x.shape == (count, 3, 64, 64) and images.x.dtype == torch.uint8
    assert images.x.is_contiguous() and images.y.dtype == torch.int64
    assert images.y.bincount().tolist() == [count // 6] * 6 and dataset.classes == len(KINDS)
    dataset.check(batch=64)


def test_no_picture_is_there_twice(dataset: Dataset) -> None:
    assert isinstance(dataset.train, Images) and isinstance(dataset.test, Images)
    x = torch.cat([dataset.train.x, dataset.test.x])
    assert len({image.tobytes() for image in x.numpy()}) == len(x)


def test_the_source_needs_no_files_and_says_what_there_is(tmp_path: Path) -> None:
    source = data.source("shapes")
    assert (source.where, source.use) == ("", "classification")
    assert source.check(tmp_path) == "2,400 to train, 300 to test, 6 classes"
    assert not [*tmp_path.iterdir()]


def test_every_machine_draws_the_same(dataset: Dataset, all_drawn: list[Drawn]) -> None:
    assert isinstance(dataset.train, Images) and isinstance(dataset.test, Images)
    assert digest(dataset.train.x.numpy(), dataset.test.x.numpy()) == "c28b14690259d976"
    assert digest(*(scene.pixels for scene in all_drawn)) == "5d00c7203221eed8"


def test_a_scene_is_the_same_whatever_was_drawn_before(all_drawn: list[Drawn]) -> None:
    again = drawn(17)
    assert np.array_equal(again.pixels, all_drawn[16].pixels)
    assert again.objects == all_drawn[16].objects


TIGHT = {
    "a circle": (Shape("circle", 50, 40, 20), (30, 20, 70, 60)),
    "a ring": (Shape("ring", 50, 40, 20), (30, 20, 70, 60)),
    "a cross": (Shape("cross", 50, 40, 20), (31, 21, 69, 59)),
    "a square on its side": (Shape("square", 50, 40, 20 * 2**0.5), (30, 20, 70, 60)),
    "a square on its corner": (Shape("square", 50.5, 40.5, 20.2, 45), (30, 20, 71, 61)),
    "a triangle on its corner": (Shape("triangle", 50, 40, 40, 90), (16, 1, 84, 60)),
}


@pytest.mark.parametrize(("shape", "extent"), TIGHT.values(), ids=TIGHT)
def test_a_box_spans_what_geometry_says(shape: Shape, extent: Box) -> None:
    assert box(shape, 120, 90) == extent


def test_masks_have_the_areas_of_their_shapes() -> None:
    sin, cos = np.sin(np.pi / 5), np.cos(np.pi / 5)
    inner = np.cos(2 * np.pi / 5) / cos  # radius of a star's inner corners
    areas = {
        "circle": np.pi,
        "ring": np.pi * (1 - 0.5**2),
        "square": 2.0,
        "triangle": 3 * 3**0.5 / 4,
        "star": 5 * inner * sin,
        "cross": 4 * (2 * 0.95 * 0.31 - 0.31**2),
    }
    assert areas.keys() == set(KINDS)
    for kind, expected in areas.items():
        found = mask(Shape(kind, 100.3, 99.8, 90, 13), 200, 200).sum() / 90**2
        assert found == pytest.approx(expected, rel=0.005), kind


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 2**32), st.sampled_from([24, 64, 100]))
def test_a_lone_shape_lies_in_the_picture_and_is_no_dot(kind: str, seed: int, size: int) -> None:
    shape = lone(np.random.default_rng(seed), kind, size)
    left, top, right, bottom = box(shape, size, size)
    assert 0 < left < right < size and 0 < top < bottom < size
    assert mask(shape, size, size).sum() > 0.025 * size**2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_boxes_are_tight_and_inside_and_hardly_overlap(seed: int) -> None:
    found = several(np.random.default_rng(seed), MOST, WIDTH, HEIGHT)
    assert 1 <= len(found) <= MOST
    for shape, (left, top, right, bottom) in found.items():
        assert 0 < left < right < WIDTH and 0 < top < bottom < HEIGHT
        inside = mask(shape, WIDTH, HEIGHT)
        within = inside[top:bottom, left:right]
        assert within.sum() == inside.sum()
        assert all(edge.any() for edge in (within[0], within[-1], within[:, 0], within[:, -1]))
    for one, other in combinations(found, 2):
        assert iou(found[one], found[other]) < 0.2
        masks = [mask(shape, WIDTH, HEIGHT) for shape in (one, other)]
        assert (masks[0] & masks[1]).sum() < 0.2 * min(each.sum() for each in masks)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 2**32))
def test_a_shape_is_seen_where_its_mask_is_and_nowhere_else(kind: str, seed: int) -> None:
    """Beside the shadow, which is soft and lies around it."""
    shape = Shape(kind, 40, 30, 16, 20)
    bare, drawn = (picture(np.random.default_rng(seed), shown, 80, 60) for shown in ([], [shape]))
    assert bare.shape == drawn.shape == (60, 80, 3)
    inside = mask(shape, 80, 60)
    margin = np.hypot(np.arange(80) + 0.5 - 40, np.arange(60)[:, None] + 0.5 - 30) > 24
    change = abs(drawn.astype(int) - bare).max(2)
    assert np.median(change[inside]) > 30
    assert np.median(change[margin]) < 20


def test_objects_are_of_all_sizes_kinds_and_numbers_in_both_splits(
    all_drawn: list[Drawn],
) -> None:
    train, test = all_drawn[: shapes.TRAIN_SCENES], all_drawn[shapes.TRAIN_SCENES :]
    assert (len(train), len(test)) == (120, 60)
    for split in (train, test):
        areas = np.array([area(box) for scene in split for _, box in scene.objects])
        parts = areas < SMALL, (areas > SMALL) & (areas < MEDIUM), areas > MEDIUM
        assert min(part.sum() for part in parts) >= 5
        assert {name for scene in split for name, _ in scene.objects} == set(KINDS)
        assert {len(scene.objects) for scene in split} == {1, 2, 3, 4}


def test_both_layouts_hold_what_was_drawn(tmp_path: Path, all_drawn: list[Drawn]) -> None:
    voc, coco = (scenes(f"shapes-{layout}", tmp_path) for layout in ("voc", "coco"))
    assert voc.classes == coco.classes == KINDS
    assert (len(voc.train), len(voc.test)) == (120, 60)
    pairs = zip([*voc.train, *voc.test], [*coco.train, *coco.test], all_drawn, strict=True)
    for one, other, scene in pairs:
        assert one.image.read_bytes() == other.image.read_bytes()
        assert one.boxes.equal(other.boxes) and one.labels.equal(other.labels)
        assert one.boxes.tolist() == [[*box] for _, box in scene.objects]
        assert [KINDS[label] for label in one.labels] == [name for name, _ in scene.objects]
        assert not one.ignored.any() and not other.ignored.any()
    first = np.asarray(Image.open(voc.train[0].image)).astype(int)
    assert first.shape == (HEIGHT, WIDTH, 3)
    assert abs(first - all_drawn[0].pixels).mean() < 8


@pytest.mark.usefixtures("few")
def test_annotations_are_as_published_ones(tmp_path: Path) -> None:
    folder, scene = shapes.scenes(tmp_path), drawn(4)
    tree = ElementTree.parse(folder / "VOCdevkit/VOC2007/Annotations/000004.xml").getroot()
    assert tree.findtext("filename") == "000004.jpg"
    assert [side.text for side in tree.iterfind("size/*")] == ["160", "128", "3"]
    content = json.loads((folder / "coco/annotations/instances_val2017.json").read_text())
    assert [image["id"] for image in content["images"]] == [4, 5]
    assert content["images"][0]["file_name"] == "000000000004.jpg"
    assert [each["id"] for each in content["annotations"]] == [
        *range(1, 1 + len(drawn(4).objects) + len(drawn(5).objects))
    ]
    mine = [each for each in content["annotations"] if each["image_id"] == 4]
    for (name, extent), node, each in zip(
        scene.objects, tree.iterfind("object"), mine, strict=True
    ):
        left, top, right, bottom = extent
        corners = [int(side.text or "") for side in node.iterfind("bndbox/*")]
        assert corners == [left + 1, top + 1, right, bottom]
        assert node.findtext("name") == name == KINDS[each["category_id"] - 1]
        assert each["bbox"] == [left, top, right - left, bottom - top]
        assert each["area"] == area(extent)


@pytest.mark.usefixtures("few")
def test_scenes_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shapes.scenes(tmp_path)
    monkeypatch.setattr(shapes, "drawn", None)
    assert shapes.scenes(tmp_path) == folder


@pytest.mark.usefixtures("few")
def test_another_drawing_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shapes.scenes(tmp_path)
    monkeypatch.setattr(shapes, "_key", lambda: "another")
    assert shapes.scenes(tmp_path) not in (folder, None)


@pytest.mark.parametrize("module", [shapes, _shapes])
def test_the_key_stands_for_all_code_that_draws(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, fresh = inspect.getsource, shapes._key.__wrapped__
    key = fresh()
    changed = {module: "# changed"}
    monkeypatch.setattr(inspect, "getsource", lambda each: real(each) + changed.get(each, ""))
    assert shapes._key() == key != fresh()


def process(root: Path, before: str) -> subprocess.Popen[str]:
    """Another process that draws five scenes, and says how many of them it drew itself."""
    script = f"""
import os, pathlib, time
from mixbench.bench.data import shapes
shapes.TRAIN_SCENES, shapes.TEST_SCENES, count, draw = 3, 2, [], shapes.drawn
shapes.drawn = lambda number: count.append(number) or draw(number)
root = pathlib.Path({str(root)!r})
{before}
shapes.scenes(root)
print(len(count))
"""
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("few")
def test_what_a_kill_leaves_is_not_taken_for_whole(tmp_path: Path) -> None:
    killed = process(tmp_path, "shapes._write_coco = lambda *_, **__: os.kill(os.getpid(), 9)")
    assert killed.wait(60) == -signal.SIGKILL
    left = [path for path in tmp_path.rglob("*.jpg")]
    assert len(left) == 5
    whole = scenes("shapes-coco", tmp_path)
    assert (len(whole.train), len(whole.test)) == (3, 2)
    assert not any(path.exists() for path in left)
    assert len([*tmp_path.rglob("*.jpg")]) == 10


def test_of_two_processes_one_draws(tmp_path: Path) -> None:
    wait = """
(root / str(os.getpid())).touch()
while len(list(root.glob("[0-9]*"))) < 2:
    time.sleep(0.01)
"""
    both = [process(tmp_path, wait) for _ in range(2)]
    assert sorted(each.communicate(timeout=60)[0] for each in both) == ["0\n", "5\n"]
    assert len([*tmp_path.rglob("*.jpg")]) == 10


@pytest.mark.usefixtures("few")
def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(shapes, "_instances", lambda _: 1 // 0)
        shapes.scenes(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix != ".lock" and path.is_file()]
    assert shapes.scenes(tmp_path).exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "shapes").touch()
    with pytest.raises(BadInput, match=r"shapes can't be written \(.*\); name another folder"):
        shapes.scenes(tmp_path)


@pytest.mark.usefixtures("few")
def test_what_was_taken_away_can_be_drawn_anew(tmp_path: Path) -> None:
    folder = shapes.scenes(tmp_path)
    (folder / "coco/train2017/000000000002.jpg").unlink()
    with pytest.raises(BadInput, match=f"000000000002.jpg; remove {folder}, and it is drawn anew"):
        scenes("shapes-coco", tmp_path)
    shutil.rmtree(folder)
    assert len(scenes("shapes-coco", tmp_path).train) == 3
