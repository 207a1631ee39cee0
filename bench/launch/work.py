"""A run that is worked on, in a process of its own."""

import os
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from mixbench.bench import stop
from mixbench.bench.cells import written_aside
from mixbench.bench.lab import pick_device
from mixbench.bench.launch import Job, Terms, heartbeat
from mixbench.bench.launch.gpus import ORDER, VISIBLE, Pinned
from mixbench.bench.launch.heartbeat import Beat, Heartbeat
from mixbench.bench.runs import fill
from mixbench.bench.spec import one_line

LAST_SECONDS = 60.0
"""What a process has to save its run in, once it was told to end."""

Tell = Callable[..., None]


def work(pipe: Connection, job: Job, terms: Terms, at_once: int, pinned: Pinned) -> None:
    """Fill a job's cells, and tell through the pipe how it goes; what it prints goes to a log."""
    stop.heed()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which tells this one
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(*message: object) -> None:
        with suppress(BrokenPipeError):  # the parent is gone, which is no failure of the run
            pipe.send(message)

    warnings.showwarning = lambda message, *_: tell("warned", str(message))
    log = terms.store.log(job.run)
    try:
        with logged(log, terms.command):
            tell(*outcome(job, terms, at_once, pinned, tell))
    except OSError as error:  # there is no room for a log, or an error
        tell("failed", f"{error.filename or log}: {error.strerror}")


def outcome(job: Job, terms: Terms, at_once: int, pinned: Pinned, tell: Tell) -> tuple[str, ...]:
    """Fill a job's cells. How that ended: filled, found done, claimed by others, stopped or failed."""
    error = terms.store.error(job.run)

    def hear(beat: Beat) -> None:
        error.unlink(missing_ok=True)  # it is of an earlier try
        tell("at", beat)

    beat = Heartbeat(heartbeat.path(terms.store, job.run), hear)
    try:
        filled = fill(job.run, job.tasks, terms.lab(pin(terms, pinned), at_once), beat)
    except stop.Stopped:
        return ("stopped",)
    except (Exception, SystemExit) as why:  # whatever what is the user's own may raise
        traceback.print_exc()
        with written_aside(error) as path:
            path.write_text(f"{traceback.format_exc()}\n{one_line(why)}\n")
        return "failed", f"{one_line(why)} (see {error})"
    finally:
        beat.end()
    if filled is None:
        return ("claimed",)
    return ("filled" if filled or not job.tasks else "found done",)


def pin(terms: Terms, pinned: Pinned) -> torch.device:
    """The device to work on. Of all GPUs, this process sees those that it is pinned to."""
    if not pinned:
        return pick_device(terms.device)
    os.environ[VISIBLE] = ",".join(pinned)
    os.environ.setdefault(ORDER, "PCI_BUS_ID")  # as nvidia-smi counts them
    return torch.device("cuda:0")


@contextmanager
def logged(path: Path, command: str) -> Iterator[None]:
    """Let what this process prints, and all that it starts, go to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", buffering=1) as file:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        file.write(f"--- {now}, {socket.gethostname()}, process {os.getpid()}: {command}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        yield
        sys.stdout.flush()
        sys.stderr.flush()


def _end_with_parent() -> None:
    """Save and end when the process that started this one is gone."""
    parent = parent_process()
    if parent:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LAST_SECONDS)
        os._exit(1)
