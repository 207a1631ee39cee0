"""Multiple interpolations: arXiv 2406.01417, by an independent summary of it; there is no code.

k mixtures of each image with its partner, at k ordered ratios, by a base method as it is by default;
the loss is the mean over all, which pass the network as one batch. Of PuzzleMix as a base, its own
cases with several ratios tell.
"""

from typing import Any

import numpy as np

from papers import baseline, cutmix
from papers.network import Array, Network
from papers.tape import Tape

CASES = ("multiple", "multiple,k=1", "multiple,base=manifold,k=2", "multiple,base=cutmix,k=4")


def loss(net: Network, x: Array, y: Array, tape: Tape, method: Any) -> float:
    if method.base == "cutmix" and not tape.chance(0.5):
        return baseline.loss(net, x, y, tape, method)
    stages = ("pixels", "layer1", "layer2") if method.base == "manifold" else ("pixels",)
    stage = stages[tape.choice(len(stages))]
    alpha = 2.0 if method.base == "manifold" else 1.0
    ratios = sorted(tape.take("ratios", alpha, method.k), reverse=True)
    assert len(ratios) == method.k
    mixtures = cutmix.mixtures if method.base == "cutmix" else path
    mixed = mixtures(net.below(stage, x), y, ratios, tape)
    features, targets = zip(*mixed, strict=True)
    losses = net.losses(net.above(stage, np.concatenate(features)), np.concatenate(targets))
    return float(sum(each.mean() for each in losses.reshape(method.k, -1)) / method.k)


def path(z: Array, y: Array, ratios: list[float], tape: Tape) -> list[tuple[Array, Array]]:
    """From each example to its partner, on a straight line."""
    partner = tape.take("partners")
    return [(lam * z + (1 - lam) * z[partner], lam * y + (1 - lam) * y[partner]) for lam in ratios]
