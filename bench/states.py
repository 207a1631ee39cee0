"""How far the runs of a table are, from their files and from Slurm's queue."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from mixbench.bench import catalogue
from mixbench.bench.cells import Run, Store
from mixbench.bench.launch import heartbeat, scheduler
from mixbench.bench.launch.heartbeat import Beat
from mixbench.bench.launch.scheduler import LOST, Queued, job_of, queued_as
from mixbench.bench.settings import Setting
from mixbench.bench.spec import BadInput
from mixbench.bench.tables import Table

Queue = Mapping[str, Queued]


@dataclass(frozen=True)
class State:
    """done, running, queued, failed, begun, waiting, or not applicable; and more about it.

    job: the number that Slurm knows it by, if it is in the queue.
    """

    kind: str
    more: str = ""
    job: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.more}" if self.more else self.kind

    @property
    def at_work(self) -> bool:
        return self.kind in ("running", "queued")


def states(table: Table, store: Store) -> Iterator[tuple[Run, State]]:
    """Every run of a table, and how far it is."""
    tasks, queue = table.tasks(), _queue(table, store)
    for run in table.runs():
        missing = store.missing(run, tasks)
        yield run, state(run, missing, len(missing) < len(tasks), store, queue)


def state(run: Run, missing: list[str], asked: bool, store: Store, queue: Queue | None) -> State:
    """How far a run is that lacks some tasks. ``asked``: whether others have been asked of it.

    queue: None if it can't be asked.
    """
    if not missing:
        return State("done")
    if why := catalogue.inapplicable(run.setting, run.method):
        return State("not applicable", why)
    claimed, beat, to_come = store.claimed(run), heartbeat.read(store, run), ", ".join(missing)
    job = queued_as(run, store, queue or {})
    if claimed:
        return State("running", _pace(beat, job) if beat else f"{to_come} to come", job)
    if queue and job:
        return State("queued", f"job {job}, {queue[job].state.lower()} ({queue[job].where})", job)
    if why := store.failure(run) or _lost(run, beat, store, queue):
        return State("failed", why)
    begun = asked or store.checkpoint(run).exists()
    return State("begun" if begun else "waiting", f"{to_come} missing")


def run_of(text: str) -> Run:
    """The run that SETTING/METHOD/SEED spells; a setting and a method may have slashes too."""
    rest, _, seed = text.rpartition("/")
    if seed.isdecimal():
        for i in [i for i, letter in enumerate(rest) if letter == "/"]:
            with suppress(BadInput):
                setting = str(Setting.parse(rest[:i]))  # first, as it needs no torch
                return Run(setting, catalogue.method(rest[i + 1 :]).spelling, int(seed))
    raise BadInput(f"no run {text!r}; it should be as in status: digits/small/mixup,alpha=0.2/0")


def logs(store: Store, run: Run) -> list[Path]:
    """What was printed: by Slurm's job, and by the run's own processes."""
    job = job_of(store, run)
    return [*([store.root / job.log] if job else []), store.log(run)]


def _queue(table: Table, store: Store) -> Queue | None:
    """Slurm's queue, if any of the runs was ever put into it, and it can be asked here."""
    if any(job_of(store, run) for run in table.runs()):
        with suppress(BadInput):
            return scheduler.queue()
    return None


def _lost(run: Run, beat: Beat | None, store: Store, queue: Queue | None) -> str:
    """What became of a run that has neither ended nor failed, and is nowhere now; else ''."""
    if beat and heartbeat.read(store, run):  # it is not that it ended in between
        return f"its process ended at {_progress(beat)}, on {beat.host}"
    job = job_of(store, run)
    return f"{LOST} (job {job.id})" if job and queue is not None else ""


def _progress(beat: Beat) -> str:
    return f"{beat.doing}, {beat.done:.4g} of {beat.total} done"


def _pace(beat: Beat, job: str) -> str:
    """What a run is at, how fast, for how long still, and where."""
    parts = [_progress(beat)]
    if beat.images_per_second:
        parts.append(f"{beat.images_per_second:.0f} images/s")
    if beat.seconds_left is not None:
        parts.append(f"{timedelta(seconds=round(beat.seconds_left))} left")
    where = f"on {beat.host}, process {beat.pid}" + (f", job {job}" if job else "")
    return ", ".join([*parts, where])
