"""AlignMixup (Venkataramanan et al., CVPR 2022, arXiv 2103.15375)."""

from math import log
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from mixbench.methods import Method, Mixer, Net, Probability, beta, chance, partners
from mixbench.methods.mixup import Mixup


@dataclass(frozen=True)
class AlignMixup(Mixer):
    """Mix the last maps of each pair, after one is aligned with the other by optimal transport.

    As in the official code, without the paper's autoencoder; which of the two is aligned is drawn
    for each batch. As there, positions of a map that was aligned need not weigh one in sum.

    p: the probability of doing so; the other batches take input mixup, with the same alpha.
    eps: entropy of the transport, in units of squared distances of features.
    steps: of Sinkhorn's algorithm, at most; tolerance: it ends when potentials change by less.
    """

    formula: ClassVar[str] = (
        "ẑ = λz + (1 − λ)z′Rᵀ or λzR + (1 − λ)z′, ŷ = λy + (1 − λ)y′, λ ~ Beta(α, α)\n"
        "R = r argmin ⟨P, C⟩ − eps · entropy(P), Cⱼₖ = ‖zⱼ − z′ₖ‖², over transport plans P"
    )
    source: ClassVar[str] = "arXiv 2103.15375"

    p: Probability = 0.5
    at: tuple[str, ...] = ("layer4",)
    alpha: PositiveFloat = 2.0
    eps: PositiveFloat = 0.1
    steps: PositiveInt = 100
    tolerance: NonNegativeFloat = 0.1

    def check(self, net: Net) -> None:
        for stage in self.at:
            net.trunk.split(stage)  # there is nothing to align behind the pool

    def mix(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        lam, partner = beta(self.alpha).to(z), partners(len(z))
        own = z.flatten(2)
        other = own[partner]
        plan = self.plan(own, other)
        if chance(0.5):
            mixed = torch.lerp(torch.einsum("bdk,bjk->bdj", other, plan), own, lam)
        else:
            mixed = torch.lerp(other, torch.einsum("bdj,bjk->bdk", own, plan), lam)
        return mixed.view_as(z), torch.lerp(y[partner], y, lam.to(y))

    @torch.no_grad()
    def plan(self, own: Tensor, other: Tensor) -> Tensor:
        """How much of each position of ``other`` goes with each of ``own``, (b, r, r), from maps
        (b, d, r): transport between uniform marginals, times r.

        Sinkhorn's algorithm on logarithms, in at least single precision. Batches in which all
        potentials have settled keep them, so that no device is waited for.
        """
        precise = torch.promote_types(own.dtype, torch.float32)
        cost = squared_distances(own.to(precise), other.to(precise))  # b j k
        b, r, _ = cost.shape
        u, v = torch.zeros(2, b, r).to(cost)
        mass, running = self.eps * log(1 / r + 1e-8), torch.ones((), dtype=torch.bool)
        for _ in range(self.steps):
            new_u = mass - self.eps * ((v[:, None] - cost) / self.eps).logsumexp(2)
            new_v = mass - self.eps * ((new_u[..., None] - cost) / self.eps).logsumexp(1)
            change = (new_u - u).abs().sum(1).mean()
            u, v = torch.where(running, new_u, u), torch.where(running, new_v, v)
            running = running & (change >= self.tolerance)
        plan: Tensor = r * ((u[..., None] - cost + v[:, None]) / self.eps).exp()
        return plan.to(own)

    def otherwise(self) -> Method:
        return Mixup(alpha=self.alpha)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Between the columns of (..., d, r) and those of (..., d, s), (..., r, s)."""
    squares = a.square().sum(-2)[..., None] + b.square().sum(-2)[..., None, :]
    return (squares - 2 * a.mT @ b).clamp(min=0)
