"""What papers reported, from results/reported/*.csv. It is shown, and enters no mean and no rank."""

import csv
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

from mixbench.bench import catalogue
from mixbench.bench.cells import BadFile, warn
from mixbench.bench.settings import Setting
from mixbench.bench.spec import BadInput
from mixbench.bench.tables import Column, Table, asked

PUBLISHED = ("table", "dataset", "network", "name", "metric", "value", "std", "source")
OURS = ("setting", "method", "column")
COLUMNS = (*PUBLISHED, *OURS, "doubt")
"""Of a file: a figure as published, but for our name of the table; our spellings of its cell,
empty if nothing like it is measured; and why it may be wrong, KIND: REASON, several between bars."""

UNITS = {"train_speed_kimg_per_s": 1000.0}
"""How much of our unit the published one is, where the two differ."""

GAIN = "gain"
"""Stands for a method in rows that tell by how much the paper's methods are better than others."""

Row = Mapping[str | None, str | None]


@dataclass(frozen=True)
class Reported:
    """A published figure, in the unit of our metric. doubts: why it may be wrong."""

    value: float
    std: float | None
    source: str
    doubts: tuple[str, ...] = ()

    def text(self, form: str) -> str:
        """The figure, and its standard deviation if one is published."""
        return f"{self.value:{form}}" + ("" if self.std is None else f" ± {self.std:{form}}")


def reported(table: Table, folder: Path | None = None) -> dict[tuple[Column, str], Reported]:
    """What was published as that table, by column and method; nothing if there is no such folder.

    folder: of the files; that of ``shipped`` if not given. A file or a row that is damaged is warned
    of, and left out: all else can still be shown.
    """
    found: dict[tuple[Column, str], Reported] = {}
    for path in sorted((folder or shipped()).glob("*.csv")):
        for line, row in _rows(path):
            if row["table"] != table.name:
                continue
            try:
                _add(row, found)
            except BadInput as error:
                warnings.warn(f"{path}, line {line}, is left out: {error}", BadFile, stacklevel=2)
    return found


def shipped() -> Path:
    """The folder results/reported as it is installed. Raises BadInput if it is not."""
    spec = find_spec("mixbench.reported")
    if not spec or not spec.submodule_search_locations:
        raise BadInput("what papers reported is not installed; install mixbench again")
    return Path(next(iter(spec.submodule_search_locations)))


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a file, with the numbers of their last lines."""
    try:
        reader = csv.DictReader(StringIO(path.read_text("utf-8"), newline=""), strict=True)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            warn(path, f"it has no column {', '.join(missing)}")
            return
        for row in reader:
            yield reader.line_num, row
    except (OSError, ValueError, csv.Error) as error:
        warn(path, f"it can't be read ({error})")


def _add(row: Row, found: dict[tuple[Column, str], Reported]) -> None:
    """Add a row that has a cell of ours. Raises BadInput if it is damaged, or its cell is there."""
    whole = {key: value for key, value in row.items() if key is not None and value is not None}
    if len(whole) < len(row):
        raise BadInput("it should have as many values as the first line has names")
    if not any(whole[key] for key in OURS):
        return
    figure, column = _figure(whole), _column(whole["setting"], whole["column"])
    method = whole["method"]
    place = column, method if method == GAIN else catalogue.method(method).spelling
    if place in found:
        raise BadInput(f"{whole['column']} of {whole['method']} was given before")
    found[place] = figure


def _column(setting: str, spelled: str) -> Column:
    task, metrics = asked(spelled)
    if len(metrics) != 1:
        raise BadInput(f"{spelled} should name one metric: {', '.join(metrics)}")
    return Column(str(Setting.parse(setting)), task, metrics[0])


def _figure(row: Mapping[str, str]) -> Reported:
    unit = UNITS.get(row["metric"], 1.0)
    return Reported(
        value=unit * _number(row["value"]),
        std=unit * _number(row["std"]) if row["std"] else None,
        source=row["source"],
        doubts=tuple(filter(None, row["doubt"].split(" | "))),
    )


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"{text!r} should be a number")
    return number
