"""What the process that works on a run says of itself, for those who look at the results."""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from mixbench.bench.cells import Run, Store, written_aside

SECONDS = 2.0
"""How often it says so, at most, unless it is at something new."""


@dataclass(frozen=True)
class Beat:
    """What a run is at: ``done`` of ``total``, such as epochs; where, and how fast.

    memory: the most bytes of a GPU that the process has held, 0 on a CPU, and before its first step.
    """

    doing: str
    done: float
    total: int
    host: str
    pid: int
    images_per_second: float | None
    seconds_left: float | None
    memory: int


BEAT = TypeAdapter(Beat)


class Heartbeat:
    """A report that writes a file beside the run, and tells each beat to a listener."""

    def __init__(self, path: Path, tell: Callable[[Beat], None]) -> None:
        self.path, self.tell = path, tell
        self.doing, self.spoke = "", 0.0
        self.began, self.done_before = 0.0, 0.0
        self.moved = False

    def __call__(self, doing: str, done: float, total: int, images: int = 0) -> None:
        now = time.monotonic()
        if doing != self.doing:
            self.doing, self.began, self.done_before = doing, now, done
        elif now - self.spoke < SECONDS:
            return
        self.spoke = now
        self.moved |= done > self.done_before
        self.say(self._beat(done, total, images, now - self.began))

    def say(self, beat: Beat) -> None:
        with written_aside(self.path) as path:
            path.write_text(json.dumps(asdict(beat)))
        self.tell(beat)

    def end(self) -> None:
        """Leave no word of a run that this process was at work on."""
        if self.doing:
            self.path.unlink(missing_ok=True)

    def _beat(self, done: float, total: int, images: int, seconds: float) -> Beat:
        pace = (done - self.done_before) / seconds if seconds else 0.0
        return Beat(
            doing=self.doing,
            done=done,
            total=total,
            host=socket.gethostname(),
            pid=os.getpid(),
            images_per_second=pace * images or None,
            seconds_left=(total - done) / pace if pace else None,
            memory=self._memory(),
        )

    def _memory(self) -> int:
        """What a step needs is only known after one."""
        import torch

        known = self.moved and torch.cuda.is_initialized()
        return torch.cuda.max_memory_reserved() if known else 0


def path(store: Store, run: Run) -> Path:
    return store.folder(run) / ".progress.json"


def read(store: Store, run: Run) -> Beat | None:
    """The last that was heard of a run; None if nobody was at work on it since it ended well."""
    try:
        return BEAT.validate_json(path(store, run).read_bytes())
    except (OSError, ValueError):
        return None
