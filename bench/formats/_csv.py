"""CSV that pandas reads, and that no spreadsheet takes for formulas."""

import csv
import re
from collections.abc import Iterable, Sequence
from io import StringIO

from mixbench.bench.formats.letters import visible

FORMULA = ("=", "+", "-", "@")
"""What a text begins with that spreadsheets compute."""

Value = str | float | int | None


def lines(rows: Iterable[Sequence[Value]]) -> str:
    """Rows as CSV; numbers in full, None as nothing."""
    writer = csv.writer(text := StringIO(), lineterminator="\n")
    writer.writerows([_safe(value) for value in row] for row in rows)
    return text.getvalue()


def _safe(value: Value) -> Value:
    if not isinstance(value, str):
        return value
    text = visible(re.sub(r"[\t\r\n]", " ", value)).lstrip()
    return f"'{text}" if text.startswith(FORMULA) else text
