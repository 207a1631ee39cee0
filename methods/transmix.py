"""TransMix (Chen et al., CVPR 2022, arXiv 2111.09833)."""

from typing import ClassVar

import torch
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from mixbench.methods import Method, Net, Probability, Switch, beta, box, full_precision
from mixbench.methods._attention import attend, grid, last_attention
from mixbench.methods._reversed import ReversedMixup, smoothed


@dataclass(frozen=True)
class TransMix(Switch):
    """CutMix of image i and image b - 1 - i whose targets follow the attention of the class token.

    The attention is that of the training pass itself. Other batches take input mixup of the same
    pairs. The middle image of an odd batch is its own partner; the official code refuses these.

    p: 0.5 is what the official DeiT-S run had, as its 0.8 is under a key that is not read.
    alpha: of the Beta of the box.
    input_alpha: of input mixup's Beta.
    smoothing: of all labels.
    area: the weight of the box's area, next to its attention, in the ratio of the targets: 0.5 in
        the official code, 0 in the paper's equation.
    """

    formula: ClassVar[str] = (
        "x̂ = M ⊙ x + (1 − M) ⊙ x′, ŷ = (1 − s)y + s y′; M: as in CutMix\n"
        "s = area · mean(1 − M) + (1 − area) · ⟨a, 1 − M⟩ / ⟨a, 1⟩, a: attention of the class token to x̂"
    )
    source: ClassVar[str] = "arXiv 2111.09833"

    p: Probability = 0.5
    alpha: PositiveFloat = 1.0
    input_alpha: PositiveFloat = 0.8
    smoothing: Probability = 0.1
    area: Probability = 0.5

    def check(self, net: Net) -> None:
        last_attention(net)

    def mixed_loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        inside = self.draw(*x.shape[-2:])
        logits, a = attend(net, torch.where(inside, x.flip(0), x))
        with full_precision(x.device):
            share, y = self.share(inside, a).to(y), smoothed(y, self.smoothing)
            target = torch.lerp(y, y.flip(0), share[:, None])
        return net.criterion(logits, target)

    def draw(self, h: int, w: int) -> Tensor:
        """Draw the pixels that come from the partner, (h, w)."""
        side = (1 - beta(self.alpha)).sqrt()
        return box(h, w, side, torch.randint(h, ()), torch.randint(w, ()))

    def share(self, inside: Tensor, a: Tensor) -> Tensor:
        """The partner's share of the targets, (b,), from the attention (b, n) of the mixed images."""
        tokens = F.interpolate(inside[None, None].to(a), grid(a.shape[1], *inside.shape)).flatten()
        attended = a @ tokens / a.sum(1).clamp(min=torch.finfo(a.dtype).tiny)
        return torch.lerp(attended, inside.to(a).mean(), self.area)

    def otherwise(self) -> Method:
        return ReversedMixup(alpha=self.input_alpha, smoothing=self.smoothing)
