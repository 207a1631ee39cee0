"""What a dataset is, before it is put in batches."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mixbench.bench.spec import BadInput

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Images:
    """A split that is held in memory: images (n, 3 or 1, h, w) uint8, and labels (n,) int64."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device) -> "Images":
        return Images(self.x.to(device), self.y.to(device))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, pick: Tensor) -> "Images":
        return Images(self.x[pick], self.y[pick])


@dataclass(frozen=True)
class Files:
    """A split that is read as it is used: the paths of n image files, as bytes, and labels (n,).

    An array of bytes, as a list of a million strings would be copied to every process that reads.
    """

    paths: NDArray[np.bytes_]
    y: Tensor

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, pick: Tensor) -> "Files":
        return Files(self.paths[pick.numpy()], self.y[pick])


@dataclass(frozen=True)
class Dataset:
    """What a dataset's file gives: its splits, how many classes, and how pixels are normalised.

    held_out: training images that nothing is trained on.
    """

    train: Images | Files
    test: Images | Files
    classes: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    held_out: Images | Files | None = None

    def check(self, batch: int) -> None:
        """Raises BadInput if labels and classes don't match, or one batch can't be filled."""
        if self.classes < 2:
            raise BadInput(f"there should be 2 classes or more, not {self.classes}")
        for name, split in (("training", self.train), ("test", self.test)):
            labels = split.y.unique().tolist()
            if labels != list(range(self.classes)):
                raise BadInput(f"of {self.classes} classes, the {name} images have {_span(labels)}")
        if len(self.train) < batch:
            raise BadInput(f"{len(self.train)} training images can't fill a batch of {batch}")

    def hold_out(self, share: float) -> Self:
        """The dataset with a share of the training images of each class held out.

        They are the same in all runs. Raises BadInput if a class would have none on either side.
        """
        if not share:
            return self
        from sklearn.model_selection import train_test_split

        everyone, y = torch.arange(len(self.train)), self.train.y.cpu()
        try:
            train, rest = train_test_split(everyone, test_size=share, stratify=y, random_state=0)
        except ValueError as error:
            raise BadInput(f"holdout={share:g} of the training images: {error}") from None
        parts = (y[part].bincount(minlength=self.classes) for part in (train, rest))
        if not torch.stack([*parts]).all():
            raise BadInput(f"holdout={share:g} leaves a class without training images on one side")
        return replace(self, train=self.train[train], held_out=self.train[rest])


def _span(labels: list[Any]) -> str:
    return f"{len(labels)}, from {labels[0]} to {labels[-1]}" if labels else "none"


def one_hot(y: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Labels (b,) as distributions (b, c), of which a share is spread evenly over all classes.

    Mixing is linear, so smoothed targets, mixed, are mixed targets, smoothed (arXiv 1512.00567).
    """
    sharp = F.one_hot(y, classes).float()
    return (1 - smoothing) * sharp + smoothing / classes if smoothing else sharp
