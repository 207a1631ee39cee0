"""zeta-mixup: arXiv 2204.03323, with the largest weight on the image itself, as in the official code.

There, permutations of all weights are rolled; permuting all but the largest is the same in law. The
paper permutes all (``own=False``).
"""

from typing import Any

import numpy as np

from papers import baseline
from papers.network import Array, Network
from papers.tape import Tape

CASES = (
    "zetamixup",
    "zetamixup,gamma=0",
    "zetamixup,at=layer2,gamma=1",
    "zetamixup,at=pool,p=0.5",
    "zetamixup,gamma=1,own=False",
    "zetamixup,gamma=1,m=3",
    "zetamixup,gamma=0,m=2,own=False",
)


def loss(net: Network, x: Array, y: Array, tape: Tape, method: Any) -> float:
    if not tape.chance(method.p):
        return baseline.loss(net, x, y, tape, method)
    stage = method.at[tape.choice(len(method.at))]
    z, keys, features, targets = net.below(stage, x), tape.take("rand"), [], []
    series = p_series(method.gamma, method.m or len(x))
    for s in range(len(x)):
        permuted = sorted(range(len(x)), key=lambda i: float(keys[s, i]))
        if method.own:
            permuted = [s, *(i for i in permuted if i != s)]
        weighted = [*zip(series, permuted, strict=False)]
        features.append(sum(w * z[i] for w, i in weighted))
        targets.append(sum(w * y[i] for w, i in weighted))
    return float(net.losses(net.above(stage, np.array(features)), np.array(targets)).mean())


def p_series(gamma: float, t: int) -> list[float]:
    """w_i = i^-gamma / sum_j j^-gamma for i = 1, ..., t."""
    return [i**-gamma / sum(j**-gamma for j in range(1, t + 1)) for i in range(1, t + 1)]
