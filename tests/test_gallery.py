"""What a run's network can be shown: splits, images of other classes, corrupted images."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixbench.bench.data import (
    Dataset,
    Files,
    Gallery,
    Held,
    Images,
    Streamed,
    _gallery,
    digits,
    shapes,
)
from mixbench.bench.data._gallery import Overlap
from mixbench.bench.spec import BadInput
from mixbench.tasks import Inapplicable


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    dataset = digits.read(tmp_path).hold_out(0.1)
    data = Held(dataset, batch=64, crop=1, flip=False, seed=0)
    return Gallery(data, "digits", tmp_path)


@pytest.fixture
def streamed(tmp_path: Path) -> Gallery:
    """Twelve photographs of 20 x 20 pixels, brighter one by one, of three classes."""
    for i in range(12):
        Image.new("L", (20, 20), 20 * i).convert("RGB").save(tmp_path / f"{i:02}.png")
    paths = np.array([os.fsencode(path) for path in sorted(tmp_path.iterdir())])
    files = Files(paths, torch.arange(12) % 3)
    data = Streamed(
        Dataset(files, files, 3), batch=5, size=8, flip=True, jitter=0, lighting=0, seed=0
    )
    return Gallery(data, f"folder:{tmp_path}", tmp_path)


def read(gallery: Gallery, name: str) -> Images:
    x, y = zip(*gallery.batches(name), strict=True)
    return Images(torch.cat(x), torch.cat(y))


def test_the_splits_are_those_of_the_dataset(gallery: Gallery) -> None:
    for name, split in (("train", "train"), ("test", "test"), ("held_out", "held_out")):
        expected: Images = getattr(gallery.data.dataset, split)
        seen = read(gallery, name)
        assert (255 * seen.x).round().to(torch.uint8).equal(expected.x)
        assert seen.y.equal(expected.y)


def test_where_nothing_is_held_out_there_is_nothing_to_read(
    gallery: Gallery, streamed: Gallery
) -> None:
    whole = replace(gallery.data, dataset=replace(gallery.data.dataset, held_out=None))
    assert not list(replace(gallery, data=whole).batches("held_out"))
    assert not list(streamed.batches("held_out"))


def test_of_many_training_images_the_same_few_are_shown(
    gallery: Gallery, streamed: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gallery, "TRAIN_IMAGES", 7)
    few, levels = read(gallery, "train"), read(streamed, "train").x[:, 0, 0, 0]
    assert len(few) == len(levels) == 7
    assert read(gallery, "train").x.equal(few.x)
    assert levels.tolist() == sorted(levels.tolist()) and len(levels.unique()) == 7
    assert len(read(gallery, "test")) == 500


@pytest.mark.parametrize("name", ["uniform", "photographs"])
def test_images_of_other_classes_have_no_label_and_the_size_of_the_others(
    gallery: Gallery, streamed: Gallery, name: str
) -> None:
    for each in (gallery, streamed):
        seen = read(each, name)
        assert seen.x.shape[1:] == (3, 8, 8)
        assert 0 <= seen.x.min() < 0.1 and 0.9 < seen.x.max() <= 1
        assert seen.y.eq(-1).all()


def test_corrupted_images_keep_their_labels(gallery: Gallery) -> None:
    clean, foggy = read(gallery, "test"), read(gallery, "generated/fog/3")
    assert foggy.y.equal(clean.y)
    assert foggy.x.shape == clean.x.shape and not foggy.x.equal(clean.x)


def test_only_images_in_memory_are_corrupted(streamed: Gallery) -> None:
    with pytest.raises(Inapplicable, match="there are no generated corruptions of folder:"):
        streamed.batches("generated/fog/3")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("test", "no set of images 'test'"),
        ("lsun-corp", "did you mean lsun-crop"),
        ("lsun-crop", "LSUN is missing; get it with: mixbench data get lsun-crop"),
        ("voc0721", "no set of images 'voc0721'; did you mean voc0712"),
        ("coco", "is missing; get it with: mixbench data get coco"),
        ("voc:nowhere", "nowhere is missing; nowhere should hold Annotations, JPEGImages and"),
        ("generated/frog/3", "did you mean fog or frost"),
        ("generated/fog/6", "no severity 6"),
    ],
)
def test_what_is_not_there_is_said_without_reading(gallery: Gallery, name: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        gallery.require(name)


def test_published_corruptions_are_those_of_the_dataset(
    gallery: Gallery, streamed: Gallery
) -> None:
    cifar = replace(gallery, name="cifar10")
    why = "CIFAR-10-C.* is missing; get it with: mixbench data get cifar10-c"
    for look in (cifar.require, cifar.batches):
        with pytest.raises(BadInput, match=why):
            look("published/fog/1")
    for other in (gallery, streamed):
        other.require("published/fog/1")
        with pytest.raises(Inapplicable, match=r"there are no published corruptions of (digits|f)"):
            other.batches("published/fog/1")


def test_scenes_lie_among_the_datasets(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "TRAIN_SCENES", 2)
    monkeypatch.setattr(shapes, "TEST_SCENES", 1)
    found = gallery.scenes("shapes-coco")
    assert (len(found.train), len(found.test), len(found.classes)) == (2, 1, 6)
    assert all(scene.image.is_relative_to(tmp_path / "shapes") for scene in found.train)
    with pytest.raises(BadInput, match="no set of scenes 'svhn'"):
        gallery.scenes("svhn")


@pytest.mark.parametrize("name", ["uniform", "photographs", "generated/fog/1", "shapes-voc"])
def test_what_is_there_is_not_spoken_of(gallery: Gallery, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gallery.require(name)


def test_a_set_that_is_known_to_have_the_same_classes_is_warned_of(
    gallery: Gallery, streamed: Gallery
) -> None:
    with pytest.warns(Overlap, match=r"folder:.* is not outside folder:"):
        streamed.require(streamed.name)
    (gallery.root / "svhn").mkdir()
    (gallery.root / "svhn/test_32x32.mat").touch()
    with pytest.warns(Overlap, match="svhn is not outside digits"):
        gallery.require("svhn")


def test_images_that_were_trained_on_are_found_among_those_that_should_be_others(
    gallery: Gallery, tmp_path: Path
) -> None:
    train = gallery.data.dataset.train
    assert isinstance(train, Images)
    for i in range(3):
        Image.fromarray(train.x[i].permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "other.png")
    with pytest.warns(Overlap, match="3 of the 4 images of folder:.* are also in digits"):
        gallery.batches(f"folder:{tmp_path}")
