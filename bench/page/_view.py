"""What the page says, before any HTML."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from mixbench.bench.cells import Cell, Record, Store
from mixbench.bench.page._archive import Archive
from mixbench.bench.page._cards import Card, Look, cards, looks
from mixbench.bench.page._pictures import Picture, pictures
from mixbench.bench.page._published import Published, doubts, published, sources
from mixbench.bench.page._text import Prose, prose, slug
from mixbench.bench.reported import reported
from mixbench.bench.sheets import Entry, Sheet, sheet
from mixbench.bench.tables import Column, Table

MARKS = {1: "best", 2: "second"}


@dataclass(frozen=True)
class Mark:
    """What stands where a method meets a column.

    value: the mean to sort by, '' if there is none. entry: the place of its provenance; None if
    it has none, as it is missing. said: its marks, for those who can't see them.
    """

    group: int
    marks: str
    value: str = ""
    mean: str = ""
    spread: str = ""
    said: str = ""
    why: str = ""
    entry: int | None = None
    reported: Published | None = None


@dataclass(frozen=True)
class Head:
    column: int
    title: str
    better: str


@dataclass(frozen=True)
class Group:
    """Columns that stand together."""

    label: str
    heads: tuple[Head, ...]


@dataclass(frozen=True)
class Row:
    method: str
    card: str
    look: Look
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Board:
    """A table that has cells."""

    id: str
    name: str
    caption: str
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    gains: tuple[Mark, ...]
    notes: tuple[Prose, ...]
    doubts: tuple[str, ...]
    has_reported: bool
    pictures: tuple[Picture, ...]
    left_out: tuple[tuple[str, Prose], ...]


@dataclass(frozen=True)
class Todo:
    """A table that has none yet, and what papers report for it."""

    name: str
    caption: str
    command: str
    titles: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Published | None, ...]], ...]
    sources: tuple[str, ...]
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    facts: tuple[tuple[int, str], ...]
    settings: tuple[tuple[str, int], ...]
    boards: tuple[Board, ...]
    todo: tuple[Todo, ...]
    cards: tuple[Card, ...]
    data: Record


def page(store: Store, tables: Mapping[str, Table], published: Path | None = None) -> Page:
    """The whole page; ``published`` as for ``reported``."""
    sheets = [sheet(table, store, reported(table, published)) for table in tables.values()]
    filled = [each for each in sheets if each.records]
    archive = Archive(store)
    methods = list(dict.fromkeys(m for each in filled for m in each.table.methods))
    look = looks(methods)
    drawn = pictures([each.table for each in filled], store)
    boards = tuple(_board(s, look, archive, *drawn[s.table.name]) for s in filled)
    cells = dict.fromkeys(cell for each in filled for cell in each.records)
    return Page(
        facts=_facts(cells.keys()),
        settings=tuple(Counter(cell.run.setting for cell in cells).items()),
        boards=boards,
        todo=tuple(_todo(each) for each in sheets if not each.records),
        cards=tuple(cards(look, filled)),
        data=archive.data(),
    )


def _facts(cells: Collection[Cell]) -> tuple[tuple[int, str], ...]:
    runs = {cell.run for cell in cells}
    return (
        (len({run.method for run in runs}), "methods"),
        (len({run.setting for run in runs}), "settings"),
        (len(runs), "trained networks"),
        (len(cells), "cells"),
    )


def _board(
    sheet: Sheet,
    look: Mapping[str, Look],
    archive: Archive,
    drawn: Sequence[Picture],
    left_out: Mapping[str, str],
) -> Board:
    blocks = _blocks(sheet)
    where = [(i, j == 0) for i, group in enumerate(blocks) for j in range(len(group.heads))]
    rows = tuple(
        Row(
            method,
            f"method-{slug(method)}",
            look[method],
            tuple(
                _mark(column, method, entry, sheet, archive, *place)
                for column, entry, place in zip(sheet.columns, entries, where, strict=True)
            ),
        )
        for method, entries in sheet.entries.items()
    )
    figures = [e.reported for row in sheet.entries.values() for e in row if e.reported]
    return Board(
        id=f"table-{slug(sheet.table.name)}",
        name=sheet.table.name,
        caption=sheet.table.caption,
        groups=blocks,
        rows=rows,
        gains=tuple(_gains(sheet, where)),
        notes=tuple(map(prose, [*sheet.notes, *sources(figures)])),
        doubts=tuple(doubts(figures)),
        has_reported=bool(figures),
        pictures=tuple(drawn),
        left_out=tuple((name, prose(why)) for name, why in left_out.items()),
    )


def _blocks(sheet: Sheet) -> tuple[Group, ...]:
    """Neighbouring columns of one task under one outer heading."""

    def label(pair: tuple[int, Column]) -> str:
        outer = sheet.head(pair[1])[:-1]
        by_column = sheet.table.order == "column" and bool(outer)
        return " · ".join(outer if by_column else (*outer, pair[1].task))

    return tuple(
        Group(
            name,
            tuple(Head(i + 1, sheet.head(c)[-1], c.rule.better) for i, c in columns),
        )
        for name, columns in groupby(enumerate(sheet.columns), label)
    )


def _mark(
    column: Column,
    method: str,
    entry: Entry,
    sheet: Sheet,
    archive: Archive,
    group: int,
    first: bool,
) -> Mark:
    marks = [MARKS.get(entry.place, ""), "champion" if entry.champion else ""]
    said = [MARKS.get(entry.place, ""), "best baseline" if entry.champion else ""]
    mean, _, spread = entry.text(column.rule, sheet.table.seeds).partition(" ")
    behind = entry.n or entry.why
    return Mark(
        group=group,
        marks=_words(["starts" if first else "", *marks]),
        value="" if entry.mean is None else repr(entry.mean),
        mean=mean,
        spread=spread,
        said=", ".join(filter(None, said)),
        why=entry.why,
        entry=archive.add(column, method, entry, sheet) if behind else None,
        reported=published(entry, column),
    )


def _words(words: Iterable[str]) -> str:
    return " ".join(filter(None, words))


def _gains(sheet: Sheet, where: Iterable[tuple[int, bool]]) -> Iterator[Mark]:
    for gain, column, (group, first) in zip(sheet.gains, sheet.columns, where, strict=False):
        text = "" if gain.value is None else column.rule.signed(gain.value)
        yield Mark(group, "starts" if first else "", mean=text)


def _todo(sheet: Sheet) -> Todo:
    columns = [
        i
        for i in range(len(sheet.columns))
        if any(row[i].reported for row in sheet.entries.values())
    ]
    rows = {
        method: tuple(published(entries[i], sheet.columns[i]) for i in columns)
        for method, entries in sheet.entries.items()
    }
    figures = [e.reported for row in sheet.entries.values() for e in row if e.reported]
    return Todo(
        name=sheet.table.name,
        caption=sheet.table.caption,
        command=f"mixbench run {sheet.table.name}",
        titles=tuple(": ".join(sheet.head(sheet.columns[i])) for i in columns),
        rows=tuple((method, marks) for method, marks in rows.items() if any(marks)),
        sources=tuple(dict.fromkeys(figure.source for figure in figures)),
        doubts=tuple(doubts(figures)),
    )
