"""What papers report, beside what was measured."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mixbench.bench.reported import Reported
from mixbench.bench.sheets import Entry
from mixbench.bench.tables import Column


@dataclass(frozen=True)
class Published:
    """What a paper reports. difference: measured minus reported, '' if nothing was measured."""

    text: str
    difference: str
    doubts: tuple[str, ...]


def published(entry: Entry, column: Column) -> Published | None:
    if entry.reported is None:
        return None
    off = entry.difference()
    return Published(
        entry.reported.text(column.rule.form),
        "" if off is None else column.rule.signed(off),
        entry.reported.doubts,
    )


def told(entry: Entry, column: Column) -> list[tuple[str, str]]:
    """What is to say of a published figure, by heading."""
    said = published(entry, column)
    assert said and entry.reported
    pairs = [
        ("reported", said.text),
        ("measured − reported", said.difference),
        ("source", entry.reported.source),
        *(("doubtful", doubt) for doubt in said.doubts),
    ]
    return [(key, value) for key, value in pairs if value]


def sources(figures: Sequence[Reported]) -> Iterator[str]:
    if figures:
        listed = "; ".join(dict.fromkeys(figure.source for figure in figures))
        yield (
            f"Reported by {listed}; in brackets, measured minus reported. What is reported enters "
            "no mean, no best and no gain."
        )


def doubts(figures: Iterable[Reported]) -> list[str]:
    return list(dict.fromkeys(doubt for figure in figures for doubt in figure.doubts))
