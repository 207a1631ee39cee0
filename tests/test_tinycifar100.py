"""A part of CIFAR-100 for one core: which images it has, where they lie, and its network."""

from collections.abc import Callable
from pathlib import Path

import formats
import pytest
import torch
from torch import nn
from torchvision.datasets import CIFAR100

from mixbench.bench.data import Dataset, Images, cifar100, tinycifar100
from mixbench.bench.data._fetch import get
from mixbench.bench.data.outside import overlap
from mixbench.bench.nets import build
from mixbench.bench.spec import BadInput
from mixbench.methods import Net

GREY = (0.5, 0.5, 0.5)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images of each of two classes."""
    monkeypatch.setattr(tinycifar100, "CLASSES", 2)
    monkeypatch.setattr(tinycifar100, "EACH", 3)


@pytest.fixture
def root(tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in the format of CIFAR-100, with five training images of each class, three to test."""
    formats.cifar(tmp_path, CIFAR100, 100, train=500, test=300)
    formats.trust(tmp_path, CIFAR100, monkeypatch)
    return tmp_path


def numbered(y: list[int]) -> Images:
    """Images of one pixel, which is their number."""
    x = torch.arange(len(y), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, -1, -1)
    return Images(x, torch.tensor(y))


def numbers(split: object) -> list[int]:
    assert isinstance(split, Images)
    return [int(number) for number in split.x[:, 0].flatten()]


def test_the_first_images_of_the_first_classes_are_taken(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = numbered([2, 1, 0, 0, 1, 2, 0, 1, 1, 0, 1]), numbered([1, 1, 1, 0, 2, 0, 0])
    whole = Dataset(train, test, 3, GREY, GREY)
    monkeypatch.setattr(cifar100, "read", lambda root: whole)
    part = tinycifar100.read(tmp_path)
    assert (numbers(part.train), part.train.y.tolist()) == ([2, 3, 6, 1, 4, 7], [0, 0, 0, 1, 1, 1])
    assert (numbers(part.test), part.test.y.tolist()) == ([3, 5, 6, 0, 1, 2], [0, 0, 0, 1, 1, 1])
    assert (part.classes, part.mean, part.std) == (2, GREY, GREY)


def test_it_is_read_from_the_files_of_cifar100(root: Path) -> None:
    part = tinycifar100.read(root)
    part.check(batch=6)
    assert isinstance(part.train, Images) and part.train.x.shape == (6, 3, 32, 32)
    assert tinycifar100.SOURCE.check(root) == "6 to train, 6 to test, 2 classes"


def test_where_cifar100_is_there_nothing_is_downloaded(root: Path) -> None:
    before = sorted(root.rglob("*"))
    assert get(tinycifar100.SOURCE, root) == "6 to train, 6 to test, 2 classes"
    assert sorted(root.rglob("*")) == before


def test_else_it_is_had_as_cifar100_is() -> None:
    part, whole = tinycifar100.SOURCE, cifar100.SOURCE
    assert part.archives == whole.archives and part.where == whole.where


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (Path.unlink, "test is missing; .*data get cifar100"),
        (lambda path: path.write_bytes(b""), "test is damaged"),
    ],
    ids=["missing", "damaged"],
)
def test_a_file_that_is_missing_or_damaged_is_named(
    root: Path, damage: Callable[[Path], object], why: str
) -> None:
    damage(root / "cifar-100-python" / "test")
    for look in (tinycifar100.read, tinycifar100.SOURCE.check):
        with pytest.raises(BadInput, match=why):
            look(root)


@pytest.mark.parametrize(
    ("name", "why"),
    [("tinyimagenet-crop", "bees"), ("lsun-resize", "bridges"), ("isun", ""), ("photographs", "")],
)
def test_sets_with_its_classes_are_not_outside_it(name: str, why: str) -> None:
    assert why in overlap(name, "tinycifar100")
    assert bool(why) == bool(overlap(name, "tinycifar100"))


def network(name: str) -> Net:
    with torch.device("meta"):
        return build(name, tinycifar100.CLASSES, 32, GREY, GREY)


def layers(net: Net) -> int:
    """How many convolutions of 3 x 3 it has."""
    found = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    return sum(each.kernel_size == (3, 3) for each in found)


def test_its_network_is_as_deep_as_an_r18_and_narrower() -> None:
    narrow, r18 = network("preactresnet18-narrow"), network("preactresnet18")
    images = torch.empty(2, 3, 32, 32, device="meta")
    assert narrow.trunk(images).shape == (2, 64, 4, 4)
    assert r18.trunk(images).shape == (2, 512, 4, 4)
    assert layers(narrow) == layers(r18) == 17
