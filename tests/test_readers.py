"""Datasets of images, as published and in folders: what is read, and what is refused, and why."""

import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import formats
import numpy as np
import pytest
import torch
from formats import BIRDS, TINY, VAL, WNIDS, draw
from PIL import Image
from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS

from mixbench.bench.data import (
    _cached,
    _decode,
    _imagefolder,
    _layout,
    cifar10,
    cifar100,
    cub,
    folder,
    imagenet,
    tinyimagenet,
)
from mixbench.bench.data import source as find_source
from mixbench.bench.data._base import Dataset, Files, Images
from mixbench.bench.settings import Setting
from mixbench.bench.spec import BadInput

SHARED = Path(__file__).parents[2] / "shared" / "data"
CIFAR = {"cifar10": (cifar10, datasets.CIFAR10), "cifar100": (cifar100, datasets.CIFAR100)}
READERS = {"tinyimagenet": tinyimagenet, "imagenet": imagenet, "cub": cub} | {
    name: reader for name, (reader, _) in CIFAR.items()
}

Damage = Callable[[Path], object]


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (SHARED / name).exists(), reason=f"the real {name} is not here")


def files(split: Images | Files) -> list[str]:
    assert isinstance(split, Files)
    return [os.fsdecode(path) for path in split.paths.tolist()]


def pixels(split: Images | Files) -> torch.Tensor:
    assert isinstance(split, Images)
    return split.x


def published(kind: type[datasets.CIFAR10]) -> list[str]:
    """The names of its files."""
    return [*(file for file, _ in kind.train_list + kind.test_list), kind.meta["filename"]]


def empty(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def each(act: Callable[[Path], object], paths: Iterable[Path]) -> None:
    for path in list(paths):
        act(path)


def line_away(path: Path, number: int = 0) -> None:
    lines = path.read_text().splitlines()
    del lines[number]
    path.write_text("\n".join(lines) + "\n")


def line_more(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")


@pytest.fixture
def tiny_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few images in the format of both, whose checksums torchvision is told."""
    for kind, classes in ((datasets.CIFAR10, 10), (datasets.CIFAR100, 100)):
        formats.cifar(tmp_path, kind, classes, train=200, test=100)
        formats.trust(tmp_path, kind, monkeypatch)
    return tmp_path


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_is_read_from_torchvisions_layout(tiny_cifar: Path, name: str) -> None:
    dataset = CIFAR[name][0].read(tiny_cifar)
    dataset.check(128)
    assert pixels(dataset.train).shape == (200, 3, 32, 32)
    assert pixels(dataset.train)[0].flatten().tolist() == [i % 256 for i in range(3072)]
    assert dataset.train.y[:12].tolist() == [i % dataset.classes for i in range(12)]
    assert (f"cifar{dataset.classes}", len(dataset.test)) == (name, 100)
    assert CIFAR[name][0].SOURCE.check(tiny_cifar).endswith(f"{dataset.classes} classes")


@pytest.mark.parametrize(
    ("name", "file"),
    [(name, file) for name, (_, kind) in CIFAR.items() for file in published(kind)],
)
def test_a_missing_or_damaged_file_is_named(tiny_cifar: Path, name: str, file: str) -> None:
    reader, kind = CIFAR[name]
    path = tiny_cifar / kind.base_folder / file
    path.write_bytes(path.read_bytes()[:-1])
    for look in (reader.read, reader.SOURCE.check):
        with pytest.raises(BadInput, match=rf"{path} is damaged \(its md5 .*data get {name},"):
            look(tiny_cifar)
    path.unlink()
    for look in (reader.read, reader.SOURCE.check):
        with pytest.raises(BadInput, match=rf"{path} is missing; .*data get {name}, .*--data"):
            look(tiny_cifar)


@pytest.mark.parametrize("name", CIFAR)
def test_cifars_archive_is_the_one_that_torchvision_knows(name: str) -> None:
    (archive,), kind = CIFAR[name][0].SOURCE.archives, CIFAR[name][1]
    assert archive.digest == f"md5:{kind.tgz_md5}"
    assert archive.urls[0] == kind.url
    assert {url.rpartition("/")[2] for url in archive.urls} == {archive.name} == {kind.filename}


@needs("cifar-100")
def test_the_real_cifar100_is_read(tmp_path: Path) -> None:
    unpack = SHARED / "cifar-100" / "unpack.py"
    subprocess.run([sys.executable, unpack, tmp_path], check=True)
    dataset = cifar100.read(tmp_path)
    dataset.check(Setting.parse("cifar100/preactresnet18").recipe.batch)
    assert (len(dataset.train), len(dataset.test)) == (50_000, 10_000)
    assert cifar100.SOURCE.check(tmp_path) == "50,000 to train, 10,000 to test, 100 classes"
    assert dataset.train.y.bincount().tolist() == [500] * 100
    mean = torch.tensor(pixels(dataset.train).numpy().mean((0, 2, 3)) / 255)
    torch.testing.assert_close(
        mean, torch.tensor([0.5071, 0.4866, 0.4409]).double(), atol=1e-3, rtol=0
    )


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny-ImageNet's format, in three classes."""
    monkeypatch.setattr(tinyimagenet, "CLASSES", len(WNIDS))
    formats.tinyimagenet(tmp_path)
    return tmp_path


def rearranged(root: Path, below: str = "") -> None:
    """Move the validation images into a folder per class."""
    val = root / TINY / "val"
    for i, wnid in VAL.items():
        (val / wnid / below).mkdir(parents=True, exist_ok=True)
        (val / "images" / f"val_{i}.JPEG").rename(val / wnid / below / f"val_{i}.JPEG")


def assert_greys_are_labels(split: Images | Files) -> None:
    x = pixels(split)
    assert x.dtype == torch.uint8 and x.shape[1:] == (3, 64, 64)
    expected = (60 * split.y).view(-1, 1, 1, 1).expand_as(x)
    assert (x.int() - expected).abs().max() <= 2


def test_tiny_imagenet_is_read_through_its_annotations(tiny: Path) -> None:
    dataset = tinyimagenet.read(tiny)
    dataset.check(9)
    assert (dataset.classes, len(dataset.train), len(dataset.test)) == (3, 9, 6)
    assert dataset.test.y.tolist() == [1, 0, 0, 1, 2, 2]  # val_0, 1, 10, 11, 12, 2
    assert_greys_are_labels(dataset.train)
    assert_greys_are_labels(dataset.test)


@pytest.mark.parametrize("left", ["empty folder", "no folder"])
@pytest.mark.parametrize("below", ["", "images"])
def test_a_rearranged_validation_set_is_read_too(tiny: Path, below: str, left: str) -> None:
    rearranged(tiny, below)
    if left == "no folder":
        (tiny / TINY / "val" / "images").rmdir()
        (tiny / TINY / "val" / "val_annotations.txt").unlink()
    dataset = tinyimagenet.read(tiny)
    assert dataset.test.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert_greys_are_labels(dataset.test)


def one_class_validated(top: Path) -> None:
    (top / "val" / "val_annotations.txt").write_text("val_1.JPEG n01\n")
    each(Path.unlink, (top / "val" / "images" / f"val_{i}.JPEG" for i in VAL if i != 1))


def other_class_validated(top: Path) -> None:
    line_more(top / "val" / "val_annotations.txt", "val_13.JPEG n09")
    empty(top / "val" / "images" / "val_13.JPEG")


def rearranged_and_more(top: Path) -> None:
    rearranged(top.parent)
    empty(top / "val" / "n09" / "val_13.JPEG")


REFUSED_TINY: dict[str, tuple[Damage, str]] = {
    "no folder": (shutil.rmtree, "tiny-imagenet-200 is missing; .*mixbench data get tinyimagenet"),
    "no list": (lambda top: (top / "wnids.txt").unlink(), "wnids.txt is missing"),
    "no training set": (lambda top: shutil.rmtree(top / "train"), "train is missing"),
    "no validation set": (lambda top: shutil.rmtree(top / "val"), "val is missing"),
    "a class too many": (
        lambda top: line_away(top / "wnids.txt"),
        "wnids.txt and .*/train should have the same classes; only .*/train has n03$",
    ),
    "a class too few": (
        lambda top: line_more(top / "wnids.txt", "n04"),
        "wnids.txt and .*/train should have the same classes; only .*wnids.txt has n04$",
    ),
    "an empty class": (
        lambda top: shutil.rmtree(top / "train" / "n02" / "images"),
        "train/n02 has no files .*each class should have some",
    ),
    "no annotations": (
        lambda top: (top / "val" / "val_annotations.txt").unlink(),
        "val_annotations.txt is missing",
    ),
    "an annotation cut short": (
        lambda top: line_more(top / "val" / "val_annotations.txt", "val_13.JPEG"),
        "val_annotations.txt: line 7 has 1 words, and should have 2",
    ),
    "no validation images": (
        lambda top: shutil.rmtree(top / "val" / "images"),
        "val has no images; get it with: mixbench data get tinyimagenet",
    ),
    "an annotation without image": (
        lambda top: (top / "val" / "images" / "val_2.JPEG").unlink(),
        "val_annotations.txt names images that are not there: val_2.JPEG$",
    ),
    "images without annotation": (
        lambda top: [empty(top / "val" / "images" / f"val_{i}.JPEG") for i in range(20, 25)],
        "lacks .* there: val_20.JPEG, val_21.JPEG, val_22.JPEG and 2 more; remove .*/val, then get",
    ),
    "a class without validation images": (
        one_class_validated,
        "same classes; only .*wnids.txt has n02, n03$",
    ),
    "validation images of another class": (
        other_class_validated,
        "same classes; only .*val_annotations.txt has n09$",
    ),
    "a rearranged class too many": (
        rearranged_and_more,
        "only .*/val has n09$",
    ),
    "half rearranged": (
        lambda top: empty(top / "val" / "n01" / "val_13.JPEG"),
        "both images and folders per class; remove .*/val, then get it with: .* get tinyimagenet",
    ),
    "rearranged within images": (
        lambda top: (top / "val" / "images").rename(top / "val" / "elsewhere"),
        "only .*/val has elsewhere; only .*wnids.txt has n01, n02, n03$",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), REFUSED_TINY.values(), ids=REFUSED_TINY)
def test_folders_and_lists_that_disagree_are_refused(
    tiny: Path, damage: Damage, reason: str
) -> None:
    damage(tiny / TINY)
    for look in (tinyimagenet.read, tinyimagenet.SOURCE.check):
        with pytest.raises(BadInput, match=reason):
            look(tiny)
    assert not list(tiny.glob("*.npy"))


def test_unreadable_images_are_counted_and_the_first_ones_named(tiny: Path) -> None:
    images = tiny / TINY / "train" / "n01" / "images"
    cut(images / "n01_1.JPEG")
    (images / "n01_2.JPEG").write_text("no image")
    draw(images / "n01_3.JPEG", size=63)
    with pytest.raises(
        BadInput, match=r"3 of 10 files can't be read: .*n01_1.JPEG .*truncated"
    ) as e:
        tinyimagenet.read(tiny)
    assert "n01_3.JPEG (63 x 63 pixels, and not 64 x 64)" in str(e.value)
    assert "\n" not in str(e.value)


def test_many_images_are_decoded_as_few_are(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_decode, "CHUNK", 2)
    assert_greys_are_labels(tinyimagenet.read(tiny).train)
    for wnid in WNIDS:
        cut(tiny / TINY / "train" / wnid / "images" / f"{wnid}_0.JPEG")
    with pytest.raises(BadInput, match=r"3 of 9 files can't be read: .*n01_0.JPEG"):
        tinyimagenet.read(tiny)


def test_colours_and_directions_are_kept(tiny: Path) -> None:
    path = tiny / TINY / "val" / "images" / "val_0.JPEG"
    ramp = np.arange(64, dtype=np.uint8)
    image = np.stack(np.broadcast_arrays(ramp[:, None], 2 * ramp, np.uint8(200)), -1)  # h w rgb
    Image.fromarray(image).save(path, quality=100, subsampling=0)
    x = pixels(tinyimagenet.read(tiny).test)[0]
    assert (x.permute(1, 2, 0).int() - torch.from_numpy(image).int()).abs().max() <= 4


def test_a_subset_is_not_taken_for_tiny_imagenet(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tinyimagenet, "CLASSES", 200)
    with pytest.raises(BadInput, match=r"wnids\.txt should name 200 classes; it names 3"):
        tinyimagenet.read(tiny)


def test_what_was_published_is_what_check_wants(tiny: Path) -> None:
    with pytest.raises(
        BadInput, match=f"{TINY} has 9 to train, 6 to test, 3 classes; as .*; remove .*{TINY}, then"
    ):
        tinyimagenet.SOURCE.check(tiny)


def as_published(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, train: int, test: int
) -> None:
    """Let what is published be of this size."""

    def published(folder: Path, found: Dataset, _: int, __: int, classes: int, fix: str) -> str:
        return _layout.published(folder, found, train, test, classes, fix)

    monkeypatch.setattr(module, "published", published)


def test_check_opens_the_images_of_tiny_imagenet(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_published(monkeypatch, tinyimagenet, 9, 6)
    assert tinyimagenet.SOURCE.check(tiny) == "9 to train, 6 to test, 3 classes"
    cut(tiny / TINY / "train" / "n01" / "images" / "n01_1.JPEG")
    draw(tiny / TINY / "val" / "images" / "val_2.JPEG", size=63)
    with pytest.raises(BadInput, match=r"2 of 15 files .*n01_1.JPEG .*val_2.JPEG \(63 x 63"):
        tinyimagenet.SOURCE.check(tiny)


def undecodable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(paths: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(tinyimagenet, "_decoded", fail)


def kept(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.name != TINY)


def test_decoded_images_are_kept_for_the_next_read(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tinyimagenet.read(tiny)
    assert [path.suffix for path in kept(tiny)] == [".npy", ".npy"]
    undecodable(monkeypatch)
    second = tinyimagenet.read(tiny)
    monkeypatch.chdir(tiny)
    third = tinyimagenet.read(Path())
    for again in (second, third):
        for split in ("train", "test"):
            one, other = getattr(first, split), getattr(again, split)
            assert one.x.equal(other.x) and one.y.equal(other.y)


def test_what_is_kept_is_not_changed_through_the_images(tiny: Path) -> None:
    pixels(tinyimagenet.read(tiny).train).fill_(7)
    assert_greys_are_labels(tinyimagenet.read(tiny).train)


def later(path: Path) -> None:
    times = path.stat()
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1000))


CHANGES: dict[str, Damage] = {
    "a time": lambda images: later(images / "n01_0.JPEG"),
    "a size": lambda images: draw(images / "n01_0.JPEG", 100, size=64),
    "an image more": lambda images: draw(images / "n01_9.JPEG"),
    "a name": lambda images: (images / "n01_2.JPEG").rename(images / "n01_7.JPEG"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_the_files_makes_them_be_decoded_anew(tiny: Path, change: Damage) -> None:
    tinyimagenet.read(tiny)
    before = kept(tiny)
    change(tiny / TINY / "train" / "n01" / "images")
    tinyimagenet.read(tiny)
    after = kept(tiny)
    assert len(after) == 2 and len(set(after) & set(before)) == 1  # that of val


def test_a_size_alone_changes_the_key(tmp_path: Path) -> None:
    path = empty(tmp_path / "a")
    paths = np.array([os.fsencode(path)])
    times, key = path.stat(), _cached._key(tmp_path, paths)
    path.write_text("longer")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert _cached._key(tmp_path, paths) != key


@pytest.mark.parametrize("length", [0, 50, 5000])
def test_what_was_kept_but_cut_short_is_decoded_anew(tiny: Path, length: int) -> None:
    tinyimagenet.read(tiny)
    for path in kept(tiny):
        path.write_bytes(path.read_bytes()[:length])
    assert_greys_are_labels(tinyimagenet.read(tiny).train)
    assert min(path.stat().st_size for path in kept(tiny)) > 5000


def test_two_machines_can_keep_the_same_images_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, file = np.save, tmp_path / "kept.npy"

    def slow(out: Any, pixels: Any) -> None:
        monkeypatch.setattr(np, "save", save)
        out.write(b"half")
        _cached.keep(np.ones(3, np.uint8), file)  # the other one, with a pid that may be the same
        out.seek(0)
        save(out, pixels)

    monkeypatch.setattr(np, "save", slow)
    _cached.keep(np.zeros(3, np.uint8), file)
    assert np.load(file).tolist() == [0, 0, 0]
    assert os.listdir(tmp_path) == [file.name]
    assert file.stat().st_mode == empty(tmp_path / "ordinary").stat().st_mode


def test_where_nothing_can_be_written_nothing_is_kept(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(out: Any, pixels: object) -> None:
        out.write(b"begun")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert_greys_are_labels(tinyimagenet.read(tiny).train)
    assert not kept(tiny)


@needs("tiny-imagenet-mini")
def test_real_images_of_tiny_imagenet_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tinyimagenet, "CLASSES", 20)
    (tmp_path / TINY).symlink_to(SHARED / "tiny-imagenet-mini")
    dataset = tinyimagenet.read(tmp_path)
    dataset.check(256)
    assert dataset.train.y.bincount().tolist() == [50] * 20
    assert (len(dataset.test), dataset.classes) == (500, 20)
    lines = (tmp_path / TINY / "val" / "val_annotations.txt").read_text().splitlines()
    wnids = sorted((tmp_path / TINY / "wnids.txt").read_text().split())
    for i, (name, wnid) in enumerate(sorted(line.split()[:2] for line in lines)):
        if i % 50 == 0:
            with Image.open(tmp_path / TINY / "val" / "images" / name) as image:
                expected = torch.from_numpy(np.array(image.convert("RGB")))
            assert pixels(dataset.test)[i].permute(1, 2, 0).equal(expected)
            assert wnids[dataset.test.y[i]] == wnid


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Two classes of a user's, in folders."""
    for split in ("train", "val"):
        for name in ("cats", "Dogs"):
            draw(tmp_path / split / name / "b.jpg", mode="L")
            draw(tmp_path / split / name / "a.PNG", mode="CMYK")
            draw(tmp_path / split / name / "deeper" / "still" / "c.JPEG")
            empty(tmp_path / split / name / "notes.txt")
    return tmp_path


def assert_as_torchvision(dataset: Dataset, train: Path, test: Path) -> None:
    for path, split in ((train, dataset.train), (test, dataset.test)):
        expected = datasets.ImageFolder(str(path))
        assert dataset.classes == len(expected.classes)
        assert list(zip(files(split), split.y.tolist(), strict=True)) == [
            (name, label) for name, label in sorted(expected.samples, key=lambda s: (s[1], s[0]))
        ]


@pytest.mark.parametrize("test", ["val", "test"])
def test_a_folder_has_the_images_that_torchvision_finds(own: Path, test: str) -> None:
    (own / "val").rename(own / "aside")
    (own / "aside").rename(own / test)
    dataset = folder.read(own)
    dataset.check(6)
    assert_as_torchvision(dataset, own / "train", own / test)
    assert folder.source(own).check(Path("nowhere")) == "6 to train, 6 to test, 2 classes"
    assert find_source(f"folder:{own}").name == f"folder:{own}"


def test_an_image_of_a_file_is_in_colour_and_may_be_changed(tmp_path: Path) -> None:
    image = _decode.pixels(os.fsencode(draw(tmp_path / "a.jpg", 7, "CMYK", size=9)))
    assert image.shape == (9, 9, 3) and image.dtype == np.uint8
    assert abs(image.astype(int) - 7).max() <= 2
    assert image.flags.writeable


def test_what_pillow_warns_of_is_readable_and_filters_stay(own: Path) -> None:
    indexed = Image.fromarray(np.arange(81, dtype=np.uint8).reshape(9, 9)).convert("P")
    for i in range(20):
        indexed.save(own / "val" / "cats" / f"{i}.png", transparency=bytes(256))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        assert folder.source(own).check(own) == "6 to train, 26 to test, 2 classes"
        assert warnings.filters == before


def test_images_have_torchvisions_extensions() -> None:
    assert tuple(os.fsdecode(extension) for extension in _imagefolder.IMAGES) == IMG_EXTENSIONS


def test_what_is_hidden_is_passed_over(own: Path) -> None:
    expected = files(folder.read(own).train)
    for name in ("._a.jpg", ".thumbs/a.jpg", "../.cache/a.jpg"):
        empty(own / "train" / "cats" / name)
    os.mkfifo(own / "train" / "cats" / "pipe.jpg")
    assert files(folder.read(own).train) == expected


def test_paths_are_relative_if_the_folder_is(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    assert files(folder.read(Path(own.name)).test)[0] == f"{own.name}/val/Dogs/a.PNG"
    monkeypatch.chdir(own)
    assert files(folder.read(Path()).test)[0] == "val/Dogs/a.PNG"


REFUSED_FOLDER: dict[str, tuple[Damage, str]] = {
    "nothing": (shutil.rmtree, "is missing; it should hold train and val"),
    "no train": (lambda top: shutil.rmtree(top / "train"), "should hold train, .*; it holds val$"),
    "no val": (lambda top: shutil.rmtree(top / "val"), "one of val and test; it holds train$"),
    "both": (lambda top: (top / "test").mkdir(), "val and test; it holds test, train, val$"),
    "files": (lambda top: each(shutil.rmtree, top.iterdir()), "it holds no folders$"),
    "other classes": (
        lambda top: (top / "val" / "cats").rename(top / "val" / "cat"),
        "/train and .*/val should have the same classes; only .*train has cats; only .*val has cat$",
    ),
    "no classes": (
        lambda top: each(shutil.rmtree, top.glob("*/*")),
        "train has no folders; each class should have one",
    ),
    "an empty class": (
        lambda top: each(Path.unlink, (top / "val" / "Dogs").rglob("*.*")),
        r"val/Dogs has no files \(.jpg, .*\); each class should have some",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), REFUSED_FOLDER.values(), ids=REFUSED_FOLDER)
def test_a_folder_that_does_not_fit_is_refused(own: Path, damage: Damage, reason: str) -> None:
    damage(own)
    for look in (folder.read, folder.source(own).check):
        with pytest.raises(BadInput, match=reason):
            look(own)


def test_check_opens_the_images_of_a_folder_and_read_does_not(own: Path) -> None:
    cut(own / "train" / "cats" / "b.jpg")
    for name in ("a.PNG", "b.jpg", "deeper/still/c.JPEG"):
        (own / "val" / "cats" / name).write_bytes(b"")
    assert len(folder.read(own).train) == 6
    with pytest.raises(BadInput, match=r"4 of 12 files .*train/cats/b.jpg .* and 1 more$") as e:
        folder.source(own).check(own)
    assert str(own / "val" / "cats" / "a.PNG") in str(e.value)


@needs("imagenette-mini")
def test_real_images_in_folders_are_found(tmp_path: Path) -> None:
    path = SHARED / "imagenette-mini"
    assert_as_torchvision(folder.read(path), path / "train", path / "val")
    assert folder.source(path).check(path) == "400 to train, 120 to test, 10 classes"


@pytest.fixture(scope="module")
def all_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand classes of ImageNet, an image each."""
    root = tmp_path_factory.mktemp("imagenet")
    formats.imagenet(root, 1000)
    return root


def test_imagenet_is_read_from_its_folders(all_classes: Path) -> None:
    dataset = imagenet.read(all_classes)
    dataset.check(1000)
    top = all_classes / "imagenet"
    assert files(dataset.test)[7] == str(top / "val" / "n00000007" / "ILSVRC2012_val_00000008.JPEG")
    assert dataset.train.y.tolist() == list(range(1000))
    with pytest.raises(
        BadInput, match=r"1,000 to train, .* it has 1,281,167 to train, .*folder:.*/imagenet$"
    ):
        imagenet.SOURCE.check(all_classes)


def test_a_flat_validation_set_is_refused_with_what_to_do(tmp_path: Path) -> None:
    for i in range(1000):
        empty(tmp_path / "imagenet" / "train" / f"n{i:08d}" / "1.JPEG")
    empty(tmp_path / "imagenet" / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(BadInput, match=r"val should have a folder per class; .*ImageNet.*'val'"):
        imagenet.read(tmp_path)


def test_a_part_of_imagenet_is_not_read_as_imagenet(own: Path) -> None:
    (own / "imagenet").mkdir()
    for split in ("train", "val"):
        (own / split).rename(own / "imagenet" / split)
    with pytest.raises(BadInput, match=r"train has 2 of 1,000 classes; .*folder:.*/imagenet$"):
        imagenet.read(own)
    shutil.rmtree(own / "imagenet" / "val")
    with pytest.raises(BadInput, match=r"val is missing; .*data get imagenet"):
        imagenet.read(own)


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """CUB's format: of each class an image to test and one to train."""
    formats.cub(tmp_path, 200)
    return tmp_path


def test_birds_are_read_and_split_by_their_lists(birds: Path) -> None:
    dataset = cub.read(birds)
    dataset.check(200)
    assert dataset.classes == 200
    images = birds / BIRDS / "images"
    assert files(dataset.train)[3] == str(images / "004.Bird" / "7.jpg")
    assert files(dataset.test)[3] == str(images / "004.Bird" / "6.jpg")
    for split in (dataset.train, dataset.test):
        folders = [Path(path).parent.name for path in files(split)]
        assert folders == [f"{y + 1:03d}.Bird" for y in split.y.tolist()]
    with pytest.raises(BadInput, match=r"has 200 to train, .* has 5,994 .* 5,794 to"):
        cub.SOURCE.check(birds)


def test_check_opens_the_images_of_birds(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_published(monkeypatch, cub, 200, 200)
    assert cub.SOURCE.check(birds) == "200 to train, 200 to test, 200 classes"
    for name in ("001.Bird/0.jpg", "009.Bird/17.jpg"):
        (birds / BIRDS / "images" / name).write_bytes(b"")
    with pytest.raises(BadInput, match=r"2 of 400 files .*009.Bird/17.jpg .*001.Bird/0.jpg"):
        cub.SOURCE.check(birds)


REFUSED_CUB: dict[str, tuple[Damage, str]] = {
    "nothing": (shutil.rmtree, "CUB_200_2011 is missing; .*mixbench data get cub"),
    "no list": (lambda top: (top / "train_test_split.txt").unlink(), "split.txt is missing"),
    "no images": (lambda top: shutil.rmtree(top / "images"), "images is missing"),
    "an image lost": (
        lambda top: (top / "images" / "003.Bird" / "4.jpg").unlink(),
        "images.txt names images that are not there: 003.Bird/4.jpg$",
    ),
    "an image too many": (
        lambda top: empty(top / "images" / "003.Bird" / "x.jpg"),
        "lacks images that are there: 003.Bird/x.jpg; remove .*2011/images, then get .* get cub",
    ),
    "no label": (
        lambda top: line_away(top / "image_class_labels.txt", 4),
        "class_labels.txt and images.txt should have the same images; not so 5$",
    ),
    "no split": (
        lambda top: line_away(top / "train_test_split.txt"),
        "split.txt and images.txt should have the same images; not so 1$",
    ),
    "another class": (
        lambda top: line_more(top / "image_class_labels.txt", "1 201"),
        "class_labels.txt has 201, and should have 1 to 200$",
    ),
    "class zero": (
        lambda top: line_more(top / "image_class_labels.txt", "1 0"),
        "class_labels.txt has 0, and should have 1 to 200$",
    ),
    "another split": (
        lambda top: line_more(top / "train_test_split.txt", "9 2"),
        "split.txt has 2, and should have 0 to 1$",
    ),
    "a class lost": (
        lambda top: line_away(top / "classes.txt"),
        "classes.txt should name 200 classes",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), REFUSED_CUB.values(), ids=REFUSED_CUB)
def test_birds_whose_lists_disagree_are_refused(birds: Path, damage: Damage, reason: str) -> None:
    damage(birds / BIRDS)
    for look in (cub.read, cub.SOURCE.check):
        with pytest.raises(BadInput, match=reason):
            look(birds)


@pytest.mark.parametrize("name", READERS)
def test_what_is_missing_is_named_with_how_to_get_it(tmp_path: Path, name: str) -> None:
    for look in (READERS[name].read, find_source(name).check):
        with pytest.raises(
            BadInput, match=rf"^{re.escape(str(tmp_path))}/.* is missing; .*{name},"
        ):
            look(tmp_path / "nowhere")


@pytest.mark.parametrize("name", READERS)
def test_a_source_can_be_downloaded_or_says_how_to_get_it(name: str) -> None:
    source = find_source(name)
    assert source.name == name and source.use == "classification"
    assert bool(source.archives) != bool(source.by_hand)
