"""Runs on this machine, each in a process of its own."""

import os
import signal
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from mixbench.bench.cells import Run, setting, written_aside
from mixbench.bench.data import FOLDER
from mixbench.bench.launch.progress import Progress, progress
from mixbench.bench.runs import Lab, fill
from mixbench.bench.spec import one_line

POLL_SECONDS = 1.0
DONE, DONE_ELSEWHERE = "done", "done by another process"


@dataclass(frozen=True)
class Job:
    """A run, and the tasks that it lacks."""

    run: Run
    tasks: tuple[str, ...]


def launch(jobs: Sequence[Job], lab: Lab, at_once: int) -> dict[Run, str]:
    """Fill the cells of all jobs, ``at_once`` at a time. The runs that failed, and why.

    Other processes may work on the same results: a run that one of them has claimed is left to it,
    and waited for.
    """
    with progress(len(jobs)) as show:
        pool = Pool(lab, at_once, show, jobs)
        try:
            pool.work()
        finally:
            pool.stop()
    return pool.failed


class Pool:
    """The jobs that wait, and those that are at work in a process each."""

    def __init__(self, lab: Lab, at_once: int, show: Progress, jobs: Iterable[Job]) -> None:
        self.lab, self.at_once, self.show = lab, at_once, show
        self.waiting = deque(jobs)
        self.working: dict[Connection, tuple[Job, BaseProcess]] = {}
        self.doing: dict[Connection, str] = {}
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
            if not self.lab.store.missing(job.run, job.tasks):
                self.show.end(str(job.run), DONE_ELSEWHERE)
            elif self.lab.store.claimed(job.run):
                self.waiting.append(job)
            else:
                self.start(job)

    def start(self, job: Job) -> None:
        here, there = self.context.Pipe()
        process = self.context.Process(target=_work, args=(there, job, self.lab))
        process.start()
        there.close()
        self.working[here] = job, process

    def hear(self, pipe: Connection) -> None:
        """Take one message of a process; its end, too, is one."""
        job, process = self.working[pipe]
        try:
            kind, *content = pipe.recv()
        except (EOFError, OSError):
            process.join()
            ended = f"its process ended with exit code {process.exitcode}"
            kind, content = "failed", [f"{ended}, at {self.doing.get(pipe, 'its start')}"]
        if kind == "at":
            self.doing[pipe] = content[0]
            self.show.at(str(job.run), *content)
            return
        if kind == "warned":
            warnings.warn(content[0], stacklevel=1)
            return
        del self.working[pipe]
        process.join()
        if kind == "failed":
            self.failed[job.run] = content[0]
            self.show.end(str(job.run), f"failed: {content[0]}")
        elif kind == "filled":
            self.show.end(str(job.run), DONE if content[0] else DONE_ELSEWHERE)
        else:
            self.waiting.append(job)

    def stop(self) -> None:
        for _, process in self.working.values():
            process.kill()


def _work(pipe: Connection, job: Job, lab: Lab) -> None:
    """Fill a job's cells, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.showwarning = lambda message, *_: pipe.send(("warned", str(message)))
    log = lab.store.folder(job.run) / "error.txt"
    try:
        if lab.device.type == "cuda":
            torch.cuda.set_device(lab.device)  # so that nothing is put on the first one
        filled = fill(job.run, job.tasks, lab, lambda *what: pipe.send(("at", *what)))
        log.unlink(missing_ok=True)
        pipe.send(("claimed",) if filled is None else ("filled", filled))
    except BrokenPipeError:  # the parent is gone, which is no failure of the run
        return
    except Exception as error:  # whatever a method or a task of the user's own may raise
        with written_aside(log) as path:
            path.write_text(traceback.format_exc())
        pipe.send(("failed", f"{one_line(error)} (see {log})"))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _context(datasets: Iterable[str]) -> Any:
    """Processes that start at once, forked from one that has imported all that takes long."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    modules = [f"mixbench.bench.data.{name}" for name in datasets if FOLDER not in name]
    modules += ["mixbench.bench.launch.local", "torch._dynamo"]  # torch.optim would import it later
    context.set_forkserver_preload(modules)
    return context
