"""Methods, one card for each."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mixbench.bench import catalogue
from mixbench.bench.page._archive import flat
from mixbench.bench.page._text import Prose, prose, slug
from mixbench.bench.sheets import Sheet
from mixbench.bench.spec import counted
from mixbench.bench.statistics import groups

T = TypeVar("T")

BASELINE = "baseline"


@dataclass(frozen=True)
class Look:
    """A method's line in figures. dashes: of an SVG, '' if it is solid."""

    colour: str
    dashes: str


@dataclass(frozen=True)
class Card:
    """A method. costs, wins: by table. level: where it can't be told apart from the best."""

    id: str
    name: str
    look: Look
    summary: Prose
    formula: str
    source: str
    link: str
    parameters: str
    costs: tuple[tuple[str, str], ...]
    wins: tuple[tuple[str, tuple[str, ...]], ...]
    level: tuple[tuple[str, str], ...]


def looks(methods: Sequence[str]) -> dict[str, Look]:
    from mixbench.bench.figures.style import looks

    return {method: _look(**look) for method, look in looks(methods).items()}


def _look(color: str, linestyle: Any, **_: Any) -> Look:
    """A line of matplotlib's in SVG."""
    dashes = [] if linestyle == "-" else linestyle[1]
    return Look(color, " ".join(f"{2.5 * length:g}" for length in dashes))


def cards(look: Mapping[str, Look], sheets: Sequence[Sheet]) -> Iterator[Card]:
    """A card for each of the methods that have a look."""
    level = {sheet.table.name: _level(sheet) for sheet in sheets}
    for method in look:
        yield _card(method, look[method], sheets, level)


def _card(
    method: str, look: Look, sheets: Sequence[Sheet], level: Mapping[str, Mapping[str, str]]
) -> Card:
    known = catalogue.method(method)
    return Card(
        id=f"method-{slug(method)}",
        name=method,
        look=look,
        summary=prose(known.summary.replace("``", "`")),
        formula=known.formula,
        source=known.source,
        link=_link(known.source),
        parameters=", ".join(
            f"{key}={value}" for key, value in flat(known.parameters) if key != "version"
        ),
        costs=tuple(_each_table(sheets, lambda sheet: _cost(method, sheet))),
        wins=tuple(_each_table(sheets, lambda sheet: _wins(method, sheet))),
        level=tuple((name, said[method]) for name, said in level.items() if method in said),
    )


def _each_table(sheets: Sequence[Sheet], of: Callable[[Sheet], T]) -> Iterator[tuple[str, T]]:
    """What there is to say in each of the tables, with its name."""
    for each in sheets:
        if said := of(each):
            yield each.table.name, said


def _link(source: str) -> str:
    """The address of the paper that is named first, if it is on arXiv."""
    found = re.search(r"arXiv[ :](\d{4}\.\d{4,5})", source)
    return f"https://arxiv.org/abs/{found[1]}" if found else ""


def _cost(method: str, sheet: Sheet) -> str:
    """What the task of that name measures, as multiples of the baseline's."""
    ratios = [
        f"{mean / base:.2f} × {column.rule.title.partition(',')[0]}"
        for column, mean, base in zip(
            sheet.columns, _means(method, sheet), _means(BASELINE, sheet), strict=False
        )
        if mean and base and column.task == "cost" and column.rule.better != "neither"
    ]
    return f"{', '.join(ratios)} of the baseline" if ratios and method != BASELINE else ""


def _means(method: str, sheet: Sheet) -> list[float | None]:
    return [entry.mean for entry in sheet.entries.get(method, ())]


def _wins(method: str, sheet: Sheet) -> tuple[str, ...]:
    """The columns where no other method is better, as printed."""
    entries = sheet.entries.get(method, ())
    return tuple(
        ": ".join(sheet.head(column))
        for column, entry in zip(sheet.columns, entries, strict=False)
        if entry.place == 1
    )


def _level(sheet: Sheet) -> dict[str, str]:
    """In how many columns each method can't be told apart from the best."""
    level, ranked = Counter[str](), Counter[str]()
    for i, column in enumerate(sheet.columns):
        values = {m: row[i].values for m, row in sheet.entries.items() if row[i].n}
        if column.rule.better != "neither":
            ranked.update(values.keys())
            level.update(groups(values, column.rule.better))
    return {method: f"in {level[method]} of {counted(n, 'column')}" for method, n in ranked.items()}
