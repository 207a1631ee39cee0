"""The corruptions of CIFAR-10-C and CIFAR-100-C (Hendrycks & Dietterich, ICLR 2019, 1903.12261).

Made from clean images with the published constants, which are not those of ImageNet-C. Each function
does what the authors' code does, its libraries' filters included; only the random draws are others,
and frost is drawn where they had photographs. Lengths are in pixels, at any size of image, but those
of zoom_blur, elastic_transform and pixelate, which are relative to it.
"""

import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import correlate, gaussian_filter, map_coordinates
from torch import Tensor

from mixbench.bench.spec import BadInput, choose

Pixels = NDArray[np.float64]
"""One image (h, w, 3), in [0, 1] before it is corrupted; after that it is clipped."""

Corruption = Callable[[Pixels, Any, Generator], Pixels]
"""From an image, the constants of a severity, and what random numbers come from."""

SEVERITIES = (1, 2, 3, 4, 5)

ICE = (0.88, 0.95, 1.0)
"""The colour of ice, red, green and blue."""


def corrupt(x: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """Images (n, 3, h, w) uint8 on the CPU, corrupted; h and w are 3 at least.

    What an image becomes depends on itself, not on its batch: random numbers are seeded with its
    pixels too. Values are rounded down, as in the published files. Raises BadInput for an unknown
    ``name`` or ``severity``.
    """
    check_known(name, severity)
    function, constants = CORRUPTIONS[name]
    kind = [*CORRUPTIONS].index(name)
    images = x.permute(0, 2, 3, 1).numpy()
    out = np.empty_like(images)
    for i, image in enumerate(images):
        draw = np.random.default_rng((seed, kind, severity, zlib.crc32(image.tobytes())))
        out[i] = _bytes(function(image / 255, constants[severity - 1], draw))
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def check_known(name: str, severity: int) -> None:
    """Raises BadInput for an unknown corruption or severity."""
    choose(name, CORRUPTIONS, "corruption")
    if severity not in SEVERITIES:
        raise BadInput(f"no severity {severity!r}; there are: {', '.join(map(str, SEVERITIES))}")


def gaussian_noise(x: Pixels, std: float, draw: Generator) -> Pixels:
    return x + draw.normal(0, std, x.shape)


def shot_noise(x: Pixels, photons: float, draw: Generator) -> Pixels:
    """Poisson counts of light, in which 1 is that many photons."""
    return draw.poisson(photons * x) / photons


def impulse_noise(x: Pixels, amount: float, draw: Generator) -> Pixels:
    """That part of the values, each channel by itself, turned to 0 or 1."""
    return np.where(draw.random(x.shape) < amount, draw.integers(0, 2, x.shape), x)


def defocus_blur(x: Pixels, c: tuple[float, float], draw: Generator) -> Pixels:
    """Filtered by a disk of a radius, that is softened by a Gaussian of a std, of 3 x 3 pixels."""
    radius, softness = c
    reach = int(radius) + 1
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (rows**2 + columns**2 <= radius**2).astype(float)
    kernel = gaussian_filter(disk / disk.sum(), softness, radius=1, mode="constant")
    out: Pixels = correlate(x, kernel[..., None], mode="mirror")
    return out


def glass_blur(x: Pixels, c: tuple[float, int], draw: Generator) -> Pixels:
    """Between two Gaussian blurs, each pixel becomes one of four: itself, or a neighbour up or left.

    The paper swaps the two. The authors' code, in which they are views of one array, copies; and it
    leaves out the first two rows and columns.
    """
    std, rounds = c
    h, w = x.shape[:2]
    x = _bytes(_blurred(x, std)) / 255
    for _ in range(rounds):
        rows, columns = np.mgrid[2:h, 2:w] + draw.integers(-1, 1, (2, h - 2, w - 2))
        x[2:, 2:] = x[rows, columns]
    return _blurred(x, std)


def motion_blur(x: Pixels, c: tuple[int, float], draw: Generator) -> Pixels:
    return _moved(x, *c, angle=draw.uniform(-45, 45))


def zoom_blur(x: Pixels, end: float, draw: Generator) -> Pixels:
    """The mean of the image and of its magnifications from 1 to ``end``."""
    factors = np.arange(1, end, 0.01)
    rows, columns = (
        np.stack([_magnifying(side, factor) for factor in factors]) for side in x.shape[:2]
    )
    wide = np.tensordot(columns, x, (2, 1))  # f j h c
    total = np.tensordot(rows, wide, ((0, 2), (0, 2)))  # i j c
    return (x + total) / (len(factors) + 1)


def snow(x: Pixels, c: tuple[float, ...], draw: Generator) -> Pixels:
    """A paler image, and flakes: what of magnified noise is above a threshold, blurred in its fall."""
    mean, std, size, threshold, radius, spread, kept = c
    noise = draw.normal(mean, std, x.shape[:2])
    rows, columns = (_magnifying(side, size) for side in x.shape[:2])
    flakes = rows @ noise @ columns.T
    flakes = _bytes(np.where(flakes < threshold, 0, flakes)[..., None]) / 255
    flakes = _moved(flakes, int(radius), spread, angle=draw.uniform(-135, -45))
    grey = x @ (0.299, 0.587, 0.114)
    pale = np.maximum(x, 1.5 * grey[..., None] + 0.5)
    return kept * x + (1 - kept) * pale + flakes + flakes[::-1, ::-1]


def frost(x: Pixels, c: tuple[float, float], draw: Generator) -> Pixels:
    """A darker image, and ice: needles along the three axes of its crystals, thick and thin.

    The authors add a part of one of five photographs of frost; no two images here have the same.
    """
    kept, ice = c
    h, w = x.shape[:2]
    turn = draw.uniform(0, 120)
    seeds = draw.random((3, h, w, 1)) ** 8
    needles = np.max([_moved(each, 8, 3, turn + 120 * i) for i, each in enumerate(seeds)], 0)
    thick = _plasma(max(h, w), 1.75, draw)[:h, :w, None]
    frozen: Pixels = (thick + needles / float(needles.mean()) - 0.5).clip(0, 2) / 2
    return kept * x + ice * frozen * ICE


def fog(x: Pixels, c: tuple[float, float], draw: Generator) -> Pixels:
    """The image and a plasma cloud, scaled to be no brighter than the image was."""
    amount, decay = c
    h, w = x.shape[:2]
    cloud = _plasma(max(h, w), decay, draw)[:h, :w, None]
    brightest = float(x.max())
    return (x + amount * cloud) * brightest / (brightest + amount)


def brightness(x: Pixels, more: float, draw: Generator) -> Pixels:
    """The V of HSV raised; as H and S stay, all channels grow by the same factor."""
    value: Pixels = x.max(2, keepdims=True)
    raised = (value + more).clip(0, 1)
    hue: Pixels = np.divide(x, value, out=np.ones_like(x), where=value > 0)
    return raised * hue


def contrast(x: Pixels, kept: float, draw: Generator) -> Pixels:
    mean: Pixels = x.mean((0, 1))
    return mean + kept * (x - mean)


def elastic_transform(x: Pixels, c: tuple[float, float, float], draw: Generator) -> Pixels:
    """An affine map that moves three corners of a square, then a smooth field of displacements.

    How strong and smooth the field is, and how far the corners move, in shorter sides of the image.
    """
    h, w = x.shape[:2]
    side = min(h, w)
    strength, smoothness, shift = (side * each for each in c)
    centre, third = np.array([h // 2, w // 2]), side // 3
    corners = centre + third * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = corners + draw.uniform(-shift, shift, (3, 2))
    back = np.linalg.solve(np.c_[moved, np.ones(3)], corners)  # (row, column, 1) to (row, column)
    grid = np.mgrid[:h, :w].astype(float)
    x = _sampled(x, np.tensordot(back[:2].T, grid, 1) + back[2, :, None, None], mode="mirror")
    noise = draw.uniform(-1, 1, (2, h, w))
    smooth = [gaussian_filter(each, smoothness, mode="reflect", truncate=3) for each in noise]
    return _sampled(x, grid + strength * np.array(smooth), mode="reflect")


def pixelate(x: Pixels, size: float, draw: Generator) -> Pixels:
    """Shrunk to that part of its size and back, by box filters."""
    h, w = x.shape[:2]
    image = Image.fromarray(_bytes(x))
    small = image.resize((int(size * w), int(size * h)), Image.Resampling.BOX)
    return np.asarray(small.resize((w, h), Image.Resampling.BOX)) / 255


def jpeg_compression(x: Pixels, quality: int, draw: Generator) -> Pixels:
    file = BytesIO()
    Image.fromarray(_bytes(x)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)) / 255


CORRUPTIONS: Mapping[str, tuple[Corruption, tuple[Any, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": (defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": (glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))),
    "motion_blur": (motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": (zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "snow": (
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": (frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": (fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": (
        elastic_transform,
        (
            (0, 0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ),
    ),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40)),
}
"""In the published order: what does it, and its constants at severities 1 to 5."""


def _bytes(x: Pixels) -> NDArray[np.uint8]:
    """Clipped and rounded down; the margin is for whole numbers that came out just below."""
    return (255 * x.clip(0, 1) + 1e-6).astype(np.uint8)


def _blurred(x: Pixels, std: float) -> Pixels:
    out: Pixels = gaussian_filter(x, (std, std, 0), mode="nearest")
    return out


def _moved(x: Pixels, radius: int, std: float, angle: float) -> Pixels:
    """Each pixel averaged with ``2 radius`` ahead of it, in degrees clockwise, by half a Gaussian.

    As by ImageMagick's motion blur: steps end on whole pixels, edges repeat, values are rounded.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * std**2))
    turn = np.deg2rad(angle)
    down, right = (np.ceil(steps * part - 0.5).astype(int) for part in (np.sin(turn), np.cos(turn)))
    h, w = x.shape[:2]
    rows = (np.arange(h) + down[:, None]).clip(0, h - 1)  # steps h
    columns = (np.arange(w) + right[:, None]).clip(0, w - 1)  # steps w
    ahead = x[rows[:, :, None], columns[:, None]]  # steps h w c
    moved = np.tensordot(weights / weights.sum(), ahead, 1)
    return (255 * moved).round() / 255


def _magnifying(side: int, factor: float) -> Pixels:
    """A matrix (side, side) that magnifies a row of pixels about its middle, linearly.

    As scipy's ``zoom``: the ends of the pixels that it is given stay ends, in a whole number of pixels.
    """
    before = ceil(side / factor)
    after = round(before * factor)
    pixels = np.arange(side)
    source = (side - before) // 2 + (pixels + (after - side) // 2) * (before - 1) / (after - 1)
    return np.maximum(0, 1 - abs(source[:, None] - pixels))


def _sampled(x: Pixels, at: Pixels, mode: str) -> Pixels:
    """Each channel, bilinearly, at rows and columns (2, h, w)."""
    return np.stack(
        [map_coordinates(each, at, order=1, mode=mode) for each in x.transpose(2, 0, 1)], 2
    )


def _plasma(side: int, decay: float, draw: Generator) -> Pixels:
    """A cloud in [0, 1], a square of at least that side: midpoint displacement on a torus.

    Each doubling puts new points in the middle of four and moves them, decay^2 times less than the
    points before.
    """
    cloud, most = np.zeros((1, 1)), 1.0
    while len(cloud) < side:
        moves = draw.uniform(-most, most, (3, *cloud.shape))
        right, below = cloud + np.roll(cloud, -1, 1), cloud + np.roll(cloud, -1, 0)
        middle = (right + np.roll(right, -1, 0)) / 4 + moves[0]
        top = (right + middle + np.roll(middle, 1, 0)) / 4 + moves[1]
        left = (below + middle + np.roll(middle, 1, 1)) / 4 + moves[2]
        cloud = np.stack([np.stack([cloud, top], 2), np.stack([left, middle], 2)], 1)
        cloud, most = cloud.reshape(2 * len(top), -1), most / decay**2
    lowest, highest = float(cloud.min()), float(cloud.max())
    return (cloud - lowest) / (highest - lowest)
