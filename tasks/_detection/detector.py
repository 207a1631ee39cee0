"""What a detector is, whichever library it comes from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Boxes:
    """k objects in an image, annotated or found.

    at: (k, 4) float, in pixels: left, top, right, bottom, of which the first pixel spans 0 to 1.
    labels: (k,) int64, from 0. scores: (k,), from 0 to 1, those that were found in falling order.
    """

    at: Tensor
    labels: Tensor
    scores: Tensor

    def to(self, device: torch.device) -> "Boxes":
        """Nobody waits until they are on a GPU; on the host, they are there."""
        later = device.type != "cpu"
        return Boxes(*(part.to(device, non_blocking=later) for part in vars(self).values()))


class Detector(nn.Module, ABC):
    """Finds objects in images (3, h, w) in [0, 1], which may be of different sizes."""

    @property
    @abstractmethod
    def backbone(self) -> nn.Module:
        """The part that starts from weights that were trained before."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def received(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Images (3, h, w) uint8 as it takes them, where it is."""
        return [image.to(self.device, non_blocking=True) / 255 for image in images]

    @abstractmethod
    def losses(self, images: Sequence[Tensor], truths: Sequence[Boxes]) -> Mapping[str, Tensor]:
        """The terms of the loss, by name; their sum is what is minimised. In train mode."""

    @abstractmethod
    def found(self, images: Sequence[Tensor]) -> list[Boxes]:
        """What is found in each image, in its pixels. In eval mode."""
