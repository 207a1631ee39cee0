"""Figures as pictures within the page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from mixbench.bench.cells import Store
from mixbench.bench.spec import one_line
from mixbench.bench.tables import Table

CAPTIONS = {
    "pareto": "Error against cost",
    "heatmap": "Each method against the baseline, in each column",
    "ranks": "Mean ranks over all columns; a bar joins methods that can't be told apart",
    "training": "Test error while training",
    "ablation": "A parameter varied",
    "eps": "Robustness against the size of the attack",
    "landscape": "Between test images of different classes",
    "projection": "Embeddings of test images",
    "reliability": "How often predictions are right, by confidence",
    "boxes": "Boxes found in test images",
}
"""Of figures, in the order in which they are shown."""

SEED = 0
"""Of figures that show one run of each method."""

ROOM = 1_200_000
"""The letters that pictures may take, so that a page of all tables stays below 2 MB."""


@dataclass(frozen=True)
class Picture:
    svg: str
    caption: str


Drawn = tuple[list[Picture], dict[str, str]]


def pictures(tables: Sequence[Table], store: Store) -> dict[str, Drawn]:
    """By table: its figures, and those that it is without, with the reason.

    Every table gets its first figure before any gets its second.
    """
    drawn: dict[str, Drawn] = {table.name: ([], {}) for table in tables}
    room = ROOM
    for name, table in product(CAPTIONS, tables):
        shown, left_out = drawn[table.name]
        try:
            picture = _picture(name, table, store)
        except Exception as error:  # one that fails should cost no more than itself
            left_out[name] = one_line(error)
            continue
        if len(picture.svg) > room:
            command = f"`mixbench figure {name} {table.name}` draws it"
            left_out[name] = f"the page would be too large; {command}"
            continue
        room -= len(picture.svg)
        shown.append(picture)
    return drawn


def _picture(name: str, table: Table, store: Store) -> Picture:
    """Raises BadInput if the figure can't be drawn."""
    from mixbench.bench import figures

    return Picture(slim(figures.svg(name, table, store, SEED)), f"{table.name}: {CAPTIONS[name]}")


def slim(svg: str) -> str:
    """The same picture to the eye in fewer letters: paths are drawn to a hundredth of a point."""
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    return re.sub(r"\s+", " ", svg).replace("> <", "><")
