"""SaliencyMix (Uddin et al., ICLR 2021, arXiv 2006.01791)."""

from typing import ClassVar

import torch
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from mixbench.methods import Net, Probability, Switch, beta, box, partners
from mixbench.methods._finegrained import fine_grained


@dataclass(frozen=True)
class SaliencyMix(Switch):
    """CutMix with the box around the partner's most salient pixel, found in its 8-bit image.

    p: 0.5 is the paper's value for CIFAR, 1 that for ImageNet.
    official: as in the official code and unlike the paper, the box of the first partner serves the
    whole batch, and the detector is given normalised floats, red first, which it misreads.
    """

    formula: ClassVar[str] = (
        "x̂ = M ⊙ x + (1 − M) ⊙ x′, ŷ = ρy + (1 − ρ)y′, ρ = mean M, λ ~ Beta(α, α)\n"
        "M = 0 in a box of relative side √(1 − λ) around the most salient pixel of x′, else 1"
    )
    source: ClassVar[str] = "arXiv 2006.01791"

    p: Probability = 0.5
    alpha: PositiveFloat = 1.0
    official: bool = False

    def mixed_loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        (h, w), side = x.shape[-2:], (1 - beta(self.alpha)).sqrt()
        partner = partners(len(x))
        with torch.no_grad():
            row, column = _peak(self.seen(net, x[partner]))
        inside = box(h, w, side, row, column)  # b h w, or 1 h w
        kept = 1 - inside.to(y).mean((1, 2))
        mixed = torch.where(inside[:, None], x[partner], x)
        return net.criterion(net(mixed), torch.lerp(y[partner], y, kept[:, None]))

    def seen(self, net: Net, source: Tensor) -> Tensor:
        """What the detector sees of the images that are pasted, (b or 1, 3, h, w)."""
        if self.official:
            normalised: Tensor = net.split("pixels")[0](source[:1])
            return normalised.float()
        return (255 * source.flip(1)).round().to(torch.uint8)  # blue first


def _peak(images: Tensor) -> tuple[Tensor, Tensor]:
    """The row and the column of the most salient pixel, the first of equals, (b,) each."""
    index, width = fine_grained(images).flatten(1).argmax(1), images.shape[-1]
    return index // width, index % width
