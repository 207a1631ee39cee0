"""mixup (Zhang et al., ICLR 2018, arXiv 1710.09412)."""

from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from mixbench.methods import LinearMixer, beta, pairs


@dataclass(frozen=True)
class Mixup(LinearMixer):
    """Mix each image with one random partner, at one ratio per batch from Beta(alpha, alpha)."""

    alpha: PositiveFloat = 1.0

    def weights(self, b: int) -> Tensor:
        return pairs(beta(self.alpha), b)
