"""scikit-learn's 1,797 scanned digits of 8 x 8 pixels: 1,297 to train, 500 to test."""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from mixbench.bench.data._base import Dataset, Images
from mixbench.bench.data._layout import contents
from mixbench.bench.data._source import Source


def read(root: Path) -> Dataset:
    """The digits that come with scikit-learn; nothing is read from ``root``."""
    digits = load_digits()
    x = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)
    x, y = x[:, None].expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(digits.target)
    train, test = train_test_split(torch.arange(len(y)), test_size=500, stratify=y, random_state=0)
    pixels = x[train] / 255
    mean, std = pixels.mean().item(), pixels.std().item()
    return Dataset(
        Images(x[train], y[train]), Images(x[test], y[test]), 10, (mean,) * 3, (std,) * 3
    )


def check(root: Path) -> str:
    dataset = read(root)
    return contents(len(dataset.train), len(dataset.test), dataset.classes)


SOURCE = Source(
    "digits",
    "scikit-learn's digits (Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, 1998)",
    "classification",
    check,
)
