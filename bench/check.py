"""Whether cells hold the numbers that are expected of sound runs."""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mixbench.bench.catalogue import inapplicable
from mixbench.bench.cells import Run, Store, warn
from mixbench.bench.expected import MISSED, Range, Ranges, numbers
from mixbench.bench.formats.markdown import grid
from mixbench.bench.merge import Merged, whole
from mixbench.bench.spec import BadInput, counted
from mixbench.bench.tables import Column, Records, Table

HEADS = ["column", "measured", "expected", "verdict"]
ADVICE = (
    "mixbench run quickstart baseline --only --seeds 1 --results fresh, then mixbench check "
    "quickstart --results fresh, tells whether the installation is sound"
)
AS_EXPECTED, OUTSIDE, UNKNOWN = "as expected", "outside", "nothing is expected of"


@dataclass(frozen=True)
class Checked:
    """A number, and where it should lie, if anything is expected of it."""

    run: Run
    column: Column
    value: float
    range: Range | None

    @property
    def off(self) -> float:
        return self.range.off(self.value) if self.range else 0

    @property
    def kind(self) -> str:
        if self.range is None:
            return UNKNOWN
        return OUTSIDE if self.off else AS_EXPECTED

    @property
    def name(self) -> str:
        return f"{self.column.task}:{self.column.metric}"

    def texts(self) -> list[str]:
        """Its row under ``HEADS``."""
        form = self.column.rule.form
        verdict = {AS_EXPECTED: AS_EXPECTED, OUTSIDE: self.distance(), UNKNOWN: "-"}[self.kind]
        where = self.range.text(form) if self.range else "-"
        return [self.name, f"{self.value:z{form}}", where, verdict]

    def distance(self) -> str:
        return f"{abs(self.off):.2g} {'above' if self.off > 0 else 'below'}"

    def miss(self) -> Iterator[str]:
        """A sentence, if it is outside."""
        if self.range and self.off:
            form = self.column.rule.form
            yield (
                f"{self.run}, {self.name}: {self.value:z{form}} is {self.distance()} "
                f"{self.range.text(form)}, by {self.range.origin}"
            )


def check(records: Records, ranges: Ranges) -> list[Checked]:
    """The numbers of cells, and where they should lie."""
    return [
        Checked(run, column, value, ranges.get((column, run.method)))
        for column, run, value in numbers(records)
    ]


def of_run(run: Run, store: Store) -> tuple[Records, int]:
    """A run's cells, and how many files can't be used. Raises BadInput if there is neither."""
    found = _read([run], store)
    if not any(found):
        if why := inapplicable(run.setting, run.method):
            raise BadInput(f"{run.method} is not applicable to {run.setting}: {why}")
        options = ["--only", "--setting", run.setting, "--seeds", f"{run.seed + 1}"]
        raise _none(f"{run}", store, ["quickstart", run.method, *options])
    return found


def of_table(table: Table, store: Store) -> tuple[Records, int]:
    """The same of all of a table's cells that are there, also of more seeds than it has."""
    first = [run for run in table.runs() if run.seed == 0]
    records, unusable = _read([run for one in first for run in _seeds(one, store)], store)
    asked = {cell: r for cell, r in records.items() if cell.task in table.tasks(cell.run.setting)}
    if not asked and not unusable:
        raise _none(table.name, store, [table.name])
    return asked, unusable


def _none(name: str, store: Store, arguments: Sequence[str]) -> BadInput:
    command = shlex.join(["mixbench", "run", *arguments, "--results", str(store.root)])
    return BadInput(f"there are no cells of {name} in {store.root}; to have some: {command}")


def _seeds(run: Run, store: Store) -> Iterator[Run]:
    """The same method in the same setting, with every seed that is there."""
    names = [path.name for path in store.folder(run).parent.glob("*") if path.name.isdecimal()]
    yield from (replace(run, seed=seed) for seed in sorted(map(int, names)))


def _read(runs: Iterable[Run], store: Store) -> tuple[Records, int]:
    """All cells of runs, and how many files are none of today's, which are warned of."""
    refused = Merged()
    paths = [path for run in runs for path in sorted(store.folder(run).glob("*.json"))]
    records = {found.cell: found.record for found in whole(store, paths, refused)}
    for path, why in refused.left_out.items():
        warn(path, why)
    return records, len(refused.left_out)


def report(found: Sequence[Checked], unusable: int, each: bool) -> str:
    """What was found, on a few lines. unusable: files that are no cells of today.

    each: with a grid of all numbers, which are of one run. Raises BadInput if nothing is expected of
    any of them.
    """
    counts = Counter(checked.kind for checked in found)
    if not counts[AS_EXPECTED] + counts[OUTSIDE] + unusable:
        raise BadInput(
            f"nothing is known of what to expect of these {counted(len(found), 'number')}; {ADVICE}"
        )
    table = [grid([HEADS, *(checked.texts() for checked in found)])] * each
    misses = [f"{line}\n" for checked in found for line in checked.miss()]
    last = _counted(counts) + f"{counted(unusable, 'file')} can't be used.\n" * bool(unusable)
    return "\n".join([*table, "".join([*misses, *_by_chance(found), last])])


def _by_chance(found: Sequence[Checked]) -> Iterator[str]:
    """How many sound numbers one would find outside."""
    if n := sum(checked.range is not None and checked.range.n is not None for checked in found):
        yield (
            f"Of {counted(n, 'number')} with a measured range, about {MISSED * n:.1g} of new seeds "
            "would lie outside by chance.\n"
        )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[kind]} {kind}" for kind in (AS_EXPECTED, OUTSIDE, UNKNOWN)) + ".\n"
