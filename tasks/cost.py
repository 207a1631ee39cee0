"""What a training step costs."""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mixbench.tasks import Data, Metric, Task, Trained


class LossTerms(TorchFunctionMode):
    """Counts the predictions that ``F.cross_entropy`` compares with targets."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.cross_entropy:
            self.count += args[0].numel() // args[0].shape[1]
        return func(*args, **(kwargs or {}))


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that was allocated on a GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@dataclass(frozen=True)
class Cost(Task):
    """Speed, memory and loss terms of forward and backward passes on augmented training batches.

    Speed is that of all ``steps`` together, after ``warmup`` steps, with the data already on the
    device; a median would hide one branch of a method that draws one of two for each batch.
    Loss terms are the most that a batch of the warm-up had.
    """

    steps: PositiveInt = 50
    warmup: PositiveInt = 20

    metrics: ClassVar = {
        "speed": Metric("training images/s", "higher", ".0f"),
        "memory": Metric("peak memory, MiB", "lower", ".0f"),
        "terms": Metric("loss terms per batch", "neither", ".0f"),
    }

    def evaluate(self, trained: Trained) -> dict[str, float]:
        objective, batches = trained.objective.train(), _endless(trained.data)
        terms = [_terms(objective, *batch) for batch in islice(batches, self.warmup)]
        timed = list(islice(batches, self.steps))
        seconds, memory = _measure(objective, timed)
        return {
            "speed": sum(len(x) for x, _ in timed) / seconds,
            "memory": memory / 2**20,
            "terms": max(terms),
        }


def _endless(data: Data) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in count():
        yield from data.epoch(epoch)


def _terms(objective: nn.Module, x: Tensor, y: Tensor) -> int:
    counter = LossTerms()
    with counter:
        objective(x, y).backward()
    return counter.count


def _measure(objective: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, int]:
    """The seconds and the peak memory, in bytes, of a forward and backward pass of each batch."""
    device = batches[0][0].device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = _now(device)
    for x, y in batches:
        objective.zero_grad()
        objective(x, y).backward()
    return _now(device) - start, peak_memory(device)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
