"""Two methods, side by side, in all columns of a table."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import fmean
from textwrap import fill
from typing import Any

from mixbench.bench.cells import Store
from mixbench.bench.formats.markdown import grid
from mixbench.bench.sheets import Entry, Sheet, sheet
from mixbench.bench.spec import BadInput, counted
from mixbench.bench.statistics import LEVEL, Paired, holm, paired, seeds_needed
from mixbench.bench.tables import Column, Records, Table

WIDTH = 100
"""Letters of a line."""

HEADS = ["A", "B", "A - B [95 %]", "Holm p", "seeds", "better"]


@dataclass(frozen=True)
class Row:
    """A column of the table, of which p is corrected; None if nothing was tested."""

    column: Column
    a: Entry
    b: Entry
    pairs: Paired
    p: float | None

    def verdict(self) -> str:
        if not (self.a.n and self.b.n):
            return "no numbers"
        if self.column.rule.better == "neither":
            return "-"
        if self.p is None or self.pairs.difference is None:
            return "few seeds"
        if self.p < LEVEL:
            lower = self.pairs.difference < 0
            return "A" if lower == (self.column.rule.better == "lower") else "B"
        return "can't tell" if self.pairs.interval or not self.pairs.difference else "few seeds"

    def texts(self) -> list[str]:
        """The row, but for its heading."""
        means = [self._mean(entry) for entry in (self.a, self.b)]
        return [*means, self._difference(), _p(self.p), str(self.pairs.n), self.verdict()]

    def _mean(self, entry: Entry) -> str:
        """Over the seeds that both have."""
        values = [entry.values[seed] for seed in self.pairs.seeds]
        return f"{fmean(values):{self.column.rule.form}}" if values else "-"

    def _difference(self) -> str:
        if self.pairs.difference is None:
            return "-"
        form = self.column.rule.form
        text = f"{self.pairs.difference:+z{form}}"
        if self.pairs.interval is None:
            return text
        low, high = self.pairs.interval
        return f"{text} [{low:z{form}}, {high:z{form}}]"


def _p(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def compare(a: str, b: str, table: Table, store: Store) -> str:
    """How two methods differ in each column of a table, over equal seeds, on one screen.

    Raises BadInput if they are the same, or one can't be applied or has no numbers.
    """
    pair = replace(table, methods=()).add(a, b)
    if len(pair.methods) < 2:
        raise BadInput(f"{a} and {b} are the same method; name two")
    filled = sheet(pair, store)
    _check(filled)
    rows = _rows(filled)
    return "\n".join([_title(filled), *_grids(filled, rows), *_told(filled, rows)])


def _check(filled: Sheet) -> None:
    for method, entries in filled.entries.items():
        if any(entry.n for entry in entries):
            continue
        if why := filled.table.refusal(method):
            raise BadInput(f"{method}: {why}")
        table = filled.table
        command = shlex.join(["mixbench", "run", table.name, *table.methods, "--only"])
        raise BadInput(
            f"no numbers of {method} in {table.name}; to have them: {command}, with the same options"
        )


def _title(filled: Sheet) -> str:
    a, b = filled.table.methods
    settings = ", ".join(f"`{setting}`" for setting in filled.table.settings)
    return _paragraph(
        [f"A is `{a}`, B is `{b}`. Table: `{filled.table.name}`. Setting: {settings}."]
    )


def _rows(filled: Sheet) -> list[Row]:
    entries = [*zip(filled.columns, *filled.entries.values(), strict=True)]
    pairs = [paired(a.values, b.values) for _, a, b in entries]
    asked = [column.rule.better != "neither" for column in filled.columns]
    ps = holm([pair.p if ask else None for pair, ask in zip(pairs, asked, strict=True)])
    return [Row(*each, *found) for each, *found in zip(entries, pairs, ps, strict=True)]


def _grids(filled: Sheet, rows: Sequence[Row]) -> Iterator[str]:
    """One for each outer heading of the table, which stands above it."""
    for outer in dict.fromkeys(filled.head(row.column)[:-1] for row in rows):
        here = [row for row in rows if filled.head(row.column)[:-1] == outer]
        body = [HEADS, *(row.texts() for row in here)]
        room = WIDTH - len(grid(body).splitlines()[0]) - len(" | ")
        heads = _cut([filled.head(row.column)[-1] for row in here], room)
        lines = [[head, *texts] for head, texts in zip(["", *heads], body, strict=True)]
        yield "".join(f"{head}\n\n" for head in outer) + grid(lines)


def _cut(heads: list[str], room: int) -> list[str]:
    """Headings of so many letters at most, if they still differ."""
    short = [head if len(head) <= room else f"{head[: room - 1]}…" for head in heads]
    return short if len({*short}) == len({*heads}) else heads


def _told(filled: Sheet, rows: Sequence[Row]) -> Iterator[str]:
    """What the grids come to, what it costs, and how to read them."""
    yield _paragraph([_score(filled, rows), *_costs(filled)])
    yield _paragraph([*_reading(rows), *_needed(filled, rows)])


def _paragraph(sentences: Sequence[str]) -> str:
    return fill(" ".join(sentences), WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def _score(filled: Sheet, rows: Sequence[Row]) -> str:
    verdicts = [row.verdict() for row in rows]
    asked = counted(sum(row.column.rule.better != "neither" for row in rows), "column")
    a, b = filled.table.methods
    return f"`{a}` is better in {verdicts.count('A')} of {asked}, `{b}` in {verdicts.count('B')}."


def _reading(rows: Sequence[Row]) -> Iterator[str]:
    tested = [row for row in rows if row.p is not None]
    if not tested:
        yield "Nothing can be tested: in no column do both have numbers of the same two seeds."
        return
    seeds = sorted({seed for row in rows for seed in row.pairs.seeds})
    yield (
        f"Means and differences are over the seeds that both have ({', '.join(map(str, seeds))}), "
        "intervals of each column alone; p is that of the paired t test, corrected for "
        f"{counted(len(tested), 'column')} (Holm), and below {LEVEL} one is better."
    )
    if any(row.pairs.interval is None for row in tested):
        yield "Differences that are the same for all seeds have no interval, and p of a sign test."


def _needed(filled: Sheet, rows: Sequence[Row]) -> Iterator[str]:
    """What would tell the methods apart in the first column where they can't be."""
    tested = sum(row.p is not None for row in rows)
    for row in rows:
        if row.verdict() == "can't tell" and (n := seeds_needed(row.pairs, LEVEL / tested)):
            where = ": ".join(filled.head(row.column))
            yield f"A difference as large as that of {where} would be seen with about {n} seeds."
            return


def _costs(filled: Sheet) -> Iterator[str]:
    """What A costs, relative to B on the same devices, in each setting."""
    a, settings = filled.table.methods[0], filled.table.settings
    for setting in settings:
        here = {c: record for c, record in filled.records.items() if c.run.setting == setting}
        where = f"In `{setting}`, " if len(settings) > 1 else ""
        if said := _step(a, here) or _training(a, here):
            yield f"{where}A takes {said}."


def _step(a: str, records: Records) -> str:
    """By the cells of the task cost."""
    cost = {c: record for c, record in records.items() if c.task.partition(",")[0] == "cost"}
    speed = _ratio(a, cost, ("metrics", "speed"), "task")
    memory = _ratio(a, cost, ("metrics", "memory"), "task")
    if not (speed and memory):
        return ""
    return f"{1 / speed:.2f} times as long as B for a training step, and {memory:.2f} of its memory"


def _training(a: str, records: Records) -> str:
    """By how long the runs took."""
    seconds = _ratio(a, records, ("made", "training", "seconds"), "training")
    return f"{seconds:.2f} times as long to train as B" if seconds else ""


def _ratio(a: str, records: Records, path: Sequence[str], stage: str) -> float | None:
    """What a has on a path over what B has, where task, seed, device and processes are the same."""
    of_a: dict[tuple[str, int, str], float] = {}
    of_b = dict(of_a)
    for cell, record in records.items():
        value = _within(record, path)
        where = [_within(record, ("made", stage, name)) for name in ("device", "processes")]
        if isinstance(value, int | float) and 0 < value < inf:
            found = of_a if cell.run.method == a else of_b
            found[cell.task, cell.run.seed, repr(where)] = value
    both = sorted(of_a.keys() & of_b.keys())
    return fmean(of_a[k] for k in both) / fmean(of_b[k] for k in both) if both else None


def _within(record: Any, path: Sequence[str]) -> Any:
    """What lies deep in a record; None if there is no such thing."""
    for key in path:
        record = record.get(key) if isinstance(record, dict) else None
    return record
