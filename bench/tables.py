"""A table is a set of cells: rows are methods, columns are metrics of tasks in settings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import pandas as pd

from mixbench.bench import cells
from mixbench.bench.cells import Cell, Run, Store, task
from mixbench.bench.runs import inapplicable
from mixbench.bench.spec import canonical
from mixbench.methods import Guided, Method
from mixbench.tasks import Metric

EPOCH_RULE = (
    "Networks are those of the last epoch; the best epoch and the median of the last ten "
    "are in the cells of `classification`."
)


@dataclass(frozen=True)
class Column:
    setting: str
    task: str
    metric: str

    @property
    def rule(self) -> Metric:
        return task(self.task).metrics[self.metric]


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
        return list(dict.fromkeys(ask.partition(":")[0] for ask in self.columns))

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
        for run in self.runs():
            if inapplicable(run.setting, run.method):
                continue
            if missing := store.missing(run, self.tasks()):
                yield run, missing

    def each_column(self) -> Iterator[Column]:
        for setting, ask in product(self.settings, self.columns):
            name, _, metric = ask.partition(":")
            metrics = task(name).metrics
            for each in [metric] if metric else [m for m in metrics if metrics[m].main]:
                yield Column(setting, name, each)

    def scores(self, store: Store) -> pd.DataFrame:
        """Every number there is, one a row: table, setting, method, task, metric, seed, value."""
        rows = [
            (self.name, run.setting, run.method, name, metric, run.seed, value)
            for run in self.runs()
            for name in self.tasks()
            if (record := store.read(Cell(run, name)))
            for metric, value in record["metrics"].items()
        ]
        names = ["table", "setting", "method", "task", "metric", "seed", "value"]
        return pd.DataFrame(rows, columns=names)

    def csv(self, store: Store) -> str:
        text: str = self.scores(store).to_csv(index=False, lineterminator="\n")
        return text

    def markdown(self, store: Store) -> str:
        scores = self.scores(store)
        columns = list(self.each_column())
        body = [_column(scores, column, self.methods, self.seeds) for column in columns]
        rows = [list(row) for row in zip(self.methods, *body, strict=True)]
        return f"{grid([self._heads(columns), *rows])}\n{self._legend()}\n"

    def _heads(self, columns: list[Column]) -> list[str]:
        several = len(self.settings) > 1
        titles = (f"{c.setting}: {c.rule.title}" if several else c.rule.title for c in columns)
        return ["method", *titles]

    def _legend(self) -> str:
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
        )


def _column(scores: pd.DataFrame, column: Column, methods: tuple[str, ...], n: int) -> list[str]:
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
            texts.append("n/a" if inapplicable(column.setting, method) else "-")
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
