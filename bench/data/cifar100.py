"""CIFAR-100 (Krizhevsky, 2009), as torchvision lays it out: ROOT/cifar-100-python/."""

from pathlib import Path

import torch
from torchvision.datasets import CIFAR100
from torchvision.datasets.utils import check_integrity

from mixbench.bench.data._base import Dataset, Images
from mixbench.bench.spec import BadInput

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # CIFAR-10's, as in the papers


def read(root: Path) -> Dataset:
    """Raises BadInput, naming the file, if one is missing or damaged."""
    md5 = dict([*CIFAR100.train_list, *CIFAR100.test_list])
    md5[CIFAR100.meta["filename"]] = CIFAR100.meta["md5"]
    for name, expected in md5.items():
        _check(root, root / CIFAR100.base_folder / name, expected)
    train, test = (CIFAR100(root, train=train) for train in (True, False))
    return Dataset(_images(train), _images(test), len(train.classes), MEAN, STD)


def _check(root: Path, path: Path, md5: str) -> None:
    if not check_integrity(path, md5):
        problem = f"is damaged (its md5 should be {md5})" if path.exists() else "is missing"
        raise BadInput(
            f"{path} {problem}; name the folder that holds {CIFAR100.base_folder} with --data, "
            f"or download it: torchvision.datasets.CIFAR100({str(root)!r}, download=True)"
        )


def _images(split: CIFAR100) -> Images:
    x = torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()
    return Images(x, torch.tensor(split.targets))
