"""Wide CSV: a row for each method; of each column mean, standard deviation, and number of seeds."""

from collections.abc import Iterator

from mixbench.bench.formats._blocks import any_reported
from mixbench.bench.formats._csv import Value, lines
from mixbench.bench.reported import GAIN
from mixbench.bench.sheets import Entry, Gain, Sheet

PARTS = ("mean", "std", "n")


def write(sheet: Sheet) -> str:
    """A column is headed SETTING TASK:METRIC and what it is; its gain has a row of its own."""
    beside = [any_reported(sheet, place) for place in range(len(sheet.columns))]
    rows = [[m, *_each(entries, beside)] for m, entries in sheet.entries.items()]
    return lines([_heads(sheet, beside), *rows, *_gains(sheet, beside)])


def _heads(sheet: Sheet, beside: list[bool]) -> list[str]:
    heads = [f"{c.setting} {c.task}:{c.metric}" for c in sheet.columns]
    return [
        "method",
        *(
            f"{head} {part}"
            for head, has in zip(heads, beside, strict=True)
            for part in (*PARTS, *["reported"] * has)
        ),
    ]


def _each(entries: tuple[Entry, ...], beside: list[bool]) -> Iterator[Value]:
    for entry, has in zip(entries, beside, strict=True):
        yield from (entry.mean, entry.std, entry.n)
        if has:
            yield entry.reported.value if entry.reported else None


def _gains(sheet: Sheet, beside: list[bool]) -> Iterator[list[Value]]:
    if sheet.gains:
        pairs = zip(sheet.gains, beside, strict=True)
        yield [GAIN, *(value for gain, has in pairs for value in _gain(gain, has))]


def _gain(gain: Gain, beside: bool) -> Iterator[Value]:
    yield from (gain.value, None, None)
    if beside:
        yield gain.reported.value if gain.reported else None
