"""Who takes turns in a setting, on which batches, and what is found of each afterwards."""

import os
import platform
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch

from mixbench.bench.data import Data, Held
from mixbench.bench.lab import Lab
from mixbench.bench.provenance import device_name, versions
from mixbench.bench.settings import Setting
from mixbench.bench.spec import one_line
from mixbench.bench.speed.limit import bare
from mixbench.bench.speed.memory import peak
from mixbench.bench.speed.peers import Peer, contender, loaded
from mixbench.bench.speed.phases import shares
from mixbench.bench.speed.report import Line
from mixbench.bench.speed.subjects import Subject, subject
from mixbench.bench.speed.turns import Epoch, Feed, Track
from mixbench.tasks import measured

MANY = 64
"""Batches, of which it is timed how they are made."""

MEMORY_STEPS = 4  # of which a method that draws one of two branches takes both, more often than not


@dataclass(frozen=True)
class Course:
    """A setting with its data, on a lab's device. ``ending`` lets go of what reads ahead."""

    where: Setting
    data: Data
    lab: Lab
    ending: ExitStack

    def method(self, name: str) -> Track:
        chosen = subject(name, self.where, self.data, self.lab.device, self.lab.eager)
        feed = self.stream if self.making is None else self.feed(self.data.epoch)
        return Track(chosen, feed, making=self.making)

    def peer(self, peer: Peer) -> Track:
        chosen = contender(peer, self.where, self.data, self.lab.device)
        return Track(chosen, self.feed(loaded(self.where, self.data, self.lab)), peer.ours)

    def limits(self) -> tuple[list[Track], str]:
        """The network alone, plain and, if that can be, compiled; and why not, if it can't."""
        batch = next(self.data.epoch(0))
        plain, compiled = (
            bare(self.where, self.data, self.lab.device, way, self.lab.eager)
            for way in (False, True)
        )
        problem = "nothing is compiled" if self.lab.eager else failure(compiled, *batch)
        there = [plain] if problem else [plain, compiled]
        return [Track(each, self.feed(lambda _: [batch]), making=0.0) for each in there], problem

    def feed(self, epoch: Epoch) -> Feed:
        feed = Feed(epoch)
        self.ending.callback(feed.close)
        return feed

    @cached_property
    def stream(self) -> Feed:
        """The batches that processes read, for all methods, or there would be processes for each."""
        return self.feed(self.data.epoch)

    @cached_property
    def making(self) -> float | None:
        """Seconds that a batch of those held in memory takes to make, several at once; else None."""
        if not isinstance(self.data, Held):
            return None
        for _ in range(2):  # the first time, to warm up
            with measured(self.lab.device) as many:
                number = sum(1 for _ in islice(self.data.epoch(0), MANY))
        return many.seconds / number

    def line(self, track: Track, rounds: int) -> Line:
        """What the track's turns took; memory, and where the time goes, in more steps."""
        chosen, feed, device = track.subject, track.feed, self.lab.device
        with feed.awake():
            most = peak(chosen, islice(feed, MEMORY_STEPS))
        goes = shares(chosen, feed, rounds, device)
        return Line(chosen.name, track.loop, track.alone, most, goes, chosen.passes, track.ours)

    def circumstances(self) -> Mapping[str, str | int]:
        """What the numbers depend on, beside the setting."""
        installed = {"torch": str(torch.__version__)} | versions()
        return {
            "device": device_name(self.lab.device),
            "processor": processor(),
            "cores": os.cpu_count() or 1,
            "threads": torch.get_num_threads(),
            "workers": self.lab.workers,
            **{
                name: installed[name]
                for name in ("torch", "torchvision", "timm")
                if name in installed
            },
        }


def failure(subject: Subject, x: torch.Tensor, y: torch.Tensor) -> str:
    """Why the first step fails, in a line; "" if it doesn't."""
    try:
        subject.step(x, y)
    except Exception as error:  # without a compiler, each version of torch raises something else
        return one_line(getattr(error, "inner_exception", error))
    return ""


def processor() -> str:
    """The model of the CPU, as far as it is known."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
