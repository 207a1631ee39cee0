"""MultiMix (Venkataramanan et al., NeurIPS 2023, arXiv 2311.05538, Section 3.2)."""

from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from mixbench.methods import LinearMixer, Method, Probability, Range
from mixbench.methods._simplex import simplex
from mixbench.methods.mixup import Mixup


@dataclass(frozen=True)
class MultiMix(LinearMixer):
    """Mix the embeddings of the whole batch into ``n`` random points of their convex hull.

    p: the probability of doing so; the other batches take input mixup.
    n: mixtures per batch.
    m: examples per mixture, each a random subset; the whole batch if not given.
    alpha: the range of the Dirichlet parameter, drawn uniformly for each ``alpha_per``: "vector" of
        weights, that is, for each mixture at each position; "mixture", or "batch".
    input_alpha: of input mixup's Beta; the paper does not give it, 2 is that of AlignMixup.
    """

    version: ClassVar[int] = 2
    formula: ClassVar[str] = (
        "Ẑ = ZΛ, Ŷ = YΛ, λₖ ~ Dir(αₖ), αₖ ~ U(alpha), k = 1, …, n\n"
        "columns of Z: the embeddings of the batch"
    )
    source: ClassVar[str] = "arXiv 2311.05538, Section 3.2"

    at: tuple[str, ...] = ("pool",)
    p: Probability = 0.5
    n: PositiveInt = 1000
    m: PositiveInt | None = None
    alpha: Range = (0.5, 2.0)
    input_alpha: PositiveFloat = 2.0
    alpha_per: Literal["vector", "mixture", "batch"] = "vector"

    def weights(self, b: int) -> Tensor:
        return self.draw(b, 1)[0]

    def draw(self, b: int, r: int) -> Tensor:
        """Weights for ``r`` positions, (r, n, b), independent but for the subset of each mixture."""
        m = min(self.m or b, b)
        weights = simplex(self.draw_alpha(r), m)
        if m == b:
            return weights
        subset = torch.rand(self.n, b).argsort(1)[:, :m].expand(r, self.n, m)
        return torch.zeros(r, self.n, b).scatter(2, subset, weights)

    def draw_alpha(self, r: int) -> Tensor:
        """The Dirichlet parameter of each vector of weights, (r, n)."""
        drawn = {"vector": (r, self.n), "mixture": (1, self.n), "batch": (1, 1)}[self.alpha_per]
        return torch.empty(drawn).uniform_(*self.alpha).expand(r, self.n)

    def otherwise(self) -> Method:
        return Mixup(alpha=self.input_alpha)
