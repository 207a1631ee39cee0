"""Showing how far the runs are: bars on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich import progress as bars
from rich.console import Console

QUIET_SECONDS = 30


class Progress:
    """Plain lines: when a run starts and ends, and twice a minute in between."""

    def __init__(self, total: int) -> None:
        self.total, self.ended = total, 0
        self._spoke: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def at(self, run: str, doing: str, done: int, total: int) -> None:
        """A run is at something, with so many of its epochs done."""
        now = time.monotonic()
        if now - self._spoke.get(run, -QUIET_SECONDS) >= QUIET_SECONDS:
            self._spoke[run] = now
            self.say(f"{run}: {doing}, {done} of {total} epochs done")

    def end(self, run: str, outcome: str) -> None:
        """A run needs no more work here."""
        self.ended += 1
        self.say(f"[{self.ended}/{self.total}] {run}: {outcome}")

    def say(self, line: str) -> None:
        print(line, flush=True)


class LiveProgress(Progress):
    """A bar for all runs, and one for each run that is being worked on."""

    def __init__(self, total: int, console: Console) -> None:
        super().__init__(total)
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._all = self._bars.add_task("runs", total=total)
        self._each: dict[str, bars.TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def at(self, run: str, doing: str, done: int, total: int) -> None:
        bar = self._each.setdefault(run, self._bars.add_task(run, total=total))
        self._bars.update(bar, completed=done, description=f"{run} [dim]{doing}[/]")

    def end(self, run: str, outcome: str) -> None:
        if run in self._each:
            self._bars.remove_task(self._each.pop(run))
        self._bars.advance(self._all)
        super().end(run, outcome)

    def say(self, line: str) -> None:
        self._bars.console.print(line, markup=False, highlight=False)


def progress(total: int) -> Progress:
    """What suits standard output."""
    console = Console()
    return LiveProgress(total, console) if console.is_terminal else Progress(total)
