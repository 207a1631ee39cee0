"""What a training step costs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import cycle, islice
from typing import Any, ClassVar

from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.tasks import Metric, Task, Trained, Watching, endless, measured

CRITERIA = {F.cross_entropy, F.binary_cross_entropy, F.binary_cross_entropy_with_logits}


class LossTerms(Watching):
    """Counts the predictions that ``CRITERIA`` compare with targets, wherever they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def called(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        if func in CRITERIA:
            self.count += args[0].numel() // args[0].shape[1]
        return super().called(func, args, kwargs)


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
        objective = trained.objective.train()
        with closing(endless(trained.data)) as batches:  # what reads ahead would take time
            terms = [_terms(objective, *batch) for batch in islice(batches, self.warmup)]
            few = list(islice(batches, 4))
        images = sum(len(x) for x, _ in islice(cycle(few), self.steps))
        with measured(few[0][0].device) as measure:
            for x, y in islice(cycle(few), self.steps):
                objective.zero_grad()
                objective(x, y).backward()
        return {
            "speed": images / measure.seconds,
            "memory": measure.peak_memory_bytes / 2**20,
            "terms": max(terms),
        }


def _terms(objective: nn.Module, x: Tensor, y: Tensor) -> int:
    counter = LossTerms()
    with counter:
        objective(x, y).backward()
    return counter.count
