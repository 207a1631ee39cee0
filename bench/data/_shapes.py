"""Pictures of shapes on cluttered ground, the same to the bit on every machine.

A pixel is made of nothing but the draws of numpy's generator, and of what IEEE 754 rounds in one
way: sums, products, quotients and square roots. Sines are rounded before they are used.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from colorsys import hsv_to_rgb
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Plane = NDArray[np.float64]
"""A number for each pixel (h, w), or a colour (h, w, 3)."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, of which the first spans 0 to 1."""
Colour = tuple[float, float, float]

OVERLAP = 0.15
"""The share of a box that another may cover."""
CONTRAST = 0.4
"""How far a shape's colour is from those of the ground, in the channel that differs most."""
TRIES = 30
"""How often a place is looked for."""


@dataclass(frozen=True)
class Shape:
    """Its name; the circle around it: centre and radius, in pixels; its turn, in degrees."""

    kind: str
    x: float
    y: float
    radius: float
    turn: int = 0


def mask(shape: Shape, width: int, height: int) -> NDArray[np.bool_]:
    """The pixels (h, w) whose centres lie in a shape."""
    return _distance(shape, width, height) <= 0


def box(shape: Shape, width: int, height: int) -> Box:
    """The tight box around the mask of a shape, which is in the picture."""
    inside = mask(shape, width, height)
    columns, rows = np.flatnonzero(inside.any(0)), np.flatnonzero(inside.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def lone(draw: Generator, kind: str, size: int) -> Shape:
    """A shape somewhere in a square picture, half as wide or wider."""
    return _placed(draw, kind, (0.25 + 0.2 * draw.random()) * size, size, size)


def several(draw: Generator, most: int, width: int, height: int) -> dict[Shape, Box]:
    """Up to ``most`` shapes, more often small than large, which hardly cover each other."""
    found: dict[Shape, Box] = {}
    for _ in range(draw.integers(1, most, endpoint=True)):
        for _ in range(TRIES):
            kind = KINDS[draw.integers(len(KINDS))]
            shape = _placed(draw, kind, _radius(draw) * min(width, height), width, height)
            around = box(shape, width, height)
            if all(_covered(around, other) <= OVERLAP for other in found.values()):
                found[shape] = around
                break
    return found


def picture(draw: Generator, shapes: Iterable[Shape], width: int, height: int) -> NDArray[np.uint8]:
    """The shapes (h, w, 3), in colours that stand out; a later one lies on those before it."""
    colours = [_colour(draw, (0.05, 0.55), (0.15, 0.9)) for _ in range(2)]
    canvas = _ground(draw, colours, width, height)
    for shape in shapes:
        canvas = _painted(draw, canvas, shape, _unlike(draw, colours))
    grain = 0.02 + 0.06 * draw.random()
    canvas = canvas + grain * (draw.random(canvas.shape) - 0.5)
    pixels: NDArray[np.uint8] = (255 * canvas.clip(0, 1)).round().astype(np.uint8)
    return pixels


def _radius(draw: Generator) -> float:
    """As a share of the shorter side of the picture; more often small than large."""
    u = draw.random()
    return 0.06 + 0.42 * u * (1 + u) / 2


def _placed(draw: Generator, kind: str, radius: float, width: int, height: int) -> Shape:
    """A shape in the picture, a pixel or more from its edge."""
    x, y = (radius + 1 + draw.random() * (side - 2 * radius - 2) for side in (width, height))
    return Shape(kind, x, y, radius, int(draw.integers(-20, 20, endpoint=True)))


def _covered(one: Box, other: Box) -> float:
    """The share of the smaller box that lies in the larger one."""
    both = (
        max(one[0], other[0]),
        max(one[1], other[1]),
        min(one[2], other[2]),
        min(one[3], other[3]),
    )
    return _area(both) / min(_area(one), _area(other))


def _area(box: Box) -> int:
    left, top, right, bottom = box
    return max(right - left, 0) * max(bottom - top, 0)


def _distance(shape: Shape, width: int, height: int) -> Plane:
    """From each pixel's centre to the outline, in pixels; negative within the shape."""
    cos, sin = _direction(shape.turn)
    x = (np.arange(width) + 0.5 - shape.x) / shape.radius
    y = (np.arange(height)[:, None] + 0.5 - shape.y) / shape.radius
    return OUTLINES[shape.kind](cos * x + sin * y, cos * y - sin * x) * shape.radius


def _direction(degrees: float) -> tuple[float, float]:
    """Cosine and sine, whose last digits differ between machines before they are rounded."""
    turn = math.radians(degrees)
    return round(math.cos(turn), 9), round(math.sin(turn), 9)


def _circle(x: Plane, y: Plane) -> Plane:
    plane: Plane = np.sqrt(x * x + y * y) - 1
    return plane


def _ring(x: Plane, y: Plane) -> Plane:
    return abs(_circle(x, y) + 0.25) - 0.25


def _cross(x: Plane, y: Plane) -> Plane:
    long, wide = 0.95, 0.31  # half of what a beam measures
    beams = np.maximum(abs(x) - long, abs(y) - wide), np.maximum(abs(x) - wide, abs(y) - long)
    return np.minimum(*beams)


def _polygon(x: Plane, y: Plane, corners: int, beyond: int = 0) -> Plane:
    """What is on the inner side of a polygon's sides, all but ``beyond`` of them at any place."""
    away = [_direction(360 * side / corners) for side in range(corners)]
    inner = _direction(180 * (1 + beyond) / corners)[0]  # sides' distance from the centre
    sides = np.stack([cos * x + sin * y - inner for cos, sin in away])
    plane: Plane = np.partition(sides, -1 - beyond, axis=0)[-1 - beyond]
    return plane


OUTLINES: Mapping[str, Callable[[Plane, Plane], Plane]] = {
    "circle": _circle,
    "cross": _cross,
    "ring": _ring,
    "square": lambda x, y: _polygon(x, y, 4),
    "star": lambda x, y: _polygon(x, y, 5, beyond=1),  # a pentagon's sides, made longer
    "triangle": lambda x, y: _polygon(x, y, 3),
}
"""The distance from the outline of a shape in the circle of radius 1, at places (h, w)."""
KINDS = tuple(OUTLINES)


def _cover(distance: Plane, soft: float = 1.0) -> Plane:
    """How much of each pixel (h, w, 1) lies within an outline, which is so many pixels wide."""
    return (0.5 - distance / soft).clip(0, 1)[..., None]


def _painted(draw: Generator, canvas: Plane, shape: Shape, colour: Colour) -> Plane:
    """The shape on what is there: lit from above, with a darker rim and a soft shadow."""
    height, width, _ = canvas.shape
    away = 0.1 * shape.radius
    low = replace(shape, x=shape.x + away, y=shape.y + away)
    canvas = canvas * (1 - 0.35 * _cover(_distance(low, width, height), 2 + 2 * away))
    distance = _distance(shape, width, height)
    down = (np.arange(height)[:, None, None] + 0.5 - shape.y) / shape.radius
    rim = 0.35 * draw.random() * _cover(-distance - 1 - 0.5 * away)
    texture = 0.3 * draw.random() * (_noise(draw, width, height, 6)[..., None] - 0.5)
    surface = np.array(colour) * (1 - 0.15 * down) * (1 - rim) + texture
    return _over(canvas, surface, _cover(distance))


def _ground(draw: Generator, colours: list[Colour], width: int, height: int) -> Plane:
    """Clouds of two colours, and strokes of others."""
    clouds = [weight * _noise(draw, width, height, cell) for cell, weight in CLOUDS]
    share = (1.8 * np.stack(clouds).sum(0) - 0.4).clip(0, 1)[..., None]
    canvas = _over(np.array(colours[0]), colours[1], share)
    for _ in range(draw.integers(2, 6) * width * height // 4096):
        cover = (0.2 + 0.5 * draw.random()) * _stroke(draw, width, height)
        canvas = _over(canvas, _colour(draw, (0.1, 0.9), (0.1, 1)), cover)
    return canvas


def _over(canvas: Plane, colour: Colour | Plane, cover: Plane) -> Plane:
    """A colour on what is there, as much as it covers it (h, w, 1)."""
    return canvas + (colour - canvas) * cover


CLOUDS = ((40, 0.5), (14, 0.3), (5, 0.2))
"""Pixels from one drawn value to the next, and their weights."""


def _stroke(draw: Generator, width: int, height: int) -> Plane:
    """How much of each pixel (h, w, 1) lies in a short line anywhere."""
    left, top = draw.random() * width, draw.random() * height
    cos, sin = _direction(int(draw.integers(360)))
    half, thick = 4 + 12 * draw.random(), 0.5 + draw.random()
    x, y = np.arange(width) + 0.5 - left, np.arange(height)[:, None] + 0.5 - top
    return _cover(np.maximum(abs(cos * x + sin * y) - half, abs(cos * y - sin * x) - thick))


def _noise(draw: Generator, width: int, height: int, cell: int) -> Plane:
    """Values drawn every so many pixels, and smoothly in between (h, w), in [0, 1]."""
    drawn = draw.random((height // cell + 2, width // cell + 2))
    return _between(_between(drawn, height, cell).T, width, cell).T


def _between(drawn: Plane, size: int, cell: int) -> Plane:
    first, rest = np.divmod(np.arange(size), cell)
    t = rest[:, None] / cell
    t = t * t * (3 - 2 * t)
    return _over(drawn[first], drawn[first + 1], t)


def _colour(draw: Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    spans = ((0.0, 1.0), saturation, value)
    return hsv_to_rgb(*(low + (high - low) * draw.random() for low, high in spans))


def _unlike(draw: Generator, others: list[Colour]) -> Colour:
    """A strong colour that is none of the others."""
    while True:
        colour = _colour(draw, (0.45, 1), (0.5, 1))
        if all(max(map(abs, np.subtract(colour, other))) >= CONTRAST for other in others):
            return colour
