"""Fine-tuning a detector: one loop for all of them, which goes on where it was cut short."""

import math
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD

from mixbench.tasks import Workplace
from mixbench.tasks._detection.detector import Boxes, Detector

MOMENTUM = 0.9
WARMUP, WARMUP_SHARE, WARMUP_FROM = 500, 0.1, 1e-3
"""Steps in which the learning rate rises, the share of all that they are at most, where it starts."""
DROP = 0.1
KEEP_SECONDS = 60.0
READ_STEPS = 20
"""After how many steps losses are read: a GPU and the host wait for each other."""

OTHER_ORIGIN = (
    "the weights or the images of a tuning that was cut short have changed since; it starts again"
)

Batch = tuple[Sequence[Tensor], Sequence[Boxes]]


@dataclass(frozen=True)
class Schedule:
    """SGD with momentum, and a learning rate that rises, stays, and falls to a tenth.

    iterations: steps, of ``batch`` images each. drops: shares of them after which it falls.
    """

    iterations: int
    batch: int
    lr: float
    weight_decay: float
    drops: tuple[float, ...]

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        rise = min(WARMUP, int(WARMUP_SHARE * self.iterations))
        if step < rise:
            return self.lr * (WARMUP_FROM + (1 - WARMUP_FROM) * step / rise)
        return self.lr * DROP ** sum(step >= round(drop * self.iterations) for drop in self.drops)


class Tuning:
    """A detector and all else that fine-tuning changes.

    origin: stands for the weights that it started from and the scenes that it sees.
    losses: of each step; unread: of the last steps, still where the detector is, with its terms.
    timed, seconds: how many steps took how long, with the wait for images.
    """

    def __init__(
        self, detector: Detector, schedule: Schedule, seed: int = 0, origin: str = ""
    ) -> None:
        self.detector, self.schedule, self.seed, self.origin = detector, schedule, seed, origin
        tuned = [p for p in detector.parameters() if p.requires_grad]
        self.sgd = SGD(tuned, schedule.lr, MOMENTUM, weight_decay=schedule.weight_decay)
        self.losses: list[float] = []
        self.unread: list[tuple[Tensor, Mapping[str, Tensor]]] = []
        self.timed, self.seconds = 0, 0.0

    @property
    def images_per_second(self) -> float | None:
        return self.timed * self.schedule.batch / self.seconds if self.timed else None

    @property
    def steps(self) -> int:
        """How many are done."""
        return len(self.losses) + len(self.unread)

    def run(self, batches: Iterable[Batch], workplace: Workplace) -> None:
        """A step for each batch; what is done is kept every minute, and at the end.

        The first step is not timed, as it waits for workers to start. Raises ArithmeticError if
        a loss or, in the end, a weight is not finite.
        """
        start = time.perf_counter()
        for number, (images, truths) in enumerate(batches):
            workplace.report("tuning a detector", self.steps, self.schedule.iterations)
            self.step(images, truths)
            if number:
                self.timed += 1
            else:
                self.read()
                start = time.perf_counter()
            if time.perf_counter() - start > KEEP_SECONDS:
                start = self._keep(start, workplace)
        self.read()
        if not all(parameter.isfinite().all() for parameter in self.detector.parameters()):
            raise ArithmeticError("weights are not finite after the last step; try a lower lr")
        self._keep(start, workplace)

    def step(self, images: Sequence[Tensor], truths: Sequence[Boxes]) -> None:
        """Make the detector better at a batch; the loss before that is read now and then.

        What is drawn is a function of the seed and the step alone.
        """
        torch.manual_seed(_seed(self.seed, self.steps))
        losses = self._losses(images, truths)
        loss = torch.stack([*losses.values()]).sum()
        for group in self.sgd.param_groups:
            group["lr"] = self.schedule.rate(self.steps)
        self.sgd.zero_grad()
        loss.backward()
        self.sgd.step()
        self.unread.append((loss.detach(), {name: term.detach() for name, term in losses.items()}))
        if len(self.unread) == READ_STEPS:
            self.read()

    def _losses(self, images: Sequence[Tensor], truths: Sequence[Boxes]) -> Mapping[str, Tensor]:
        here = [truth.to(self.detector.device) for truth in truths]
        try:
            return self.detector.train().losses(self.detector.received(images), here)
        except Exception:
            self.read()  # a loss before it that is not finite explains it
            raise

    def read(self) -> None:
        """Bring losses to the host. Raises ArithmeticError if one is not finite."""
        unread, self.unread = self.unread, []
        values = torch.stack([loss for loss, _ in unread]).tolist() if unread else []
        for value, (_, terms) in zip(values, unread, strict=True):
            if not math.isfinite(value):
                told = ", ".join(f"{name} {term.item():g}" for name, term in terms.items())
                step = len(self.losses) + 1
                raise ArithmeticError(f"step {step}: the loss is {value} ({told}); try a lower lr")
            self.losses.append(value)

    def _keep(self, since: float, workplace: Workplace) -> float:
        """Keep all that is needed to go on. Returns the time after it."""
        self.read()
        if self.timed:
            self.seconds += time.perf_counter() - since
        workplace.keep(self.state())
        return time.perf_counter()

    def state(self) -> dict[str, Any]:
        return {
            "origin": self.origin,
            "detector": self.detector.state_dict(),
            "sgd": self.sgd.state_dict(),
            "losses": self.losses,
            "timed": self.timed,
            "seconds": self.seconds,
        }

    def resume(self, kept: dict[str, Any]) -> None:
        """Go on from a state, unless it is of another origin, which is warned of."""
        if kept.get("origin") != self.origin:
            warnings.warn(OTHER_ORIGIN, stacklevel=2)
            return
        self.detector.load_state_dict(kept["detector"])
        self.sgd.load_state_dict(kept["sgd"])
        self.losses, self.timed, self.seconds = kept["losses"], kept["timed"], kept["seconds"]


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
