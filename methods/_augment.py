"""The image operations of AugMix, with the results that Pillow gives, for a batch at a time.

Each takes images (k, 3, h, w), whose values are 0, 1, ..., 255 in floating point, and one level (k,)
in [-10, 10] for each: its size is the operation's strength, its sign the direction if there is one.
The result is new. Pixels of which the source lies outside the image are black.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Operation = Callable[[Tensor, Tensor], Tensor]


def auto_contrast(images: Tensor, _: Tensor) -> Tensor:
    """Each channel stretched to the full range."""
    x = images.double()  # Pillow's precision: whole numbers may come out just below themselves
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    scale = torch.full_like(low, 255) / (high - low)  # 255 / ... would round twice
    stretched = (x * scale - low * scale).floor().clamp(0, 255)
    return torch.where(high > low, stretched, x).to(images)


def equalise(images: Tensor, _: Tensor) -> Tensor:
    """Each channel's values replaced by their ranks, in 255 steps of as many pixels."""
    values = images.flatten(2).long()
    counts = values.new_zeros(*values.shape[:2], 256)
    counts = counts.scatter_add(2, values, torch.ones_like(values))
    brightest = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - brightest) // 255
    below = counts.cumsum(2) - counts
    rank = (below + step // 2) // step.clamp(min=1)
    equal = rank.clamp(max=255).gather(2, values)
    return torch.where(step > 0, equal, values).view_as(images).to(images)


def posterise(images: Tensor, level: Tensor) -> Tensor:
    """The 4 highest bits of 8 kept at level 0, none at 10."""
    step = 16 << _per_image(_whole(level.abs(), 4)).long()
    return (images / step).floor() * step


def solarise(images: Tensor, level: Tensor) -> Tensor:
    """Values inverted from a threshold up, which is 256 at level 0, and 0 at 10."""
    threshold = 256 - _per_image(_whole(level.abs(), 256))
    return torch.where(images < threshold, images, 255 - images)


def rotate(images: Tensor, level: Tensor) -> Tensor:
    """Turned counter-clockwise around the centre, by 30 degrees at level 10."""
    h, w = images.shape[2:]
    angle = _per_image(_whole(level, 30)).deg2rad()
    u, v = _centres(images)
    u, v, cos, sin = u - w / 2, v - h / 2, angle.cos(), angle.sin()
    return _sample(images, cos * u - sin * v + w / 2, sin * u + cos * v + h / 2)


def shear_x(images: Tensor, level: Tensor) -> Tensor:
    """Each row moved to the left, by 0.3 times its height at level 10."""
    u, v = _centres(images)
    return _sample(images, u + _per_image(level * 0.3 / 10) * v, v)


def shear_y(images: Tensor, level: Tensor) -> Tensor:
    """Each column moved up, by 0.3 times its distance from the left at level 10."""
    return shear_x(images.mT, level).mT


def translate_x(images: Tensor, level: Tensor) -> Tensor:
    """Moved to the left by whole pixels, a third of the width at level 10."""
    u, v = _centres(images)
    shift = _whole(level, images.shape[3] / 3)
    return _sample(images, u + _per_image(shift), v)


def translate_y(images: Tensor, level: Tensor) -> Tensor:
    """Moved up by whole pixels, a third of the height at level 10."""
    return translate_x(images.mT, level).mT


OPERATIONS: tuple[Operation, ...] = (
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


def _whole(level: Tensor, most: float) -> Tensor:
    """The parameter that is ``most`` at level 10, rounded towards zero."""
    return (level * most / 10).trunc()


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _centres(images: Tensor) -> tuple[Tensor, Tensor]:
    """The centres of pixels, (1, 1, 1, w) from the left and (1, 1, h, 1) from above."""
    u, v = (torch.arange(size).to(images) + 0.5 for size in (images.shape[3], images.shape[2]))
    return u.view(1, 1, 1, -1), v.view(1, 1, -1, 1)


def _sample(images: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The images at points ``u`` from the left and ``v`` from above, which broadcast to (k, 1, h, w).

    Bilinear, rounded down. Not by ``grid_sample``, where whole coordinates would not stay exact.
    """
    k, c, h, w = images.shape
    inside = (u >= 0) & (u < w) & (v >= 0) & (v < h)
    left, top = (u - 0.5).floor(), (v - 0.5).floor()
    columns = [column.long().clamp(0, w - 1) for column in (left, left + 1)]
    rows = [row.long().clamp(0, h - 1) * w for row in (top, top + 1)]
    pixels = images.flatten(2)

    def at(row: Tensor, column: Tensor) -> Tensor:
        index = (row + column).flatten(2).expand(k, c, h * w)
        return pixels.gather(2, index).view(k, c, h, w)

    upper, lower = (at(y, columns[0]).lerp(at(y, columns[1]), u - 0.5 - left) for y in rows)
    return torch.where(inside, upper.lerp(lower, v - 0.5 - top).floor(), 0)
