"""What numbers are expected of sound runs: results/expected/*.csv.

measured.csv is written from cells, published.csv by hand.
"""

import csv
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf, sqrt
from pathlib import Path
from statistics import fmean, variance
from typing import Literal

from pydantic import BaseModel, FiniteFloat, PositiveInt, ValidationError

from mixbench.bench import catalogue
from mixbench.bench.cells import Run, Store
from mixbench.bench.formats._csv import Value, lines
from mixbench.bench.settings import Setting
from mixbench.bench.spec import BadInput, counted
from mixbench.bench.tables import Column, Records, Table, asked

HEADS = ("setting", "method", "column", "low", "high", "n", "source")
"""Of a file: our spellings of a cell, its range, how many seeds were measured, if any were."""

MEASURED, PUBLISHED = "measured.csv", "published.csv"
OWN = "the cells of mixbench's repository"

TAIL = 0.0005
"""How often, on either side, a sound number would lie outside its measured range, were it normal."""
MISSED = 0.005
"""How often it does, or less: each seed of the committed cells against ranges of the others."""
WIDE = 30
"""Ranges of percentages that are wider, in points, say too little, and are left out."""

OF_THE_MACHINE = {"memory", "speed"}
NEVER_NEGATIVE = {"alignment", "brier", "deviation", "nll", "normalised", "total"}
"""Metrics, of those that are no percentages."""


@dataclass(frozen=True)
class Range:
    """Where a number should lie, in its metric's unit. n: the seeds of a measured one, else None."""

    low: float
    high: float
    source: str
    n: int | None = None

    def off(self, value: float) -> float:
        """By how much a value lies above (positive) or below (negative); 0 if it is inside."""
        return max(value - self.high, 0) or min(value - self.low, 0)

    def text(self, form: str) -> str:
        return f"{self.low:z{form}} to {self.high:z{form}}"

    @property
    def origin(self) -> str:
        return self.source if self.n is None else f"{counted(self.n, 'seed')} in {self.source}"


Ranges = dict[tuple[Column, str], Range]
"""By column and method."""


class _Row(BaseModel, extra="forbid"):
    setting: str
    method: str
    column: str
    low: FiniteFloat
    high: FiniteFloat
    n: PositiveInt | Literal[""]
    source: str


def expected(folder: Path | None = None) -> Ranges:
    """What is expected: measured, else published.

    folder: of the files; that of ``shipped`` if not given. Raises BadInput if one is damaged.
    """
    folder = folder or shipped()
    return _read(folder / PUBLISHED) | _read(folder / MEASURED)


def shipped() -> Path:
    """The folder results/expected as it is installed. Raises BadInput if it is not."""
    spec = find_spec("mixbench.expected")
    if not spec or not spec.submodule_search_locations:
        raise BadInput("what numbers are expected is not installed; install mixbench again")
    return Path(next(iter(spec.submodule_search_locations)))


def _read(path: Path) -> Ranges:
    with path.open(encoding="utf-8", newline="") as file:
        return dict(_rows(path, csv.DictReader(file, strict=True)))


def _rows(path: Path, reader: "csv.DictReader[str]") -> Iterator[tuple[tuple[Column, str], Range]]:
    """The ranges of a file. Raises BadInput that names the line."""
    try:
        for row in reader:
            yield _range(_Row.model_validate(row))
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{first['loc'][0]}: {first['msg']}"
        raise BadInput(f"{path}, line {reader.line_num}: {why}") from None
    except (ValueError, csv.Error) as error:
        raise BadInput(f"{path}, line {reader.line_num}: {error}") from None


def _range(row: _Row) -> tuple[tuple[Column, str], Range]:
    """Raises BadInput."""
    task, metrics = asked(row.column)
    if len(metrics) != 1:
        raise BadInput(f"{row.column} should name one metric: {', '.join(metrics)}")
    if row.low > row.high:
        raise BadInput(f"low, {row.low:g}, should not be above high, {row.high:g}")
    column = Column(str(Setting.parse(row.setting)), task, metrics[0])
    if whole := column.rule.complement:
        raise BadInput(f"{row.column} is in no cell; name {whole}, from which it is reckoned")
    method = catalogue.method(row.method).spelling
    return (column, method), Range(row.low, row.high, row.source, row.n or None)


def numbers(records: Records) -> Iterator[tuple[Column, Run, float]]:
    """The main metrics of cells."""
    for cell, record in records.items():
        for name, rule in catalogue.task(cell.task).metrics.items():
            value = record.get("metrics", {}).get(name)
            if rule.main and value is not None:
                yield Column(cell.run.setting, cell.task, name), cell.run, value


def measured(tables: Iterable[Table], store: Store) -> str:
    """The CSV of where the numbers of one new run should lie, by the cells of the tables.

    Prediction intervals of Student's t, around the mean of a method's seeds. Three seeds say little
    of their spread, so all methods of a column share theirs. Left out are columns in which no two
    seeds differ, what depends on the machine, and what is too wide. Raises BadInput if there are no
    cells.
    """
    records = {c: record for table in tables for c, record in table.records(store).items()}
    if not records:
        raise BadInput(f"there are no cells in {store.root}; name a folder of results")
    values: dict[Column, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for column, run, value in numbers(records):
        if column.metric not in OF_THE_MACHINE:
            values[column][run.method].append(value)
    return lines([HEADS, *sorted(row for found in values.items() for row in _predicted(*found))])


def _predicted(column: Column, values: Mapping[str, Sequence[float]]) -> Iterator[list[Value]]:
    """A column's rows."""
    std, freedom = pooled(values.values())
    if not std:
        return
    name = f"{column.task}:{column.metric}"
    for method, found in values.items():
        low, high = predicted(found, std, freedom)
        least, most = _possible(column)
        low, high = (_short(min(max(bound, least), most)) for bound in (low, high))
        if not (_is_percent(column) and high - low > WIDE):
            yield [column.setting, method, name, low, high, len(found), OWN]


def pooled(samples: Collection[Sequence[float]]) -> tuple[float, int]:
    """The standard deviation that samples share, and its degrees of freedom; 0 of 0."""
    freedom = sum(len(sample) - 1 for sample in samples)
    squares = sum(variance(s) * (len(s) - 1) for s in samples if len(s) > 1)
    return (sqrt(squares / freedom) if freedom else 0.0), freedom


def predicted(sample: Sequence[float], std: float, freedom: int) -> tuple[float, float]:
    """Where one more of a sample lies, but for ``TAIL`` on either side."""
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, 1 - TAIL)) * std * sqrt(1 + 1 / len(sample))
    return fmean(sample) - half, fmean(sample) + half


def _possible(column: Column) -> tuple[float, float]:
    """The least and the most that a metric can be, where that is known."""
    if _is_percent(column):
        return 0, 100
    return (0 if column.metric in NEVER_NEGATIVE else -inf), inf


def _is_percent(column: Column) -> bool:
    return "%" in column.rule.title


def _short(value: float) -> float:
    """The same on all machines, whatever the last digits are."""
    return float(f"{value:.6g}")
