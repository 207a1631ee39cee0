"""CutMix (Yun et al., ICCV 2019, arXiv 1905.04899)."""

from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from mixbench.methods import Mixer, Net, Probability, box, partners, ratios


@dataclass(frozen=True)
class CutMix(Mixer):
    """Paste one box of each image's partner onto it; targets are mixed by the visible area.

    As in the official code, one box per batch, whose sides are even before the border clips them.
    p: 0.5 is the paper's value for CIFAR, 1 that for ImageNet.
    k: interpolations per pair (see ``multiple``); nested: whether their boxes have one centre.
    corrected: whether targets follow the visible area, as in the official code, or, as in the
        paper's equation, the ratio that was drawn, of which the border may clip some.
    """

    formula: ClassVar[str] = (
        "x̂ = M ⊙ x + (1 − M) ⊙ x′, ŷ = ρy + (1 − ρ)y′, ρ = mean M\n"
        "M = 0 in a box of relative side √(1 − λ), else 1; λ ~ Beta(α, α)"
    )
    source: ClassVar[str] = "arXiv 1905.04899, eq. 1"

    p: Probability = 0.5
    alpha: PositiveFloat = 1.0
    k: PositiveInt = 1
    nested: bool = False
    corrected: bool = True

    def check(self, net: Net) -> None:
        super().check(net)
        for stage in self.at:
            net.trunk.split(stage)  # a box needs maps

    def mix(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        lam, (h, w) = ratios(self.alpha, self.k), z.shape[-2:]
        side, centres = (1 - lam).sqrt(), () if self.nested else (self.k,)
        row, column = torch.randint(h, centres), torch.randint(w, centres)
        inside, partner = box(h, w, side, row, column), partners(len(z))  # k h w, b
        kept = 1 - inside.to(y).mean((1, 2)) if self.corrected else lam.to(y)
        mixed = torch.where(inside[:, None, None], z[partner], z)  # k b c h w
        targets = torch.lerp(y[partner], y, kept[:, None, None])  # k b c
        return mixed.flatten(0, 1), targets.flatten(0, 1)
