"""Where a task works on its cell."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mixbench.bench import stop
from mixbench.bench.cells import Cell, mismatch, warn, written_aside
from mixbench.bench.lab import Lab, Report, silent
from mixbench.bench.spec import one_line
from mixbench.tasks import Workplace


@dataclass(frozen=True)
class Desk(Workplace):
    """Where a task works on its cell; what it keeps lies beside it."""

    cell: Cell
    lab: Lab
    tell: Report = silent

    @property
    def workers(self) -> int:
        return self.lab.workers

    def report(self, doing: str, done: int, total: int) -> None:
        stop.end_if_wanted_back()
        self.tell(f"{self.cell.task}: {doing}", done, total)

    def keep(self, state: Mapping[str, Any]) -> None:
        """Keep numbers and tensors until the cell is there."""
        path = self.lab.store.kept(self.cell)
        with written_aside(path) as aside, aside.open("wb") as file:
            torch.save(self.cell.identity() | {"kept": dict(state)}, file)

    def kept(self) -> dict[str, Any] | None:
        """What was kept last, on the host; None if nothing was, or it is not of this cell."""
        path = self.lab.store.kept(self.cell)
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            problem = mismatch(state, self.cell)
        except Exception as error:  # a damaged file can raise anything
            problem = one_line(error)
        if problem:
            warn(path, problem)
            return None
        kept: dict[str, Any] = state["kept"]
        return kept
