"""Showing how far the runs are: bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich import progress as rich_progress
from rich.console import Console

QUIET_SECONDS = 30


class Progress:
    """Plain lines: when a run starts and ends, and twice a minute in between."""

    def __init__(self, total: int) -> None:
        self.total, self.ended = total, 0
        self._spoke: dict[str, float] = {}

    def at(self, run: str, doing: str, done: int, total: int) -> None:
        """A run is at something, of which so much is done, such as epochs."""
        now = time.monotonic()
        if now - self._spoke.get(run, -QUIET_SECONDS) >= QUIET_SECONDS:
            self._spoke[run] = now
            self.say(f"{run}: {doing}, {done} of {total} done")

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
        self.bars = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._all = self.bars.add_task("runs", total=total)
        self._each: dict[str, rich_progress.TaskID] = {}

    def at(self, run: str, doing: str, done: int, total: int) -> None:
        if run not in self._each:
            self._each[run] = self.bars.add_task(run, total=total)
        text = f"{run}: {doing}"
        self.bars.update(self._each[run], completed=done, total=total, description=text)

    def end(self, run: str, outcome: str) -> None:
        if run in self._each:
            self.bars.remove_task(self._each.pop(run))
        self.bars.advance(self._all)
        super().end(run, outcome)

    def say(self, line: str) -> None:
        self.bars.console.print(line, markup=False, highlight=False)


@contextmanager
def progress(total: int) -> Iterator[Progress]:
    """What suits standard output."""
    console = Console()
    if not console.is_terminal:
        yield Progress(total)
        return
    show = LiveProgress(total, console)
    with show.bars:
        yield show
