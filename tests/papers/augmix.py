"""AugMix: arXiv 1912.02781, Algorithm 1, with the operations of the official code, by Pillow."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from papers.network import Array, Network, log_softmax
from papers.tape import Tape

CASES = (
    "augmix",
    "augmix,alpha=0.3,jsd=1",
    "augmix,depth=2,severity=10,width=2",
    "augmix,jsd=0",
)
DRAWS = (
    "mixbench.methods.augmix.AugMix.lengths",
    "mixbench.methods.augmix.AugMix.levels",
    "mixbench.methods.augmix._binomial",
)
"""What is recorded too."""

Chain = list[tuple[int, float]]
"""Operations, by their number, and the levels of each, with a sign for those that have directions."""


def loss(net: Network, x: Array, y: Array, tape: Tape, method: Any) -> float:
    if not method.jsd:
        (view,) = tape.once(lambda: views(net, x, tape, method, 1))
        return float(net.losses(net.above("pixels", view), y).mean())
    both = tape.once(lambda: views(net, x, tape, method, 2))
    logits = net.above("pixels", np.concatenate([net.below("pixels", x), *both]))
    clean = net.losses(logits[: len(x)], y).mean()
    return float(clean + method.jsd * jensen_shannon(*np.split(logits, 3)))


def jensen_shannon(*logits: Array) -> float:
    """How far predictions are from their mean, in the mean over examples, from logits (b, c)."""
    logs = [log_softmax(view) for view in logits]
    m = np.clip(sum(np.exp(log_p) for log_p in logs) / len(logs), 1e-7, 1)
    divergences = [(np.exp(log_p) * (log_p - np.log(m))).sum(1).mean() for log_p in logs]
    return float(sum(divergences) / len(divergences))


def views(net: Network, x: Array, tape: Tape, method: Any, n: int) -> list[Array]:
    """n views of images (b, 3, h, w), normalised: each image mixed with augmentations of itself."""
    b, width = len(x), method.width
    chains = iter(drawn_chains(n * width * b, tape))
    w = tape.take("dirichlet", method.alpha, width)
    m = tape.take("dirichlet", method.alpha, 2)[..., 0]
    made = np.zeros((n, *x.shape))
    for v in range(n):
        for k in range(width):
            for i in range(b):
                augmented = net.below("pixels", applied(next(chains), x[i]))
                made[v, i] += m[v, i] * w[v, i, k] * augmented
        for i in range(b):
            made[v, i] += (1 - m[v, i]) * net.below("pixels", x[i])
    return [*made]


def drawn_chains(total: int, tape: Tape) -> list[Chain]:
    """What each chain is made of. The method draws all first operations together, then all second.

    Each time, those chains that are as long are shuffled, and then dealt out to the operations.
    """
    chains: list[Chain] = [[] for _ in range(total)]
    order = tape.take("randperm")
    for length in tape.take("lengths"):
        rest = [*order[:length][tape.take("randperm")]]
        for operation in range(len(OPERATIONS)):
            count = tape.take("_binomial")
            for chain, level in zip(rest[:count], tape.take("levels"), strict=True):
                chains[chain].append((operation, float(level)))
            del rest[:count]
    return chains


def applied(chain: Chain, image: Array) -> Array:
    """An image (3, h, w) in [0, 1] after a chain of operations on 8 bits."""
    picture = Image.fromarray(np.rint(255 * image).astype(np.uint8).transpose(1, 2, 0))
    for operation, level in chain:
        picture = OPERATIONS[operation](picture, level)
    out: Array = np.asarray(picture).transpose(2, 0, 1) / 255
    return out


def auto_contrast(picture: Image.Image, _: float) -> Image.Image:
    return ImageOps.autocontrast(picture)


def equalise(picture: Image.Image, _: float) -> Image.Image:
    return ImageOps.equalize(picture)


def posterise(picture: Image.Image, level: float) -> Image.Image:
    return ImageOps.posterize(picture, 4 - int(4 * abs(level) / 10))


def rotate(picture: Image.Image, level: float) -> Image.Image:
    return picture.rotate(int(30 * level / 10), resample=Image.Resampling.BILINEAR)


def solarise(picture: Image.Image, level: float) -> Image.Image:
    return ImageOps.solarize(picture, 256 - int(256 * abs(level) / 10))


def shear_x(picture: Image.Image, level: float) -> Image.Image:
    return affine(picture, 1, 0.3 * level / 10, 0, 0, 1, 0)


def shear_y(picture: Image.Image, level: float) -> Image.Image:
    return affine(picture, 1, 0, 0, 0.3 * level / 10, 1, 0)


def translate_x(picture: Image.Image, level: float) -> Image.Image:
    return affine(picture, 1, 0, int(picture.width / 3 * level / 10), 0, 1, 0)


def translate_y(picture: Image.Image, level: float) -> Image.Image:
    return affine(picture, 1, 0, 0, 0, 1, int(picture.height / 3 * level / 10))


def affine(picture: Image.Image, *matrix: float) -> Image.Image:
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR
    )


OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    auto_contrast,
    equalise,
    posterise,
    rotate,
    solarise,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)
