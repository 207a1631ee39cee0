"""Curves with bands: by epoch, against the radius of an attack, and against a parameter."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, count
from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING, Any

import pandas as pd

from mixbench.bench import catalogue
from mixbench.bench.cells import Cell, Run
from mixbench.bench.figures.chart import (
    Asked,
    Drawn,
    nothing,
    one_setting,
    over_seeds,
    spelled,
    values,
    without_numbers,
)
from mixbench.bench.figures.style import INK, beside, looks, panels, root, shortened
from mixbench.bench.sheets import sheet
from mixbench.bench.spec import BadInput, write
from mixbench.bench.tables import Column, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EPOCHS = {"epoch_top1": "top-1 error on test images, %", "epoch_loss": "training loss"}
"""What classification leaves of each epoch."""

RADII = {"fgsm": "fgsm_eps"}
"""The parameter that is an attack's radius, where it is not ``eps``."""
STEPPING = {"pgd", "apgd"}
"""The attacks whose number of steps is a parameter."""

ENDS = {"pixels": -2, "stem": -1, "pool": 1, "head": 2}
"""The stages of every network; numbered ones lie in the middle."""
NONE = {"m": "all"}
"""What it means that a field is not given, where there is a word for it."""

SPAN = 30
"""From how many-fold values on an axis is logarithmic."""
TICKS = 6
"""The most that are named on such an axis."""
LINE, WORD, SIDE_BY_SIDE = 44, 12, 3
"""The letters on a line above a panel, those of a word below it, and the most panels in a row."""

Row = tuple[str, str, Any, float]
"""A panel's title, a method, x, and the number of one seed."""


def training(figure: "Figure", asked: Asked) -> Drawn:
    """Test error and training loss after each epoch."""
    setting, task = one_setting(asked.table), spelled("classification", asked.table)[0]
    rows, without = list[Row](), dict[str, str]()
    for method in asked.table.methods:
        cells = [Cell(Run(setting, method, seed), task) for seed in range(asked.table.seeds)]
        found = [values(cell, [*EPOCHS], asked.store) for cell in cells]
        histories = [each for each in found if not isinstance(each, str)]
        rows += [
            (title, method, epoch, number)
            for history in histories
            for name, title in EPOCHS.items()
            for epoch, number in zip(count(1), history[name].tolist(), strict=False)
        ]
        if not histories:
            without[method] = str(found[0])
    if not rows:
        raise nothing(asked, without)
    points = _summary(rows)
    _curves(figure, points, asked.table, "epoch")
    return Drawn(f"Training\n{shortened(setting)}, {over_seeds(asked)}", points, without)


def eps(figure: "Figure", asked: Asked) -> Drawn:
    """Error under attacks against their radius, from the columns of robustness."""
    setting, _ = one_setting(asked.table), spelled("robustness", asked.table)
    page = sheet(asked.table, asked.store)
    radii = _radii(page.columns)
    if not radii:
        one = f"{asked.table.name} attacks with one radius"
        raise BadInput(f"{one}: add --task robustness,eps=R for two or more of R")
    chosen = dict.fromkeys(column for curve in radii.values() for column in curve.values())
    without = without_numbers(page, chosen)
    if len(without) == len(asked.table.methods):
        raise nothing(asked, without)
    points = _summary(
        (title, method, radius, number)
        for title, curve in radii.items()
        for radius, column in sorted(curve.items())
        for method in asked.table.methods
        for number in page.entries[method][page.columns.index(column)].values.values()
    )
    _curves(figure, points, asked.table, "radius", marker=".")
    title = f"Error under attack\n{shortened(setting)}, {over_seeds(asked)}"
    return Drawn(title, points, without)


def _radii(columns: Sequence[Column]) -> dict[str, dict[float, Column]]:
    """The columns of attacks with two or more radii, by what they are, and by radius.

    Without an attack, the radius is 0. Of several columns with one radius it is the first.
    """
    found: dict[str, dict[float, Column]] = {}
    for column in columns:
        if root(column.task) == "robustness":
            title, radius = _attack(column)
            found.setdefault(title, {}).setdefault(radius, column)
    unattacked = [c for c in columns if (root(c.task), c.metric) == ("classification", "top1")]
    clean = dict.fromkeys([0.0], unattacked[0]) if unattacked else {}
    return {title: clean | curve for title, curve in found.items() if len(curve) > 1}


def _attack(column: Column) -> tuple[str, float]:
    """What it is, with its unit, and its radius."""
    asks = catalogue.task(column.task).parameters
    radius = asks[RADII.get(column.metric, "eps")]
    steps = f", {asks['steps']} steps" if column.metric in STEPPING else ""
    if asks["norm"] == "linf":
        return f"{column.rule.title}{steps}, radius in 1/255", round(255 * radius, 9)
    return f"{column.rule.title}{steps}, radius of {asks['norm']}", radius


def ablation(figure: "Figure", asked: Asked) -> Drawn:
    """Each column against a field in which rows of a method differ, beside the baseline.

    Rows that differ in other fields too are in other curves.
    """
    table, setting = asked.table, one_setting(asked.table)
    field, of = _varied(table)
    page = sheet(table, asked.store)
    without = without_numbers(page, page.columns)
    aside = [method for method in table.methods if method not in of and method != "baseline"]
    without |= {method: f"no other row differs from it in {field} alone" for method in aside}
    if not of.keys() - without.keys():
        raise nothing(asked, {method: without[method] for method in of})
    points = _summary(
        (page.title(column), _family(method, field), value, number)
        for i, column in enumerate(page.columns)
        for method, value in [*of.items(), *[("baseline", None)] * ("baseline" in table.methods)]
        for number in page.entries[method][i].values.values()
    )
    order = list(dict.fromkeys(of.values()))
    for panel in _curves(figure, _placed(points, order), table, field, marker="."):
        _ticks(panel, order)
    title = f"Against {field}\n{shortened(setting)}, {over_seeds(asked)}"
    return Drawn(title, points, without)


def _varied(table: Table) -> tuple[str, dict[str, Any]]:
    """A field, and its values in order, by row: of rows that differ from another in it alone.

    A value is a number or a word. Of several fields it is one of numbers, then that of most values.
    Raises BadInput if there is none in which all methods vary that vary at all.
    """
    parameters = {method: catalogue.method(method).parameters for method in table.methods}
    alike = [(a, b) for a, b in combinations(table.methods, 2) if root(a) == root(b)]
    differ = [((a, b), _differing(parameters[a], parameters[b])) for a, b in alike]
    fields = sorted({field for _, each in differ for field in each})
    if not fields:
        raise BadInput(f"no field varies in {table.name}: add METHODs such as mixup,alpha=0.2")
    varied = {root(a) for (a, _), each in differ if each}
    found = dict[str, dict[str, Any]]()
    for field in fields:
        rows = dict.fromkeys(method for pair, each in differ if each == [field] for method in pair)
        if {*map(root, rows)} == varied:
            found[field] = _ordered(field, {method: parameters[method][field] for method in rows})
    if not found:
        raise BadInput(f"rows differ in {' and '.join(fields)}: choose METHODs with --only")
    field = max(found, key=lambda field: _telling(found[field].values()))
    return field, found[field]


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [field for field in a if a[field] != b.get(field)]


def _telling(values: Iterable[Any]) -> tuple[bool, int]:
    """How well they make an axis."""
    distinct = {*values}
    return not any(isinstance(value, str) for value in distinct), len(distinct)


def _ordered(field: str, of: Mapping[str, Any]) -> dict[str, Any]:
    """The same in order; as words if not all are numbers."""
    key = _order(field, [*of.values()])
    rows = sorted(of, key=lambda method: key(of[method]))
    if all(map(_is_number, of.values())):
        return {method: of[method] for method in rows}
    return {method: _word(field, of[method]) for method in rows}


def _order(field: str, values: Sequence[Any]) -> Callable[[Any], Any]:
    """A key to sort by: numbers by size before nothing, stages by depth, all else as it comes."""
    if all(value is None or _is_number(value) for value in values):
        return lambda value: (value is None, value or 0)
    if field == "at":
        return lambda value: [_depth(stage) for stage in _word(field, value).split("+")]
    return values.index


def _depth(stage: str) -> tuple[int, int, str]:
    """Where a stage stands in its network: layer2 before layer10, before the pool."""
    return ENDS.get(stage, 0), len(stage), stage


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _word(field: str, value: Any) -> str:
    if value is None:
        return NONE.get(field, "default")
    return write(tuple(value) if isinstance(value, list) else value)


def _family(method: str, field: str) -> str:
    """The spelling without a field."""
    name, *fields = method.split(",")
    return ",".join([name, *(each for each in fields if not each.startswith(f"{field}="))])


def _summary(rows: Iterable[Row]) -> pd.DataFrame:
    """Mean, standard deviation and number of seeds of each point, as they come."""
    frame = pd.DataFrame(rows, columns=["panel", "method", "x", "value"])
    points = frame.groupby(["panel", "method", "x"], sort=False, dropna=False).value
    return points.agg(["mean", "std", "count"]).reset_index().rename(columns={"count": "n"})


def _curves(
    figure: "Figure", points: pd.DataFrame, table: Table, x: str, **kind: Any
) -> list["Axes"]:
    """A panel for each title: means, in bands of a standard deviation each way.

    What has no x is a dashed line.
    """
    titles = list(dict.fromkeys(points.panel))
    axes = panels(figure, [fill(title, LINE) for title in titles], x, row=SIDE_BY_SIDE)
    look, seeds = looks(dict.fromkeys(points.method)), points.groupby("method").n.max()
    for panel, title in zip(axes, titles, strict=True):
        curves = dict(list(points[points.panel == title].groupby("method")))
        for method in sorted(curves, key=lambda m: -curves[m]["mean"].iloc[-1]):
            curve, fewer = curves[method], seeds[method] < table.seeds
            label = f"{method} (n = {seeds[method]})" if fewer else method
            if curve.x.isna().all():
                panel.axhline(curve["mean"].iloc[0], color=INK, linestyle="--", label=label)
            else:
                _band(panel, curve, label=label, **look[method], **kind)
    beside(figure, axes)
    return axes


def _band(panel: "Axes", curve: pd.DataFrame, **kind: Any) -> None:
    panel.plot(curve.x, curve["mean"], **kind)
    low, high = (curve["mean"] + sign * curve["std"].fillna(0) for sign in (-1, 1))
    panel.fill_between(curve.x, low, high, color=kind["color"], alpha=0.15, linewidth=0)


def _placed(points: pd.DataFrame, order: Sequence[Any]) -> pd.DataFrame:
    """The points, with words replaced by their places."""
    if isinstance(order[0], str):
        return points.assign(x=points.x.map({word: i for i, word in enumerate(order)}))
    return points


def _ticks(panel: "Axes", values: Sequence[Any]) -> None:
    """Where values of a field stand: words one by one, numbers that span much by powers."""
    if isinstance(values[0], str):
        panel.set_xticks(range(len(values)), [shortened(value, WORD) for value in values])
    elif min(values) > 0 and max(values) > SPAN * min(values):
        panel.set_xscale("log")
        few = values[:: ceil(len(values) / TICKS)]
        panel.set_xticks(few, [f"{value:g}" for value in few])
        panel.minorticks_off()
