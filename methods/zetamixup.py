"""zeta-mixup (Abhishek, Brown, Hamarneh, Journal of Big Data 2024, arXiv 2204.03323)."""

from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from mixbench.methods import LinearMixer


@dataclass(frozen=True)
class ZetaMixup(LinearMixer):
    """Mix the whole batch with weights i^-gamma, the largest on the image itself.

    The other weights are permuted at random, independently for each mixture.

    m: examples per mixture, a random subset; the whole batch if not given, as in the official code
        (Table 1 of arXiv 2311.05538 says 25).
    own: whether the largest weight is on the image itself, as in the official code; the paper
        permutes all.
    """

    formula: ClassVar[str] = (
        "x̂ᵢ = Σⱼ wᵢⱼxⱼ, ŷᵢ = Σⱼ wᵢⱼyⱼ\n"
        "wᵢ: 1^−γ, 2^−γ, …, b^−γ over their sum, the first at i, the others permuted"
    )
    source: ClassVar[str] = "arXiv 2204.03323"

    gamma: NonNegativeFloat = 2.8
    m: PositiveInt | None = None
    own: bool = True

    def weights(self, b: int) -> Tensor:
        series = torch.arange(1, b + 1, dtype=torch.get_default_dtype()) ** -self.gamma
        series[self.m or b :] = 0
        keys = torch.rand(b, b)
        order = (keys.fill_diagonal_(-1) if self.own else keys).argsort(1)  # of falling weights
        return torch.zeros(b, b).scatter(1, order, (series / series.sum()).expand(b, b))
