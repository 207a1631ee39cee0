"""HTML: a page with the table and its notes, and nothing else."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixbench.bench.formats._blocks import notes, row_heads, side_by_side, strips
from mixbench.bench.formats.letters import visible
from mixbench.bench.sheets import Entry, Sheet

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = Path(__file__).with_name("table.html.j2")
MARKS = {0: "{}", 1: "<strong>{}</strong>", 2: "<em>{}</em>"}


def write(sheet: Sheet) -> str:
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    grids = [_grid(sheet, places) for places in side_by_side(sheet)]
    sentences = [visible(note).split("`") for note in notes(sheet)]
    template = page.from_string(TEMPLATE.read_text("utf-8"))
    return template.render(name=sheet.table.name, grids=grids, sentences=sentences) + "\n"


def _grid(sheet: Sheet, places: Sequence[int]) -> dict[str, Any]:
    """Rows of texts, the outer headings with how many columns they have, and the last ones."""
    heads, columns = zip(*strips(sheet, places, _marked, visible), strict=True)
    rows = [*zip(map(visible, row_heads(sheet)), *columns, strict=True)]
    levels = [
        [(head, len([*some])) for head, some in groupby(head[level] for head in heads)]
        for level in range(len(heads[0]) - 1)
    ]
    body, gains = rows[: len(sheet.entries)], rows[len(sheet.entries) :]
    return {"levels": levels, "heads": [h[-1] for h in heads], "rows": body, "gains": gains}


def _marked(text: str, entry: Entry) -> "Markup":
    from markupsafe import Markup

    marked = Markup(MARKS[entry.place]).format(text)
    return Markup("<u>{}</u>").format(marked) if entry.champion else marked
