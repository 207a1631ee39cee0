"""mixup: arXiv 1710.09412, eq. 1, with one ratio per batch, and the batch permuted for partners."""

from typing import Any

import numpy as np

from papers import baseline
from papers.network import Array, Network
from papers.tape import Tape

CASES = (
    "mixup",
    "mixup,alpha=0.2",
    "mixup,k=3",
    "mixup,at=layer2+pool,p=0.5",
    "mixup,k=2,shared=False",
)


def loss(net: Network, x: Array, y: Array, tape: Tape, method: Any) -> float:
    if not tape.chance(method.p):
        return baseline.loss(net, x, y, tape, method)
    stage = method.at[tape.choice(len(method.at))]
    law = (method.alpha, method.k) if method.shared else (method.alpha, method.k, len(x))
    return mixed_after(stage, net, x, y, tape, *law)


def mixed_after(
    stage: str, net: Network, x: Array, y: Array, tape: Tape, alpha: float, k: int = 1, *each: int
) -> float:
    """The loss of what leaves a stage, mixed with one and the same partner at each of k ratios, one
    for all pairs, or ``each`` of their own.
    """
    ratios, partner = tape.take("ratios", alpha, k, *each), tape.take("partners")
    z, features, targets = net.below(stage, x), [], []
    for drawn in ratios:
        for i, (j, lam) in enumerate(np.broadcast(partner, drawn)):
            features.append(lam * z[i] + (1 - lam) * z[j])
            targets.append(lam * y[i] + (1 - lam) * y[j])
    return float(net.losses(net.above(stage, np.stack(features)), np.stack(targets)).mean())
