"""TokenMix (Liu et al., ECCV 2022, arXiv 2207.08409)."""

from itertools import product
from math import exp, log, sqrt
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.methods import Guided, Net, Probability, chance, full_precision
from mixbench.methods._attention import has_class_token, token_grid
from mixbench.methods._reversed import ReversedMixup, smoothed

TINY = 1e-8
TOP = 5  # classes of each token in the label maps
ASPECT = 0.3  # of the flattest block
ATTEMPTS = 10


@dataclass(frozen=True)
class TokenMix(Guided):
    """Paste tokens of image b - 1 - i onto image i; targets are what a teacher sees of each class.

    Of n tokens, n // 2 + round(n / 14) are pasted (112 of 14 x 14), blocks possibly a few less: the
    official code draws a ratio, as the paper does, and then replaces it by this constant. Other
    batches take input mixup of the same pairs.

    The official activation maps are label maps of an NFNet-F6, which see the crop through RoI
    alignment. Here the teacher is the baseline's network, asked on the very images of the batch:
    its head sees each patch token in the class token's place.

    input_alpha: of input mixup's Beta.
    mask: whether "block"s are pasted, or "random" tokens.
    activation: "uniform" is the target by area; it asks no teacher.
    criterion: "bce" is binary cross-entropy of logits, its mean over classes; as in the official
        code its targets don't sum to one, and may fall below zero by half of ``smoothing``. For
        "net", that of the network, they are normalised, by area where the teacher sees neither class.
    """

    formula: ClassVar[str] = (
        "x̂ = M ⊙ x + (1 − M) ⊙ x′, ŷ = ⟨a, M⟩y + ⟨a′, 1 − M⟩y′; M: whole tokens\n"
        "a ∝ what the teacher gives to the class of x at each token of x"
    )
    source: ClassVar[str] = "arXiv 2207.08409"

    teacher: ClassVar[str] = "baseline"
    passes: ClassVar[str] = "1 teacher forward"

    p: Probability = 0.5
    input_alpha: PositiveFloat = 0.8
    smoothing: Probability = 0.1
    mask: Literal["block", "random"] = "block"
    activation: Literal["teacher", "uniform"] = "teacher"
    criterion: Literal["bce", "net"] = "bce"

    def check(self, net: Net) -> None:
        if not has_class_token(net):
            raise ValueError("it needs the tokens of a vision transformer with a class token")

    def guide(self, teacher: Net | None) -> nn.Module:
        return super().guide(teacher) if self.activation == "teacher" else nn.Identity()

    def guided_loss(self, net: Net, guide: Any, x: Tensor, y: Tensor) -> Tensor:
        if chance(self.p):
            x, y = self.mix(net, guide, x, y)
        else:
            x, y = ReversedMixup(alpha=self.input_alpha, smoothing=self.smoothing).mix(x, y)
        if self.criterion == "bce":
            return F.binary_cross_entropy_with_logits(net(x), y)
        return net.criterion(net(x), y)

    def mix(self, net: Net, guide: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Images and their targets."""
        mask = self.draw(*token_grid(net, x))
        if self.activation == "teacher":
            a = activations(guide, x, y)
        else:
            a = torch.full((len(x), mask.numel()), 1 / mask.numel()).to(y)
        with full_precision(x.device):
            target = self.target(mask, a.to(y), y)
        pasted = F.interpolate(mask[None, None].to(x), x.shape[-2:]) > 0
        return torch.where(pasted, x.flip(0), x), target

    def draw(self, rows: int, columns: int) -> Tensor:
        """Draw which tokens come from the partner, (rows, columns)."""
        n = rows * columns
        count = n // 2 + round(n / 14)
        if self.mask == "random":
            return (torch.randperm(n) < count).view(rows, columns)
        return _blocks(rows, columns, count)

    def target(self, mask: Tensor, a: Tensor, y: Tensor) -> Tensor:
        """The targets (b, c) of mixed images, from activations (b, n) of the images as they are."""
        pasted = mask.flatten().to(a)
        own, other = a @ (1 - pasted), (a @ pasted).flip(0)
        if self.criterion == "net":
            share = (other + TINY * pasted.mean()) / (own + other + TINY)
            return smoothed(torch.lerp(y, y.flip(0), share[:, None]), self.smoothing)
        half = self.smoothing / 2
        mixed = (own - half)[:, None] * y + (other - half)[:, None] * y.flip(0)
        return mixed + self.smoothing / y.shape[1]


@torch.no_grad()
def activations(teacher: Any, x: Tensor, y: Tensor) -> Tensor:
    """How likely each patch token is of its image's class, as a share of the image's sum, (b, n).

    Zero at tokens for which the class is not among the ``TOP`` likeliest.
    """
    tokens = teacher.trunk(x)[:, 1:]  # b n d
    embeddings = teacher.pool(tokens.flatten(0, 1)[:, None])
    logits = teacher.head(embeddings).unflatten(0, tokens.shape[:2])
    with full_precision(x.device):
        likely = logits.to(y).softmax(2)  # b n c
        least = likely.topk(min(TOP, y.shape[1]), 2).values[..., -1:]
        a = torch.einsum("bnc,bc->bn", likely * (likely >= least), y)
        return a / (a.sum(1, keepdim=True) + TINY)


def _blocks(rows: int, columns: int, count: int) -> Tensor:
    """Random rectangles of at most ``count`` tokens together, (rows, columns), as BEiT masks them.

    Drawn on the host; a rectangle that does not fit is drawn again, up to ``ATTEMPTS`` times.
    """
    mask, taken, failed = torch.zeros(rows, columns, dtype=torch.bool), set[tuple[int, int]](), 0
    while len(taken) < count and failed < ATTEMPTS:
        high, wide = _rectangle(rows, columns, count - len(taken))
        new = set(product(high, wide)) - taken
        if 0 < len(new) <= count - len(taken):
            mask[high.start : high.stop, wide.start : wide.stop] = True
            taken, failed = taken | new, 0
        else:
            failed += 1
    return mask


def _rectangle(rows: int, columns: int, area: int) -> tuple[range, range]:
    """The rows and columns of a random rectangle of about 1 to ``area`` tokens.

    It is empty if what was drawn is as high or wide as the grid.
    """
    size, aspect = _uniform(1, area), exp(_uniform(log(ASPECT), -log(ASPECT)))
    height, width = round(sqrt(size * aspect)), round(sqrt(size / aspect))
    if height >= rows or width >= columns:
        return range(0), range(0)
    return _within(rows, height), _within(columns, width)


def _within(size: int, length: int) -> range:
    """A random interval of ``length`` out of ``size``."""
    start = int(torch.randint(size - length + 1, (), device="cpu"))
    return range(start, start + length)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), device="cpu").item()
