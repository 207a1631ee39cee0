"""Co-Mixup (Kim, Choo, Jeong, Song, ICLR 2021, arXiv 2102.03065)."""

from math import ceil, exp, inf
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from mixbench.methods import (
    Method,
    Net,
    Probability,
    dirichlet,
    drawing_on,
    full_precision,
    saliency,
)
from mixbench.methods._labelling import Labelling
from mixbench.methods.puzzlemix import pooled

SETTLED = 1e-6  # a relative change of the objective at which a part stops
GAIN = 5e-4  # of a label that blends two inputs
KIN = 0.25  # of beta, between such a label and either input
FORBIDDEN = 1e6  # more than any label costs


class _Parts(NamedTuple):
    """p parts of a batch, of up to m inputs each.

    cost: of showing an input in a cell, (p, cells, m).
    affinity: the compatibility matrix A of the paper, (p, m, m): the larger, the worse together.
    present: whether there is such an input, and an output, (p, m).
    """

    cost: Tensor
    affinity: Tensor
    present: Tensor


@dataclass(frozen=True)
class CoMixup(Method):
    """Mix as many images as there are, so that all are salient and no two are alike.

    As in the official code, but that labels cost less than those of its alpha-beta swaps, and that
    a batch that ``part`` does not divide is mixed too. Its loss for CIFAR is BCE on softmax, and
    ours that of the setting.

    part: how many neighbours in the batch are mixed with each other, at most.
    blocks: cells per side, 2 or 4.
    beta: price of labels that differ between adjacent cells.
    gamma, tau: price of an input that other outputs show, if in more than a share tau of one.
    masked: what that threshold masks: the "counts" of inputs or, as was probably meant, the
        "products" of the compatibility matrix with them.
    eta: weight of the prior of inputs, which is drawn for a part from Dir(alpha).
    omega: weight in compatibility of the distance of peaks, against that of being the same input.
    sweeps: how often each output is labelled anew, unless its part stops early.
    soft: whether a cell may show two inputs, from the second sweep on.
    clean: weight of the cross-entropy of the batch as it is, times 2 / c if it is added to BCE on
        softmax.
    """

    formula: ClassVar[str] = (
        "x̂ᵢ = Σⱼ Mᵢⱼ ⊙ xⱼ, ŷᵢ = Σⱼ mean(Mᵢⱼ) yⱼ; H(ŷ, f(x̂)) + clean · H(y, f(x))\n"
        "M: minimal hidden saliency + β roughness + γ overlap − η log a, a ~ Dir(α)"
    )
    source: ClassVar[str] = "arXiv 2102.03065"

    part: PositiveInt = 20
    blocks: Annotated[int, Field(ge=2, le=4, multiple_of=2)] = 4
    beta: NonNegativeFloat = 0.32
    gamma: NonNegativeFloat = 1.0
    tau: NonNegativeFloat = 0.83
    masked: Literal["counts", "products"] = "counts"
    eta: NonNegativeFloat = 0.05
    alpha: PositiveFloat = 2.0
    omega: Probability = 0.001
    sweeps: PositiveInt = 4
    soft: bool = True
    clean: NonNegativeFloat = 1.0

    passes: ClassVar[str] = "1 forward + backward for saliency and the clean loss"

    @property
    def cells(self) -> int:
        return self.blocks**2

    def check(self, net: Net) -> None:
        net.split("pixels")

    def loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        with drawing_on(x.device):
            maps, clean = saliency(net, x, y, self.clean)
            with full_precision(x.device):
                mixed, targets = self.mix(x, y, maps)
            return net.criterion(net(mixed), targets) + clean

    def mix(self, x: Tensor, y: Tensor, saliency: Tensor) -> tuple[Tensor, Tensor]:
        """b images and targets, of b images with their saliency (b, h, w)."""
        b, parts = len(x), ceil(len(x) / self.part)
        m = ceil(b / parts)
        if m == 1:
            return x, y
        place = torch.arange(parts * m).view(parts, m)  # beyond b in the last part alone
        image = place.clamp(max=b - 1)
        shares = self.shares(self.parts(saliency[image], place < b))
        targets = shares.mean(2).to(y) @ y[image]  # p i m, p m c
        return _composed(x, shares, image), targets.flatten(0, 1)[:b]

    def parts(self, saliency: Tensor, present: Tensor) -> _Parts:
        """Parts with a prior, drawn here, from the saliency (p, m, h, w) of their inputs."""
        size, blocks = saliency.shape[:2], pooled(saliency.flatten(0, 1), self.blocks)
        prior = dirichlet(torch.full(size[:1], self.alpha), size[1]).to(blocks) * present
        prior = prior / prior.sum(1, keepdim=True)
        cost = -blocks.view(*size, -1) - self.eta / self.cells * (prior + 1e-8).log()[..., None]
        cost = cost.masked_fill(~present[..., None], FORBIDDEN)
        return _Parts(cost.mT, self.affinity(saliency, present), present)

    def affinity(self, saliency: Tensor, present: Tensor) -> Tensor:
        """The compatibility matrix (p, m, m); the entries of the distances sum to the inputs."""
        peak = _peaks(saliency.flatten(0, 1)).view(*present.shape, 2)
        apart = (peak[:, :, None] - peak[:, None]).abs().sum(3)
        apart = apart * present[:, :, None] * present[:, None]
        total = apart.sum((1, 2)).clamp(min=1)  # all peaks may coincide
        mean = (present.sum(1).to(saliency) / total)[:, None, None] * apart
        return torch.lerp(torch.eye(present.shape[1]).to(mean).expand_as(mean), mean, self.omega)

    def shares(self, parts: _Parts) -> Tensor:
        """How much of each input is in each cell of each output, (p, m, cells, m): 0, 1/2 or 1.

        Sums over inputs are one, but zero in outputs that are not present.
        """
        hard, soft = (_Labels(self, parts, blends) for blends in (False, self.soft))
        shares = self.start(parts)
        value, running = torch.full((), inf), torch.ones((), dtype=torch.bool)
        for sweep in range(self.sweeps):
            cost = parts.cost[:, None].expand_as(shares)
            if 0 < sweep == self.sweeps - 1:
                cost = cost + self.tie_break(shares)[:, :, None]
            swept = self.sweep(parts, cost, shares, soft if sweep else hard)
            shares = torch.where(running, swept, shares)
            before, value = value, self.energy(parts, shares)
            running = ((value - before).abs() > SETTLED * value.abs())[:, None, None, None]
        return shares

    def start(self, parts: _Parts) -> Tensor:
        """Shares in which each cell shows an input that is drawn uniformly."""
        (p, m), inputs = parts.present.shape, parts.present.sum(1)
        label = (torch.rand(p, m, self.cells) * inputs[:, None, None]).long()
        return torch.eye(m).to(parts.cost)[label] * parts.present[:, :, None, None]

    def sweep(self, parts: _Parts, cost: Tensor, shares: Tensor, labels: "_Labels") -> Tensor:
        """Shares after each output, in order, was labelled anew; its costs are (p, m, cells, m)."""
        outputs, counts = list(shares.unbind(1)), list(shares.sum(2).unbind(1))
        total = shares.sum((1, 2))
        for i, own in enumerate(cost.unbind(1)):
            others = total - counts[i]
            price = self.price(others, parts.affinity)
            outputs[i] = labels(own + price[:, None], counts[i])
            total = others + outputs[i].sum(1)  # absent ones come last, and do no harm
        return torch.stack(outputs, 1) * parts.present[..., None, None]

    def price(self, others: Tensor, affinity: Tensor) -> Tensor:
        """What inputs cost more in a cell, (p, m), as other outputs have so many cells of them."""
        product = _apply(affinity, others)
        frequent = product > self.tau * self.cells
        products = self.masked == "products"
        penalised = frequent * product if products else _apply(affinity, frequent * others)
        return 2 * self.gamma / self.cells * penalised

    def tie_break(self, shares: Tensor) -> Tensor:
        """What the last sweep adds to the cost of inputs in outputs (p, i, m) with the same inputs.

        It is that of the first input if a later output has the same, of the second if an earlier.
        """
        uses = shares.sum(2) > 0
        same = (uses[:, :, None] == uses[:, None]).all(3) & (uses.sum(2) > 1)[..., None]
        later, earlier = (half.any(2, keepdim=True) for half in (same.triu(1), same.tril(-1)))
        nth = uses.cumsum(2) * uses
        return ((nth == 1) & later | (nth == 2) & earlier) * (self.gamma / self.cells)

    def energy(self, parts: _Parts, shares: Tensor) -> Tensor:
        """What the early stop looks at, (p,): without threshold, compatibility and extra costs."""
        grid, counts = shares.unflatten(2, (self.blocks, self.blocks)), shares.sum(2)
        unlike = _square(grid.diff(dim=2)) + _square(grid.diff(dim=3))
        overlap = _square(counts.sum(1)) - _square(counts)
        pairs = self.beta * unlike / 2 + self.gamma * overlap
        return (parts.cost[:, None] * shares).flatten(1).sum(1) + pairs / self.cells


class _Labels:
    """What a cell may show: one of m inputs or, with ``blends``, half of each of two of the three
    that the output had most of.

    Inputs are ranked by that, so that blends are the same in all outputs.
    """

    def __init__(self, method: CoMixup, parts: _Parts, blends: bool) -> None:
        m = parts.present.shape[1]
        eye, n = torch.eye(m).to(parts.cost), min(m, 3) if blends else 1
        first, second = torch.triu_indices(n, n, 1)
        self.shares = torch.cat([eye, (eye[first] + eye[second]) / 2])  # l m
        self.rank = F.pad(second, (m, 0))  # of the input that a label needs
        self.offset = F.pad(torch.full_like(second, -GAIN, dtype=eye.dtype), (m, 0))
        kin = self.shares @ self.shares.T == 0.5
        pair = (1 - (1 - KIN) * kin.to(eye)) * (1 - torch.eye(len(kin)).to(eye))
        price = method.beta / method.cells
        reach = 1 - exp(-1.25 * method.beta)  # good for any beta, by trial
        self.labelling = Labelling(method.blocks, price * pair, reach)

    def __call__(self, cost: Tensor, counts: Tensor) -> Tensor:
        """The shares (p, cells, m) that cost least, from ``cost`` (p, cells, m) of inputs and the
        output's ``counts`` (p, m) of cells before.
        """
        used, order = counts.sort(dim=1, descending=True, stable=True)
        order = order[:, None].expand_as(cost)
        offset = torch.where(used[:, self.rank] > 0, self.offset, FORBIDDEN)
        label = self.labelling(cost.gather(2, order) @ self.shares.T + offset[:, None])
        return torch.zeros_like(cost).scatter(2, order, self.shares[label])


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """p matrices (p, m, m) times p vectors (p, m)."""
    return (matrix @ vector[..., None])[..., 0]


def _square(x: Tensor) -> Tensor:
    """The sum of squares over all axes but the first."""
    return x.square().flatten(1).sum(1)


def _peaks(saliency: Tensor) -> Tensor:
    """Row and column, (b, 2), of the window of 8 x 8 pixels with most saliency (b, h, w)."""
    h, w = saliency.shape[1:]
    window = F.avg_pool2d(saliency[:, None], (min(h, 8), min(w, 8)), 1)[:, 0]
    at, width = window.flatten(1).argmax(1), window.shape[2]
    return torch.stack([at // width, at % width], 1)


def _composed(x: Tensor, shares: Tensor, image: Tensor) -> Tensor:
    """Images whose cells have ``shares`` (p, m, cells, m) of the images ``x[image]`` (p, m)."""
    b, _, h, w = x.shape
    side = round(shares.shape[2] ** 0.5)
    cell = (torch.arange(h) * side // h)[:, None] * side + torch.arange(w) * side // w
    share, source = shares.topk(2)
    source = image[:, None, None].expand_as(shares).gather(3, source)
    share, source = (each.flatten(0, 1)[:b, cell] for each in (share, source))
    mixed = [
        part[:, None].to(x) * x.gather(0, index[:, None].expand_as(x))
        for part, index in zip(share.unbind(3), source.unbind(3), strict=True)
    ]
    return mixed[0] + mixed[1]
