"""Runs as jobs of Slurm's, which outlive the process that submits them.

A job array over the runs. A job whose time is up, or whose node is wanted back, saves its runs and
is queued again. A job is read from the results folder, where its log goes too, so that on a node
that does not see this folder it fails before it writes anything.
"""

import re
import signal
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from mixbench.bench.cells import Run, Store
from mixbench.bench.launch import Job, Terms, local
from mixbench.bench.launch.local import DONE, STOPPED, Pool
from mixbench.bench.launch.progress import Progress, progress
from mixbench.bench.launch.scheduler import (
    LOST,
    Allocation,
    Submitted,
    ask,
    check,
    chunks,
    gpus_of_job,
    hidden,
    job_of,
    probe,
    queue,
    queued_as,
    sbatch_options,
    warn,
)
from mixbench.bench.spec import BadInput, counted

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

POLL_SECONDS = 10.0
MOST_TIMES = 100  # that a job is queued again because its time was up
MOST_GRACE = 600  # seconds from SIGTERM until Slurm ends a job; only then it is queued again
MOST_NOTICE = 120  # seconds in which a job has to save its runs and queue itself again

HAND_ON_CORES = "${SLURM_CPUS_PER_TASK:+export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK}"
"""Since 22.05, srun does not ask for the cores of its job by itself."""

Pack = Sequence[Job]
"""What one job of Slurm's works on."""


def launch(
    jobs: Sequence[Job], terms: Terms, allocation: Allocation, stay: bool
) -> dict[Run, str] | None:
    """Put those jobs into Slurm's queue whose runs are not there, nor at work anywhere.

    None; or, if it is to stay until all are done, the runs that failed, and why. Raises BadInput if
    Slurm refuses such jobs, or a node does not see the results folder.
    """
    check(terms, allocation)
    free = not_at_work(jobs, terms.store)
    if free:
        print(f"asking a node whether it sees {terms.results.absolute()}", flush=True)
        arrays = submit(free, terms, allocation, probe(terms, allocation))
        into = ", ".join(f"job {array}" for array in arrays)
        print(f"{counted(len(free), 'run')} submitted: {into}", flush=True)
    if others := len(jobs) - len(free):
        print(f"{counted(others, 'run')} queued or at work already", flush=True)
    if not stay:
        return None
    with progress(len(jobs)) as show:
        return wait(jobs, terms, allocation, show)


def not_at_work(jobs: Iterable[Job], store: Store) -> list[Job]:
    """The jobs whose runs are not in the queue, and which no process is at work on."""
    queued = queue()
    return [
        job for job in jobs if not queued_as(job.run, store, queued) and not store.claimed(job.run)
    ]


def submit(
    jobs: Sequence[Job], terms: Terms, allocation: Allocation, probe: str | None = None
) -> list[str]:
    """Submit jobs whose runs are not in the queue, in arrays; their ids.

    probe: the id of a job that has to end well before any of them starts. If this is interrupted,
    what was submitted is done; the rest is not, and is submitted by calling it again.
    """
    terms = replace(terms, results=terms.results.absolute(), data=terms.data.absolute())
    if gpus_of_job(terms) and terms.device == "auto":
        terms = replace(terms, device="cuda")  # a node whose GPU is lost is not to do without
    sweep = Sweep(terms, allocation, hidden(terms.results, time.strftime("%Y%m%d-%H%M%S-")))
    arrays: list[str] = []
    trained_by: dict[Run, str] = {}
    for part in chunks(_packs(jobs, terms.gpus), _most_of_an_array()):
        after = [f"afterok:{probe}"] if probe else []
        if allocation.at_once and arrays:
            after.append(f"afterany:{arrays[-1]}")
        submitted = sweep.submit(part, after)
        arrays += dict.fromkeys(_array(id) for each in submitted for id in each.ids)
        pairs = zip(part, submitted, strict=True)
        training = {job.run: each.ids[0] for pack, each in pairs for job in pack}
        trained_by |= training
        _wait_for_teachers(training, trained_by, after)
    return arrays


@dataclass(frozen=True)
class Sweep:
    """Arrays that are submitted together; the folder of their logs."""

    terms: Terms
    allocation: Allocation
    folder: Path

    def submit(self, packs: Sequence[Pack], after: Sequence[str]) -> list[Submitted]:
        """Submit a job for each pack, or two, and note it beside its runs."""
        for job in chain(*packs):
            self.terms.store.error(job.run).unlink(missing_ok=True)
        if self.allocation.apart:
            only_trained = [tuple(Job(job.run, ()) for job in pack) for pack in packs]
            training = self._array(only_trained, self.terms, after)
            after = [f"aftercorr:{_array(training[0].id)}"]
            asking = self._array(packs, replace(self.terms, gpus=min(1, self.terms.gpus)), after)
            pairs = zip(asking, training, strict=True)
            submitted = [replace(each, training=before.id) for each, before in pairs]
        else:
            submitted = self._array(packs, self.terms, after)
        for pack, each in zip(packs, submitted, strict=True):
            for job in pack:
                each.note(self.terms.store, job.run)
        return submitted

    def _array(self, packs: Sequence[Pack], terms: Terms, after: Sequence[str]) -> list[Submitted]:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError

        notice = min(MOST_NOTICE, self.allocation.minutes * 60 // 4)
        options = sbatch_options(terms, self.allocation) | {"kill_on_invalid_dep": "yes"}
        executor = SlurmExecutor(self.folder, max_num_timeout=MOST_TIMES)
        executor.update_parameters(
            time=self.allocation.minutes,
            signal_delay_s=notice,
            array_parallelism=self.allocation.at_once or len(packs),
            stderr_to_stdout=True,
            setup=[HAND_ON_CORES],
            dependency=",".join(after) or None,
            additional_parameters={"requeue": True}
            | {key: value or True for key, value in options.items()},
        )
        try:
            jobs = executor.submit_array([Body(pack, terms, notice) for pack in packs])
        except FailedJobError as error:
            raise BadInput(f"Slurm takes no more jobs: {' '.join(str(error).split())}") from None
        root = terms.results
        return [Submitted(job.job_id, str(job.paths.stdout.relative_to(root))) for job in jobs]


@dataclass
class Body:
    """What a job does: it works on its runs, until it is told to make room.

    notice: the seconds that it has then.
    """

    pack: Pack
    terms: Terms
    notice: int
    pool: Pool | None = field(default=None, init=False)
    ending: bool = field(default=False, init=False)

    def __call__(self) -> None:
        """Raises SystemExit if a run failed, so that Slurm knows."""
        signal.signal(signal.SIGTERM, self._end)
        jobs = [job for job in self.pack if self._is_mine(job.run)]
        failed = local.launch(jobs, self.terms, _at_once(self.terms.gpus), started=self._started)
        if self.ending and STOPPED in failed.values():
            time.sleep(MOST_GRACE)
        if failed:
            raise SystemExit("; ".join(f"{run}: {why}" for run, why in failed.items()))

    def checkpoint(self) -> "DelayedSubmission":
        """Called by submitit when the job has to end: what it is to do when it is started again."""
        from submitit.core.utils import DelayedSubmission

        if self.pool:
            self.pool.stop_gently(0.8 * self.notice)
        return DelayedSubmission(replace(self))

    def _end(self, *_: object) -> None:
        """Slurm ends the job, as it tells all processes of it, which save their runs."""
        self.ending = True

    def _started(self, pool: Pool) -> None:
        self.pool = pool

    def _is_mine(self, run: Run) -> bool:
        """Whether the run was not submitted again since, as it is if this job was not noted."""
        from submitit import JobEnvironment

        here, noted = JobEnvironment(), job_of(self.terms.store, run)
        if noted is None or _number(noted.id) < _number(here.job_id):
            log = str(here.paths.stdout.relative_to(self.terms.results))
            noted = Submitted(here.job_id, log)
            noted.note(self.terms.store, run)
        return here.job_id in noted.ids


def wait(
    jobs: Iterable[Job], terms: Terms, allocation: Allocation, show: Progress
) -> dict[Run, str]:
    """Wait until all jobs are done, or have failed. The runs that failed, and why.

    A run that left the queue without a word, as when its node was lost, is submitted again.
    """
    waiting, tries, failed = dict.fromkeys(jobs), Counter[Run](), dict[Run, str]()
    while True:
        lost = []
        for job in _gone(waiting, terms.store):
            why = _failure(job, terms.store)
            if why == LOST and tries[job.run] < terms.retries:
                lost.append(job)
                continue
            del waiting[job]
            if why:
                failed[job.run] = f"{why} (see {_log(terms.store, job.run)})"
            show.end(str(job.run), f"failed: {failed[job.run]}" if why else DONE)
        if lost:
            tries.update(job.run for job in lost)
            submit(lost, terms, allocation)
        if not waiting:
            return failed
        time.sleep(POLL_SECONDS)


def _gone(jobs: Iterable[Job], store: Store) -> list[Job]:
    """Those that are not in the queue, nor at work elsewhere; none while it can't be asked."""
    try:
        return not_at_work(jobs, store)
    except BadInput as error:
        warn(f"{error}; asking again")
        return []


def _failure(job: Job, store: Store) -> str:
    """Why a job that has ended is not done: the last line of its error; "" if it is."""
    return "" if job.done(store) else store.failure(job.run) or LOST


def _log(store: Store, run: Run) -> Path:
    """Where to read why a run failed."""
    noted, error = job_of(store, run), store.error(run)
    return store.root / noted.log if noted and not error.exists() else error


def _packs(jobs: Iterable[Job], gpus: float) -> list[Pack]:
    """Jobs that share a GPU, together; runs that learn from others come last."""
    return list(chunks(sorted(jobs, key=lambda job: job.run.teacher is not None), _at_once(gpus)))


def _at_once(gpus: float) -> int:
    return max(1, int(1 / gpus))


def _wait_for_teachers(
    part: Mapping[Run, str], trained_by: Mapping[Run, str], after: Sequence[str]
) -> None:
    """Let jobs wait for those that train what their runs learn from; if they started, runs will."""
    first: dict[str, set[str]] = {}
    for run, id in part.items():
        taught_by = trained_by.get(run.teacher) if run.teacher else None
        if taught_by not in (None, id):
            first.setdefault(id, set()).add(f"afterany:{taught_by}")
    for id, teachers in first.items():
        with suppress(BadInput):
            waits = ",".join([*after, *sorted(teachers)])
            ask("scontrol", "update", f"JobId={id}", f"Dependency={waits}")


def _number(id: str) -> int:
    return int(_array(id))


def _array(id: str) -> str:
    return id.partition("_")[0]


def _most_of_an_array() -> int:
    said = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"))
    return int(said[1]) if said else 1
