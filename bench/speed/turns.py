"""Subjects in training, in turn: what slows the machine down slows all of them."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from signal import SIGCONT, SIGSTOP, Signals

import torch
from torch import Tensor

from mixbench.bench.speed.subjects import Subject
from mixbench.tasks import measured

Batch = tuple[Tensor, Tensor]
Epoch = Callable[[int], Iterable[Batch]]


class Feed:
    """Training batches without end, read by processes that rest while ``awake`` is not entered.

    So what they read ahead, they read in their own turn, and they slow nobody else down.
    """

    def __init__(self, epoch: Epoch) -> None:
        self.batches = self.endless(epoch)
        self.readers: set[BaseProcess] = set()

    def __iter__(self) -> Iterator[Batch]:
        return self.batches

    def endless(self, epoch: Epoch) -> Generator[Batch]:
        for number in count():
            before = {*active_children()}
            batches = iter(epoch(number))
            first = next(batches)
            self.readers |= {*active_children()} - before
            yield first
            yield from batches

    @contextmanager
    def awake(self) -> Iterator[None]:
        self.send(SIGCONT)
        try:
            yield
        finally:
            self.send(SIGSTOP)

    def send(self, signal: Signals) -> None:
        self.readers = {reader for reader in self.readers if reader.is_alive()}
        for reader in self.readers:
            os.kill(reader.ident or 0, signal)

    def close(self) -> None:
        """Let the processes end."""
        self.send(SIGCONT)
        self.batches.close()


@dataclass
class Track:
    """A subject with its batches, and the seconds that a step took in each of its turns.

    ours: the method here that does the same, if it is another library's.
    making: the seconds that a batch takes to make, on average; None if others make them meanwhile.
    loop: with the making of the batch; alone: on a batch that is there.
    """

    subject: Subject
    feed: Feed
    ours: str = ""
    making: float | None = None
    loop: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)

    def turn(self, steps: int, device: torch.device) -> None:
        with self.feed.awake(), measured(device) as loop:
            for x, y in islice(self.feed, steps if self.making is None else 1):
                self.subject.step(x, y)
        with measured(device) as alone:
            for _ in range(steps):
                self.subject.step(x, y)
        self.alone.append(alone.seconds / steps)
        made = self.making
        self.loop.append(loop.seconds / steps if made is None else self.alone[-1] + made)


def race(
    tracks: Sequence[Track], rounds: int, warmup: int, steps: int, device: torch.device
) -> None:
    """Let all take ``rounds`` turns, of so many steps, after ``warmup`` that do not count."""
    for _ in range(warmup + rounds):
        for track in tracks:
            track.turn(steps, device)
    for track in tracks:
        del track.loop[:warmup], track.alone[:warmup]
