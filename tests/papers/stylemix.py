"""StyleMix and StyleCutMix (``cut``): Hong et al., CVPR 2021, Sections 3.2 and 3.3.

Unlike the official code, style transfer is given pixels in [0, 1], unless ``normalised``.
"""

from math import sqrt
from typing import Any

import numpy as np

from papers import baseline, cutmix
from papers.network import Array, Network, convolved
from papers.supermix import enlarged
from papers.tape import Tape

CASES = (
    "stylemix,p=1,size=16",
    "stylemix,normalised=True,p=1,r=0.4,size=16",
    "stylemix,cut=True,size=16",
    "stylemix,cut=True,p=1,size=16",
    "stylemix,cut=True,gamma=3,normalised=True,p=1,r=0.4,size=16",
)


def loss(net: Network, x: Array, y: Array, tape: Tape, method: Any) -> float:
    p = (0.5 if method.cut else 0.2) if method.p is None else method.p
    if not tape.chance(p):
        return baseline.loss(net, x, y, tape, method)
    seen = net.below("pixels", x) if method.normalised else x
    partner = tape.take("partners")
    mix = stylecutmix if method.cut else stylemix
    squares = resized(seen, (method.size, method.size))
    mixed, content, style = mix(net.guide, squares, squares[partner], tape, method)
    mixed = tape.detached(resized(mixed, x.shape[2:]))
    by_content = content * y + (1 - content) * y[partner]
    by_style = style * y + (1 - style) * y[partner]
    logits = net.above("pixels", mixed) if method.normalised else net(mixed)
    return float(net.losses(logits, method.r * by_content + (1 - method.r) * by_style).mean())


def stylemix(
    adain: Network, x1: Array, x2: Array, tape: Tape, method: Any
) -> tuple[Array, float, float]:
    """Images mixed as features, and their ratios of content and style."""
    alpha = method.alpha or 0.5
    r_c, r_s = tape.take("beta", alpha), tape.take("beta", alpha)
    low, high = max(0, r_c + r_s - 1), min(r_c, r_s)
    t = low + tape.take("rand") * (high - low)
    f11, f22 = encoded(adain, x1), encoded(adain, x2)
    f12, f21 = restyled(f11, f22), restyled(f22, f11)
    f = t * f11 + (1 - r_c - r_s + t) * f22 + (r_c - t) * f12 + (r_s - t) * f21
    return decoded(adain, f), r_c, r_s


def stylecutmix(
    adain: Network, x1: Array, x2: Array, tape: Tape, method: Any
) -> tuple[Array, float, float]:
    """The same of images whose content is cut, and whose style is mixed, among pixels."""
    size = x1.shape[-1]
    row, column = tape.take("randint")
    alpha = method.alpha or 1
    lam, r_s = tape.take("beta", alpha), tape.take("beta", alpha)
    gamma = tape.take("beta", method.gamma)
    tape.take("rand")  # of a share of which the box leaves no choice
    r_c = 1 - cutmix.mask(size, size, 1 - lam, row, column)
    f11, f22 = encoded(adain, x1), encoded(adain, x2)
    g12 = gamma * x1 + (1 - gamma) * decoded(adain, restyled(f11, f22))
    g21 = gamma * x2 + (1 - gamma) * decoded(adain, restyled(f22, f11))
    t = np.maximum(0, r_c + r_s - 1)
    mixed = t * x1 + (1 - r_c - r_s + t) * x2 + (r_c - t) * g12 + (r_s - t) * g21
    return mixed, r_c.mean(), gamma * r_c.mean() + (1 - gamma) * r_s


def restyled(f: Array, style: Array) -> Array:
    """AdaIN: features (b, d, h, w) with the mean and the deviation of each channel of others."""
    out = np.zeros_like(f)
    for i, d in np.ndindex(*f.shape[:2]):
        sigma, new_sigma = (sqrt(each[i, d].var(ddof=1) + 1e-5) for each in (f, style))
        out[i, d] = new_sigma * (f[i, d] - f[i, d].mean()) / sigma + style[i, d].mean()
    return out


def encoded(adain: Network, x: Array) -> Array:
    """Features (b, d, h / 2, w / 2)."""
    return convolved(x, adain.weights["encoder.weight"], adain.weights["encoder.bias"], stride=2)


def decoded(adain: Network, f: Array) -> Array:
    """Images of features, each of which is doubled along both axes."""
    large = f.repeat(2, axis=2).repeat(2, axis=3)
    return convolved(large, adain.weights["decoder.1.weight"], adain.weights["decoder.1.bias"])


def resized(x: Array, size: tuple[int, ...]) -> Array:
    return np.stack([[enlarged(channel, size) for channel in image] for image in x])
