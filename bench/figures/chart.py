"""What a figure is asked, what it answers, and what it takes of cells."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mixbench.bench.catalogue import inapplicable
from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.figures.style import Array, shortened
from mixbench.bench.sheets import Sheet
from mixbench.bench.spec import BadInput, counted
from mixbench.bench.tables import Column, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = Mapping[str, Array]
"""What a figure shows of one method, by name."""


@dataclass(frozen=True)
class Asked:
    """A table's cells; ``seed`` is that of figures which show one network of each method."""

    table: Table
    store: Store
    seed: int


@dataclass(frozen=True)
class Drawn:
    """What stands above a figure, what it shows, and the methods that it is without, and why."""

    title: str
    numbers: pd.DataFrame
    without: Mapping[str, str]


@dataclass(frozen=True)
class Chart:
    """How a figure is drawn. Raises BadInput if there is nothing to draw.

    photographs: what it shows as pixels are such, which need not be exact.
    """

    plot: Callable[["Figure", Asked], Drawn]
    photographs: bool = False


@dataclass(frozen=True)
class OfOneSeed:
    """Draws what one task says of the networks with one seed, to a title and numbers.

    takes: the metrics, curves and arrays that it needs.
    """

    task: str
    takes: tuple[str, ...]
    plot: Callable[["Figure", Mapping[str, Values]], tuple[str, pd.DataFrame]]

    def __call__(self, figure: "Figure", asked: Asked) -> Drawn:
        setting, tasks = one_setting(asked.table), spelled(self.task, asked.table)
        found = {
            method: values(
                Cell(Run(setting, method, asked.seed), tasks[0]), self.takes, asked.store
            )
            for method in asked.table.methods
        }
        shown = {method: each for method, each in found.items() if not isinstance(each, str)}
        without = {method: each for method, each in found.items() if isinstance(each, str)}
        if not shown:
            raise nothing(asked, without, asked.seed + 1)
        which = f", {shortened(tasks[0])}" if len(tasks) > 1 else ""
        title, numbers = self.plot(figure, shown)
        return Drawn(f"{title}\n{shortened(setting)}, seed {asked.seed}{which}", numbers, without)


def nothing(asked: Asked, without: Mapping[str, str], seeds: int = 1) -> BadInput:
    """That no cell can be drawn, the first reason, and what makes cells of that many seeds."""
    more = f" and --seeds {seeds}" if seeds > asked.table.seeds else ""
    makes = f"`mixbench run {asked.table.name}` makes cells, with the same METHODs and options"
    return BadInput(f"nothing to draw: {next(iter(without.values()))}; {makes}{more}")


def one_setting(table: Table) -> str:
    if len(table.settings) > 1:
        listed = ", ".join(table.settings)
        raise BadInput(f"a figure shows one setting: choose one with --setting, of {listed}")
    return table.settings[0]


def over_seeds(asked: Asked) -> str:
    """What is said of numbers below a title."""
    return f"mean ± standard deviation over {counted(asked.table.seeds, 'seed')}"


def without_numbers(page: Sheet, columns: Iterable[Column]) -> dict[str, str]:
    """The methods that have no number in any of the columns, and why."""
    places = [page.columns.index(column) for column in columns]
    rows = {method: [row[i] for i in places] for method, row in page.entries.items()}
    empty = {method: row for method, row in rows.items() if not any(e.values for e in row)}
    why = {method: next((e.why for e in row if e.why), "") for method, row in empty.items()}
    return {m: f"not applicable, {each}" if each else "it has no cells" for m, each in why.items()}


def spelled(task: str, table: Table) -> list[str]:
    """A task in each spelling that the table has; the first is drawn."""
    spelled = [each for each in table.tasks() if each.partition(",")[0] == task]
    if not spelled:
        raise BadInput(f"{table.name} has no column of {task}: add --task {task}")
    return spelled


def values(cell: Cell, takes: Sequence[str], store: Store) -> Values | str:
    """What a cell has for a figure; or why it has nothing."""
    record = store.read(cell)
    if record is None:
        why = inapplicable(cell.run.setting, cell.run.method)
        return f"not applicable, {why}" if why else f"no {cell.task} of seed {cell.run.seed}"
    if "inapplicable" in record:
        return f"not applicable, {record['inapplicable']}"
    there = {**record["metrics"], **record.get("curves", {}), **store.arrays(cell)}
    if missing := [name for name in takes if name not in there]:
        came = f"{store.path(cell)} came without {', '.join(missing)}"
        return f"{came}: delete it to have it made again"
    return {name: np.asarray(there[name]) for name in takes}


def listed(shown: Mapping[str, Mapping[str, Array]]) -> pd.DataFrame:
    """A row for each point shown, after the name of its method; single numbers are repeated."""
    return pd.concat([pd.DataFrame({"method": m, **each}) for m, each in shown.items()])
