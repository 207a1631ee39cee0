"""PuzzleMix (Kim, Choo, Song, ICML 2020, arXiv 2009.06962)."""

from math import comb, gcd
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from mixbench.methods import (
    Method,
    Net,
    Probability,
    chance,
    choice,
    drawing_on,
    full_precision,
    partners,
    ratios,
)
from mixbench.methods._graphcut import grid_labels
from mixbench.methods._saliency import input_gradient, magnitude

TINY = 1e-8
PRECISION = 1000  # a block's fair share of saliency, in the integers of the solver


@dataclass(frozen=True)
class PuzzleMix(Method):
    """Mix each image with a partner, block by block, so that what is salient in either is kept.

    As in the official code, for CIFAR-100; energies are minimised exactly (on a GPU in a number of
    rounds that is fixed, and was enough for all grids looked at), where the code's alpha-beta swaps
    may stop short. Its loss is BCE on softmax, and ours that of the setting.

    blocks: counts of blocks per side; one that divides the images is drawn for each batch.
    labels: how many values a block's share of the image can take, from 0 to 1.
    beta, gamma: smoothness of labels, and how much the difference of pixels on borders has in it.
    eta: weight of the prior that the shares follow the batch's ratio from Beta(alpha, alpha).
    border: pixels per side that are averaged before borders are compared; at most a block.
    transport: whether salient patches move to where they are shown; patch: their side in pixels,
        a block's if that is smaller or nothing is given (Tiny-ImageNet); distance: its price.
    clean: weight of the cross-entropy of the batch as it is (1 for Tiny-ImageNet), times 2 / c if
        it is added to BCE on softmax.
    adversarial: probability that a side is perturbed, by at most ``eps`` (0.1 in the paper's test).
    k: interpolations per pair, of one network pass for saliency (see ``multiple``).
    """

    formula: ClassVar[str] = (
        "x̂ = z ⊙ Πx + (1 − z) ⊙ Π′x′, ŷ = ρy + (1 − ρ)y′, ρ = mean z, λ ~ Beta(α, α)\n"
        "z: minimal hidden saliency + smoothness(β, γ) − η log P(z | λ); Π: moves of patches"
    )
    source: ClassVar[str] = "arXiv 2009.06962"

    alpha: PositiveFloat = 1.0
    blocks: tuple[PositiveInt, ...] = (2, 4, 8, 16)
    labels: Annotated[int, Field(ge=2)] = 3
    beta: NonNegativeFloat = 1.2
    gamma: Probability = 0.5
    eta: NonNegativeFloat = 0.2
    border: PositiveInt = 4
    transport: bool = True
    patch: PositiveInt | None = 4
    distance: NonNegativeFloat = 0.8
    clean: NonNegativeFloat = 0.0
    adversarial: Probability = 0.0
    eps: NonNegativeFloat = 10 / 255
    k: PositiveInt = 1

    passes: ClassVar[str] = "1 forward + 1 backward, for saliency"

    def loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        with drawing_on(x.device):
            perturbed = chance(self.adversarial), chance(self.adversarial)
            noise = self.noise(x) if any(perturbed) else torch.zeros_like(x)
            gradient, clean = input_gradient(net, x + noise, y, self.clean)
            with full_precision(x.device):
                noise = self.attack(noise, gradient) if any(perturbed) else noise
                shown = [(x + noise).clamp(0, 1) if each else x for each in perturbed]
                z, y = self.mix(x, y, magnitude(gradient), (shown[0], shown[1]))
        return net.criterion(net(z), y) + clean

    def noise(self, x: Tensor) -> Tensor:
        """Uniform noise that leaves the images (b, 3, h, w) within [0, 1]."""
        return (x + torch.empty_like(x).uniform_(-self.eps, self.eps)).clamp(0, 1) - x

    def attack(self, noise: Tensor, gradient: Tensor) -> Tensor:
        """One step that raises the loss, from ``noise`` and of a random share of its length."""
        step = (self.eps + 2 / 255) * gradient.sign()
        return (noise + step).clamp(-self.eps, self.eps) * torch.rand(())

    def mix(
        self, x: Tensor, y: Tensor, saliency: Tensor, shown: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """k b images and targets, of b images with their saliency (b, h, w), and as they are shown:
        ``shown[0]`` on their own side, ``shown[1]`` on their partner's.
        """
        partner, ratio = partners(len(x)), ratios(self.alpha, self.k)
        blocks = self.draw_blocks(x)
        share = self.shares((x, x[partner]), pooled(saliency, blocks), partner, ratio)
        own, other = shown[0], shown[1][partner]
        mixed = [
            self.arrange(own, saliency, z) * enlarged(z, x)
            + self.arrange(other, saliency[partner], 1 - z) * enlarged(1 - z, x)
            for z in share
        ]
        lam = share.mean((2, 3))[..., None]  # k b 1
        return torch.cat(mixed), torch.lerp(y[partner], y, lam.to(y)).flatten(0, 1)

    def draw_blocks(self, x: Tensor) -> int:
        """The number of blocks per side. Raises ValueError if none fits the images."""
        fitting = [n for n in self.blocks if x.shape[2] % n == x.shape[3] % n == 0]
        if not fitting:
            raise ValueError(f"no blocks of {self.blocks} divide images of {tuple(x.shape[2:])}")
        return fitting[choice(len(fitting))]

    def shares(
        self, pair: tuple[Tensor, Tensor], saliency: Tensor, partner: Tensor, ratio: Tensor
    ) -> Tensor:
        """What each block shows of the image rather than its partner, (k, b, n, n) in [0, 1].

        pair: images and partners (b, 3, h, w); saliency: of the images' blocks (b, n, n), with sum
        one; ratio: the ratios (k,) that the shares should follow.
        """
        n, steps = saliency.shape[1], self.labels - 1
        smooth = self.beta / (16 * n)
        right, down = self.borders(pair, n)
        own = saliency[partner] + smooth * self.gamma * _at_ends(right, down, 0)
        other = saliency + smooth * self.gamma * _at_ends(right, down, 1)
        step = torch.arange(self.labels).view(-1, 1, 1)  # from all of the image to all of the other
        data = torch.lerp(own[:, None], other[:, None], (step / steps).to(own))  # b l n n
        cost = data + self.prior(ratio).to(own)[:, None, :, None, None] / n**2  # k b l n n
        scale = PRECISION * n**2
        edges = [scale * smooth * (1 + self.gamma * _excess(d)) for d in (right, down)]
        repeated = [edge.expand(len(ratio), *edge.shape).flatten(0, 1) for edge in edges]
        label = grid_labels(scale * steps**2 * cost.flatten(0, 1), *repeated)
        return 1 - label.view(len(ratio), -1, n, n).to(saliency) / steps

    def prior(self, ratio: Tensor) -> Tensor:
        """eta times -log of the binomial probability of each label at each ratio, (k, labels)."""
        n = self.labels - 1
        chances = [comb(n, i) * ratio ** (n - i) * (1 - ratio) ** i for i in range(self.labels)]
        return -self.eta * (torch.stack(chances, 1) + TINY).log()

    def borders(self, pair: tuple[Tensor, Tensor], n: int) -> tuple[Tensor, Tensor]:
        """How much pixels differ across the borders between blocks: (2, 2, b, n, n - 1) between one
        and that on its right, (2, 2, b, n - 1, n) between one and that below.

        The first two axes tell which of the pair the one shows, and which the other.
        """
        height, width = pair[0].shape[2] // n, pair[0].shape[3] // n
        fine = gcd(self.border, height, width)
        size = (n, height // fine, n, width // fine)
        image = torch.stack([F.avg_pool2d(x, fine).unflatten(3, size[2:]) for x in pair])
        image = image.unflatten(3, size[:2])  # 2 b 3 n p n q
        down = _contrast(image[..., :-1, -1, :, :], image[..., 1:, 0, :, :], (2, -1))
        right = _contrast(image[..., :-1, -1], image[..., 1:, 0], (2, -2))
        return right, down

    def arrange(self, x: Tensor, saliency: Tensor, z: Tensor) -> Tensor:
        """The images (b, 3, h, w) with patches moved to blocks that show them, by z (b, n, n)."""
        if not self.transport:
            return x
        n, block = z.shape[1], min(x.shape[2] // z.shape[1], x.shape[3] // z.shape[2])
        finer = block // self.patch if self.patch and block % self.patch == 0 else 1
        wanted = z.repeat_interleave(finer, 1).repeat_interleave(finer, 2) > 0
        source = sources(pooled(saliency, n * finer), wanted, self.distance)
        return _moved(x, source, n * finer)


def pooled(saliency: Tensor, n: int) -> Tensor:
    """The share of n x n blocks in the saliency (b, h, w) of an image, (b, n, n)."""
    blocks = F.adaptive_avg_pool2d(saliency[:, None], n)[:, 0]
    return blocks / blocks.sum((1, 2), keepdim=True).clamp(min=torch.finfo(blocks.dtype).tiny)


def enlarged(z: Tensor, x: Tensor) -> Tensor:
    """A value per block (b, n, n) as a value per pixel (b, 1, h, w) of images ``x``."""
    return F.interpolate(z[:, None], x.shape[2:])


def sources(saliency: Tensor, wanted: Tensor, price: float) -> Tensor:
    """From which patch each takes its content, (b, n n), for saliency and ``wanted`` (b, n, n).

    As in the official code: n times, every patch picks its cheapest place, the cheapest pick of a
    place wins if its cost is negative, and picks that don't win cost one more. A place that nobody
    wins keeps its content. Saliency is at most one: a pick that once lost never wins.
    """
    b, n, _ = saliency.shape
    place, cost = _choices(saliency, wanted, price)
    row = torch.arange(n * n).expand(b, -1)
    turn, winner = torch.zeros_like(row), row
    for _ in range(n):
        pick, own = (each.gather(2, turn[..., None])[..., 0] for each in (place, cost))
        lowest = torch.zeros_like(own).scatter_reduce(1, pick, own, "amin")
        best = (own < 0) & (own == lowest.gather(1, pick))
        first = torch.where(best, row, n * n)
        winner = torch.full_like(row, n * n).scatter_reduce(1, pick, first, "amin")  # b to
        turn = turn + (winner.gather(1, pick) != row)
    return torch.where(winner < n * n, winner, row)


def _choices(saliency: Tensor, wanted: Tensor, price: float) -> tuple[Tensor, Tensor]:
    """The n places that each patch picks, in order, and what they cost, (b, n n, n): the nearest
    that are wanted, in reading order where they are as near; the cost is 0 if there are no more.
    """
    b, n, _ = saliency.shape
    at = torch.cartesian_prod(torch.arange(n), torch.arange(n)).to(saliency)
    far = price * ((at[:, None] - at).square().sum(2) / max(n - 1, 1) ** 2)
    near = far.argsort(dim=1, stable=True)  # from, rank to place
    there = wanted.flatten(1).index_select(1, near.flatten()).view(b, n * n, n * n)
    nth = torch.arange(1, n + 1, dtype=torch.int16).expand(b, n * n, n).contiguous()
    rank = torch.searchsorted(there.cumsum(2, dtype=torch.int16), nth)
    place = near.expand(b, -1, -1).gather(2, rank.clamp(max=n * n - 1))
    cost = far.expand(b, -1, -1).gather(2, place) - saliency.view(b, -1, 1)
    return place, torch.where(rank < n * n, cost, 0)


def _moved(x: Tensor, source: Tensor, n: int) -> Tensor:
    """Images (b, 3, h, w) whose patch j is their patch ``source[j]``, of (b, n n)."""
    b, c, h, w = x.shape
    patches = x.reshape(b, c, n, h // n, n, w // n).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    image = torch.arange(b)[:, None]
    grid: Tensor = patches[image, source].unflatten(1, (n, n))  # b n n 3 p q
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


def _contrast(one: Tensor, next: Tensor, over: tuple[int, int]) -> Tensor:
    """The mean absolute difference between either image's pixels and either's, (2, 2, b, ...)."""
    return (one[:, None] - next[None]).abs().mean([axis if axis < 0 else axis + 1 for axis in over])


def _at_ends(right: Tensor, down: Tensor, own: int) -> Tensor:
    """What a block that shows image ``own`` pays for its borders whatever is beyond, (b, n, n)."""
    other = 1 - own
    pay_one = [(d[own, own] + d[own, other]) / 2 for d in (right, down)]
    pay_next = [(d[own, own] + d[other, own]) / 2 for d in (right, down)]
    horizontal = F.pad(pay_one[0], (0, 1)) + F.pad(pay_next[0], (1, 0))
    return horizontal + F.pad(pay_one[1], (0, 0, 0, 1)) + F.pad(pay_next[1], (0, 0, 1, 0))


def _excess(border: Tensor) -> Tensor:
    """How much more two blocks differ if they show different images, on average; >= -1."""
    return (border[0, 1] + border[1, 0] - border[0, 0] - border[1, 1]) / 2
