"""A table is a set of cells: rows are methods, columns are metrics of tasks in settings."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby, product

import pandas as pd

from mixbench.bench import cells
from mixbench.bench.cells import Cell, Record, Run, Store, task
from mixbench.bench.runs import inapplicable
from mixbench.bench.spec import BadInput, canonical, choose
from mixbench.methods import Guided, Method
from mixbench.tasks import Metric, Task

EPOCH_RULE = (
    "Networks are those of the last epoch; the best epoch and the median of the last ten "
    "are in the cells of `classification`."
)
WIDEST = 9
"""How many columns of numbers are printed side by side."""

Records = Mapping[Cell, Record]
Reasons = Mapping[Cell, str]
"""Why a task makes no sense for what a run trained."""

BEFORE_PATH = re.compile("[=+](folder|folder-crop|voc|coco)$")
"""What the colon of a path follows."""


@dataclass(frozen=True)
class Column:
    setting: str
    task: str
    metric: str

    @property
    def rule(self) -> Metric:
        return task(self.task).metrics[self.metric]


Blanks = set[tuple[Column, str]]
"""Where there is no number to be had: columns and methods."""


def asked(column: str) -> tuple[str, list[str]]:
    """The task that a column spells, in its canonical spelling, and the metrics.

    "robustness" and "robustness,steps=7" stand for the main metrics, "robustness:pgd" for one. A
    colon may also be one of folder:PATH or voc:PATH. Raises BadInput.
    """
    for i in [i for i, letter in enumerate(column) if letter == ":"]:
        with suppress(BadInput):
            spelled = canonical(column[:i], "mixbench.tasks", Task)
            if column[i + 1 :] in task(spelled).metrics:
                return spelled, [column[i + 1 :]]
    name, colon, metric = column.rpartition(":")
    if colon and "/" not in metric and not BEFORE_PATH.search(name):
        spelled = canonical(name, "mixbench.tasks", Task)
        choose(metric, task(spelled).metrics, f"metric of {spelled}")
    spelled = canonical(column, "mixbench.tasks", Task)
    metrics = task(spelled).metrics
    return spelled, [each for each in metrics if metrics[each].main]


@dataclass(frozen=True)
class Table:
    """What is printed, and therefore what is run.

    columns: spellings of tasks, for their main metrics, or ``task:metric`` for one of them.
    """

    name: str
    caption: str
    settings: tuple[str, ...]
    methods: tuple[str, ...]
    columns: tuple[str, ...]
    seeds: int = 3

    def add(self, *methods: str) -> "Table":
        """The same table with more rows."""
        rows = [canonical(text, "mixbench.methods", Method) for text in methods]
        return replace(self, methods=tuple(dict.fromkeys((*self.methods, *rows))))

    def refusal(self, method: str) -> str:
        """Why a method can be applied in none of the settings; '' if it can in one."""
        reasons = [inapplicable(setting, method) for setting in self.settings]
        return reasons[0] if all(reasons) else ""

    def tasks(self) -> list[str]:
        return list(dict.fromkeys(asked(column)[0] for column in self.columns))

    def runs(self) -> Iterator[Run]:
        """Seed by seed, so that a table cut short compares all methods on fewer seeds."""
        for seed, setting, method in product(range(self.seeds), self.settings, self.methods):
            yield Run(setting, method, seed)

    def inapplicable(self) -> Iterator[tuple[str, str, str]]:
        """The settings and methods that don't go together, and why."""
        for setting, method in product(self.settings, self.methods):
            if why := inapplicable(setting, method):
                yield setting, method, why

    def todo(self, store: Store) -> Iterator[tuple[Run, list[str]]]:
        """The runs that lack a cell, each with the tasks that it lacks."""
        tasks = self.tasks()
        for run in self.runs():
            if inapplicable(run.setting, run.method):
                continue
            if missing := store.missing(run, tasks):
                yield run, missing

    def each_column(self) -> Iterator[Column]:
        for setting, column in product(self.settings, self.columns):
            name, metrics = asked(column)
            yield from (Column(setting, name, metric) for metric in metrics)

    def records(self, store: Store) -> Records:
        """Every cell that there is."""
        wanted = [Cell(run, name) for run, name in product(self.runs(), self.tasks())]
        read = ((cell, store.read(cell)) for cell in wanted)
        return {cell: record for cell, record in read if record}

    def scores(self, store: Store) -> pd.DataFrame:
        """Every number there is, one a row: table, setting, method, task, metric, seed, value."""
        return self._scores(self.records(store))

    def _scores(self, records: Records) -> pd.DataFrame:
        rows = [
            (self.name, cell.run.setting, cell.run.method, cell.task, metric, cell.run.seed, value)
            for cell, record in records.items()
            for metric, value in record.get("metrics", {}).items()
            if value is not None
        ]
        names = ["table", "setting", "method", "task", "metric", "seed", "value"]
        return pd.DataFrame(rows, columns=names)

    def csv(self, store: Store) -> str:
        text: str = self.scores(store).to_csv(index=False, lineterminator="\n")
        return text

    def markdown(self, store: Store) -> str:
        """Grids of at most ``WIDEST`` columns, a task in one piece if it can be, and a legend."""
        records = self.records(store)
        scores, blanks = self._scores(records), set(_blanks(records))
        grids = [self._grid(columns, scores, blanks) for columns in _side_by_side(self)]
        return "\n".join([*grids, f"{self._legend(records)}\n"])

    def _grid(self, columns: list[Column], scores: pd.DataFrame, blanks: Blanks) -> str:
        body = [_column(scores, column, self.methods, self.seeds, blanks) for column in columns]
        rows = [list(row) for row in zip(self.methods, *body, strict=True)]
        return grid([["method", *map(self._head, columns)], *rows])

    def _head(self, column: Column) -> str:
        title = self._title(column)
        return f"{column.setting}: {title}" if len(self.settings) > 1 else title

    def _title(self, column: Column) -> str:
        """That of the metric, and the task's spelling if the metric of another has the same."""
        same = {c.task for c in self.each_column() if c.rule.title == column.rule.title}
        return f"{column.rule.title} ({column.task})" if len(same) > 1 else column.rule.title

    def _legend(self, records: Records) -> str:
        reasons = {c: r["inapplicable"] for c, r in records.items() if "inapplicable" in r}
        numbers = {cell: record for cell, record in records.items() if cell not in reasons}
        undefined = {column for column, _ in _blanks(numbers)}
        heads = ", ".join(self._head(c) for c in self.each_column() if c in undefined)
        where = ", ".join(f"`{setting}`" for setting in self.settings)
        apart = [f"to `{s}`: `{m}`, {why}." for s, m, why in self.inapplicable()]
        helped = ", ".join(f"`{m}`" for m in self.methods if isinstance(cells.method(m), Guided))
        return (
            f"{self.caption} Setting: {where}. Mean ± standard deviation over n = {self.seeds} "
            "seeds (n of a cell that has fewer in brackets), best in bold, second best in italics, "
            f"missing as -. {EPOCH_RULE}"
            + (
                f" Not like for like, as they ask a network trained before: {helped}."
                if helped
                else ""
            )
            + "".join(f" Not applicable {each}" for each in apart)
            + "".join(f" {each}" for each in _told(reasons, self.seeds))
            + (f" Undefined for what was looked at: {heads}." if heads else "")
        )


def _blanks(records: Records) -> Iterator[tuple[Column, str]]:
    """Of cells that are there: what does not apply, and what is undefined."""
    for cell, record in records.items():
        metrics = record.get("metrics", {})
        for name in task(cell.task).metrics:
            if metrics.get(name) is None:
                yield Column(cell.run.setting, cell.task, name), cell.run.method


def _told(reasons: Reasons, seeds: int) -> Iterator[str]:
    """A sentence for each task and reason, with all methods, and of how many seeds it is true."""
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for cell, why in reasons.items():
        found[cell.task, why][cell.run.method] += 1
    for (name, why), methods in found.items():
        listed = (
            f"`{m}`" + (f" ({n} of {seeds})" if n < seeds else "") for m, n in methods.items()
        )
        yield f"No `{name}` of {', '.join(listed)}: {why}."


def _side_by_side(table: Table) -> Iterator[list[Column]]:
    """The columns in grids: what belongs to one task stays together where it fits."""
    here: list[Column] = []
    for _, some in groupby(table.each_column(), lambda column: (column.setting, column.task)):
        block = list(some)
        if here and len(here) + len(block) > WIDEST:
            yield here
            here = []
        here += block
    yield here


def _column(
    scores: pd.DataFrame, column: Column, methods: tuple[str, ...], n: int, blanks: Blanks
) -> list[str]:
    """The text of a column, a row for each method."""
    here = scores[
        (scores.setting == column.setting)
        & (scores.task == column.task)
        & (scores.metric == column.metric)
    ]
    groups = here.groupby("method").value
    means, stds, counts = groups.mean(), groups.std(), groups.count()
    form, marks = column.rule.form, _marks(means, column.rule)
    texts = []
    for method in methods:
        if method not in means:
            never = inapplicable(column.setting, method)
            texts.append("n/a" if never or (column, method) in blanks else "-")
            continue
        text = f"{means[method]:{form}}"
        text += f" ± {stds[method]:{form}}" if counts[method] > 1 else ""
        text += f" ({counts[method]})" if counts[method] < n else ""
        mark = marks.get(method, "")
        texts.append(mark + text + mark)
    return texts


def _marks(means: pd.Series, rule: Metric) -> dict[str, str]:
    """The Markdown around the best and the second best; equal in print is equal."""
    if rule.better == "neither":
        return {}
    printed = {method: float(f"{mean:{rule.form}}") for method, mean in means.items()}
    ranked = sorted(set(printed.values()), reverse=rule.better == "higher")
    marks = dict(zip(ranked, ["**", "*"], strict=False))
    return {method: marks[value] for method, value in printed.items() if value in marks}


def grid(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned for those who read it as text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    head, *body = rows
    return "".join(_row(cells, widths) for cells in (head, rule, *body))


def _row(cells: Sequence[str], widths: list[int]) -> str:
    first, *rest = cells
    padded = [first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]
    return f"| {' | '.join(padded)} |\n"
