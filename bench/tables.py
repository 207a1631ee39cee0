"""A table is a set of cells: rows are methods, columns are metrics of tasks in settings."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Literal

from mixbench.bench import catalogue
from mixbench.bench.catalogue import Rule, inapplicable
from mixbench.bench.cells import Cell, Record, Run, Store
from mixbench.bench.spec import BadInput, choose

if TYPE_CHECKING:
    import pandas as pd

Records = Mapping[Cell, Record]

HEADS = ("table", "setting", "method", "task", "metric", "seed", "value")
"""Of the numbers of a table, one a row."""

BEFORE_PATH = re.compile("[=+](folder|folder-crop|voc|coco)$")
"""What the colon of a path follows."""


@dataclass(frozen=True)
class Column:
    setting: str
    task: str
    metric: str

    @property
    def rule(self) -> Rule:
        return catalogue.task(self.task).metrics[self.metric]

    def value(self, record: Record) -> float | None:
        """The record's number, or that which the metric is the complement of, from 100."""
        numbers = record.get("metrics", {})
        if whole := self.rule.complement:
            part: float | None = numbers.get(whole)
            return None if part is None else 100 - part
        found: float | None = numbers.get(self.metric)
        return found


def asked(column: str) -> tuple[str, list[str]]:
    """The task that a column spells, in its canonical spelling, and the metrics.

    "robustness" and "robustness,steps=7" stand for the main metrics, "robustness:pgd" for one. A
    colon may also be one of folder:PATH or voc:PATH. Raises BadInput.
    """
    for i in [i for i, letter in enumerate(column) if letter == ":"]:
        with suppress(BadInput):
            task = catalogue.task(column[:i])
            if column[i + 1 :] in task.metrics:
                return task.spelling, [column[i + 1 :]]
    name, colon, metric = column.rpartition(":")
    if colon and "/" not in metric and not BEFORE_PATH.search(name):
        task = catalogue.task(name)
        choose(metric, task.metrics, f"metric of {task.spelling}")
    task = catalogue.task(column)
    return task.spelling, [name for name, rule in task.metrics.items() if rule.main]


@dataclass(frozen=True)
class Table:
    """What is printed, and therefore what is run.

    columns: spellings of tasks, for their main metrics, or ``task:metric`` for one of them.
    ours: the methods that the table's paper proposes; all others are its baselines.
    without: settings and columns that don't stand together. order: the outer one of the two.
    """

    name: str
    caption: str
    settings: tuple[str, ...]
    methods: tuple[str, ...]
    columns: tuple[str, ...]
    seeds: int = 3
    ours: tuple[str, ...] = ()
    without: tuple[tuple[str, str], ...] = ()
    order: Literal["setting", "column"] = "setting"

    def add(self, *methods: str) -> "Table":
        """The same table with more rows."""
        rows = [catalogue.method(text).spelling for text in methods]
        return replace(self, methods=tuple(dict.fromkeys((*self.methods, *rows))))

    def refusal(self, method: str) -> str:
        """Why a method can be applied in none of the settings; '' if it can in one."""
        reasons = [inapplicable(setting, method) for setting in self.settings]
        return reasons[0] if all(reasons) else ""

    def tasks(self, setting: str | None = None) -> list[str]:
        """The tasks of its columns, or of those in one setting."""
        return list(
            dict.fromkeys(c.task for c in self.each_column() if setting in (None, c.setting))
        )

    def runs(self) -> Iterator[Run]:
        """Seed by seed, so that a table cut short compares all methods on fewer seeds."""
        for seed, setting, method in product(range(self.seeds), self.settings, self.methods):
            yield Run(setting, method, seed)

    def todo(self, store: Store) -> Iterator[tuple[Run, list[str]]]:
        """The runs that lack a cell, each with the tasks that it lacks."""
        tasks = {setting: self.tasks(setting) for setting in self.settings}
        for run in self.runs():
            if inapplicable(run.setting, run.method):
                continue
            if missing := store.missing(run, tasks[run.setting]):
                yield run, missing

    def each_column(self) -> Iterator[Column]:
        """In the order of the table, the metrics of a column side by side."""
        pairs = [*product(self.settings, self.columns)]
        if self.order == "column":
            pairs = [(setting, column) for column, setting in product(self.columns, self.settings)]
        for setting, column in pairs:
            if (setting, column) not in self.without:
                name, metrics = asked(column)
                yield from (Column(setting, name, metric) for metric in metrics)

    def records(self, store: Store) -> Records:
        """Every cell that there is."""
        tasks = {setting: self.tasks(setting) for setting in self.settings}
        wanted = [Cell(run, name) for run in self.runs() for name in tasks[run.setting]]
        read = ((cell, store.read(cell)) for cell in wanted)
        return {cell: record for cell, record in read if record}

    def scores(self, store: Store) -> "pd.DataFrame":
        """Every number there is, one a row, as ``HEADS`` says."""
        import pandas as pd

        return pd.DataFrame(self.numbers(self.records(store)), columns=[*HEADS])

    def numbers(self, records: Records) -> Iterator[tuple[str, str, str, str, str, int, float]]:
        """The rows of ``scores``: the metrics of records, and complements that have a column."""
        complements = self._complements()
        for cell, record in records.items():
            run, metrics = cell.run, dict(record.get("metrics", {}))
            for column in complements[run.setting, cell.task]:
                metrics[column.metric] = column.value(record)
            for metric, value in metrics.items():
                if value is not None:
                    yield (
                        self.name,
                        run.setting,
                        run.method,
                        cell.task,
                        metric,
                        run.seed,
                        float(value),
                    )

    def _complements(self) -> dict[tuple[str, str], list[Column]]:
        """The columns, by setting and task, whose numbers no record holds."""
        found: dict[tuple[str, str], list[Column]] = defaultdict(list)
        for column in self.each_column():
            if column.rule.complement:
                found[column.setting, column.task].append(column)
        return found
