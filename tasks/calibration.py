"""How far confidence is from accuracy (Guo et al., ICML 2017, arXiv 1706.04599)."""

from typing import ClassVar

import torch
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from mixbench.tasks import Answer, Metric, Task, Trained


def expected_calibration_error(p: Tensor, y: Tensor, bins: int) -> float:
    """The mean gap, in [0, 1], between confidence and accuracy of probabilities ``p`` (n, c).

    Confidence, the largest probability, is binned in equal widths, closed on the right; bins weigh
    as much as they hold.
    """
    confidence, right = _top(p, y)
    gaps = _summed(right - confidence, _bin(confidence, bins), bins)
    return gaps.abs().sum().item() / len(p)


def adaptive_calibration_error(p: Tensor, y: Tensor, bins: int) -> float:
    """As the expected one, in ``bins`` bins of as equal numbers of images as can be.

    They are of the largest probability, as there (Nguyen & O'Connor, 1508.05154); Nixon et al.
    (1904.01685) do so with those of all classes. Images of equal confidence all count with the mean
    of their gaps, so that the order of images does not matter where a bin ends between them.
    """
    confidence, right = _top(p, y)
    levels, level, images = confidence.unique(return_inverse=True, return_counts=True)
    gaps = _summed(right - confidence, level, len(levels)) / images
    ascending = gaps.repeat_interleave(images).tensor_split(bins)
    return torch.stack([gap.sum() for gap in ascending]).abs().sum().item() / len(p)


def reliability(p: Tensor, y: Tensor, bins: int) -> dict[str, list[float]]:
    """Of each bin of the expected calibration error, mean confidence and accuracy, in percent.

    And its share of the images; if it has none, all three are 0.
    """
    confidence, right = _top(p, y)
    held = _bin(confidence, bins)
    images = held.bincount(minlength=bins)
    at_least_one = images.clamp(min=1)
    return {
        "confidence": (100 * _summed(confidence, held, bins) / at_least_one).tolist(),
        "accuracy": (100 * _summed(right, held, bins) / at_least_one).tolist(),
        "share": (images / images.sum()).tolist(),
    }


def calibration(logits: Tensor, y: Tensor, bins: int) -> Answer:
    """All that is asked of logits (n, c) of images of classes ``y`` (n,), in float64."""
    logits = logits.double()
    p = logits.softmax(1)
    return {
        "ece": 100 * expected_calibration_error(p, y, bins),
        "aece": 100 * adaptive_calibration_error(p, y, bins),
        "nll": F.cross_entropy(logits, y).item(),
        "brier": (p - F.one_hot(y, p.shape[1])).pow(2).sum(1).mean().item(),
        **reliability(p, y, bins),
    }


def _top(p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The largest probability, and whether it is of the true class, (n,) each."""
    confidence, guess = p.max(1)
    return confidence, (guess == y).to(p)


def _bin(confidence: Tensor, bins: int) -> Tensor:
    """Of b bins, i is (i/b, (i + 1)/b]."""
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    return torch.bucketize(confidence, edges[1:-1])


def _summed(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """The sum of ``values`` (n,) in each group."""
    return values.new_zeros(groups).index_add_(0, group, values)


@dataclass(frozen=True)
class Calibration(Task):
    """Calibration errors, negative log-likelihood and Brier score on the test set.

    bins: of the expected and the adaptive calibration error.
    """

    bins: PositiveInt = 15

    metrics: ClassVar = {
        "ece": Metric("ECE, %", "lower"),
        "aece": Metric("adaptive ECE, %", "lower", main=False),
        "nll": Metric("NLL, nats", "lower", ".3f"),
        "brier": Metric("Brier", "lower", ".3f"),
    }

    def evaluate(self, trained: Trained) -> Answer:
        test = trained.outputs("test")
        return calibration(test.logits, test.labels, self.bins)
