"""Twenty classes of CIFAR-100 with 100 training images each: what a CPU trains on in a minute."""

from dataclasses import replace
from pathlib import Path

import torch

from mixbench.bench.data import cifar100
from mixbench.bench.data._base import Dataset, Files, Images
from mixbench.bench.data._layout import contents

CLASSES, EACH = 20, 100
"""CIFAR-100 has as many test images of each class."""


def read(root: Path) -> Dataset:
    """Of each of the first classes, by name, the first training images, and all test images.

    They lie in CIFAR-100's own files; raises BadInput as its ``read`` does.
    """
    whole = cifar100.read(root)
    return replace(whole, train=_few(whole.train), test=_few(whole.test), classes=CLASSES)


def check(root: Path) -> str:
    cifar100.check(root)
    return contents(CLASSES * EACH, CLASSES * EACH, CLASSES)


def _few(split: Images | Files) -> Images | Files:
    """The first ``EACH`` images of the first ``CLASSES`` classes, class by class."""
    return split[torch.cat([(split.y == k).nonzero()[:EACH, 0] for k in range(CLASSES)])]


SOURCE = replace(
    cifar100.SOURCE,
    name="tinycifar100",
    title="Twenty classes of CIFAR-100 (Krizhevsky, 2009), with 100 training images each",
    check=check,
)
