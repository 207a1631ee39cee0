"""AlignMixup (Venkataramanan et al., CVPR 2022, arXiv 2103.15375)."""

from math import log
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from mixbench.methods import Method, Mixer, Net, Probability, beta, chance, partners
from mixbench.methods.mixup import Mixup

TOGETHER = 10  # steps between two looks at whether to end, where looking would wait


@dataclass(frozen=True)
class AlignMixup(Mixer):
    """Mix the last maps of each pair, after one is aligned with the other by optimal transport.

    As in the official code, without the paper's autoencoder; which of the two is aligned is drawn
    for each batch. As there, positions of a map that was aligned need not weigh one in sum.

    p: the probability of doing so; the other batches take input mixup, with the same alpha.
    eps: entropy of the transport, in units of squared distances of features.
    steps: of Sinkhorn's algorithm, at most; tolerance: it ends when potentials change by less.
    convex: whether rows of R are made to sum to one, as its columns do, so that each position of a
        map that was aligned is a convex combination.
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
    convex: bool = False

    def check(self, net: Net) -> None:
        for stage in self.at:
            net.trunk.split(stage)  # there is nothing to align behind the pool

    def mix(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        lam, partner = beta(self.alpha).to(z), partners(len(z))
        own = z.flatten(2)
        other = own[partner]
        plan = self.plan(own, other)
        if chance(0.5):
            plan = plan / plan.sum(2, keepdim=True) if self.convex else plan
            mixed = torch.lerp(torch.einsum("bdk,bjk->bdj", other, plan), own, lam)
        else:
            mixed = torch.lerp(other, torch.einsum("bdj,bjk->bdk", own, plan), lam)
        return mixed.view_as(z), torch.lerp(y[partner], y, lam.to(y))

    @torch.no_grad()
    def plan(self, own: Tensor, other: Tensor) -> Tensor:
        """How much of each position of ``other`` goes with each of ``own``, (b, r, r), from maps
        (b, d, r): transport between uniform marginals, times r.

        The logarithm of the plan is what is iterated, in at least single precision.
        """
        precise = torch.promote_types(own.dtype, torch.float32)
        cost = squared_distances(own.to(precise), other.to(precise))  # b j k
        r = cost.shape[1]
        mass = 1 / r + 1e-8
        start = -cost / self.eps - log(mass)  # potentials of zero; sums are to be one, not mass
        scaled = self.scaled if cost.is_cpu else self.scaled_unseen
        return (r * mass * scaled(start).exp()).to(own)

    def scaled(self, plan: Tensor) -> Tensor:
        """The logarithm of a plan, (b, r, r), after Sinkhorn's algorithm, which may end early."""
        for _ in range(self.steps):
            plan, change = _sinkhorn(plan)
            if self.settled(change):
                break
        return plan

    def scaled_unseen(self, plan: Tensor) -> Tensor:
        """The same, but no device is waited for: after some steps, it is found whether and where it
        ended among them.
        """
        running = torch.ones((), dtype=torch.bool)
        for start in range(0, self.steps, TOGETHER):
            plans, changes = [plan], []
            for _ in range(min(TOGETHER, self.steps - start)):
                new, change = _sinkhorn(plans[-1])
                plans.append(new)
                changes.append(change)
            settled = self.settled(torch.stack(changes))
            ended = torch.where(settled.any(), settled.int().argmax() + 1, len(changes))
            at = torch.where(running, ended, 0)
            plan = torch.stack(plans).index_select(0, at[None])[0]
            running = running & ~settled.any()
        return plan

    def settled(self, change: Tensor) -> Tensor:
        """Whether batches have, whose potentials, in units of eps, changed by (..., b, r)."""
        return self.eps * change.abs().sum(-1).mean(-1) < self.tolerance

    def otherwise(self) -> Method:
        return Mixup(alpha=self.alpha)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Between the columns of (..., d, r) and those of (..., d, s), (..., r, s)."""
    squares = a.square().sum(-2)[..., None] + b.square().sum(-2)[..., None, :]
    return (squares - 2 * a.mT @ b).clamp(min=0)


def _sinkhorn(plan: Tensor) -> tuple[Tensor, Tensor]:
    """One step: the logarithm of a plan, (b, r, r), whose rows, then columns were made to sum to one,
    and the logarithms of what rows summed to, (b, r), which their potentials change by.
    """
    rows = plan.log_softmax(2)
    sums = plan[..., 0] - rows[..., 0]  # the same in all columns
    return rows.log_softmax(1), sums
