"""zeta-mixup (Abhishek, Brown, Hamarneh, Journal of Big Data 2024, arXiv 2204.03323)."""

from typing import ClassVar

import torch
from pydantic import NonNegativeFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from mixbench.methods import LinearMixer


@dataclass(frozen=True)
class ZetaMixup(LinearMixer):
    """Mix the whole batch with weights i^-gamma, the largest on the image itself.

    The other weights are permuted at random, independently for each mixture.
    """

    formula: ClassVar[str] = (
        "x̂ᵢ = Σⱼ wᵢⱼxⱼ, ŷᵢ = Σⱼ wᵢⱼyⱼ\n"
        "wᵢ: 1^−γ, 2^−γ, …, b^−γ over their sum, the first at i, the others permuted"
    )
    source: ClassVar[str] = "arXiv 2204.03323"

    gamma: NonNegativeFloat = 2.8

    def weights(self, b: int) -> Tensor:
        series = torch.arange(1, b + 1, dtype=torch.get_default_dtype()) ** -self.gamma
        order = torch.rand(b, b).fill_diagonal_(-1).argsort(1)  # the image itself, then the others
        return torch.zeros(b, b).scatter(1, order, (series / series.sum()).expand(b, b))
