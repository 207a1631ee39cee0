"""Top-1 and top-5 error on the clean test set."""

from collections.abc import Iterable
from statistics import median
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from mixbench.tasks import Metric, Outputs, Task, Trained


@torch.no_grad()
def errors(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """The top-1 and top-5 error in percent, of ``net`` as it is, on labelled batches."""
    return _errors(torch.cat([_rank(net(x), y) for x, y in batches]))


def errors_of(seen: Outputs) -> dict[str, float]:
    """The same of what a network made of images."""
    return _errors(_rank(seen.logits, seen.labels))


def _errors(ranks: Tensor) -> dict[str, float]:
    return {f"top{k}": 100 * (ranks >= k).double().mean().item() for k in (1, 5)}


def _rank(logits: Tensor, y: Tensor) -> Tensor:
    """How many classes score above the true one, (b,); ties and NaN count against it."""
    true = logits.gather(1, y[:, None])
    return (~(logits < true)).sum(1) - 1


@dataclass(frozen=True)
class Classification(Task):
    """Error after the last epoch; also the best of all epochs, and the median of the last ten."""

    metrics: ClassVar = {
        "top1": Metric("top-1 error, %", "lower"),
        "top1_best": Metric("top-1 error, %, best epoch", "lower", main=False),
        "top1_median": Metric("top-1 error, %, median of last 10 epochs", "lower", main=False),
        "top5": Metric("top-5 error, %", "lower", main=False),
        "top5_best": Metric("top-5 error, %, best epoch", "lower", main=False),
        "top5_median": Metric("top-5 error, %, median of last 10 epochs", "lower", main=False),
    }

    def evaluate(self, trained: Trained) -> dict[str, float]:
        scores = errors_of(trained.outputs("test"))
        for name in tuple(scores):
            history = [epoch[name] for epoch in trained.epochs]
            scores[f"{name}_best"] = min(history)
            scores[f"{name}_median"] = median(history[-10:])
        return scores
