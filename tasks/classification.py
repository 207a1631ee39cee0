"""Top-1 and top-5 error on the clean test set."""

from collections.abc import Iterable
from statistics import median
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from mixbench.tasks import Answer, Metric, Outputs, Task, Trained

CURVES = ("top1", "loss")
"""What figures show of each epoch."""


@torch.no_grad()
def errors(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """The top-1 and top-5 error in percent, of ``net`` as it is, on labelled batches."""
    return errors_at(places(net, batches))


@torch.no_grad()
def places(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """How many classes score above the true one of each image, (n,); see ``errors``."""
    found = [_place(net(x), y) for x, y in batches]
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)


def errors_of(seen: Outputs) -> dict[str, float]:
    """The same of what a network made of images."""
    return errors_at(_place(seen.logits, seen.labels))


def errors_at(places: Tensor) -> dict[str, float]:
    """The same of ``places``."""
    return {f"top{k}": 100 * (places >= k).double().mean().item() for k in (1, 5)}


def _place(logits: Tensor, y: Tensor) -> Tensor:
    """How many classes score above the true one, (b,); ties and NaN count against it."""
    true = logits.gather(1, y[:, None])
    return (~(logits < true)).sum(1) - 1


@dataclass(frozen=True)
class Classification(Task):
    """Error after the last epoch; also the best of all epochs, and the median of the last ten.

    Test error and training loss after each epoch are left for figures.
    """

    metrics: ClassVar = {
        "top1": Metric("top-1 error, %", "lower"),
        "accuracy": Metric("top-1 accuracy, %", "higher", main=False, complement="top1"),
        "top1_best": Metric("top-1 error, %, best epoch", "lower", main=False),
        "top1_median": Metric("top-1 error, %, median of last 10 epochs", "lower", main=False),
        "top5": Metric("top-5 error, %", "lower", main=False),
        "top5_best": Metric("top-5 error, %, best epoch", "lower", main=False),
        "top5_median": Metric("top-5 error, %, median of last 10 epochs", "lower", main=False),
    }

    def evaluate(self, trained: Trained) -> Answer:
        scores = errors_of(trained.outputs("test"))
        for name in tuple(scores):
            history = [epoch[name] for epoch in trained.epochs]
            scores[f"{name}_best"] = min(history)
            scores[f"{name}_median"] = median(history[-10:])
        curves = {f"epoch_{name}": [e[name] for e in trained.epochs] for name in CURVES}
        return scores | curves
