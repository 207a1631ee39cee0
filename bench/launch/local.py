"""Runs on this machine, each in a process of its own."""

import os
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from mixbench.bench.cells import Run, setting
from mixbench.bench.data import FOLDER
from mixbench.bench.launch import Job, Terms
from mixbench.bench.launch.gpus import Gpus, visible
from mixbench.bench.launch.heartbeat import Beat
from mixbench.bench.launch.progress import Progress, progress
from mixbench.bench.launch.work import work

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 10.0
"""How long the processes have to save their runs when the user ends them."""

DONE, DONE_ELSEWHERE = "done", "done by another process"
STOPPED = "it was told to stop"


def launch(
    jobs: Sequence[Job],
    terms: Terms,
    at_once: int,
    started: Callable[["Pool"], None] = lambda pool: None,
) -> dict[Run, str]:
    """Fill the cells of all jobs, ``at_once`` at a time. The runs that failed, and why.

    Other processes may work on the same results: a run that one of them has claimed is left to it,
    and waited for. started: is given the pool, with which whoever wants to can stop it. Raises
    BadInput if a run asks for more GPUs than there are.
    """
    gpus = Gpus(visible(terms.device), terms.gpus)
    gpus.check()
    with progress(len(jobs)) as show:
        pool = Pool(jobs, terms, at_once, gpus, show)
        started(pool)
        try:
            pool.work()
        except KeyboardInterrupt:
            pool.stop_gently(PATIENCE_SECONDS)
            raise
        finally:
            pool.stop()
    return pool.failed


@dataclass
class Worker:
    """A process that works on a job, and the last that it was at."""

    job: Job
    process: BaseProcess
    doing: str = "its start"


class Pool:
    """The jobs that wait, and those that are at work in a process each."""

    def __init__(
        self, jobs: Iterable[Job], terms: Terms, at_once: int, gpus: Gpus, show: Progress
    ) -> None:
        self.terms, self.at_once, self.gpus, self.show = terms, at_once, gpus, show
        self.waiting = deque(jobs)
        self.working: dict[Connection, Worker] = {}
        self.tries: Counter[Run] = Counter()
        self.failed: dict[Run, str] = {}
        self.context = _context({setting(job.run.setting).data for job in self.waiting})

    def work(self) -> None:
        while self.waiting or self.working:
            self.start_what_fits()
            for pipe in wait(list(self.working), timeout=POLL_SECONDS):
                self.hear(pipe)  # type: ignore[arg-type]

    def start_what_fits(self) -> None:
        """Go once through the jobs that wait, as long as there is room."""
        for _ in range(len(self.waiting)):
            if len(self.working) == self.at_once:
                return
            job = self.waiting.popleft()
            if job.done(self.terms.store):
                self.show.end(str(job.run), DONE_ELSEWHERE)
            elif self.terms.store.claimed(job.run):
                self.waiting.append(job)
            elif not self.start(job):
                self.waiting.appendleft(job)
                return

    def start(self, job: Job) -> bool:
        """Start a job, unless no GPU has room for it."""
        here, there = self.context.Pipe()
        pinned = self.gpus.take(here, job.run.setting)
        if pinned is None:
            return False
        process = self.context.Process(
            target=work, args=(there, job, self.terms, self.at_once, pinned)
        )
        self.tries[job.run] += 1
        try:
            process.start()
        except (EOFError, ConnectionError):  # the process that forks was killed
            self.gpus.give_back(here)
            self.end(job, "failed", "its process could not be started")
            return True
        there.close()
        self.working[here] = Worker(job, process)
        return True

    def hear(self, pipe: Connection) -> None:
        """Take one message of a process; its end, too, is one."""
        worker = self.working[pipe]
        try:
            kind, *content = pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            ended = f"its process ended with exit code {worker.process.exitcode}"
            log = self.terms.store.log(worker.job.run)
            kind, content = "failed", [f"{ended}, at {worker.doing} (see {log})"]
        if kind == "at":
            self.note(pipe, worker, *content)
        elif kind == "warned":
            warnings.warn(content[0], stacklevel=1)
        else:
            del self.working[pipe]
            self.gpus.give_back(pipe)
            worker.process.join()
            self.end(worker.job, kind, *content)

    def note(self, pipe: Connection, worker: Worker, beat: Beat) -> None:
        worker.doing = beat.doing
        self.gpus.note(pipe, beat.memory)
        self.show.at(str(worker.job.run), beat.doing, int(beat.done), beat.total)

    def end(self, job: Job, kind: str, why: str = STOPPED) -> None:
        """A process has ended: its job is done, or waits again, or has failed."""
        if kind in ("filled", "found done"):
            self.show.end(str(job.run), DONE if kind == "filled" else DONE_ELSEWHERE)
        elif kind == "claimed":
            self.tries[job.run] -= 1
            self.waiting.append(job)
        elif kind == "failed" and self.tries[job.run] <= self.terms.retries:
            self.show.say(f"{job.run}: {why}; it is tried again")
            self.waiting.append(job)
        else:
            self.failed[job.run] = why
            self.show.end(str(job.run), f"failed: {why}")

    def stop_gently(self, seconds: float) -> None:
        """Tell all processes to save what they are at and to end, and wait for that so long."""
        deadline = time.monotonic() + seconds
        self.waiting.clear()
        processes = [worker.process for worker in self.working.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        for worker in self.working.values():
            worker.process.kill()


def _context(datasets: Iterable[str]) -> Any:
    """Processes that start at once, forked from one that has imported all that takes long.

    In a job of Slurm's, each is started anew: Slurm's signals go to every process of a job, and the
    one that forks would not survive them.
    """
    if "forkserver" not in get_all_start_methods() or "SLURM_JOB_ID" in os.environ:
        return get_context("spawn")
    context = get_context("forkserver")
    modules = [f"mixbench.bench.data.{name}" for name in datasets if FOLDER not in name]
    modules += ["mixbench.bench.launch.local", "torch._dynamo"]  # torch.optim would import it later
    context.set_forkserver_preload(modules)
    return context
