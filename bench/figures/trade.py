"""What a better number costs."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mixbench.bench.figures.chart import Asked, Drawn, nothing, one_setting, over_seeds
from mixbench.bench.figures.style import GREY, WIDTH, Array, looks, root, settle, shortened
from mixbench.bench.sheets import Sheet, sheet
from mixbench.bench.spec import BadInput
from mixbench.bench.tables import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT = 4.8
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
TEXT, LETTER, DOT, BAR = 7, 4.2, np.array([6, 6]), 1
"""Points: height of a label, width of one of its letters, sides of a dot, half an error bar."""
PLACES = [
    (reach * x, reach * y)
    for reach in (6, 9, 14, 20, 30)
    for x, y in ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1.5), (0, -1.5), (1, 0), (-1, 0))
]
"""Points, from what is named to where its label may stand; the best first."""


def pareto(figure: "Figure", asked: Asked) -> Drawn:
    """The first column that is no cost, against the time of training, and the Pareto front.

    Time is per image, by that of the baseline with the same seed if the table has it.
    """
    setting, page = one_setting(asked.table), sheet(asked.table, asked.store)
    column, times = _scored(page), _times(page)
    scores = {m: row[page.columns.index(column)].values for m, row in page.entries.items()}
    without = {m: "it has no cost" for m in scores if not times[m]}
    without |= {m: f"it has no {column.task}" for m in scores if not scores[m]}
    shown = [method for method in scores if method not in without]
    if not shown:
        raise nothing(asked, without)
    numbers = pd.DataFrame([_row(method, times[method], scores[method]) for method in shown])
    numbers["front"] = _front(numbers.cost, numbers["mean"], column.rule.better)
    figure.set_size_inches(WIDTH, HEIGHT)
    panel = figure.subplots()
    _scatter(panel, numbers)
    relative = ", relative to the baseline's" if times.get("baseline") else ", ms"
    panel.set_xlabel(f"training time per image{relative}")
    panel.set_ylabel(f"{page.title(column)}; {column.rule.better} is better")
    title = f"{page.title(column)} against the cost of training\n{shortened(setting)}, {over_seeds(asked)}"
    figure.suptitle(title)
    _label(panel, numbers)
    return Drawn(title, numbers, without)


def _scored(page: Sheet) -> Column:
    found = (c for c in page.columns if root(c.task) != "cost" and c.rule.better != "neither")
    if (first := next(found, None)) is None:
        raise BadInput(f"{page.table.name} has costs alone: add --task classification")
    return first


SLOWEST = 1e-6
"""Images/s, below which nothing was measured."""


def _times(page: Sheet) -> dict[str, dict[int, float]]:
    """Of training on an image, by method and seed: relative to the baseline's, or in ms."""
    found = (i for i, c in enumerate(page.columns) if (root(c.task), c.metric) == ("cost", "speed"))
    if (place := next(found, None)) is None:
        raise BadInput(f"{page.table.name} has no training speed: add --task cost")
    speeds = {method: row[place].values for method, row in page.entries.items()}
    first = speeds.get("baseline")
    return {
        method: {
            seed: first[seed] / speed if first else 1000 / speed
            for seed, speed in each.items()
            if speed > SLOWEST and (not first or seed in first)
        }
        for method, each in speeds.items()
    }


def _row(method: str, times: Mapping[int, float], scores: Mapping[int, float]) -> dict[str, Any]:
    cost, cost_std = _spread(times.values())
    mean, std = _spread(scores.values())
    row = {"method": method, "cost": cost, "cost_std": cost_std, "mean": mean, "std": std}
    return row | {"n": len(scores)}


def _spread(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation; NaN of one value."""
    seen = [*values]
    return fmean(seen), stdev(seen) if len(seen) > 1 else float("nan")


def _front(cost: pd.Series, mean: pd.Series, better: str) -> list[bool]:
    """Which of the points no other surpasses: none is as cheap and as good, and better in one."""
    loss = mean if better == "lower" else -mean
    points = list(zip(cost, loss, strict=True))
    return [not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points) for x, y in points]


def _scatter(panel: "Axes", numbers: pd.DataFrame) -> None:
    look = looks(numbers.method)
    for row in numbers.fillna(0).itertuples():
        colour = look[row.method]["color"]
        panel.errorbar(
            row.cost, row.mean, row.std, row.cost_std, "o", color=colour, ms=4, elinewidth=0.6
        )
    front = numbers[numbers.front].sort_values("cost")
    stairs: dict[str, Any] = {"color": GREY, "drawstyle": "steps-post", "label": "Pareto front"}
    panel.plot(front.cost, front["mean"], marker="o", ms=8, mfc="none", zorder=0, **stairs)
    panel.legend()
    panel.set_xscale("log")
    panel.minorticks_off()
    low, high = panel.get_xlim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def _label(panel: "Axes", numbers: pd.DataFrame) -> None:
    """Names beside the points, each in the first of ``PLACES`` where it hides least."""
    from matplotlib.transforms import Affine2D

    figure = panel.get_figure(root=True)
    assert figure is not None
    settle(figure)  # and with it where the points are
    to_points = panel.transData + Affine2D().scale(72 / figure.dpi)
    at, spread = (
        numbers[[*pair]].fillna(0).to_numpy() for pair in (("cost", "mean"), ("cost_std", "std"))
    )
    points = to_points.transform(at)
    edges = np.array(panel.bbox.extents) * 72 / figure.dpi
    taken = [_box(point, (0, 0), DOT) for point in points]
    for axis in ([1, 0], [0, 1]):
        ends = [to_points.transform(at + sign * spread * axis) for sign in (-1, 1)]
        taken += [*np.hstack([ends[0] - BAR, ends[1] + BAR])]
    for point, row in zip(points, numbers.itertuples(), strict=True):
        name = shortened(row.method)
        size = np.array([LETTER * len(name), TEXT])
        boxes = {place: _box(point, place, size) for place in PLACES}
        place = min(boxes, key=lambda place: _hidden(boxes[place], taken, edges))
        taken.append(boxes[place])
        panel.annotate(
            name,
            (row.cost, row.mean),
            place,
            textcoords="offset points",
            fontsize=TEXT,
            horizontalalignment=("center", "left", "right")[int(np.sign(place[0]))],
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5},
        ).set_in_layout(False)


def _box(point: Array, place: tuple[float, float], size: Array) -> Array:
    """Left, bottom, right, top of what stands at a place from a point, all in points."""
    low = point + place - size * [(1 - np.sign(place[0])) / 2, 0.5]
    return np.concatenate([low, low + size])


def _hidden(box: Array, taken: Sequence[Array], edges: Array) -> float:
    """The area that others have too, or that lies outside the edges."""
    sides = box[2:] - box[:2]
    return sum(_shared(box, each) for each in taken) + float(sides.prod()) - _shared(box, edges)


def _shared(a: Array, b: Array) -> float:
    """The area of what is in both boxes."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return float(sides.clip(0).prod())
