"""AlignMixup: arXiv 2103.15375, Section 3, as its official code has it: without the autoencoder."""

from typing import Any

import numpy as np

from papers.mixup import mixed_after
from papers.network import Array, Network
from papers.tape import Tape

CASES = (
    "alignmixup",
    "alignmixup,p=1.0",
    "alignmixup,p=1.0,eps=5",
    "alignmixup,p=1.0,convex=true",
    "alignmixup,p=1.0,eps=5,steps=3,tolerance=0",
    "alignmixup,p=1.0,eps=1,tolerance=0",
    "alignmixup,p=1.0,alpha=0.5,eps=10,tolerance=0.01,at=layer3+layer2+layer4",
)


def loss(net: Network, x: Array, y: Array, tape: Tape, method: Any) -> float:
    if not tape.chance(method.p):
        return mixed_after("pixels", net, x, y, tape, method.alpha)
    stage = method.at[tape.choice(len(method.at))]
    lam, partner = tape.take("beta", method.alpha), tape.take("partners")
    maps = net.below(stage, x)
    own = maps.reshape(*maps.shape[:2], -1)  # d x r matrices A
    other = own[partner]  # A'
    plans = tape.detached(transport(own, other, method.eps, method.steps, method.tolerance))
    partners_move = tape.chance(0.5)
    mixed = []
    for a, b, plan in zip(own, other, plans, strict=True):
        assignment = len(plan) * plan  # R
        if method.convex and partners_move:
            assignment = assignment / assignment.sum(1, keepdims=True)
        if partners_move:
            mixed.append(lam * a + (1 - lam) * b @ assignment.T)
        else:
            mixed.append(lam * a @ assignment + (1 - lam) * b)
    logits = net.above(stage, np.stack(mixed).reshape(maps.shape))
    return float(net.losses(logits, lam * y + (1 - lam) * y[partner]).mean())


def transport(own: Array, other: Array, eps: float, steps: int, tolerance: float) -> Array:
    """Sinkhorn's plan of each pair, (b, r, r), from maps (b, d, r): rows are positions of ``own``.

    As in the code, marginals are 1 / r + 1e-8, and all pairs of a batch stop at the same step.
    """
    b, _, r = own.shape
    cost = np.zeros((b, r, r))
    for i in range(b):
        for j in range(r):
            for k in range(r):
                cost[i, j, k] = ((own[i, :, j] - other[i, :, k]) ** 2).sum()
    u, v, log_mass = np.zeros((b, r)), np.zeros((b, r)), np.log(1 / r + 1e-8)
    for _ in range(steps):
        before = u
        u = eps * (log_mass - np.logaddexp.reduce((v[:, None, :] - cost) / eps, 2))
        v = eps * (log_mass - np.logaddexp.reduce((u[:, :, None] - cost) / eps, 1))
        if np.abs(u - before).sum(1).mean() < tolerance:
            break
    plan: Array = np.exp((u[:, :, None] + v[:, None, :] - cost) / eps)
    return plan
