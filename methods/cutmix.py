"""CutMix (Yun et al., ICCV 2019, arXiv 1905.04899)."""

import torch
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from mixbench.methods import Mixer, Net, Probability, beta, partners


@dataclass(frozen=True)
class CutMix(Mixer):
    """Paste one box of each image's partner onto it; targets are mixed by the visible area.

    As in the official code, one box per batch, whose sides are even before the border clips them.
    p: 0.5 is the paper's value for CIFAR, 1 that for ImageNet.
    """

    p: Probability = 0.5
    alpha: PositiveFloat = 1.0

    def check(self, net: Net) -> None:
        super().check(net)
        for stage in self.at:
            net.trunk.split(stage)  # a box needs maps

    def mix(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        height, width = z.shape[-2:]
        side = (1 - beta(self.alpha)).sqrt()
        box = _interval(height, side)[:, None] & _interval(width, side)
        partner, lam = partners(len(z)), 1 - box.to(y).mean()
        return torch.where(box, z[partner], z), torch.lerp(y[partner], y, lam)


def _interval(size: int, side: Tensor) -> Tensor:
    """Which of ``size`` pixels lie within a random interval of relative length ``side``, (size,)."""
    half, centre = (size * side).long() // 2, torch.randint(size, ())
    pixel = torch.arange(size)
    return (pixel >= centre - half) & (pixel < centre + half)
