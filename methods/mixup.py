"""mixup (Zhang et al., ICLR 2018, arXiv 1710.09412)."""

from typing import ClassVar

from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from mixbench.methods import LinearMixer, pairs, ratios


@dataclass(frozen=True)
class Mixup(LinearMixer):
    """Mix each image with one random partner, at one ratio per batch from Beta(alpha, alpha).

    k: interpolations per pair (see ``multiple``).
    shared: whether all pairs of a batch have the same ratios, as in the official code.
    """

    formula: ClassVar[str] = "x̂ = λx + (1 − λ)x′, ŷ = λy + (1 − λ)y′, λ ~ Beta(α, α)"
    source: ClassVar[str] = "arXiv 1710.09412"

    alpha: PositiveFloat = 1.0
    k: PositiveInt = 1
    shared: bool = True

    def weights(self, b: int) -> Tensor:
        each = () if self.shared else (b,)
        return pairs(ratios(self.alpha, self.k, *each), b)
