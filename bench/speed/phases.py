"""Where the time of training steps goes."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from mixbench.bench.speed.subjects import Subject
from mixbench.bench.speed.turns import Feed

PHASES = ("data", "mixing", "network", "optimizer", "wait")
"""data: making the batch. wait: for the processes that read it. mixing: all of the step but what
goes on in stages of networks and in the optimizer."""


class Watch:
    """Adds up the seconds of each phase. What is ``within`` is the network's, whatever else is on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.within: set[object] = set()
        self.start("data")

    def start(self, phase: str) -> None:
        """Begin with this phase; what was before is not counted."""
        self.phase, self.since = phase, self.now()

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def next(self, phase: str) -> None:
        before = self.since
        ended, self.phase, self.since = self.phase, phase, self.now()
        self.seconds[ended] += self.since - before

    def enter(self, call: object) -> None:
        self.within.add(call)
        if self.phase == "mixing":
            self.next("network")

    def leave(self, call: object) -> None:
        self.within.discard(call)
        if self.phase == "network" and not self.within:
            self.next("mixing")

    def end_pass(self) -> None:
        """No call is open: a first stage, at whose images no gradient is asked, never says so."""
        self.within.clear()


def shares(subject: Subject, feed: Feed, steps: int, device: torch.device) -> Mapping[str, float]:
    """The share of each phase in ``steps`` more steps, which are neither compiled nor recorded."""
    watch = Watch(device)
    with torch.compiler.set_stance("force_eager"), _stages_tell(subject.objective, watch):
        for _ in range(steps):
            with feed.awake():
                _step(subject, feed, watch)
    total = sum(watch.seconds.values())
    return {phase: seconds / total for phase, seconds in watch.seconds.items()}


def _step(subject: Subject, feed: Feed, watch: Watch) -> None:
    x, y = _batch(feed, watch)
    loss = subject.objective(x, y)
    watch.next("optimizer")
    subject.optimizer.zero_grad()
    watch.next("mixing")
    loss.backward()
    watch.end_pass()
    watch.next("optimizer")
    subject.optimizer.step()
    watch.next("data")


def _batch(feed: Feed, watch: Watch) -> tuple[Tensor, Tensor]:
    """The next batch. Where others read it, the time in which this thread did nothing is waiting."""
    watch.start("data")
    before, worked = watch.seconds["data"], time.thread_time()
    (batch,) = islice(feed, 1)
    worked = time.thread_time() - worked
    watch.next("mixing")
    if feed.readers:
        idle = max(0.0, watch.seconds["data"] - before - worked)
        watch.seconds["data"] -= idle
        watch.seconds["wait"] += idle
    return batch


@contextmanager
def _stages_tell(objective: nn.Module, watch: Watch) -> Iterator[None]:
    """Let the stages of the network, and of others that the objective asks, tell what they do.

    Forward, a stage is at work while it is called; backward, from the gradient at what left it to
    that at what entered it.
    """
    calls: list[object] = []

    def before(stage: nn.Module, args: tuple[Any, ...]) -> None:
        calls.append(call := object())
        for z in args:
            if isinstance(z, Tensor) and z.requires_grad:
                z.register_hook(lambda _: watch.leave(call))
        watch.enter(call)

    def after(stage: nn.Module, args: tuple[Any, ...], z: Tensor) -> None:
        watch.leave(call := calls.pop())
        if z.requires_grad:
            z.register_hook(lambda _: watch.enter(call))

    stages = [stage for net in objective.children() for stage in net.children()]
    hooks = [stage.register_forward_pre_hook(before) for stage in stages]
    hooks += [stage.register_forward_hook(after) for stage in stages]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
