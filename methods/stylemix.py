"""StyleMix and StyleCutMix (Hong et al., CVPR 2021)."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from mixbench.methods import (
    Guided,
    GuidedObjective,
    Method,
    Net,
    Objective,
    Probability,
    beta,
    box,
    chance,
    partners,
)
from mixbench.methods._adain import AdaIN, load, restyle

Mixture = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class StyleMix(Guided):
    """Mix each image with a partner, at one ratio for content and another for style.

    AdaIN tells the two apart. A batch has one ratio of each. Its target's ratio is ``r`` times
    that of content and 1 - ``r`` times that of style.
    cut: StyleCutMix: cut and paste content, and mix style, both among pixels.
    p: the probability that a batch is mixed; if not given, 0.2, with ``cut`` 0.5.
    alpha: of the ratios' Beta; if not given, 0.5, with ``cut`` 1.
    gamma: with ``cut``, of the Beta of the share of its own style that a restyled image keeps.
    size: of the square that AdaIN sees an image as, in pixels.
    normalised: whether AdaIN sees normalised pixels, as in the official code, and not [0, 1].
    encoder, decoder: AdaIN's weights: files, by default in torch.hub's checkpoints folder.
    """

    formula: ClassVar[str] = (
        "ẑ = t z + (1 − c − s + t)z′ + (c − t)A(z, z′) + (s − t)A(z′, z), c, s ~ Beta(α, α)\n"
        "ŷ = ρy + (1 − ρ)y′, ρ = r c + (1 − r)s; z: features of AdaIN, A: its transfer of style"
    )
    source: ClassVar[str] = "Hong et al., CVPR 2021"

    passes: ClassVar[str] = "1 encoder and 1-2 decoder passes of AdaIN"

    cut: bool = False
    p: Probability | None = None
    alpha: PositiveFloat | None = None
    gamma: PositiveFloat = 0.8
    r: Probability = 0.7
    size: Annotated[int, Field(ge=16, multiple_of=8)] = 224
    normalised: bool = False
    encoder: str = "vgg_normalised.pth"
    decoder: str = "decoder.pth"

    def check(self, net: Net) -> None:
        self.guide(None)

    def guide(self, teacher: Net | None) -> AdaIN:
        return load(self.encoder, self.decoder)

    def objective(self, net: Net, teacher: Net | None = None) -> Objective:
        return GuidedObjective(self, net, self.guide(teacher).to(next(net.parameters())))

    def guided_loss(self, net: Net, guide: AdaIN, x: Tensor, y: Tensor) -> Tensor:
        if not chance(self.rate):
            return Method().loss(net, x, y)
        if self.normalised:
            pixels, net = net.split("pixels")
            x = pixels(x)
        with torch.no_grad():
            x, y = self.mix(guide, x, y)
        return net.criterion(net(x), y)

    @property
    def rate(self) -> float:
        """The probability that a batch is mixed."""
        return (0.5 if self.cut else 0.2) if self.p is None else self.p

    def ratio(self) -> Tensor:
        """Draw a ratio, a scalar."""
        return beta(self.alpha or (1.0 if self.cut else 0.5))

    def mix(self, guide: AdaIN, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mix b images (b, 3, h, w) and targets (b, c) into as many; pixels may leave [0, 1]."""
        mix = self.mix_pixels if self.cut else self.mix_features
        partner, square = partners(len(x)), _resize(x, (self.size, self.size))
        mixed, content, style = mix(guide, square, partner)
        lam = self.r * content + (1 - self.r) * style
        return _resize(mixed, x.shape[-2:]), torch.lerp(y[partner], y, lam.to(y))

    def mix_features(self, guide: AdaIN, x1: Tensor, partner: Tensor) -> Mixture:
        """StyleMix: images, and the ratios of their content and style."""
        content, style = self.ratio(), self.ratio()
        f1 = guide.encode(x1)
        f2 = f1[partner]
        mixed = _blend(content, style, f1, f2, restyle(f1, f2), restyle(f2, f1))
        return guide.decode(mixed), content, style

    def mix_pixels(self, guide: AdaIN, x1: Tensor, partner: Tensor) -> Mixture:
        """StyleCutMix: the same; here an image keeps its content inside the box."""
        centre = torch.randint(self.size, (2,)).unbind()
        inside = box(self.size, self.size, self.ratio().sqrt(), *centre)
        style, gamma = self.ratio(), beta(self.gamma)
        f1 = guide.encode(x1)
        x2, f2 = x1[partner], f1[partner]
        x12 = gamma * x1 + (1 - gamma) * guide.decode(restyle(f1, f2))
        x21 = gamma * x2 + (1 - gamma) * guide.decode(restyle(f2, f1))
        content = inside.to(style).mean()
        mixed = _blend(inside.to(x1), style, x1, x2, x12, x21)
        return mixed, content, torch.lerp(style, content, gamma)


def _blend(c: Tensor, s: Tensor, z1: Tensor, z2: Tensor, z12: Tensor, z21: Tensor) -> Tensor:
    """The mixture that has the content of ``z1`` at ratio ``c``, and its style at ratio ``s``.

    ``z12`` has the content of ``z1`` and the style of ``z2``. The share of ``z1`` itself is drawn
    from all that the ratios allow; where ``c`` is zero or one, they determine it.
    """
    most = torch.minimum(c, s)
    least = torch.minimum((c + s - 1).clamp(min=0), most)
    t = torch.lerp(least, most, torch.rand(()).to(most))
    return t * z1 + (1 - c - s + t) * z2 + (c - t) * z12 + (s - t) * z21


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, list(size), mode="bilinear", align_corners=False)
