"""Co-Mixup: arXiv 2102.03065, Section 4, with the threshold, the blends and the ties of its code."""

from itertools import combinations, product
from math import ceil
from typing import Any

import numpy as np

from papers.network import Array, Network
from papers.puzzlemix import (
    best_labels,
    clean_loss,
    constant,
    edges,
    enlarged,
    input_gradient,
    shares,
)
from papers.tape import Tape

SIZE = (12, 12)
"""More than the 8 x 8 pixels that a peak is sought for in."""

CASES = (
    "comixup",
    "comixup,part=2",
    "comixup,part=3,blocks=2",
    "comixup,part=3,sweeps=1,eta=0.5,alpha=0.5",
    "comixup,part=3,sweeps=2,beta=0.1,tau=0.3",
    "comixup,part=3,blocks=2,omega=0.4,tau=0.4,gamma=0.1",
    "comixup,part=3,omega=0.8,tau=0.7,gamma=0.3,beta=0.05,masked=products",
    "comixup,blocks=2,soft=false,clean=0,gamma=0.2,tau=0.5",
    "comixup,part=3,beta=0.05,gamma=0.02,tau=0,clean=0.3",
    "comixup,part=3,blocks=2,sweeps=7,clean=0",
)


def loss(net: Network, x: Array, y: Array, tape: Tape, method: Any) -> float:
    still = tape.detached(x)
    gradient = constant(tape, input_gradient, net, still, y, method.clean > 0)
    salient = np.sqrt((gradient**2).mean(1))
    parts = ceil(len(x) / method.part)
    m = ceil(len(x) / parts)
    images, targets = [], []
    priors = tape.take("dirichlet", method.alpha, m)
    for p, (a, u) in enumerate(zip(priors, tape.take("rand"), strict=True)):
        inputs = range(p * m, min(len(x), p * m + m))
        for o in constant(tape, labelling, salient[p * m : p * m + m], a, u, method):
            masks = [enlarged(o[:, :, k], x.shape[2]) for k in range(len(inputs))]
            images.append(sum(mask * x[i] for mask, i in zip(masks, inputs, strict=True)))
            target = sum(o[:, :, k].sum() * y[i] for k, i in enumerate(inputs))
            targets.append(target / target.sum())
    mixed = net.losses(net(np.stack(images)), np.stack(targets)).mean()
    return float(mixed + method.clean * clean_loss(net, still, y))


def labelling(salient: Array, a: Array, u: Array, method: Any) -> Array:
    """How much of each of m inputs is in each cell of each output, (m, n, n, m).

    salient: of the inputs, (m, h, w); a: their prior; u: uniform numbers, for each output and cell.
    Of both there may be more than m; priors are then those of a Dirichlet distribution over m.
    """
    m, n = len(salient), method.blocks
    prior = a[:m] / a[:m].sum()
    s = np.stack([shares(each, len(each) // n) for each in salient], axis=2)
    c = -s - method.eta / n**2 * np.log(prior + 1e-8)  # n n m
    affinity = compatibility(salient, method)
    o: Array = np.eye(m)[(m * u[:m]).astype(int)].reshape(m, n, n, m)
    extra, before = np.zeros((m, m)), np.inf
    for sweep in range(method.sweeps):
        if 0 < sweep == method.sweeps - 1:
            extra = tie_break(o, method)
        for i in range(m):
            cost = c + penalty(o, i, affinity, method) + extra[i]
            o[i] = relabelled(o[i], cost, method, blends=method.soft and sweep > 0)
        value = monitored(o, c, method)
        if abs(value - before) < 1e-6 * abs(value):
            break
        before = value
    return o


def compatibility(salient: Array, method: Any) -> Array:
    """A = (1 - omega) I + omega A~, of the distances in pixels of the inputs' peaks, (m, m)."""
    m, h, w = salient.shape
    peaks = []
    for each in salient:
        corners = list(product(range(h - 7), range(w - 7)))
        means = [each[r : r + 8, c : c + 8].mean() for r, c in corners]
        peaks.append(corners[np.argmax(means)])
    far = np.array([[abs(r - row) + abs(c - column) for row, column in peaks] for r, c in peaks])
    scaled = far * m / max(far.sum(), 1)  # if all are zero, they stay so
    found: Array = (1 - method.omega) * np.eye(m) + method.omega * scaled
    return found


def penalty(o: Array, i: int, affinity: Array, method: Any) -> Array:
    """What a cell of output i pays more for each input, (m,), for what the other outputs show."""
    cells = method.blocks**2
    p = np.delete(o, i, axis=0).sum((0, 1, 2))
    w = affinity @ p > method.tau * cells
    v = affinity @ (w * p) if method.masked == "counts" else w * (affinity @ p)
    price: Array = 2 * method.gamma / cells * v
    return price


def relabelled(before: Array, cost: Array, method: Any, blends: bool) -> Array:
    """The shares (n, n, m) of an output, at least cost; those it had tell what may be blended."""
    n, m = method.blocks, cost.shape[2]
    counts = before.sum((0, 1))
    most = sorted(np.flatnonzero(counts), key=lambda k: -counts[k])[:3] if blends else []
    labels = [(k,) for k in range(m)] + list(combinations(most, 2))
    unary = np.zeros((n, n, len(labels)))
    for t, label in enumerate(labels):
        unary[:, :, t] = np.mean([cost[:, :, k] for k in label], axis=0)
        if len(label) == 2:
            unary[:, :, t] -= 5e-4
    pair = np.zeros((len(labels), len(labels)))
    for t, one in enumerate(labels):
        for q, other in enumerate(labels):
            own = len(one) != len(other) and {*one} & {*other}
            pair[t, q] = method.beta / n**2 * (0 if t == q else 0.25 if own else 1)
    found = np.zeros_like(before)
    for r, row in enumerate(best_labels(n, unary, dict.fromkeys(edges(n), pair))):
        for q, t in enumerate(row):
            for k in labels[t]:
                found[r, q, k] = 1 / len(labels[t])
    return found


def tie_break(o: Array, method: Any) -> Array:
    """What the last sweep adds to the cost of inputs in outputs, (m, m)."""
    sets = [np.flatnonzero(each.sum((0, 1))).tolist() for each in o]
    extra = np.zeros((len(o), len(o)))
    for i, j in combinations(range(len(o)), 2):
        if sets[i] == sets[j] and len(sets[i]) >= 2:
            extra[i, sets[i][0]] = extra[j, sets[j][1]] = method.gamma / method.blocks**2
    return extra


def monitored(o: Array, c: Array, method: Any) -> float:
    """The objective that may stop the sweeps: without A, threshold and what breaks ties."""
    value, cells = float((o * c).sum()), method.blocks**2
    for each in o:
        for one, other in edges(method.blocks):
            value += method.beta / cells * ((each[one] - each[other]) ** 2).sum() / 2
    counts = o.sum((1, 2))
    for i, j in product(range(len(o)), repeat=2):
        if i != j:
            value += method.gamma / cells * (counts[i] @ counts[j])
    return value
