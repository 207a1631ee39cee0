"""Figures, drawn from cells: no network is asked. Their numbers are written beside them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from mixbench.bench.cells import Store, written_aside
from mixbench.bench.figures import boxes, curves, networks, overview, trade
from mixbench.bench.figures._svg import for_a_page, with_jpegs
from mixbench.bench.figures.chart import Asked, Chart, Drawn, OfOneSeed
from mixbench.bench.figures.style import STYLE, settle
from mixbench.bench.formats._csv import Value, lines
from mixbench.bench.spec import BadInput, choose, one_line
from mixbench.bench.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

UNDATED: Mapping[str, Mapping[str, None]] = {
    ".svg": {"Date": None},
    ".png": {},
    ".pdf": {"CreationDate": None},
}
"""The formats, by suffix, and what keeps the time of writing out of each."""

BARE = dict.fromkeys(["Creator", "Date", "Format", "Type"])
"""What keeps all else out of an SVG."""

FIGURES: Mapping[str, Chart] = {
    "reliability": Chart(
        OfOneSeed("calibration", ("confidence", "accuracy", "share", "ece"), networks.reliability)
    ),
    "landscape": Chart(
        OfOneSeed("landscape", ("position", "accuracy", "confidence"), networks.landscape)
    ),
    "projection": Chart(
        OfOneSeed("embedding", ("figure_embeddings", "figure_classes"), networks.projection)
    ),
    "boxes": Chart(OfOneSeed("detection", boxes.TAKES, boxes.boxes), photographs=True),
    "training": Chart(curves.training),
    "eps": Chart(curves.eps),
    "ablation": Chart(curves.ablation),
    "pareto": Chart(trade.pareto),
    "heatmap": Chart(overview.heatmap),
    "ranks": Chart(overview.ranks),
}


def draw(name: str, table: Table, store: Store, seed: int, out: Path) -> dict[str, str]:
    """Draw a figure of the table's cells to a file, and its numbers to a .csv beside it.

    ``seed`` is that of figures which show one network of each method; the others show all seeds.
    Returns the methods that it is without, and why. Raises BadInput if it can't be drawn.
    """
    if out.suffix not in UNDATED:
        raise BadInput(f"a figure's file should end in {' or '.join(UNDATED)}, unlike {out}")
    chart = FIGURES[choose(name, FIGURES, "figure")]
    smooth = out.suffix == ".png"
    with _drawn(chart, Asked(table, store, seed), smooth) as (figure, drawn):
        with written_aside(out) as path:
            if out.suffix == ".svg":
                _write(path, _svg(figure, chart, UNDATED[".svg"]))
            else:
                figure.savefig(path, format=out.suffix[1:], metadata=UNDATED[out.suffix])
        with written_aside(out.with_suffix(".csv")) as path:
            _write(path, _csv(drawn.numbers))
    return dict(drawn.without)


def svg(name: str, table: Table, store: Store, seed: int) -> str:
    """The same figure as an <svg>, several of which can stand in one page. Raises BadInput."""
    chart = FIGURES[choose(name, FIGURES, "figure")]
    with _drawn(chart, Asked(table, store, seed), smooth=False) as (figure, _):
        return for_a_page(_svg(figure, chart, BARE), f"{table.name}-{name}")


@contextmanager
def _drawn(chart: Chart, asked: Asked, smooth: bool) -> Iterator[tuple["Figure", Drawn]]:
    """A figure, while its style is in force. smooth: pictures are interpolated."""
    from matplotlib import style
    from matplotlib.figure import Figure

    pixels = {"image.interpolation": "bilinear" if smooth else "none"}
    with style.context(["default", STYLE, pixels]):
        figure = Figure(layout="constrained")
        drawn = _plotted(chart, figure, asked)
        figure.suptitle(drawn.title)
        settle(figure)
        yield figure, drawn


def _plotted(chart: Chart, figure: "Figure", asked: Asked) -> Drawn:
    """Raises BadInput also where cells hold curves that are no such: of words, or too short."""
    try:
        return chart.plot(figure, asked)
    except BadInput:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise BadInput(
            f"what is in the cells of {asked.table.name} can't be drawn ({one_line(error)})"
        ) from error


def _svg(figure: "Figure", chart: Chart, metadata: Mapping[str, None]) -> str:
    figure.savefig(text := StringIO(), format="svg", metadata=metadata)
    return with_jpegs(text.getvalue()) if chart.photographs else text.getvalue()


def _csv(numbers: "pd.DataFrame") -> str:
    rows = numbers.itertuples(index=False, name=None)
    return lines([[*numbers], *([_short(value) for value in row] for row in rows)])


def _short(value: Value) -> Value:
    """A number to six digits; nothing if it is NaN."""
    if not isinstance(value, float):
        return value
    text = f"{value:.6g}"
    whole = text.removeprefix("-").isdigit()
    return None if isnan(value) else int(text) if whole else float(text)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
