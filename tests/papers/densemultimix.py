"""Dense MultiMix: arXiv 2311.05538, Section 3.3, eq. 9 to 14.

The paper mixes the last maps; what is mixed before them goes through the stages between, and a
position of the last maps has the mean target of those it covers, by their weights. Of tokens, the
patches are mixed, behind the last norm.
"""

from itertools import product
from typing import Any

import numpy as np

from papers.mixup import mixed_after
from papers.multimix import combination, interpolation_vectors
from papers.network import STAGES, Array, Network, softmax
from papers.tape import Tape
from papers.transformer import Transformer

CASES = (
    "densemultimix,n=7",
    *(
        f"densemultimix,p=1.0,n=7,attention={attention},squash={squash},detach={detach}"
        for attention, squash, detach in product(
            ("gap", "cam"), ("relu", "softmax"), ("true", "false")
        )
    ),
    "densemultimix,p=1.0,n=7,attention=uniform",
    *(
        f"densemultimix,p=1.0,n=7,attention={attention},detach=false,reduction={reduction}"
        for attention, reduction in product(("gap", "uniform"), ("sum", "global"))
    ),
    "densemultimix,p=1.0,n=1",
    "densemultimix,p=1.0,n=7,m=3",
    "densemultimix,p=1.0,n=3,m=2,at=layer2+layer3+layer4",
    "densemultimix,p=1.0,n=3,at=layer3,squash=softmax,detach=false,reduction=global",
    "densemultimix,p=0.999,n=3,at=block2",
    "densemultimix,p=0.999,n=3,m=4,at=block2,attention=cam,detach=false",
)


def loss(net: Network, x: Array, y: Array, tape: Tape, method: Any) -> float:
    if not tape.chance(method.p):
        return mixed_after("pixels", net, x, y, tape, method.input_alpha)
    stage = method.at[tape.choice(len(method.at))]
    maps = maps_of(net, stage, x)
    b, d, height, width = maps.shape
    r, n = height * width, method.n
    z = maps.reshape(b, d, r)
    a = np.stack([attention(net, method, z[i], y[i]) for i in range(b)])
    if method.detach:
        a = tape.detached(a)
    vectors = interpolation_vectors(method, b, tape)
    mixed, targets, s = np.zeros((n, d, r)), np.zeros((n, y.shape[1], r)), np.zeros((n, r))
    for j, k in product(range(r), range(n)):
        column = a[:, j] * vectors[j, k]  # of M^j = diag(a^j) Lambda^j (eq. 10)
        s[k, j] = column.sum()
        column = column / max(s[k, j], 1e-12)  # of M-hat^j (eq. 11)
        mixed[k, :, j] = combination(column, z[:, :, j])  # eq. 12
        targets[k, :, j] = combination(column, y)  # eq. 13
    last = last_maps(net, stage, mixed.reshape(n, d, height, width))
    targets, s = covered(targets, s, (height, width), last.shape[2:])
    return weighted(net, last.reshape(n, last.shape[1], -1), targets, s, method.reduction)


def attention(net: Network, method: Any, z: Array, y: Array) -> Array:
    """a = h(z^T u) of one image (eq. 9), (r,), of its features (d, r) and its target (c,)."""
    r = z.shape[1]
    if method.attention == "uniform":
        return np.full(r, 1 / r)
    u = z.sum(1) / r if method.attention == "gap" else net.weights["head.weight"].T @ y
    scores = z.T @ u
    if method.squash == "softmax":
        return softmax(scores)
    positive = np.maximum(scores, 0)
    return positive / positive.sum() if positive.sum() > 1e-12 else np.full(r, 1 / r)


def maps_of(net: Network, stage: str, x: Array) -> Array:
    """The maps (b, d, h, w) that leave a stage, or patches in a column, (b, d, r, 1)."""
    z = net.below(stage, x)
    if isinstance(net, Transformer):
        return net.normalised("pool.1", z[:, 1:]).swapaxes(1, 2)[..., None]
    return z


def last_maps(net: Network, stage: str, maps: Array) -> Array:
    """What enters the pool, of what leaves a stage; for patches, there is nothing in between."""
    if isinstance(net, Transformer):
        return maps
    for between in STAGES[STAGES.index(stage) + 1 : STAGES.index("pool")]:
        maps = net.pass_through(between, maps)
    return maps


def covered(
    targets: Array, s: Array, fine: tuple[int, int], coarse: tuple[int, ...]
) -> tuple[Array, Array]:
    """Targets (n, c, r) and weights (n, r) of the positions of fine maps, at those of coarse ones."""
    positions = np.arange(fine[0] * fine[1]).reshape(fine)
    rows, columns = fine[0] // coarse[0], fine[1] // coarse[1]
    means, weights = [], []
    for p, q in product(range(coarse[0]), range(coarse[1])):
        under = positions[p * rows : (p + 1) * rows, q * columns : (q + 1) * columns].flatten()
        mass = s[:, None, under].sum(2)
        means.append((s[:, None, under] * targets[:, :, under]).sum(2) / np.maximum(mass, 1e-12))
        weights.append(mass[:, 0] / len(under))
    return np.stack(means, 2), np.stack(weights, 1)


def weighted(net: Network, z: Array, targets: Array, s: Array, reduction: str) -> float:
    """The loss (eq. 14) of features (n, d, r) and targets (n, c, r), by weights (n, r).

    How losses of positions become one, the paper does not say.
    """
    n, r = s.shape
    pairs = [*product(range(r), range(n))]
    logits = np.stack([net.pass_through("head", z[k, :, j]) for j, k in pairs])
    losses = net.losses(logits, np.stack([targets[k, :, j] for j, k in pairs]))
    h = dict(zip(pairs, losses, strict=True))
    if reduction == "global":
        return float(sum(s[k, j] * h[j, k] for j, k in pairs) / max(s.sum(), 1e-12))
    of_positions = [
        float(sum(s[k, j] * h[j, k] for k in range(n)) / max(s[:, j].sum(), 1e-12))
        for j in range(r)
    ]
    return sum(of_positions) / (r if reduction == "mean" else 1)
