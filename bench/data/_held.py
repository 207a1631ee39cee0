"""Small datasets in batches: whole on one device as uint8, cropped and flipped there."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mixbench.bench.data._base import Dataset, Images, one_hot

AT_ONCE = 1024
"""Images that are picked and cropped together, in some thirty small kernels for all of them."""


@dataclass(frozen=True)
class Held:
    """A dataset in batches, as one run sees it.

    crop: padding in pixels, of which a random crop takes back the size. flip: left to right.
    smoothing: the share of each target that is spread evenly over all classes.
    part, parts: which of how many equal parts of each training batch is given, and of a split in
        order, which of how many batches.
    """

    dataset: Dataset
    batch: int
    crop: int
    flip: bool
    seed: int
    smoothing: float = 0.0
    part: int = 0
    parts: int = 1
    lost: dict[str, str] = field(default_factory=dict, compare=False)  # no file is read

    @property
    def size(self) -> int:
        """Pixels per side."""
        return self._split("train").x.shape[-1]

    @property
    def steps(self) -> int:
        """Training batches in an epoch."""
        return len(self.dataset.train) // self.batch

    def batches(self, split: str, size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
        """The images of a split, in order and unchanged: (b, 3, h, w) in [0, 1], (b,) int64."""
        return islice(in_order(self._split(split), size), self.part, None, self.parts)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The training batches of an epoch from ``start``: (b, 3, h, w) in [0, 1], targets (b, c).

        Shuffled, cropped and flipped as a function of seed and epoch alone, so that all methods
        see the same; all batches are full.
        """
        train, classes = self._split("train"), self.dataset.classes
        draw = np.random.default_rng((self.seed, epoch))
        order, corner, mirror = (
            torch.from_numpy(drawn).to(train.x.device)
            for drawn in (
                draw.permutation(len(train)),
                draw.integers(0, 2 * self.crop + 1, (len(train), 2)),
                self.flip & (draw.random(len(train)) < 0.5),
            )
        )
        mine = order[: self.steps * self.batch].view(self.steps, self.parts, -1)[:, self.part]
        b = mine.shape[1]
        together = max(1, AT_ONCE // b)
        for first in range(start, self.steps, together):
            pick = mine[first : first + together].flatten()
            x = train.x.index_select(0, pick)
            if self.crop or self.flip:
                x = _cropped(x, self.crop, corner[pick], mirror[pick])
            y = one_hot(train.y[pick], classes, self.smoothing)
            yield from zip(map(_floats, x.split(b)), y.split(b), strict=True)

    def _split(self, name: str) -> Images:
        images: Images = getattr(self.dataset, name)
        return images


def held(dataset: Dataset, device: torch.device) -> Dataset:
    """The dataset, its images on the device."""
    train, test = cast(Images, dataset.train), cast(Images, dataset.test)
    rest = cast(Images | None, dataset.held_out)
    return replace(
        dataset, train=train.to(device), test=test.to(device), held_out=rest and rest.to(device)
    )


def in_order(images: Images, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of ``size`` images: (b, 3, h, w) in [0, 1], (b,) int64."""
    for x, y in zip(images.x.split(size), images.y.split(size), strict=True):
        yield _floats(x), y


def _floats(x: Tensor) -> Tensor:
    """Pixels (b, 3 or 1, h, w) in [0, 1], three channels of them."""
    return (x / 255).expand(-1, 3, -1, -1)


def _cropped(x: Tensor, pad: int, corner: Tensor, mirror: Tensor) -> Tensor:
    """Crops of the padded images (b, d, h, w) at their own ``corner`` (b, 2), some mirrored (b,).

    A crop is made of rows, and a row is w bytes anywhere in memory: one index per row copies it. To
    mirror is to read from a mirrored copy.
    """
    b, d, h, w = x.shape
    x = F.pad(x, [pad] * 4)
    height, width = x.shape[-2:]
    both = torch.stack([x, x.flip(-1)]).flatten()
    i, j = corner.T
    j = torch.where(mirror, 2 * pad - j, j)
    start = ((mirror * b + torch.arange(b, device=x.device)) * d * height + i) * width + j
    rows = torch.arange(h, device=x.device) * width
    maps = torch.arange(d, device=x.device)[:, None] * height * width
    index = (start[:, None, None] + maps + rows).flatten()  # b d h
    everywhere = both.as_strided((len(both) - w + 1, w), (1, 1))
    return everywhere.index_select(0, index).view(b, d, h, w)
