"""TransMix: arXiv 2111.09833, Section 3, with the box, the pairs and the mean of ratios of its code."""

from math import sqrt
from typing import Any

import numpy as np

from papers.network import Array, Network
from papers.tape import Tape
from papers.transformer import PATCH, Transformer

CASES = (
    "transmix",
    "transmix,p=0",
    "transmix,p=1",
    "transmix,p=1,area=0",
    "transmix,p=1,area=1",
    "transmix,p=1,smoothing=0",
    "transmix,p=1,alpha=0.3",
)


def loss(net: Network, x: Array, y: Array, tape: Tape, method: Any) -> float:
    assert isinstance(net, Transformer)
    labels = smoothed(y, method.smoothing)
    if not tape.chance(method.p):
        mixed, targets = mixup_of_reversed(x, labels, method.input_alpha, tape)
        return float(net.losses(net(mixed), targets).mean())
    b, h, w = len(x), *x.shape[2:]
    top, bottom, left, right = box(h, w, method.alpha, tape)
    pasted = x.copy()
    for i in range(b):
        pasted[i, :, top:bottom, left:right] = x[b - 1 - i, :, top:bottom, left:right]
    area = (bottom - top) * (right - left) / (h * w)
    mixtures = []
    for i, attention in enumerate(tape.detached(net.class_attention(pasted))):
        inside = outside = 0.0
        for token, attended in enumerate(attention):
            row, column = divmod(token, w // PATCH)
            if top <= row * PATCH < bottom and left <= column * PATCH < right:
                inside += attended
            else:
                outside += attended
        share = method.area * area + (1 - method.area) * inside / (inside + outside)
        mixtures.append((1 - share) * labels[i] + share * labels[b - 1 - i])
    return float(net.losses(net(pasted), np.stack(mixtures)).mean())


def box(h: int, w: int, alpha: float, tape: Tape) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a box about a random pixel, cut off at the border."""
    side = sqrt(1 - tape.take("beta", alpha))
    high, wide = int(h * side), int(w * side)
    row, column = int(tape.take("randint")), int(tape.take("randint"))
    rows = max(row - high // 2, 0), min(row + high // 2, h)
    return *rows, max(column - wide // 2, 0), min(column + wide // 2, w)


def mixup_of_reversed(x: Array, labels: Array, alpha: float, tape: Tape) -> tuple[Array, Array]:
    """Mixup of each image and label with those as far from the other end of the batch."""
    lam = tape.take("beta", alpha)
    images = [lam * x[i] + (1 - lam) * x[-1 - i] for i in range(len(x))]
    targets = [lam * labels[i] + (1 - lam) * labels[-1 - i] for i in range(len(x))]
    return np.stack(images), np.stack(targets)


def smoothed(y: Array, amount: float) -> Array:
    """Labels of which ``amount`` is spread over all classes."""
    labels: Array = (1 - amount) * y + amount / y.shape[1]
    return labels
