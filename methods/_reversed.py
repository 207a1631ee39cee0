"""Mixup as timm has it, the other half of TransMix and TokenMix."""

import torch
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from mixbench.methods import Mixer, Probability, beta


@dataclass(frozen=True)
class ReversedMixup(Mixer):
    """Image i with image b - 1 - i, both with smoothed labels."""

    alpha: PositiveFloat = 1.0
    smoothing: Probability = 0.0

    def mix(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        lam, y = beta(self.alpha), smoothed(y, self.smoothing)
        return torch.lerp(z.flip(0), z, lam.to(z)), torch.lerp(y.flip(0), y, lam.to(y))


def smoothed(y: Tensor, amount: float) -> Tensor:
    """Targets of which ``amount`` is spread over all classes."""
    return (1 - amount) * y + amount / y.shape[1]
