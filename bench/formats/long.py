"""Long CSV: every number that there is, one a row."""

from mixbench.bench.formats._csv import lines
from mixbench.bench.sheets import Sheet
from mixbench.bench.tables import HEADS


def write(sheet: Sheet) -> str:
    return lines([HEADS, *sheet.table.numbers(sheet.records)])
