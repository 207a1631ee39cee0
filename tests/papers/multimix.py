"""MultiMix: arXiv 2311.05538, Section 3.2, with input mixup for the other batches."""

from typing import Any

import numpy as np

from papers.mixup import mixed_after
from papers.network import Array, Network
from papers.tape import Tape

CASES = (
    "multimix,n=7",
    "multimix,p=1.0,n=7",
    "multimix,p=1.0,n=1",
    "multimix,p=1.0,n=7,m=3",
    "multimix,p=1.0,n=7,m=1",
    "multimix,p=1.0,n=7,m=9",
    "multimix,p=1.0,n=7,at=layer4",
    "multimix,p=1.0,n=7,m=2,at=layer2+pool+layer4",
    "multimix,p=1.0,n=7,at=pixels",
    "multimix,p=1.0,n=7,at=block2",
)


def loss(net: Network, x: Array, y: Array, tape: Tape, method: Any) -> float:
    if not tape.chance(method.p):
        return mixed_after("pixels", net, x, y, tape, method.input_alpha)
    stage = method.at[tape.choice(len(method.at))]
    z = net.below(stage, x)
    (vectors,) = interpolation_vectors(method, len(x), tape)
    mixed = [combination(lam, z) for lam in vectors]  # the columns of Z Lambda
    targets = [combination(lam, y) for lam in vectors]  # and of Y Lambda
    logits = net.above(stage, np.stack(mixed))
    return float(net.losses(logits, np.stack(targets)).mean())


def interpolation_vectors(method: Any, b: int, tape: Tape) -> Array:
    """The columns of Lambda at each position, (r, n, b): m weights of each are not zero.

    Which ones is drawn for each column, and is the same at all positions: those of the m smallest
    of b random numbers.
    """
    n, m = method.n, min(method.m or b, b)
    drawn = tape.take("simplex")  # r n m
    keys = tape.take("rand") if m < b else np.zeros((n, b))
    vectors = np.zeros((len(drawn), n, b))
    for k in range(n):
        subset = np.argsort(keys[k], kind="stable")[:m]
        for j in range(len(drawn)):
            for i, weight in zip(subset, drawn[j, k], strict=True):
                vectors[j, k, i] = weight
    return vectors


def combination(lam: Array, z: Array) -> Array:
    """sum_i lam_i z_i."""
    out = np.zeros(z.shape[1:])
    for weight, example in zip(lam, z, strict=True):
        out += weight * example
    return out
