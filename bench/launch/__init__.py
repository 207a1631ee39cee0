"""Where runs execute: this machine, Slurm, Ray.

A place is given jobs and terms, and knows nothing of methods. Whatever the place, a run is worked
on by processes of its own, which ``local`` starts on the machine where it is.
"""

import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mixbench.bench.cells import Run, Store

if TYPE_CHECKING:
    import torch

    from mixbench.bench.lab import Lab

MOST_WORKERS = 16  # more than one GPU can be fed by


@dataclass(frozen=True)
class Job:
    """A run, and the tasks to ask of it; with none, it is only trained."""

    run: Run
    tasks: tuple[str, ...]

    def done(self, store: Store) -> bool:
        """Whether all of its cells are there."""
        return bool(self.tasks) and not store.missing(self.run, self.tasks)


@dataclass(frozen=True)
class Terms:
    """How runs are worked on, wherever that is.

    device: "auto" is a GPU where there is one, and "cuda" any GPU of the machine.
    gpus: for each run. Below 1, several runs share one; from 2 on, a run trains on several.
    workers: processes that read image files, for each run; None is an equal share of the cores.
    retries: how often a run that fails, or whose process dies, is tried again.
    deterministic: algorithms that give the same bits again, on GPUs too.
    eager: steps are not compiled, nor recorded as CUDA graphs; on a CPU they never are.
    command: what the user typed, for the record.
    """

    results: Path
    data: Path = Path("data")
    device: str = "auto"
    gpus: float = 1
    workers: int | None = None
    retries: int = 0
    deterministic: bool = False
    eager: bool = False
    command: str = field(default_factory=lambda: typed(sys.argv))

    @property
    def store(self) -> Store:
        return Store(self.results)

    def lab(self, device: "torch.device", at_once: int = 1) -> "Lab":
        """What a process needs to work on one of so many runs at once."""
        from mixbench.bench.lab import Lab

        return Lab(
            self.store,
            self.data,
            device,
            share(self.workers, at_once),
            processes=max(1, int(self.gpus)),
            eager=self.eager,
            deterministic=self.deterministic,
            command=self.command,
        )


def typed(arguments: list[str]) -> str:
    """A command line as it was typed, but for where the program lies."""
    return shlex.join(["mixbench", *arguments[1:]])


def share(workers: int | None, at_once: int) -> int:
    """How many processes read the files of one run, of so many at once."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MOST_WORKERS, max(1, (cores or 1) // at_once))
