"""Boxes that detectors find in test images."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mixbench.bench.figures.chart import Values
from mixbench.bench.figures.style import COLOURS, INK, Array, shortened, stacks
from mixbench.bench.spec import BadInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CORNERS = ["left", "top", "right", "bottom"]
TAKES = ("figure_images", "figure_sizes", "figure_found", "figure_truth", "classes")
"""What detection leaves of its first test images."""


def boxes(figure: "Figure", shown: Mapping[str, Values]) -> tuple[str, pd.DataFrame]:
    """Test images with the boxes that are annotated, and with those that each method finds."""
    first = _of_the_same_images(shown)
    images = zip(first["figure_images"], first["figure_sizes"], strict=True)
    pictures = [image[:, :h, :w].transpose(1, 2, 0) for image, (h, w) in images]
    found = {"annotated": np.insert(first["figure_truth"], 2, np.nan, axis=1)}
    found |= {method: values["figure_found"] for method, values in shown.items()}
    numbers = pd.concat([_listed(method, found[method], first["classes"]) for method in found])
    bright = cycle(COLOURS[2:])
    colours = dict(zip(numbers["class"].unique(), bright, strict=False))
    heights = [min(1.0, h / w) for h, w in first["figure_sizes"]]
    titles = [shortened(method) for method in found]
    for method, panels in zip(found, stacks(figure, titles, heights), strict=True):
        for i, (panel, picture) in enumerate(zip(panels, pictures, strict=True)):
            here = numbers[(numbers.method == method) & (numbers.image == i)]
            _scene(panel, picture, here, colours)
    return "Boxes found in test images", numbers


def _of_the_same_images(shown: Mapping[str, Values]) -> Values:
    """What the first method was shown. Raises BadInput if another was shown something else.

    Pixels are not compared: the same files are decoded a little differently on other machines.
    """
    (one, first), *others = shown.items()
    for other, values in others:
        for name in ("figure_sizes", "figure_truth", "classes"):
            if not np.array_equal(values[name], first[name]):
                raise BadInput(
                    f"the cells of {one} and {other} show different test images: "
                    "delete what was made from other data"
                )
    return first


def _listed(method: str, boxes: Array, classes: Array) -> pd.DataFrame:
    """Boxes (n, 7): image, label, score, corners; with names."""
    image, label = boxes[:, :2].astype(int).T
    names = {"method": method, "image": image, "class": classes[label], "score": boxes[:, 2]}
    return pd.DataFrame({**names, **dict(zip(CORNERS, boxes[:, 3:].T, strict=True))})


def _scene(panel: "Axes", picture: Array, boxes: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """An image (h, w, 3) and boxes in it, the likeliest on top."""
    height, width, _ = picture.shape
    panel.imshow(picture, extent=(0, width, height, 0))
    ordered = boxes.sort_values("score", kind="stable")[["class", "score", *CORNERS]]
    for name, score, *corners in ordered.itertuples(index=False):
        label = shortened(name) if np.isnan(score) else f"{shortened(name)} {score:.2f}"
        _box(panel, corners, label, colours[name])


def _box(panel: "Axes", corners: Sequence[float], label: str, colour: str) -> None:
    """A box, and its label at the corner above that is farther from the panel's edge."""
    from matplotlib.colors import rgb_to_hsv, to_rgb
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    left, top, right, bottom = corners
    width, height = panel.get_xlim()[1], panel.get_ylim()[0]
    light = rgb_to_hsv(to_rgb(colour))[2] > 0.85
    panel.add_patch(
        Rectangle(
            (left, top),
            right - left,
            bottom - top,
            fill=False,
            edgecolor=colour,
            linewidth=1.3,
            path_effects=[withStroke(linewidth=2.1, foreground="white")],
        )
    )
    panel.text(
        left if left < width / 2 else right,
        top,
        label,
        fontsize=6,
        color=INK if light else "white",
        horizontalalignment="left" if left < width / 2 else "right",
        verticalalignment="bottom" if top > height / 10 else "top",
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
    )
