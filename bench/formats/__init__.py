"""The formats of tables: of each, ``write(sheet)`` is the whole file, the same for the same cells."""

from collections.abc import Callable, Mapping

from mixbench.bench.cells import Store
from mixbench.bench.formats import html, latex, long, markdown, wide
from mixbench.bench.sheets import Published, Sheet, sheet
from mixbench.bench.tables import Table

FORMATS: Mapping[str, Callable[[Sheet], str]] = {
    "markdown": markdown.write,
    "csv": long.write,
    "wide": wide.write,
    "latex": latex.write,
    "html": html.write,
}
SUFFIXES = {"markdown": ".md", "csv": ".csv", "wide": ".wide.csv", "latex": ".tex", "html": ".html"}


def printed(
    table: Table,
    store: Store,
    form: str = "markdown",
    published: Published | None = None,
    grouped: bool = False,
) -> str:
    """A table in one of ``FORMATS``; ``published`` and ``grouped`` as for ``sheet``."""
    return FORMATS[form](sheet(table, store, published, grouped))
