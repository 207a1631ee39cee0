"""AugMix (Hendrycks et al., ICLR 2020, arXiv 1912.02781)."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from mixbench.methods import Method, Net, dirichlet, full_precision
from mixbench.methods._augment import OPERATIONS, Operation


@dataclass(frozen=True)
class AugMix(Method):
    """Mix each image with random augmentations of itself, and ask for equal predictions on them.

    Targets stay as they are. Nothing differentiates through the augmentation.
    severity: an operation's level is uniform between 0.1 and this; 1 is the official code's value
        for ImageNet.
    width: how many chains of operations are mixed.
    depth: how many operations a chain has; by default 1, 2 or 3, drawn for each chain.
    alpha: of the weights, Dirichlet between the chains, Beta between their mixture and the image.
    jsd: the weight of the Jensen-Shannon divergence between the predictions on an image and on two
        mixed views; 0 trains on one mixed view alone.
    """

    formula: ClassVar[str] = (
        "x̂ = (1 − m)x + m Σᵢ wᵢ cᵢ(x), w ~ Dir(α), m ~ Beta(α, α); cᵢ: chains of operations\n"
        "H(y, f(x)) + jsd · JS(f(x), f(x̂₁), f(x̂₂))"
    )
    source: ClassVar[str] = "arXiv 1912.02781, Algorithm 1"

    passes: ClassVar[str] = "two more views in the same pass"

    severity: Annotated[float, Field(ge=0.1, le=10)] = 3.0
    width: PositiveInt = 3
    depth: PositiveInt | None = None
    alpha: PositiveFloat = 1.0
    jsd: NonNegativeFloat = 12.0

    def loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        if not self.jsd:
            return net.criterion(net(self.views(x, 1)[0]), y)
        logits = net(torch.cat([x, *self.views(x, 2)])).to(y)  # half precision would lose 1e-7
        logits = logits.unflatten(0, (3, len(x)))
        return net.criterion(logits[0], y) + self.jsd * divergence(logits)

    def views(self, x: Tensor, n: int) -> Tensor:
        """Draw ``n`` mixed views of each image, (n, b, 3, h, w) in [0, 1].

        As the weights sum to one, mixing normalised images would be the same.
        """
        b, k = len(x), self.width
        with full_precision(x.device), torch.no_grad():
            chains = self.chains((x * 255).round().repeat(n * k, 1, 1, 1)).unflatten(0, (n, k, b))
            weights = dirichlet(torch.full((n, b), self.alpha), k).to(x)
            mixed = torch.einsum("nbk,nkb...->nb...", weights, chains) / 255
            share = dirichlet(torch.full((n, b), self.alpha), 2)[..., 0].to(x)
            return x.lerp(mixed, share.view(n, b, 1, 1, 1))

    def chains(self, images: Tensor) -> Tensor:
        """Each of the images (m, 3, h, w), in 8 bits, after a chain of operations of its own.

        The j-th operations of all chains are done together.
        """
        images, order = images.clone(), torch.randperm(len(images))
        for length in self.lengths(len(images)):
            for operation, rows in _allot(order[:length]):
                images[rows] = operation(images[rows], self.levels(len(rows)).to(images))
        return images

    def lengths(self, m: int) -> list[int]:
        """Draw how many of ``m`` chains have a first operation, how many a second, and so on."""
        if self.depth:
            return [m] * self.depth
        longer = _binomial(m, 2 / 3)
        return [m, longer, _binomial(longer, 1 / 2)]

    def levels(self, m: int) -> Tensor:
        """Draw the levels of ``m`` operations, with signs, (m,)."""
        level = torch.empty(m).uniform_(0.1, self.severity)
        return torch.where(torch.rand(m) < 0.5, level, -level)


def divergence(logits: Tensor) -> Tensor:
    """The Jensen-Shannon divergence of v predictions, from logits (v, b, c), mean over images."""
    log_p = logits.log_softmax(2)
    log_mean = log_p.exp().mean(0).clamp(1e-7, 1).log()
    return (log_p.exp() * (log_p - log_mean)).sum(2).mean()


def _allot(rows: Tensor) -> Iterator[tuple[Operation, Tensor]]:
    """Draw an operation for each row; yield every operation with its rows.

    The host draws only how many rows each one gets, so that their numbers need not be read.
    """
    rows = rows[torch.randperm(len(rows))]
    for left, operation in zip(range(len(OPERATIONS), 0, -1), OPERATIONS, strict=True):
        count = _binomial(len(rows), 1 / left)
        yield operation, rows[:count]
        rows = rows[count:]


def _binomial(m: int, p: float) -> int:
    """How many of ``m`` coins, each with probability ``p`` of heads, show it: thrown on the host."""
    count, heads = torch.tensor(float(m), device="cpu"), torch.tensor(p, device="cpu")
    return int(torch.binomial(count, heads))
