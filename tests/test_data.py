"""Datasets in batches: the same for all methods, whole, and refused where they don't fit."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.datasets import CIFAR100

from mixbench.bench.data import Data, Dataset, Images, cifar100, digits
from mixbench.bench.data._base import _crop
from mixbench.bench.settings import Setting
from mixbench.bench.spec import BadInput

SHARED = Path(__file__).parents[2] / "shared" / "data" / "cifar-100"


def ramp(n: int = 20, size: int = 6) -> Dataset:
    """Images whose first channel numbers their pixels, and whose second is their own number."""
    x = torch.zeros(n, 3, size, size, dtype=torch.uint8)
    x[:, 0] = torch.arange(1, size * size + 1).view(size, size)
    x[:, 1] = torch.arange(n)[:, None, None]
    images = Images(x, torch.arange(n) % 4)
    return Dataset(images, images, 4, (0.5,) * 3, (0.5,) * 3)


def epoch(number: int, seed: int = 0, crop: int = 1, flip: bool = True) -> list[Tensor]:
    data = Data(ramp(), batch=6, crop=crop, flip=flip, seed=seed)
    return [t for batch in data.epoch(number) for t in batch]


def test_an_epoch_is_a_function_of_seed_and_epoch_alone() -> None:
    first = epoch(3, seed=1)
    torch.rand(7)  # what a method may draw in between
    assert all(a.equal(b) for a, b in zip(first, epoch(3, seed=1), strict=True))
    assert not all(a.equal(b) for a, b in zip(first, epoch(4, seed=1), strict=True))
    assert not all(a.equal(b) for a, b in zip(first, epoch(3, seed=2), strict=True))


def test_batches_are_full_and_each_image_comes_once() -> None:
    batches = epoch(0, crop=0, flip=False)
    assert [len(x) for x in batches[::2]] == [6, 6, 6]
    numbers = torch.cat([255 * x[:, 1, 0, 0] for x in batches[::2]]).round().int().tolist()
    assert len(set(numbers)) == 18


def test_targets_are_one_hot_and_belong_to_their_images() -> None:
    x, y = epoch(0, crop=0)[:2]
    assert y.sum(1).eq(1).all() and y.dtype == torch.float32
    assert y.argmax(1).equal((255 * x[:, 1, 0, 0]).round().long() % 4)


def test_a_crop_is_a_window_of_the_padded_image() -> None:
    x = ramp(9, 6).train.x
    corner = torch.tensor([(i, j) for i in range(3) for j in range(3)])
    out = _crop(x, 1, corner, torch.zeros(9, dtype=torch.bool))
    padded = torch.nn.functional.pad(x, [1] * 4)
    for image, (i, j) in enumerate(corner.tolist()):
        assert out[image].equal(padded[image, :, i : i + 6, j : j + 6])


def test_a_mirrored_crop_is_the_crop_mirrored() -> None:
    x, corner = ramp(9, 6).train.x, torch.randint(0, 3, (9, 2))
    plain = _crop(x, 1, corner, torch.zeros(9, dtype=torch.bool))
    assert _crop(x, 1, corner, torch.ones(9, dtype=torch.bool)).equal(plain.flip(-1))


def test_half_of_the_images_are_mirrored_and_every_corner_is_drawn() -> None:
    data = Data(ramp(200, 6), batch=200, crop=1, flip=True, seed=0)
    seen = [(255 * x[:, 0]).round().int() for number in range(20) for x, _ in data.epoch(number)]
    images = torch.cat(seen)
    mirrored = (images[:, 2, 3] < images[:, 2, 2]).double().mean().item()
    assert abs(mirrored - 0.5) < 4 * 0.5 / len(images) ** 0.5
    assert len(images[:, 2, 2].unique()) >= 9


def test_evaluation_sees_all_images_in_order_unchanged() -> None:
    data = Data(ramp(), batch=6, crop=1, flip=True, seed=0)
    x = torch.cat([x for x, _ in data.batches("test")])
    assert (255 * x).round().to(torch.uint8).equal(ramp().test.x)
    assert [len(x) for x, _ in data.batches("test", size=8)] == [8, 8, 4]


def test_the_digits_are_all_there_and_split_by_class() -> None:
    dataset = digits.read(Path("nowhere"))
    assert (len(dataset.train), len(dataset.test)) == (1297, 500)
    assert dataset.train.x.shape[1:] == (3, 8, 8)
    assert dataset.test.y.bincount().min() >= 48
    assert dataset.train.x.max() == 255
    dataset.check(64)


@pytest.mark.parametrize(
    ("batch", "classes", "why"),
    [(21, 4, "20 training images can't fill a batch of 21"), (6, 5, "labels should be 0 to 4")],
)
def test_what_does_not_fit_is_refused(batch: int, classes: int, why: str) -> None:
    whole = ramp()
    dataset = Dataset(whole.train, whole.test, classes, whole.mean, whole.std)
    with pytest.raises(BadInput, match=why):
        dataset.check(batch)


@pytest.fixture
def tiny_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few images in CIFAR-100's format, whose checksums torchvision is told."""
    folder = tmp_path / CIFAR100.base_folder
    folder.mkdir()
    labels = [f"class {i}" for i in range(100)]
    contents: dict[str, dict[str, Any]] = {
        "train": {"data": np.arange(200 * 3072, dtype=np.uint8).reshape(200, 3072)},
        "test": {"data": np.zeros((100, 3072), dtype=np.uint8)},
        "meta": {"fine_label_names": labels, "coarse_label_names": labels[:20]},
    }
    for name in ("train", "test"):
        contents[name]["fine_labels"] = [i % 100 for i in range(len(contents[name]["data"]))]
    md5 = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": md5["meta"]})
    return tmp_path


def test_cifar100_is_read_from_torchvisions_layout(tiny_cifar: Path) -> None:
    dataset = cifar100.read(tiny_cifar)
    dataset.check(128)
    assert dataset.train.x.shape == (200, 3, 32, 32)
    assert dataset.train.x[0].flatten().tolist() == [i % 256 for i in range(3072)]
    assert dataset.train.y[:3].tolist() == [0, 1, 2]
    assert (dataset.classes, len(dataset.test)) == (100, 100)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_missing_or_damaged_file_is_named(tiny_cifar: Path, name: str) -> None:
    path = tiny_cifar / "cifar-100-python" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match=rf"{name} is damaged \(its md5 should be .*download=True"):
        cifar100.read(tiny_cifar)
    path.unlink()
    with pytest.raises(BadInput, match=rf"{name} is missing; .*--data.*download=True"):
        cifar100.read(tiny_cifar)


@pytest.mark.skipif(not SHARED.exists(), reason="the real CIFAR-100 is not here")
def test_the_real_cifar100_is_read(tmp_path: Path) -> None:
    import subprocess
    import sys

    subprocess.run([sys.executable, SHARED / "unpack.py", tmp_path], check=True)
    dataset = cifar100.read(tmp_path)
    dataset.check(Setting.parse("cifar100/preactresnet18").recipe.batch)
    assert (len(dataset.train), len(dataset.test)) == (50_000, 10_000)
    assert dataset.train.y.bincount().tolist() == [500] * 100
    mean = torch.tensor(dataset.train.x.numpy().mean((0, 2, 3)) / 255)
    torch.testing.assert_close(
        mean, torch.tensor([0.5071, 0.4866, 0.4409]).double(), atol=1e-3, rtol=0
    )
