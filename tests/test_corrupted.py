"""Corrupted test sets: what is read of the published files, and what is refused, and why."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixbench.bench.data import Images, corrupted, sources
from mixbench.bench.data._corruptions import CORRUPTIONS, corrupt
from mixbench.bench.data.corrupted import corrupted as read
from mixbench.bench.spec import BadInput

SETS = {"cifar10-c": 10, "cifar100-c": 100}
FOLDERS = {"cifar10-c": "CIFAR-10-C", "cifar100-c": "CIFAR-100-C"}
FIRST, OTHERS = "fog", [name for name in CORRUPTIONS if name != "fog"]


def pixels(n: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(256, size=(n, 32, 32, 3), dtype=np.uint8)


def clean(classes: int) -> Images:
    """An image of each class, not in their order."""
    y = (7 * torch.arange(classes) + 3) % classes
    return Images(torch.from_numpy(pixels(classes, 0)).permute(0, 3, 1, 2).contiguous(), y)


def publish(root: Path, name: str, kind: str = "uint8") -> Path:
    """Files in the published format, of which all but fog's are the same."""
    folder, classes = root / FOLDERS[name], SETS[name]
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(clean(classes).y.numpy(), 5).astype(kind))
    np.save(folder / f"{FIRST}.npy", pixels(5 * classes, 1))
    np.save(folder / f"{OTHERS[0]}.npy", pixels(5 * classes, 2))
    for other in [*OTHERS[1:], "gaussian_blur"]:
        os.link(folder / f"{OTHERS[0]}.npy", folder / f"{other}.npy")
    return folder


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return publish(tmp_path, "cifar10-c")


@pytest.mark.parametrize("kind", ["uint8", "int64", ">i4"])
@pytest.mark.parametrize("name", SETS)
def test_severities_lie_one_after_another(tmp_path: Path, name: str, kind: str) -> None:
    publish(tmp_path, name, kind)
    n, expected = SETS[name], clean(SETS[name]).y
    whole = torch.from_numpy(pixels(5 * n, 1)).permute(0, 3, 1, 2)
    for severity in range(1, 6):
        images = read(name, tmp_path, clean(n), FIRST, severity)
        assert images.x.equal(whole[(severity - 1) * n : severity * n])
        assert images.x.dtype == torch.uint8 and images.x.is_contiguous()
        assert images.y.equal(expected) and images.y.dtype == torch.int64


def test_files_are_mapped_and_not_changed(published: Path) -> None:
    root = published.parent
    assert isinstance(corrupted._pixels("cifar10-c", root, FIRST, 10), np.memmap)
    first = read("cifar10-c", root, clean(10), FIRST, 2)
    kept = first.x.clone()
    first.x.zero_()
    assert read("cifar10-c", root, clean(10), FIRST, 2).x.equal(kept)


@pytest.mark.parametrize(
    ("name", "corruption", "severity", "why"),
    [
        ("cifar10-c", "gaussian_blur", 1, "no corruption 'gaussian_blur'; did you mean"),
        ("cifar10-c", "fogg", 1, "no corruption 'fogg'; did you mean fog"),
        ("cifar10-c", FIRST, 0, "no severity 0; there are: 1, 2, 3, 4, 5"),
        ("cifar10-c", FIRST, 6, "no severity 6; there are: 1, 2, 3, 4, 5"),
        ("cifar-c", FIRST, 1, "no corrupted test set 'cifar-c'; did you mean"),
        ("generated", "fogg", 1, "no corruption 'fogg'"),
        ("generated", FIRST, 6, "no severity 6"),
    ],
)
def test_what_is_unknown_is_refused(
    published: Path, name: str, corruption: str, severity: int, why: str
) -> None:
    with pytest.raises(BadInput, match=why):
        read(name, published.parent, clean(10), corruption, severity)


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    replace(path, path.read_bytes()[:-1])


def cut_in_its_head(path: Path) -> None:
    replace(path, path.read_bytes()[:40])


def emptied(path: Path) -> None:
    replace(path, b"")


def pickled(path: Path) -> None:
    replace(path, pickle.dumps(np.zeros((50, 32, 32, 3), np.uint8)))


def of_objects(path: Path) -> None:
    path.unlink()
    np.save(path, np.array([Path], dtype=object), allow_pickle=True)


def zipped(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, np.zeros((50, 32, 32, 3), np.uint8))


DAMAGES = [cut_short, cut_in_its_head, emptied, pickled, of_objects, zipped]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", [FIRST, "labels"])
def test_a_damaged_file_is_named(
    published: Path, file: str, damage: Callable[[Path], None]
) -> None:
    path = published / f"{file}.npy"
    damage(path)
    with pytest.raises(BadInput, match=rf"{path} is damaged \(.*\); .*data get cifar10-c") as error:
        read("cifar10-c", published.parent, clean(10), FIRST, 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", [FIRST, "labels"])
def test_a_missing_file_is_named(published: Path, file: str) -> None:
    (published / f"{file}.npy").unlink()
    with pytest.raises(BadInput, match=f"{file}.npy is missing; .*mixbench data get cifar10-c"):
        read("cifar10-c", published.parent, clean(10), FIRST, 1)


@pytest.mark.parametrize(
    ("file", "array", "why"),
    [
        (
            FIRST,
            pixels(49, 1),
            r"is uint8 \(49, 32, 32, 3\), and should be uint8 \(50, 32, 32, 3\)",
        ),
        (FIRST, pixels(50, 1).transpose(0, 3, 1, 2), r"is uint8 \(50, 3, 32, 32\), and"),
        (FIRST, pixels(50, 1) / 255, r"is float64 \(50, 32, 32, 3\), and should be uint8"),
        ("labels", np.zeros(49, int), r"is int64 \(49,\), and should be integers \(5 n,\)"),
        ("labels", np.zeros((50, 1), int), r"is int64 \(50, 1\), and should be integers"),
        ("labels", np.zeros(50), r"is float64 \(50,\), and should be integers"),
        ("labels", np.arange(50) % 11, "should have the same labels at each severity"),
        (
            "labels",
            np.arange(50) % 10 * (np.arange(50) < 49),
            "should have the same labels at each",
        ),
        ("labels", np.arange(50) % 10, "has other labels than the clean test images"),
    ],
)
def test_what_does_not_fit_is_refused(
    published: Path, file: str, array: NDArray[np.generic], why: str
) -> None:
    (published / f"{file}.npy").unlink()
    np.save(published / f"{file}.npy", array)
    with pytest.raises(BadInput, match=why):
        read("cifar10-c", published.parent, clean(10), FIRST, 1)


def test_another_datasets_images_are_refused(published: Path) -> None:
    with pytest.raises(BadInput, match="CIFAR-10-C has other labels than the clean test images"):
        read("cifar10-c", published.parent, clean(100), FIRST, 1)


def test_images_are_generated_from_the_clean_ones(tmp_path: Path) -> None:
    images = clean(10)
    before = images.x.clone()
    made = read("generated", tmp_path, images, "contrast", 4)
    assert made.x.equal(corrupt(before, "contrast", 4)) and not made.x.equal(before)
    assert made.y.equal(images.y)
    assert images.x.equal(before)


def test_grey_images_are_corrupted_in_colour(tmp_path: Path) -> None:
    grey = Images(clean(10).x[:, :1], clean(10).y)
    made = read("generated", tmp_path, grey, "pixelate", 5).x
    assert made.equal(corrupt(grey.x.repeat(1, 3, 1, 1), "pixelate", 5))


Made = list[tuple[str, int]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """What was not read, but made, since the test began."""
    made: Made = []

    def counted(x: Tensor, name: str, severity: int) -> Tensor:
        made.append((name, severity))
        return corrupt(x, name, severity)

    monkeypatch.setattr(corrupted, "corrupt", counted)
    return made


def kept(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_what_was_made_is_kept_and_not_changed(tmp_path: Path, made: Made) -> None:
    root, images = tmp_path / "none" / "yet", clean(10)
    first = read("generated", root, images, FIRST, 2).x
    expected = first.clone()
    first.zero_()
    again = read("generated", root, images, FIRST, 2)
    assert made == [(FIRST, 2)]
    assert again.x.equal(expected) and again.x.is_contiguous() and again.y.equal(images.y)
    again.x.zero_()
    assert read("generated", root, images, FIRST, 2).x.equal(expected)


def test_what_was_kept_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, loaded = np.load, list[object]()

    def seen(*given: Any, **options: Any) -> object:
        loaded.append(load(*given, **options))
        return loaded[-1]

    monkeypatch.setattr(np, "load", seen)
    for _ in range(2):
        read("generated", tmp_path, clean(10), FIRST, 1)
    assert [type(array) for array in loaded] == [np.memmap]


def test_each_corruption_severity_and_image_is_kept_by_itself(tmp_path: Path, made: Made) -> None:
    images, others = clean(10), clean(10)
    others.x[3, 0, 0, 0] += 1
    wide = Images(images.x.reshape(10, 3, 16, 64), images.y)
    asked = [(images, FIRST, 1), (images, FIRST, 2), (images, "contrast", 1)]
    asked += [(others, FIRST, 1), (wide, FIRST, 1)]
    for _ in range(2):
        for of, corruption, severity in asked:
            x = read("generated", tmp_path, of, corruption, severity).x
            assert x.equal(corrupt(of.x, corruption, severity))
    assert len(made) == len(kept(tmp_path)) == len(asked)


def test_labels_are_those_of_the_clean_images_and_not_kept(tmp_path: Path, made: Made) -> None:
    images = clean(10)
    read("generated", tmp_path, images, FIRST, 1)
    renamed = Images(images.x, images.y.flip(0))
    assert read("generated", tmp_path, renamed, FIRST, 1).y.equal(renamed.y)
    assert len(made) == 1


def test_other_code_makes_them_anew(
    tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    read("generated", tmp_path, clean(10), FIRST, 1)
    monkeypatch.setattr(corrupted, "_code", lambda: "other code")
    read("generated", tmp_path, clean(10), FIRST, 1)
    assert len(made) == len(kept(tmp_path)) == 2


def test_the_code_is_that_of_the_corruptions() -> None:
    assert all(f"def {name}(" in corrupted._code() for name in CORRUPTIONS)


@pytest.mark.parametrize("damage", [cut_short, cut_in_its_head, emptied])
def test_what_was_kept_but_cut_short_is_made_anew(
    tmp_path: Path, made: Made, damage: Callable[[Path], None]
) -> None:
    expected = read("generated", tmp_path, clean(10), FIRST, 1).x
    (path,) = kept(tmp_path)
    damage(path)
    for _ in range(2):
        assert read("generated", tmp_path, clean(10), FIRST, 1).x.equal(expected)
    assert len(made) == 2 and kept(tmp_path) == [path]


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path, made: Made) -> None:
    (tmp_path / "generated-c").write_text("in the way")
    for _ in range(2):
        x = read("generated", tmp_path, clean(10), FIRST, 1).x
        assert x.equal(corrupt(clean(10).x, FIRST, 1))
    assert len(made) == 2


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(out: IO[bytes], pixels: object) -> None:
        out.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    x = read("generated", tmp_path, clean(10), FIRST, 1).x
    assert x.equal(corrupt(clean(10).x, FIRST, 1))
    assert not kept(tmp_path)


def test_several_processes_can_make_the_same_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(x: Tensor, name: str, severity: int) -> Tensor:
        monkeypatch.setattr(corrupted, "corrupt", corrupt)
        read("generated", tmp_path, clean(10), name, severity)
        return corrupt(x, name, severity)

    monkeypatch.setattr(corrupted, "corrupt", overtaken)
    expected = corrupt(clean(10).x, FIRST, 1)
    for _ in range(2):
        assert read("generated", tmp_path, clean(10), FIRST, 1).x.equal(expected)
    assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize("kind", ["cifar10-c", "generated"])
def test_a_set_has_one_name_of_three_parts(published: Path, kind: str) -> None:
    root = published.parent
    found = corrupted.named(f"{kind}/{FIRST}/4", root, clean(10))
    expected = read(kind, root, clean(10), FIRST, 4)
    assert found.x.equal(expected.x) and found.y.equal(expected.y)


def test_what_is_there_is_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / FOLDERS["cifar10-c"]
    folder.mkdir()
    for file in (FIRST, "labels"):
        (folder / f"{file}.npy").write_text("not an array")
    corrupted.require(f"cifar10-c/{FIRST}/5", tmp_path)
    corrupted.require("generated/snow/1", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("cifar-c/fog/1", "no corrupted test set 'cifar-c'; did you mean"),
        ("cifar10-c/fogg/1", "no corruption 'fogg'; did you mean fog"),
        ("generated/fogg/1", "no corruption 'fogg'; did you mean fog"),
        ("generated/fog/6", "no severity 6; there are: 1, 2, 3, 4, 5"),
        ("cifar10-c/fog/0", "no severity 0"),
        ("cifar10-c", "'cifar10-c' should be SET/CORRUPTION/SEVERITY, such as cifar10-c/fog/3"),
        ("generated/fog", "should be SET/CORRUPTION/SEVERITY"),
        ("generated/fog/1/2", "should be SET/CORRUPTION/SEVERITY"),
        ("generated/fog/high", "should be SET/CORRUPTION/SEVERITY"),
        ("generated/fog/-1", "should be SET/CORRUPTION/SEVERITY"),
        ("cifar100-c/fog/1", "labels.npy is missing; .*mixbench data get cifar100-c"),
        ("cifar10-c/snow/1", "snow.npy is missing; .*mixbench data get cifar10-c"),
    ],
)
def test_what_is_not_there_is_required_in_vain(published: Path, name: str, why: str) -> None:
    (published / "snow.npy").unlink()
    with pytest.raises(BadInput, match=why) as error:
        corrupted.require(name, published.parent)
    assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match=why):
        corrupted.named(name, published.parent, clean(10))


@pytest.mark.parametrize("name", SETS)
def test_check_wants_all_fifteen_and_no_more(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(tmp_path, name)
    monkeypatch.setattr(corrupted, "IMAGES", SETS[name])
    summary = f"15 corruptions, 5 severities, {SETS[name]} images"
    assert sources()[name].check(tmp_path) == summary
    (folder / "gaussian_blur.npy").unlink()
    assert sources()[name].check(tmp_path) == summary
    (folder / "jpeg_compression.npy").unlink()
    with pytest.raises(BadInput, match=r"jpeg_compression.npy is missing"):
        sources()[name].check(tmp_path)


def test_check_wants_all_images_of_all_classes(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "labels.npy should have {} images of each of 10 classes"
    with pytest.raises(BadInput, match=why.format("1,000")):
        sources()["cifar10-c"].check(published.parent)
    monkeypatch.setattr(corrupted, "IMAGES", 10)
    np.save(published / "labels.npy", np.tile([*range(9), 8], 5))
    with pytest.raises(BadInput, match=why.format("1")):
        sources()["cifar10-c"].check(published.parent)


@pytest.mark.parametrize("name", SETS)
def test_an_archive_is_named_as_the_folder_that_it_holds(name: str) -> None:
    (archive,) = sources()[name].archives
    assert archive.name == f"{FOLDERS[name]}.tar"
    assert archive.urls[0].endswith(f"/{archive.name}")
