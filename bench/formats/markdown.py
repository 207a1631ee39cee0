"""Markdown: grids of at most ``WIDEST`` columns of numbers, and the notes."""

import re
from collections.abc import Sequence

from mixbench.bench.formats._blocks import notes, row_heads, side_by_side, strips
from mixbench.bench.formats.letters import visible
from mixbench.bench.sheets import Entry, Sheet

ESCAPES = {"<": "&lt;", "&": "&amp;", "*": "\\*", "[": "\\[", "]": "\\]"}
MARKS = {0: "", 1: "**", 2: "*"}


def write(sheet: Sheet) -> str:
    grids = [_grid(sheet, places) for places in side_by_side(sheet)]
    return "\n".join([*grids, " ".join(map(_prose, notes(sheet))) + "\n"])


def _prose(sentence: str) -> str:
    """A sentence of which nothing but spellings in backquotes means anything to Markdown."""
    parts = visible(sentence).split("`")
    parts[::2] = [re.sub(r"[<&*\[\]]", lambda letter: ESCAPES[letter[0]], p) for p in parts[::2]]
    return "`".join(parts)


def _grid(sheet: Sheet, places: Sequence[int]) -> str:
    columns = [[": ".join(head), *texts] for head, texts in strips(sheet, places, _marked, visible)]
    return grid([*zip(["method", *map(visible, row_heads(sheet))], *columns, strict=True)])


def _marked(text: str, entry: Entry) -> str:
    mark = MARKS[entry.place]
    return f"<ins>{mark}{text}{mark}</ins>" if entry.champion else f"{mark}{text}{mark}"


def grid(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned for those who read it as text."""
    rows = [[text.replace("|", "\\|") for text in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    head, *body = rows
    return "".join(_row(cells, widths) for cells in (head, rule, *body))


def _row(cells: Sequence[str], widths: list[int]) -> str:
    first, *rest = cells
    padded = [first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]
    return f"| {' | '.join(padded)} |\n"
