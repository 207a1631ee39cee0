"""Figures of whole tables: a heat map, and the diagram of mean ranks."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import ceil, nan
from textwrap import fill
from typing import TYPE_CHECKING, Any

import pandas as pd

from mixbench.bench.figures.chart import Asked, Drawn, nothing, without_numbers
from mixbench.bench.figures.style import INK, PALE, ROSE, WIDTH, looks, shortened
from mixbench.bench.sheets import Entry, Sheet, sheet
from mixbench.bench.spec import BadInput, counted
from mixbench.bench.statistics import Ranking, ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORSE, EQUAL, BETTER = ROSE, "#ffffff", "#6699cc"
SIDE_BY_SIDE = 12
"""The most columns of a heat map; the others go on below."""
NAMES, CELL, HEAD = 1.4, (0.68, 0.2), 0.85
"""Inches: the width of methods' names, a cell's width and height, the height of headings."""
LINE, NAME = 14, 24
"""The letters on a line of a heading, and of a method's name."""
LINE_HEIGHT = 0.2
"""Inches, in the diagram of ranks."""
CAVEAT = "p, the bars and the difference take columns for independent; those of one network are not"

Row = dict[str, Any]


def heatmap(figure: "Figure", asked: Asked) -> Drawn:
    """Means, coloured by how much better than the baseline they are, in each column alone."""
    page = sheet(asked.table, asked.store)
    without = without_numbers(page, page.columns)
    methods = [method for method in page.entries if method not in without]
    if not methods:
        raise nothing(asked, without)
    if "baseline" not in methods:
        raise BadInput(f"{asked.table.name} has no numbers of the baseline to compare with")
    numbers = pd.DataFrame(
        [row for i in range(len(page.columns)) for row in _column(page, i, methods)]
    )
    rows = ceil(len(page.columns) / SIDE_BY_SIDE)
    side = ceil(len(page.columns) / rows)
    height = rows * (CELL[1] * len(methods) + HEAD) + 0.6
    figure.set_size_inches(max(NAMES + CELL[0] * side, WIDTH / 2), height)
    for row, panel in enumerate(figure.subplots(rows, squeeze=False).flat):
        places = range(row * side, min((row + 1) * side, len(page.columns)))
        _grid(panel, page, methods, places, numbers, side)
    where = ", ".join(map(shortened, asked.table.settings))
    title = "Blue is better than the baseline, red worse; the darkest is the farthest of a column"
    return Drawn(
        f"{title}\n{where}, mean over {counted(asked.table.seeds, 'seed')}", numbers, without
    )


def _column(page: Sheet, place: int, methods: Sequence[str]) -> Iterator[Row]:
    """Its numbers, and how they stand: from -1 to 1, the farthest from the baseline being 1."""
    column, entries = page.columns[place], {m: page.entries[m][place] for m in methods}
    sign = {"lower": -1, "higher": 1, "neither": nan}[column.rule.better]
    base = entries["baseline"].mean
    better = {
        method: nan if entry.mean is None or base is None else sign * (entry.mean - base)
        for method, entry in entries.items()
    }
    most = max((abs(each) for each in better.values() if abs(each) > 0), default=1.0)
    for method, entry in entries.items():
        yield {
            **asdict(column),
            "method": method,
            "mean": entry.mean,
            "std": entry.std,
            "n": entry.n,
            "standing": better[method] / most,
        }


def _grid(
    panel: "Axes",
    page: Sheet,
    methods: Sequence[str],
    places: range,
    numbers: pd.DataFrame,
    side: int,
) -> None:
    """Some columns of the heat map, in a panel that has room for ``side`` of them."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("standing", [WORSE, EQUAL, BETTER])
    size = len(methods)
    standing = numbers.standing.to_numpy().reshape(-1, size)[places.start : places.stop].T
    panel.pcolormesh(standing, cmap=colours, vmin=-1, vmax=1, edgecolors="white")
    for x, place in enumerate(places):
        for y, method in enumerate(methods):
            _cell(panel, x, y, page.entries[method][place], page.columns[place].rule.form)
    heads = [fill(" ".join(page.head(page.columns[place])), LINE) for place in places]
    panel.set_xticks([x + 0.5 for x in range(len(places))], heads, fontsize=6)
    panel.set_yticks([y + 0.5 for y in range(size)], [shortened(m, NAME) for m in methods])
    panel.set(xlim=(0, side), ylim=(size, 0))
    panel.xaxis.tick_top()
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)


def _cell(panel: "Axes", x: int, y: int, entry: Entry, form: str) -> None:
    """A number, the best in bold; hatched if there can be none."""
    from matplotlib.patches import Rectangle

    if entry.mean is None and entry.why:
        panel.add_patch(
            Rectangle((x, y), 1, 1, fill=False, hatch="////", edgecolor=PALE, linewidth=0)
        )
        return
    text = "-" if entry.mean is None else f"{entry.mean:{form}}"
    weight = "bold" if entry.place == 1 else "normal"
    middle: dict[str, Any] = {
        "horizontalalignment": "center",
        "verticalalignment": "center_baseline",
    }
    panel.text(x + 0.5, y + 0.5, text, fontsize=6, color=INK, weight=weight, **middle)


def ranks(figure: "Figure", asked: Asked) -> Drawn:
    """Mean ranks over all columns; bars join methods that can't be told apart (Demsar 2006)."""
    page = sheet(asked.table, asked.store)
    without = without_numbers(page, page.columns)
    means = {
        method: [nan if entry.mean is None else entry.mean for entry in row]
        for method, row in page.entries.items()
        if method not in without
    }
    if not means:
        raise nothing(asked, without)
    better = {i: column.rule.better for i, column in enumerate(page.columns)}
    found = ranking(pd.DataFrame.from_dict(means, orient="index"), better)
    _diagram(figure, found)
    where = ", ".join(map(shortened, asked.table.settings))
    title = f"Mean ranks over {found.columns} columns; Friedman's test: p = {found.p:.2g}"
    numbers = pd.DataFrame(
        {
            "method": [*found.ranks],
            "rank": [*found.ranks.values()],
            "columns": found.columns,
            "p": found.p,
            "critical_difference": found.difference,
        }
    )
    return Drawn(f"{title}\n{where}", numbers, without)


def _diagram(figure: "Figure", found: Ranking) -> None:
    """An axis of ranks, the better half named at the left of it, and bars for the groups.

    The axis is at 0, and what stands one line below another is 1 less.
    """
    order, n = [*found.ranks], len(found.ranks)
    half, bars = ceil(n / 2), len(found.groups)
    figure.set_size_inches(WIDTH, 1.0 + LINE_HEIGHT * (bars / 2 + half + 4))
    panel, bottom = figure.subplots(), -half - bars / 2 - 2
    panel.set(xlim=(0.5 - n / 4, n + 0.5 + n / 4), ylim=(bottom, 3))
    panel.axis("off")
    panel.plot([1, n], [0, 0], color=INK, linewidth=1)
    for rank in range(1, n + 1):
        panel.plot([rank, rank], [0, 0.25], color=INK, linewidth=1)
        panel.text(rank, 0.4, str(rank), horizontalalignment="center")
    for i, group in enumerate(found.groups, 1):
        ends = [found.ranks[group[0]] - 0.05, found.ranks[group[-1]] + 0.05]
        panel.plot(ends, [-i / 2, -i / 2], color=INK, linewidth=3, solid_capstyle="butt")
    for i, method in enumerate(order):
        left = i < half
        line = -(i if left else n - 1 - i) - bars / 2 - 1
        _named(panel, method, found.ranks[method], line, 0.8 if left else n + 0.2, left)
    panel.plot([1, 1 + found.difference], [2, 2], color=INK, linewidth=1, marker="|")
    panel.text(
        1 + found.difference / 2,
        2.2,
        f"critical difference {found.difference:.2f}",
        horizontalalignment="center",
    )
    panel.text((1 + n) / 2, bottom, CAVEAT, horizontalalignment="center", fontsize=6)


def _named(panel: "Axes", method: str, rank: float, line: float, end: float, left: bool) -> None:
    """A method's name beside the axis, and a line from it to the rank."""
    colour = looks([method])[method]["color"]
    panel.plot([rank, rank, end], [0, line, line], color=colour, linewidth=1)
    text = f"{shortened(method)} {rank:.2f}" if left else f"{rank:.2f} {shortened(method)}"
    side = "right" if left else "left"
    gap = -0.05 if left else 0.05
    panel.text(end + gap, line, text, horizontalalignment=side, verticalalignment="center")
