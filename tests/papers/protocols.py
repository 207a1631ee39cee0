"""What tasks compute, by its definition: attacks (1412.6572, 1706.06083), likelihood, Brier score."""

import numpy as np
from numpy.typing import NDArray

from papers.network import Array, Network, cross_entropy, softmax

Labels = NDArray[np.int64]
STEP = 1e-5
"""How far a pixel is moved to either side for the slope there."""


def fgsm(net: Network, x: Array, labels: Labels, eps: float) -> Array:
    """Images (b, 3, h, w) after one step of all pixels towards a higher loss."""
    return np.clip(x + eps * ascent(net, x, labels), 0, 1)


def pgd(
    net: Network, x: Array, labels: Labels, start: Array, eps: float, step: float, steps: int
) -> Array:
    """Images after several steps, each back into the ball about ``x``, then into the range."""
    z = np.clip(start, 0, 1)
    for _ in range(steps):
        z = z + step * ascent(net, z, labels)
        z = np.clip(np.clip(z, x - eps, x + eps), 0, 1)
    return z


def ascent(net: Network, x: Array, labels: Labels) -> Array:
    """The sign of the slope of cross-entropy at every pixel, by central differences."""
    slopes = []
    for image, label in zip(x, labels, strict=True):
        moves = STEP * np.eye(image.size).reshape(-1, *image.shape)
        up, down = (net(image + move) for move in (moves, -moves))
        target = np.eye(up.shape[1])[label]
        difference = cross_entropy(up, target) - cross_entropy(down, target)
        slopes.append((difference / (2 * STEP)).reshape(image.shape))
    assert np.abs(slopes).min() > 1e-7, "a slope is too near to zero to tell its sign"
    signs: Array = np.sign(slopes)
    return signs


def error(logits: Array, labels: Labels) -> float:
    """The share of images, in percent, whose largest logit is of another class."""
    wrong = sum(scores.argmax() != label for scores, label in zip(logits, labels, strict=True))
    return float(100 * wrong / len(labels))


def negative_log_likelihood(logits: Array, labels: Labels) -> float:
    terms = [-np.log(softmax(scores)[label]) for scores, label in zip(logits, labels, strict=True)]
    return float(sum(terms) / len(terms))


def brier(logits: Array, labels: Labels) -> float:
    """The squared distance of the probabilities of all classes from what is true."""
    total = 0.0
    for scores, label in zip(logits, labels, strict=True):
        for k, p in enumerate(softmax(scores)):
            total += (p - (k == label)) ** 2
    return total / len(labels)
