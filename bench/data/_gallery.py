"""Every set of images that a run's network can be shown."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from mixbench.bench.data import corrupted, detection, outside
from mixbench.bench.data._base import Files, Images
from mixbench.bench.data._held import Held, in_order
from mixbench.bench.data._streamed import Streamed
from mixbench.bench.spec import choose
from mixbench.tasks import Inapplicable, Scenes

Split = TypeVar("Split", Images, Files, Images | Files)

SPLITS, PUBLISHED = ("train", "test", "held_out"), "published"
SETS = (*outside.FILES, "svhn", *outside.NO_FILES, *detection.NAMES)
TRAIN_IMAGES = 50_000
BATCH = 500


class Overlap(UserWarning):
    """Images that should be of other classes than those trained on, and may not be."""


@dataclass(frozen=True)
class Gallery:
    """Images by name, as tasks ask for them, on the device and of the size of a run's data.

    name: of the dataset. root: the folder of datasets.
    """

    data: Held | Streamed
    name: str
    root: Path

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The training batches of an epoch, with targets (b, c)."""
        return self.data.epoch(epoch)

    def batches(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The images of a set: (b, 3, h, w) in [0, 1], and labels (b,).

        Of "train", no more than ``TRAIN_IMAGES``, drawn once for all runs. Other names are those of
        ``outside``, and SOURCE/CORRUPTION/SEVERITY. Raises Inapplicable if there is no such source.
        """
        if name in SPLITS:
            return self._split(name)
        images = self._corrupted(name) if _is_corrupted(name) else self._outside(name)
        return ((x.to(self._device), y.to(self._device)) for x, y in in_order(images, self._batch))

    def scenes(self, name: str) -> Scenes:
        """Images with objects in boxes, as they lie in files. Raises BadInput if there are none."""
        return detection.scenes(name, self.root)

    def require(self, name: str) -> None:
        """Raises BadInput if there is no such set beside the splits. Warns if classes overlap."""
        if detection.known(name):
            detection.require(name, self.root)
            return
        if _is_corrupted(name):
            if self._can_be_corrupted(name):
                corrupted.require(self._published(name), self.root)
            return
        if ":" not in name:
            choose(name, SETS, "set of images")
        outside.require(name, self.root)
        if why := outside.overlap(name, self.name):
            warnings.warn(f"{name} is not outside {self.name}: {why}", Overlap, stacklevel=2)

    @property
    def _device(self) -> torch.device:
        data = self.data
        return data.device if isinstance(data, Streamed) else data.dataset.test.y.device

    @property
    def _batch(self) -> int:
        """How many images are looked at together: of large ones, as many as in training."""
        return self.data.batch if isinstance(self.data, Streamed) else BATCH

    def _split(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        dataset = self.data.dataset
        if name == "held_out" and dataset.held_out is None:
            return iter(())
        if name == "train":
            dataset = replace(dataset, train=_at_most(TRAIN_IMAGES, dataset.train))
        return replace(self.data, dataset=dataset).batches(name)

    def _outside(self, name: str) -> Images:
        x = outside.outside(name, self.root, self.data.size)
        self._compare(name, x)
        return Images(x, torch.full((len(x),), -1))

    def _corrupted(self, name: str) -> Images:
        clean = self.data.dataset.test
        if not self._can_be_corrupted(name) or not isinstance(clean, Images):
            raise Inapplicable(f"there are no {name.partition('/')[0]} corruptions of {self.name}")
        return corrupted.named(self._published(name), self.root, clean)

    def _can_be_corrupted(self, name: str) -> bool:
        kind = self._published(name).partition("/")[0]
        held = isinstance(self.data.dataset.test, Images)
        return held and (kind in corrupted.PUBLISHED or kind == corrupted.GENERATED)

    def _published(self, name: str) -> str:
        """Of published images, those of this dataset: cifar10-c/fog/3 for published/fog/3."""
        kind, _, rest = name.partition("/")
        return f"{self.name}-c/{rest}" if kind == PUBLISHED else name

    def _compare(self, name: str, x: Tensor) -> None:
        """Warn of images that are, to the byte, among those of the dataset."""
        splits = (self.data.dataset.train, self.data.dataset.test)
        inside = [split.x for split in splits if isinstance(split, Images)]
        if inside and (shared := outside.shared_images(x, *inside)):
            said = f"{shared:,} of the {len(x):,} images of {name} are also in {self.name}"
            warnings.warn(said, Overlap, stacklevel=2)


def _at_most(n: int, images: Split) -> Split:
    """``n`` images of a larger split, drawn once for all runs."""
    if len(images) <= n:
        return images
    drawn = np.random.default_rng(0).permutation(len(images))[:n]
    return images[torch.from_numpy(np.sort(drawn)).to(images.y.device)]


def _is_corrupted(name: str) -> bool:
    return name.partition("/")[0] in (PUBLISHED, corrupted.GENERATED)
