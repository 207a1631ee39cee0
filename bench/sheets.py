"""What a table says, before any format: means, their ranks, what is missing, and the notes."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import fmean, stdev

from mixbench.bench import catalogue
from mixbench.bench.catalogue import Rule, unfit
from mixbench.bench.cells import Cell, Record, Run, Store
from mixbench.bench.reported import GAIN, Reported
from mixbench.bench.spec import counted
from mixbench.bench.statistics import LEVEL, groups
from mixbench.bench.tables import Column, Records, Table

EPOCH_RULE = (
    "Networks are those of the last epoch; the best epoch and the median of the last ten "
    "are in the cells of `classification`."
)

Published = Mapping[tuple[Column, str], Reported]
"""What papers report, by column and method."""


@dataclass(frozen=True)
class Entry:
    """What stands where a method meets a column.

    values: by seed. place: 1 is the best, 2 the second best, as printed. champion: the best of the
    baselines, in a table that has methods of a paper. level: not the best, but can't be told apart
    from it. why: there can be no number, and the reason.
    """

    values: Mapping[int, float] = field(default_factory=dict)
    cells: tuple[Cell, ...] = ()
    place: int = 0
    champion: bool = False
    level: bool = False
    why: str = ""
    reported: Reported | None = None

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float | None:
        return fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        return stdev(self.values.values()) if self.n > 1 else None

    def text(self, rule: Rule, seeds: int) -> str:
        """Mean, standard deviation, and the number of seeds if there are fewer; or why there is none."""
        if self.mean is None:
            return "n/a" if self.why else "-"
        spread = "" if self.std is None else f" ± {self.std:{rule.form}}"
        return f"{self.mean:{rule.form}}{spread}" + (f" ({self.n})" if self.n < seeds else "")

    def difference(self) -> float | None:
        """Measured minus reported."""
        if self.mean is None or self.reported is None:
            return None
        return self.mean - self.reported.value


@dataclass(frozen=True)
class Gain:
    """By how much the best of a paper's methods is better than the best baseline; None: unknown."""

    value: float | None
    reported: Reported | None = None


@dataclass(frozen=True)
class Sheet:
    """A table, filled in.

    gains: for each column, if the table has methods of a paper.
    notes: sentences, with spellings in backquotes.
    """

    table: Table
    columns: tuple[Column, ...]
    entries: Mapping[str, tuple[Entry, ...]]
    gains: tuple[Gain, ...]
    notes: tuple[str, ...]
    records: Records

    def head(self, column: Column) -> tuple[str, ...]:
        """The headings of a column, the outer one first: setting and metric, if there are several."""
        title = self.title(column)
        if len(self.table.settings) == 1:
            return (title,)
        if self.shared_title:
            return (column.setting,)
        return (column.setting, title) if self.table.order == "setting" else (title, column.setting)

    @property
    def shared_title(self) -> str:
        """That of all columns, which then stands in the notes, if there are several settings; or ''."""
        titles = {self.title(column) for column in self.columns}
        return titles.pop() if len(titles) == 1 < len(self.table.settings) else ""

    def title(self, column: Column) -> str:
        """That of the metric, and the task's spelling if the metric of another has the same."""
        same = {c.task for c in self.columns if c.rule.title == column.rule.title}
        return f"{column.rule.title} ({column.task})" if len(same) > 1 else column.rule.title


def sheet(
    table: Table, store: Store, published: Published | None = None, grouped: bool = False
) -> Sheet:
    """What a table says of the cells that there are, beside what was published.

    grouped: look for what can't be told apart from the best, too.
    """
    records, columns = table.records(store), tuple(table.each_column())
    by_column = [_entries(column, table, records, published or {}) for column in columns]
    if grouped:
        by_column = [_grouped(*pair) for pair in zip(columns, by_column, strict=True)]
    entries = {m: tuple(column[m] for column in by_column) for m in table.methods}
    empty = Sheet(table, columns, entries, (), (), records)
    gains = tuple(
        Gain(_gain(column, found, table), (published or {}).get((column, GAIN)))
        for column, found in zip(columns, by_column, strict=True)
    )
    return replace(empty, gains=gains if _proposes(table) else (), notes=tuple(_notes(empty)))


def _entries(
    column: Column, table: Table, records: Records, published: Published
) -> dict[str, Entry]:
    """A column's entries by method, ranked."""
    found = {
        method: replace(
            _entry(column, method, table, records), reported=published.get((column, method))
        )
        for method in table.methods
    }
    printed = _printed(found, column.rule)
    places = _places(printed, column.rule)
    baselines = {m: v for m, v in printed.items() if m not in table.ours}
    best = _places(baselines, column.rule) if _proposes(table) else {}
    return {
        method: replace(entry, place=places.get(method, 0), champion=best.get(method) == 1)
        for method, entry in found.items()
    }


def _grouped(column: Column, entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries, of which those that can't be told apart from the best are level with it."""
    values = {method: entry.values for method, entry in entries.items()}
    level = {*groups(values, column.rule.better)}
    return {
        method: replace(entry, level=method in level and entry.place != 1)
        for method, entry in entries.items()
    }


def _proposes(table: Table) -> bool:
    return bool({*table.ours} & {*table.methods})


def _entry(column: Column, method: str, table: Table, records: Records) -> Entry:
    cells = [Cell(run, column.task) for run in _runs(column, method, table)]
    there = tuple(cell for cell in cells if cell in records)
    numbers = {cell.run.seed: column.value(records[cell]) for cell in there}
    values = {seed: value for seed, value in numbers.items() if value is not None}
    return Entry(values, there, why="" if values else _why(column, method, there, records))


def _runs(column: Column, method: str, table: Table) -> Iterator[Run]:
    return (Run(column.setting, method, seed) for seed in range(table.seeds))


def _why(column: Column, method: str, there: Sequence[Cell], records: Records) -> str:
    """Why there can be no number; '' if it is only missing."""
    for cell in there:
        return _reason(records[cell]) or "undefined for what was looked at"
    return unfit(column.setting, method)


def _reason(record: Record) -> str:
    """Why a task did not apply, as one line without code; '' if it did."""
    return " ".join(record.get("inapplicable", "").replace("`", "'").split())


def _printed(entries: Mapping[str, Entry], rule: Rule) -> dict[str, float]:
    """The means as they are printed: equal in print is equal."""
    return {m: float(f"{e.mean:{rule.form}}") for m, e in entries.items() if e.mean is not None}


def _places(printed: Mapping[str, float], rule: Rule) -> dict[str, int]:
    """Who is best and second best."""
    if rule.better == "neither":
        return {}
    ranked = sorted({*printed.values()}, reverse=rule.better == "higher")[:2]
    return {m: ranked.index(value) + 1 for m, value in printed.items() if value in ranked}


def _gain(column: Column, entries: Mapping[str, Entry], table: Table) -> float | None:
    """By how much the best of the table's own methods is better than the best baseline."""
    means = {m: e.mean for m, e in entries.items() if e.mean is not None}
    ours = [mean for m, mean in means.items() if m in table.ours]
    others = [mean for m, mean in means.items() if m not in table.ours]
    if not ours or not others:
        return None
    match column.rule.better:
        case "higher":
            return max(ours) - max(others)
        case "lower":
            return min(others) - min(ours)
        case _:
            return None


def _notes(sheet: Sheet) -> Iterator[str]:
    """What to know before one believes a number."""
    table, records = sheet.table, sheet.records
    if sheet.shared_title:
        yield f"All numbers: {sheet.shared_title}."
    yield f"Setting: {_listed(table.settings)}."
    yield (
        f"Mean ± standard deviation over n = {counted(table.seeds, 'seed')} (n of a cell that has fewer in "
        "brackets), best in bold, second best in italics, missing as -."
    )
    if _proposes(table):
        yield (
            "The best baseline is underlined; gain is by how much the best of "
            f"{_listed(m for m in table.ours if m in table.methods)} is better."
        )
    if any(entry.level for row in sheet.entries.values() for entry in row):
        yield (
            "≈: can't be told apart from the best, by paired t-tests over equal seeds at "
            f"{100 * LEVEL:g} %, corrected by Holm's method, or with fewer than two such seeds; of many "
            "that are equal, some will seem worse, as the best is chosen by the same numbers."
        )
    yield EPOCH_RULE
    if helped := [m for m in table.methods if catalogue.method(m).guided]:
        yield f"Not like for like, as they ask a network trained before: {_listed(helped)}."
    for setting, method in product(table.settings, table.methods):
        if (why := unfit(setting, method)) and not _has_numbers(sheet, setting, method):
            yield f"Not applicable to `{setting}`: `{method}`, {why}."
    yield from _told(records, table.seeds)
    if heads := [": ".join(sheet.head(column)) for column in _undefined(sheet)]:
        yield f"Undefined for what was looked at: {', '.join(heads)}."


def _has_numbers(sheet: Sheet, setting: str, method: str) -> bool:
    pairs = zip(sheet.columns, sheet.entries[method], strict=True)
    return any(entry.n for column, entry in pairs if column.setting == setting)


def _listed(spellings: Iterable[str]) -> str:
    return ", ".join(f"`{each}`" for each in spellings)


def _told(records: Records, seeds: int) -> Iterator[str]:
    """A sentence for each task and reason, with all methods, and of how many seeds it is true."""
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for cell, record in records.items():
        if "inapplicable" in record:
            found[cell.task, _reason(record)][cell.run.method] += 1
    for (name, why), methods in found.items():
        listed = (
            f"`{m}`" + (f" ({n} of {seeds})" if n < seeds else "") for m, n in methods.items()
        )
        yield f"No `{name}` of {', '.join(listed)}: {why}."


def _undefined(sheet: Sheet) -> Iterator[Column]:
    """The columns in which a cell that is there has no number."""
    there = defaultdict(list)
    for cell, record in sheet.records.items():
        if "inapplicable" not in record:
            there[cell.run.setting, cell.task].append(record)
    for column in sheet.columns:
        if any(column.value(record) is None for record in there[column.setting, column.task]):
            yield column


def numbered(sheet: Sheet) -> bool:
    """Whether there is any number in it."""
    return any(entry.n for row in sheet.entries.values() for entry in row)
