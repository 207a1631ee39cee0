"""Small datasets: held whole on one device as uint8, cropped and flipped there in batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mixbench.bench.spec import BadInput


@dataclass(frozen=True)
class Images:
    """A split: images (n, 3, h, w) uint8 and labels (n,) int64."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device) -> "Images":
        return Images(self.x.to(device), self.y.to(device))

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Dataset:
    """What a dataset's file gives: its splits, how many classes, and how pixels are normalised."""

    train: Images
    test: Images
    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def check(self, batch: int) -> None:
        """Raises BadInput if labels and classes don't match, or one batch can't be filled."""
        labels = torch.cat([self.train.y, self.test.y]).unique().tolist()
        if labels != list(range(self.classes)):
            found = f"{len(labels)}, from {labels[0]} to {labels[-1]}"
            raise BadInput(
                f"labels should be 0 to {self.classes - 1}, each present; there are {found}"
            )
        if len(self.train) < batch:
            raise BadInput(f"{len(self.train)} training images can't fill a batch of {batch}")

    def to(self, device: torch.device) -> "Dataset":
        train, test = self.train.to(device), self.test.to(device)
        return Dataset(train, test, self.classes, self.mean, self.std)


@dataclass(frozen=True)
class Data:
    """A dataset in batches, as one run sees it."""

    dataset: Dataset
    batch: int
    crop: int
    flip: bool
    seed: int

    @property
    def classes(self) -> int:
        return self.dataset.classes

    def batches(self, split: str, size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
        """The "train" or "test" images in order and unchanged: (b, 3, h, w) in [0, 1], (b,) int64."""
        images: Images = getattr(self.dataset, split)
        for x, y in zip(images.x.split(size), images.y.split(size), strict=True):
            yield x / 255, y

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The training batches of an epoch: (b, 3, h, w) in [0, 1], one-hot targets (b, c).

        Shuffled, cropped and flipped as a function of seed and epoch alone, so that all methods
        see the same; all batches are full.
        """
        train, device = self.dataset.train, self.dataset.train.x.device
        draw = np.random.default_rng((self.seed, epoch))
        order = torch.from_numpy(draw.permutation(len(train))).to(device)
        corner = torch.from_numpy(draw.integers(0, 2 * self.crop + 1, (len(train), 2))).to(device)
        mirror = torch.from_numpy(self.flip & (draw.random(len(train)) < 0.5)).to(device)
        for i in range(0, len(train) - self.batch + 1, self.batch):
            pick = order[i : i + self.batch]
            x = _crop(train.x[pick], self.crop, corner[pick], mirror[pick])
            yield x / 255, F.one_hot(train.y[pick], self.classes).float()


def _crop(x: Tensor, pad: int, corner: Tensor, mirror: Tensor) -> Tensor:
    """Crops of the padded images (b, 3, h, w) at their own ``corner`` (b, 2), some mirrored (b,)."""
    b, _, h, w = x.shape
    rows = corner[:, :1] + torch.arange(h, device=x.device)
    cols = torch.arange(w, device=x.device).expand(b, w)
    cols = corner[:, 1:] + torch.where(mirror[:, None], cols.flip(1), cols)
    padded = F.pad(x, [pad] * 4).movedim(1, -1)  # b h w 3
    image = torch.arange(b, device=x.device)[:, None, None]
    return padded[image, rows[:, :, None], cols[:, None]].movedim(-1, 1)
