"""SuperMix: arXiv 2003.05034, Section 3, with the steps and the hard labels of the official code.

Unlike the code, which fills a folder first, a batch draws from a pool that its own mixtures have
entered, and passes through the network together with what it has drawn.
"""

from collections.abc import Callable
from math import exp, floor
from typing import Any

import numpy as np

from papers.network import Array, Evaluated, Network, log_softmax
from papers.tape import Tape

CASES = (
    "supermix,mask=2,pool=8,steps=2",
    "supermix,mask=3,pool=8,sigma=2,steps=3,tolerance=0,weight=2",
    "supermix,alpha=1,images=3,mask=2,pool=2,sparsity=5,steps=3,tolerance=20",
    "supermix,images=1,mask=1,pool=8,steps=1",
    "supermix,pool=8,steps=0",
)
STEP = 1e-5
"""How far mask variables are moved to either side for the slope of their loss."""


def loss(net: Network, x: Array, y: Array, tape: Tape, method: Any) -> float:
    teacher = Evaluated(net.guide.weights, net.guide.criterion)
    pool = tape.once(lambda: generated(teacher, x, tape, method)[: method.pool])
    drawn = [pool[k] for k in tape.take("randint")]
    mixtures = np.array([image for image, _ in drawn]).reshape(-1, *x.shape[1:])
    hard = np.array([label for _, label in drawn]).reshape(-1, y.shape[1])
    logits = net(np.concatenate([x, mixtures]))
    natural = net.losses(logits[: len(x)], y).sum()
    mixed = net.losses(logits[len(x) :], hard).sum()
    return float(method.weight * (natural + mixed) / len(x))


def generated(teacher: Network, x: Array, tape: Tape, method: Any) -> list[tuple[Array, Array]]:
    """The mixtures that are solved, in 8 bits, and the labels that the teacher sees in them."""
    b, k, w = len(x), method.images, method.mask
    labels = one_hot(teacher(x))
    sets = np.stack([[x[(i + j) % b] for j in range(k)] for i in range(b)])  # b k 3 h w
    targets = np.zeros_like(labels)
    for i, ratios in enumerate(tape.take("dirichlet", method.alpha, k)):
        for j, ratio in enumerate(ratios):
            targets[i] += ratio * labels[(i + j) % b]

    def losses(m: Array) -> Array:
        return mask_losses(teacher, m, sets, targets, method.sparsity)

    m, solved, steps = np.zeros((b, k, w, w)), np.zeros(b, bool), 0
    while (~solved).sum() > floor(b * method.tolerance / 100) and steps < method.steps:
        before, slopes = losses(m), slope(losses, m)
        for i in np.flatnonzero(~solved).tolist():
            smooth = np.stack([smoothed(q, method.sigma) for q in slopes[i]])
            length = abs(before[i]) / ((slopes[i] * smooth).sum() + 1e-10)
            m[i] -= np.clip(length, 1e-4, 2000) * smooth
        for i, logits in enumerate(teacher(mixed(m, sets))):
            solved[i] |= largest(logits, k) == largest(targets[i], k)
        steps += 1
    found = np.floor(255 * mixed(m, sets)[solved]) / 255
    return [*zip(found, one_hot(teacher(found)), strict=True)]


def mask_losses(teacher: Network, m: Array, sets: Array, t: Array, sparsity: float) -> Array:
    """KL(t || p), p the teacher's, plus how far from 0 and 1 masks are, of each mixture, (b,)."""
    log_t = np.log(np.where(t > 0, t, 1))
    divergence: Array = (t * (log_t - log_softmax(teacher(mixed(m, sets))))).sum(1)
    shares = np.stack([processed(each, sets.shape[-2:]) for each in m])
    grey: Array = np.abs(shares * (shares - 1)).mean((1, 2, 3))
    return divergence + sparsity * grey


def slope(losses: Callable[[Array], Array], m: Array) -> Array:
    """The gradient of each mixture's loss by its own mask variables, by central differences."""
    q = np.zeros_like(m)
    for place in np.ndindex(*m.shape[1:]):
        step = np.zeros_like(m)
        step[:, *place] = STEP
        q[:, *place] = (losses(m + step) - losses(m - step)) / (2 * STEP)
    return q


def mixed(m: Array, sets: Array) -> Array:
    """Mixtures (b, 3, h, w) of sets (b, k, 3, h, w) by mask variables (b, k, w, w)."""
    mixtures = np.zeros_like(sets[:, 0])
    for i, (variables, images) in enumerate(zip(m, sets, strict=True)):
        for share, image in zip(processed(variables, sets.shape[-2:]), images, strict=True):
            mixtures[i] += share * image
    return mixtures


def processed(m: Array, size: tuple[int, ...]) -> Array:
    """The masks (k, h, w) that variables (k, w, w) stand for: in each pixel, shares of one."""
    masks = np.stack([1 / (1 + np.exp(-enlarged(each, size))) for each in m])
    shares: Array = masks / masks.sum(0)
    return shares


def enlarged(m: Array, size: tuple[int, ...]) -> Array:
    """A map of another size, by bilinear interpolation between centres of pixels."""
    rows, columns = (weights(*sizes) for sizes in zip(m.shape, size, strict=True))
    return rows @ m @ columns.T


def weights(size: int, new: int) -> Array:
    """What each pixel of a row is worth to each of another row, (new, size)."""
    matrix = np.zeros((new, size))
    for i in range(new):
        place = min(max((i + 0.5) * size / new - 0.5, 0), size - 1)
        left = floor(place)
        matrix[i, left] += 1 - (place - left)
        matrix[i, min(left + 1, size - 1)] += place - left
    return matrix


def smoothed(q: Array, sigma: float) -> Array:
    """A map under a Gaussian of n taps, with zeros around; of an even n, more of them come after."""
    n = floor(5 * sigma)
    gaussian = [exp(-((t - (n - 1) / 2) ** 2) / (2 * (n / 5) ** 2)) for t in range(n)]
    taps = np.array(gaussian) / sum(gaussian)
    padded = np.pad(q, ((n - 1) // 2, n // 2))
    out = np.zeros_like(q)
    for i, j in np.ndindex(*q.shape):
        out[i, j] = taps @ padded[i : i + n, j : j + n] @ taps
    return out


def largest(row: Array, k: int) -> set[int]:
    return {*np.argsort(-row, kind="stable")[:k].tolist()}


def one_hot(logits: Array) -> Array:
    labels: Array = np.eye(logits.shape[1])[logits.argmax(1)]
    return labels
