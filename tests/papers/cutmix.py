"""CutMix: arXiv 1905.04899, eq. 1 and 2, with the box of the official code, one for the batch.

Targets are mixed by the area that is visible, as in the code (``corrected``), or by the ratio.
"""

from collections.abc import Sequence
from math import floor, sqrt
from typing import Any

import numpy as np

from papers import baseline
from papers.network import Array, Network
from papers.tape import Tape

CASES = (
    "cutmix",
    "cutmix,p=1",
    "cutmix,k=3,p=1",
    "cutmix,k=3,nested=True,p=1",
    "cutmix,at=layer2,p=1",
    "cutmix,corrected=False,k=2,p=1",
)


def loss(net: Network, x: Array, y: Array, tape: Tape, method: Any) -> float:
    if not tape.chance(method.p):
        return baseline.loss(net, x, y, tape, method)
    stage = method.at[tape.choice(len(method.at))]
    ratios = tape.take("ratios", method.alpha, method.k)
    mixed = mixtures(net.below(stage, x), y, ratios, tape, method.nested, method.corrected)
    features, targets = zip(*mixed, strict=True)
    logits = net.above(stage, np.concatenate(features))
    return float(net.losses(logits, np.concatenate(targets)).mean())


def mixtures(
    x: Array,
    y: Array,
    ratios: Sequence[float],
    tape: Tape,
    nested: bool = False,
    corrected: bool = True,
) -> list[tuple[Array, Array]]:
    """Images and targets mixed at each ratio; boxes are nested if one centre is that of all."""
    partner, rows, columns = tape.take("partners"), tape.take("randint"), tape.take("randint")
    centres = [(rows, columns)] * len(ratios) if nested else zip(rows, columns, strict=True)
    mixed = []
    for lam, (row, column) in zip(ratios, centres, strict=True):
        m = mask(x.shape[2], x.shape[3], lam, int(row), int(column))
        mixed.append(mixture(x, y, partner, m, m.mean() if corrected else lam))
    return mixed


def mask(height: int, width: int, lam: float, row: int, column: int) -> Array:
    """M, (height, width): 0 in a box around a pixel, whose sides the border clips, and 1 outside."""
    r_h, r_w = floor(height * sqrt(1 - lam)), floor(width * sqrt(1 - lam))
    top, bottom = max(row - r_h // 2, 0), min(row + r_h // 2, height)
    left, right = max(column - r_w // 2, 0), min(column + r_w // 2, width)
    m = np.ones((height, width))
    for i in range(top, bottom):
        for j in range(left, right):
            m[i, j] = 0
    return m


def mixture(x: Array, y: Array, partner: Array, m: Array, lam: float) -> tuple[Array, Array]:
    """Images that show their partners where the mask (height, width) is 0, and their targets."""
    images = [m * x[i] + (1 - m) * x[j] for i, j in enumerate(partner)]
    targets = [lam * y[i] + (1 - lam) * y[j] for i, j in enumerate(partner)]
    return np.stack(images), np.stack(targets)
