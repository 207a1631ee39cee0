"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), as torchvision lays them out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mixbench.bench.data._base import Dataset, Images
from mixbench.bench.data._layout import contents, existing, remedy
from mixbench.bench.spec import BadInput

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""CIFAR-10's, which the papers normalise CIFAR-100 and Tiny-ImageNet with, too."""


def read(kind: "type[CIFAR10]", root: Path) -> Dataset:
    """Raises BadInput, naming the file, if one is missing or damaged."""
    check(kind, root)
    train, test = (kind(root, train=train) for train in (True, False))
    return Dataset(_images(train), _images(test), len(train.classes), MEAN, STD)


def check(kind: "type[CIFAR10]", root: Path) -> str:
    """What is there. Raises BadInput, as ``read`` does."""
    from torchvision.datasets.utils import check_integrity

    name = kind.__name__.lower()
    md5 = dict([*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])])
    for file, expected in md5.items():
        path = existing(root / kind.base_folder / file, name)
        if not check_integrity(path, expected):
            raise BadInput(f"{path} is damaged (its md5 should be {expected}); {remedy(name)}")
    return contents(50_000, 10_000, int(name.removeprefix("cifar")))


def _images(split: Any) -> Images:
    x = torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()
    return Images(x, torch.tensor(split.targets))
