"""A method's specimen as a figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mixbench.bench.cells import written_aside
from mixbench.bench.figures import UNDATED
from mixbench.bench.figures.style import COLOURS, GREY, INK, PALE, STYLE, WIDTH, shortened
from mixbench.bench.spec import counted
from mixbench.bench.specimen._look import BLEND, IMAGES, Seen

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT = 0.78
"""The share of the width that images have; on their right is what is sampled."""
HEAD, LEAST, MARGIN = 0.35, 1.6, 0.15
"""Inches: of a heading, at least of what is drawn below it, and left of both."""
GAP, BAR, TITLE = 0.08, 0.14, 0.2
"""Of an image's side: between two, the height of a target, and of the name of a class."""
LINE = 120
"""Letters of a line of the title."""
BLOCKS, MIXTURES, POINTS = 5, 48, 1000
"""The most that is shown: rows of images, mixtures that are not images, and points."""
Place = tuple[float, float]
"""The left upper corner, in sides of an image."""
TRIANGLE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, sqrt(3) / 2]])


@dataclass(frozen=True)
class Specimen:
    """What a method does to b images (b, 3, h, w), of different classes.

    where: the setting, the seed, and whether the networks are trained.
    maps: what it weighs over the images, by name, (b, h, w) of any size.
    seen: what it did in each of some draws; cornered: to the first three images alone.
    """

    method: str
    where: str
    images: Tensor
    classes: Sequence[int]
    maps: Mapping[str, Tensor]
    seen: Sequence[Seen]
    cornered: Sequence[Seen]

    @property
    def colours(self) -> list[str]:
        """One of each example."""
        return COLOURS[1 : len(self.images) + 1]

    def kinds(self) -> dict[str, list[Seen]]:
        """What was seen, by what was mixed and how; without what was left as it is."""
        return {what: [s for s in self.seen if s.what == what] for what in self._whats()}

    def _whats(self) -> list[str]:
        return sorted({seen.what for seen in self.seen} - {""})

    def points(self, what: str) -> Tensor:
        """The weights of three examples in mixtures of one kind, (n, 3); rows sum to one."""
        rows = [seen.weights for seen in self.cornered if seen.what == what]
        weights = torch.cat([torch.empty(0, 3), *rows]).clamp(min=0)
        total = weights.sum(1, keepdim=True)
        return (weights / total)[total[:, 0] > 0][:POINTS]


def picture(specimen: Specimen, out: Path) -> None:
    """Write the figure of a specimen: the same file for the same specimen."""
    from matplotlib import style
    from matplotlib.figure import Figure

    pixels = {"image.interpolation": "none"}
    with style.context(["default", STYLE, pixels]), written_aside(out) as path:
        figure = Figure()
        _draw(figure, specimen)
        figure.savefig(path, format=out.suffix[1:], metadata=UNDATED[out.suffix])


def summary(specimen: Specimen) -> str:
    """How many of the batches are mixed."""
    left = sum(not seen.what for seen in specimen.seen)
    of = f"of {len(specimen.seen)} batches of these images"
    if left == len(specimen.seen):
        return f"nothing is mixed in any {of}"
    return f"{left} {of} are left as they are" if left else f"all {of[3:]} are mixed"


def _draw(figure: "Figure", specimen: Specimen) -> None:
    """Panels are where arithmetic puts them: a solver's rounding would not always be the same."""
    kinds, width = specimen.kinds(), LEFT * WIDTH
    side = width / (len(specimen.images) * (1 + GAP))
    top = side * _rows(specimen)
    heights = [max(side * _height(seen[0]), LEAST) for seen in kinds.values()]
    lines = specimen.method, specimen.where, summary(specimen)
    titles = 0.17 * len(lines) + MARGIN
    figure.set_size_inches(WIDTH, titles + sum(HEAD + h for h in (top, *heights)) + MARGIN)
    title = "\n".join(shortened(line, LINE) for line in lines)
    figure.suptitle(title, y=1 - MARGIN / figure.get_figheight(), va="top")
    _heading(figure, titles, f"{len(specimen.images)} examples")
    panel = _panel(figure, MARGIN, titles + HEAD, width, top)
    _originals(_canvas(panel, specimen, _rows(specimen)), specimen)
    at = titles + HEAD + top
    for height, (what, seen) in zip(heights, kinds.items(), strict=True):
        share = f"{len(seen)} of {len(specimen.seen)} batches"
        key = "; below, whose each pixel is, grey if nobody's" if seen[0].pasted else ""
        _heading(figure, at, f"{what} ({share}){key}")
        at += HEAD
        if seen[0].stage == IMAGES:
            panel = _panel(figure, MARGIN, at, width, height)
            _mixtures(_canvas(panel, specimen, height / side), seen[0], specimen.colours)
        else:
            panel = _panel(figure, MARGIN + 0.5, at, width - 1.2, height - 0.3)
            bar = _panel(figure, MARGIN + width - 0.6, at, 0.1, height - 0.3)
            _matrix(panel, bar, seen[0].weights, specimen)
        if len(points := specimen.points(what)):
            corner = _panel(figure, MARGIN + width, at, WIDTH - width - MARGIN, LEAST)
            _sampled(corner, points, specimen)
        at += height


def _panel(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """A panel at these inches from the left and from above."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))


def _heading(figure: "Figure", top: float, text: str) -> None:
    y = 1 - (top + 0.22) / figure.get_figheight()
    figure.text(MARGIN / WIDTH, y, text, fontweight="bold")


def _canvas(panel: "Axes", specimen: Specimen, height: float) -> "Axes":
    """A panel without axes for rows of images, whose sides are 1, one below the other."""
    panel.axis("off")
    panel.set(aspect="equal", autoscale_on=False, anchor="NW")
    panel.set(xlim=(0, len(specimen.images) * (1 + GAP)), ylim=(height, 0))
    return panel


def _rows(specimen: Specimen) -> float:
    """The height of the examples, in sides of an image."""
    return TITLE + (1 + len(specimen.maps)) * (1 + GAP) + BAR


def _block(seen: Seen) -> float:
    """The height of a row of images, with, if they are pasted, whose they are, and targets."""
    return (1 + GAP) * (1 + seen.pasted) + BAR + GAP


def _blocks(seen: Seen) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Images, owners and weights, as many in a row as there are examples."""
    parts = (each.split(seen.weights.shape[1]) for each in (seen.images, seen.owner, seen.weights))
    return list(islice(zip(*parts, strict=True), BLOCKS))


def _height(seen: Seen) -> float:
    """The height of all that is shown of a kind, in sides of an image."""
    return len(_blocks(seen)) * _block(seen) if seen.stage == IMAGES else 0.0


def _originals(panel: "Axes", specimen: Specimen) -> None:
    """The images, what is weighed over them, and the colour that each has in targets."""
    own, top = torch.eye(len(specimen.images)), TITLE
    for i, (image, c) in enumerate(zip(specimen.images, specimen.classes, strict=True)):
        at = i * (1 + GAP)
        panel.text(at + 0.5, top - 0.05, f"class {c}", ha="center", va="bottom")
        _show(panel, image, (at, top))
        for row, (name, maps) in enumerate(specimen.maps.items(), 1):
            below = top + row * (1 + GAP)
            _overlay(panel, image, maps[i], (at, below))
            if not i:
                panel.text(-0.02, below + 0.5, name, ha="right", va="center", rotation=90, size=6)
        _bar(panel, own[i], (at, top + (1 + len(specimen.maps)) * (1 + GAP)), specimen.colours)


def _mixtures(panel: "Axes", seen: Seen, colours: Sequence[str]) -> None:
    """Mixed images, whose their pixels are, in boxes if they are such, and their targets."""
    for row, block in enumerate(_blocks(seen)):
        for i, (image, owner, weights) in enumerate(zip(*block, strict=True)):
            at, top = i * (1 + GAP), row * _block(seen)
            shown = [image, _painted(owner, colours)] if seen.pasted else [image]
            found = box(owner) if seen.pasted else None
            for each in shown:
                _show(panel, each, (at, top))
                if found:
                    _outline(panel, *found, owner.shape, (at, top), colours)
                top += 1 + GAP
            _bar(panel, weights, (at, top), colours)


def box(owner: Tensor) -> tuple[int, tuple[int, int, int, int]] | None:
    """The smallest rectangle of pixels that are an example's, who has no other, of (h, w).

    The example, and left, top, right, bottom; None if there is none, or all pixels are in it.
    """
    found = []
    for example in set(owner.flatten().tolist()) - {BLEND}:
        inside = (owner == example).nonzero()
        (top, left), (bottom, right) = inside.amin(0).tolist(), (inside.amax(0) + 1).tolist()
        if len(inside) == (bottom - top) * (right - left) < owner.numel():
            found.append((len(inside), example, (left, top, right, bottom)))
    return min(found)[1:] if found else None


def _show(panel: "Axes", image: Tensor, at: Place) -> None:
    """An image (3, h, w)."""
    panel.imshow(_pixels(image), extent=_square(at))


def _pixels(image: Tensor) -> Any:
    """An image (3, h, w) as matplotlib has it."""
    return image.clamp(0, 1).movedim(0, -1).numpy()


def _square(at: Place) -> tuple[float, float, float, float]:
    left, top = at
    return left, left + 1, top + 1, top


def _overlay(panel: "Axes", image: Tensor, weights: Tensor, at: Place) -> None:
    """An image (3, h, w) in grey, under a map of any size."""
    panel.imshow(image.mean(0).numpy(), cmap="gray", vmin=0, vmax=1, extent=_square(at))
    panel.imshow(weights.numpy(), cmap="viridis", alpha=0.65, extent=_square(at))


def _painted(owner: Tensor, colours: Sequence[str]) -> Tensor:
    """Owners (h, w) as their colours, (3, h, w); what is nobody's is pale."""
    from matplotlib.colors import to_rgb

    palette = torch.tensor([to_rgb(colour) for colour in (*colours, PALE)])
    return palette[owner].movedim(-1, 0)  # BLEND is the last


def _outline(
    panel: "Axes",
    example: int,
    corners: tuple[int, int, int, int],
    size: Sequence[int],
    at: Place,
    colours: Sequence[str],
) -> None:
    """A box in an image of ``size`` (h, w)."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    left, top, right, bottom = corners
    height, width = size
    panel.add_patch(
        Rectangle(
            (at[0] + left / width, at[1] + top / height),
            (right - left) / width,
            (bottom - top) / height,
            fill=False,
            edgecolor=colours[example],
            linewidth=1.3,
            path_effects=[withStroke(linewidth=2.1, foreground="white")],
        )
    )


def _bar(panel: "Axes", weights: Tensor, at: Place, colours: Sequence[str]) -> None:
    """The weights of examples in a target, (b,), in a row; what is no example's is pale."""
    left, middle = at[0], at[1] + BAR / 2
    if weights.isnan().any():
        panel.text(left + 0.5, middle, "no target", ha="center", va="center", color=GREY, size=6)
        return
    parts = weights.clamp(min=0)
    parts = parts / parts.sum().clamp(min=1)
    panel.barh(middle, 1, BAR, left, color=PALE)
    panel.barh([middle] * len(parts), parts, BAR, left + parts.cumsum(0) - parts, color=colours)


def _matrix(panel: "Axes", bar: "Axes", weights: Tensor, specimen: Specimen) -> None:
    """The first mixtures' weights (n, b), an example a row."""
    shown = weights[:MIXTURES]
    drawn = panel.imshow(shown.T.numpy(), aspect="auto", cmap="viridis", vmin=0)
    panel.set_yticks(range(len(specimen.classes)), [f"class {c}" for c in specimen.classes])
    for label, colour in zip(panel.get_yticklabels(), specimen.colours, strict=True):
        label.set(color=colour, fontweight="bold")
    first = "" if len(shown) == len(weights) else f"the first {len(shown)} of "
    panel.set_xlabel(f"{first}{counted(len(weights), 'mixture')}")
    panel.set_xticks([])
    panel.figure.colorbar(drawn, cax=bar, label="weight in the target")


def _sampled(panel: "Axes", points: Tensor, specimen: Specimen) -> None:
    """Mixtures of three examples by their weights, (n, 3), and the three at the corners."""
    panel.set(xlim=(-0.35, 1.35), ylim=(-0.25, 1.15), aspect="equal", autoscale_on=False)
    panel.axis("off")
    panel.fill(*TRIANGLE.T, fill=False, edgecolor=GREY, linewidth=0.8, zorder=1)
    x, y = (points @ TRIANGLE).T
    panel.scatter(x, y, 4, INK, alpha=0.5, linewidths=0, rasterized=True, zorder=2)
    beyond = 1.25 * TRIANGLE - 0.25 * TRIANGLE.mean(0)
    for (x, y), image, colour in zip(
        beyond.tolist(), specimen.images, specimen.colours, strict=False
    ):
        left, right, bottom, top = x - 0.13, x + 0.13, y - 0.13, y + 0.13
        panel.imshow(_pixels(image), extent=(left, right, bottom, top))
        panel.fill([left, right, right, left], [bottom, bottom, top, top], fc="none", ec=colour)
    panel.set_title(f"targets of {len(points)} mixtures\nof the first three alone", fontsize=7)
