"""What formats that people read have in common: a table in pieces that fit a page."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from mixbench.bench.catalogue import Rule
from mixbench.bench.reported import GAIN, Reported
from mixbench.bench.sheets import Entry, Gain, Sheet

WIDEST = 9
"""How many columns of numbers are printed side by side."""


def side_by_side(sheet: Sheet) -> Iterator[list[int]]:
    """The places of columns in pieces of at most ``WIDEST``: what belongs together stays together."""
    here: list[int] = []
    for block in _together(sheet):
        if here and len(here) + len(block) > WIDEST:
            yield here
            here = []
        here += block
    yield here


def _together(sheet: Sheet) -> Iterator[list[int]]:
    """The places of columns that have the task, and the outer heading, in common."""

    def shared(place: int) -> tuple[str, ...]:
        column = sheet.columns[place]
        return (column.task, *sheet.head(column)[:-1])

    for _, block in groupby(range(len(sheet.columns)), shared):
        yield [*block]


Strip = tuple[tuple[str, ...], list[str]]
"""A column as it is printed: its headings, and what stands below them."""


def strips(
    sheet: Sheet,
    places: Iterable[int],
    marked: Callable[[str, Entry], str],
    plain: Callable[[str], str],
) -> Iterator[Strip]:
    """The columns at some places, each followed by what was reported of it, if anything was.

    marked: how a text with the marks of its entry is written. plain: how any other is.
    """
    everywhere = _doubted_everywhere(sheet)
    for place in places:
        column, entries = sheet.columns[place], [row[place] for row in sheet.entries.values()]
        *outer, last = map(plain, sheet.head(column))
        gains = [sheet.gains[place]] if sheet.gains else []
        texts = [
            marked(plain(e.text(column.rule, sheet.table.seeds)), e)
            + plain(" ≈" if e.level else "")
            for e in entries
        ]
        yield (*outer, last), texts + [plain(_gained(gain, column.rule)) for gain in gains]
        if any_reported(sheet, place):
            said = [_reported(entry, column.rule, everywhere) for entry in entries]
            said += [_reported_gain(gain, column.rule, everywhere) for gain in gains]
            yield (*outer, f"{last}, reported"), [plain(text) for text in said]


def row_heads(sheet: Sheet) -> list[str]:
    return [*sheet.entries, *([GAIN] if sheet.gains else [])]


def any_reported(sheet: Sheet, place: int) -> bool:
    return any(row[place].reported for row in sheet.entries.values())


def _reported(entry: Entry, rule: Rule, everywhere: Sequence[str]) -> str:
    """What was reported, and how far what is measured is off.

    A dagger marks what is doubted for another reason than all figures are.
    """
    if entry.reported is None:
        return "-"
    off = entry.difference()
    beside = "" if off is None else f" ({rule.signed(off)})"
    return f"{entry.reported.text(rule.form)}{_dagger(entry.reported, everywhere)}{beside}"


def _gained(gain: Gain, rule: Rule) -> str:
    return "-" if gain.value is None else rule.signed(gain.value)


def _reported_gain(gain: Gain, rule: Rule, everywhere: Sequence[str]) -> str:
    if gain.reported is None:
        return ""
    return rule.signed(gain.reported.value) + _dagger(gain.reported, everywhere)


def _dagger(figure: Reported, everywhere: Sequence[str]) -> str:
    return "†" if {*figure.doubts} - {*everywhere} else ""


def notes(sheet: Sheet) -> list[str]:
    """All that stands below: caption, how to read the numbers, and where reported ones are from."""
    return [sheet.table.caption, *sheet.notes, *_reported_notes(sheet)]


def _reported_notes(sheet: Sheet) -> Iterator[str]:
    """Where reported figures are from, and of which there are doubts, and why."""
    figures = _figures(sheet)
    if not figures:
        return
    sources = dict.fromkeys(figure.source for figure in figures.values())
    yield (
        f"Reported: by {'; '.join(sources)}; in brackets, measured minus reported. What is "
        "reported enters no mean, no best and no gain."
    )
    everywhere = _doubted_everywhere(sheet)
    for doubt in everywhere:
        yield f"Of all that is reported here: {doubt}."
    for doubt in dict.fromkeys(doubt for figure in figures.values() for doubt in figure.doubts):
        if doubt not in everywhere:
            yield f"† {', '.join(_doubted(doubt, figures))}: {doubt}."


def _figures(sheet: Sheet) -> dict[tuple[str, str], Reported]:
    """What was reported, by method, or ``GAIN``, and heading."""
    rows = {method: [entry.reported for entry in row] for method, row in sheet.entries.items()}
    rows |= {GAIN: [gain.reported for gain in sheet.gains]} if sheet.gains else {}
    heads = [": ".join(sheet.head(column)) for column in sheet.columns]
    return {
        (method, head): figure
        for method, row in rows.items()
        for head, figure in zip(heads, row, strict=True)
        if figure
    }


def _doubted(doubt: str, figures: Mapping[tuple[str, str], Reported]) -> Iterator[str]:
    """What is doubted for a reason: whole columns, whole rows, and figures that are in neither."""
    doubted = {place for place, figure in figures.items() if doubt in figure.doubts}
    for head in dict.fromkeys(head for _, head in figures):
        column = {place for place in figures if place[1] == head}
        if len(column) > 1 and column <= doubted:
            doubted -= column
            yield f"all of {head}"
    for method in dict.fromkeys(method for method, _ in figures):
        row = [place for place in figures if place[0] == method]
        heads = [head for name, head in row if (name, head) in doubted]
        if heads:
            whole = len(heads) == len(row) > 1
            yield f"`{method}`" if whole else f"`{method}` ({'; '.join(heads)})"


def _doubted_everywhere(sheet: Sheet) -> list[str]:
    """Why all figures that are reported may be wrong; one alone has reasons of its own."""
    figures = [*_figures(sheet).values()]
    if len(figures) < 2:
        return []
    return [doubt for doubt in figures[0].doubts if all(doubt in f.doubts for f in figures)]
