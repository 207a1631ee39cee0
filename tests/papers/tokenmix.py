"""TokenMix: arXiv 2207.08409, Section 3, with the constant ratio and the targets of its code.

The code reads activations from label maps of another network. Here they are what a teacher sees at
each token: its head's softmax, of which the five likeliest classes are known.
"""

from math import exp, floor, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from papers.network import Array, Network, softmax
from papers.tape import Tape
from papers.transformer import PATCH
from papers.transmix import mixup_of_reversed, smoothed

CASES = (
    "tokenmix",
    "tokenmix,p=0",
    "tokenmix,p=0,criterion=net",
    "tokenmix,p=1",
    "tokenmix,p=1,mask=random",
    "tokenmix,p=1,activation=uniform",
    "tokenmix,p=1,criterion=net",
    "tokenmix,p=1,criterion=net,mask=random,activation=uniform",
    "tokenmix,p=1,smoothing=0",
)
SOFT = False  # a teacher is asked for the class of each image
TINY = 1e-8
Mask = NDArray[np.bool_]


def loss(net: Network, x: Array, y: Array, tape: Tape, method: Any) -> float:
    if tape.chance(method.p):
        mixed, targets = tokens_mixed(net.guide, x, y, tape, method)
    else:
        mixed, targets = mixup_of_reversed(
            x, smoothed(y, method.smoothing), method.input_alpha, tape
        )
    if method.criterion == "net":
        return float(net.losses(net(mixed), targets).mean())
    p = 1 / (1 + np.exp(-net(mixed)))
    return float(-(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean())


def tokens_mixed(teacher: Any, x: Array, y: Array, tape: Tape, method: Any) -> tuple[Array, Array]:
    """Images with tokens of those as far from the other end of the batch, and their targets."""
    rows, columns = x.shape[2] // PATCH, x.shape[3] // PATCH
    draw = random_tokens if method.mask == "random" else blocks
    mask = draw(rows, columns, tape)
    if method.activation == "uniform":
        a = np.full((len(x), mask.size), 1 / mask.size)
    else:
        a = tape.detached(activations(teacher, x, y))
    return pasted(x, mask), targets_of(mask.flatten(), a, y, method)


def pasted(x: Array, mask: Mask) -> Array:
    mixed = x.copy()
    for i, j in mirrored(len(x)):
        for row, column in zip(*np.nonzero(mask), strict=True):
            rows = slice(PATCH * row, PATCH * (row + 1))
            columns = slice(PATCH * column, PATCH * (column + 1))
            mixed[i, :, rows, columns] = x[j, :, rows, columns]
    return mixed


def targets_of(mask: Mask, a: Array, y: Array, method: Any) -> Array:
    """The targets, of activations (b, n) and a mask (n,): a sum by the code, or a mixture."""
    targets = []
    for i, j in mirrored(len(y)):
        own, other = a[i][~mask].sum(), a[j][mask].sum()
        if method.criterion == "bce":
            target = valued(y[i], own, method.smoothing) + valued(y[j], other, method.smoothing)
        else:
            own, other = own + TINY * (1 - mask.mean()), other + TINY * mask.mean()
            mixture = (own * y[i] + other * y[j]) / (own + other)
            target = (1 - method.smoothing) * mixture + method.smoothing / len(mixture)
        targets.append(target)
    return np.stack(targets)


def mirrored(b: int) -> list[tuple[int, int]]:
    """Each of b places, and that as far from the other end."""
    return [(i, b - 1 - i) for i in range(b)]


def valued(label: Array, share: float, smoothing: float) -> Array:
    """Half of what is smoothed is spread over all classes, and half of it taken from the label's."""
    off = smoothing / (2 * len(label))
    target: Array = np.where(label == 1, share - smoothing / 2 + off, off)
    return target


def activations(teacher: Any, x: Array, y: Array) -> Array:
    """What the teacher gives to the class of each image at each of its tokens, as a share, (b, n)."""
    tokens = teacher.below("block2", x)
    seen = []
    for image, label in zip(tokens, y.argmax(1), strict=True):
        at_tokens = []
        for token in image[1:]:
            p = softmax(teacher.above("block2", token[None, None])[0])
            likeliest = np.argsort(-p)[:5]
            at_tokens.append(p[label] if label in likeliest else 0.0)
        seen.append(np.array(at_tokens) / (sum(at_tokens) + TINY))
    return np.stack(seen)


def size_of(n: int) -> int:
    """How many of n tokens are pasted: 98 and 14 more, of 196."""
    return floor((1 - 0.5) * n) + round(14 * n / 196)


def random_tokens(rows: int, columns: int, tape: Tape) -> Mask:
    order = tape.take("randperm")
    mask = np.array([place < size_of(rows * columns) for place in order])
    return mask.reshape(rows, columns)


def blocks(rows: int, columns: int, tape: Tape) -> Mask:
    """Rectangles, one by one, until there are tokens enough, or ten attempts in a row fail."""
    mask = np.zeros((rows, columns), bool)
    while (remaining := size_of(mask.size) - mask.sum()) > 0:
        if not any(rectangle(mask, remaining, tape) for _ in range(10)):
            break
    return mask


def rectangle(mask: Mask, remaining: int, tape: Tape) -> bool:
    """Add a random rectangle to the mask, if it adds at least one token and none too many."""
    rows, columns = mask.shape
    area = uniform(1, remaining, tape)
    aspect = exp(uniform(log(0.3), log(1 / 0.3), tape))
    h, w = round(sqrt(area * aspect)), round(sqrt(area / aspect))
    if h > rows - 1 or w > columns - 1:
        return False
    top, left = int(tape.take("randint")), int(tape.take("randint"))
    within = mask[top : top + h, left : left + w]
    added = h * w - within.sum()
    if not 1 <= added <= remaining:
        return False
    within[:] = True
    return True


def uniform(low: float, high: float, tape: Tape) -> float:
    return low + float(tape.take("rand")) * (high - low)
