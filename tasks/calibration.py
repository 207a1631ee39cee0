"""How far confidence is from accuracy (Guo et al., ICML 2017, arXiv 1706.04599)."""

from typing import ClassVar

import torch
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from mixbench.tasks import Metric, Task, Trained


def expected_calibration_error(p: Tensor, y: Tensor, bins: int) -> float:
    """The mean gap, in [0, 1], between confidence and accuracy of probabilities ``p`` (n, c).

    Confidence, the largest probability, is binned in equal widths, closed on the right; bins weigh
    as much as they hold.
    """
    confidence, guess = p.max(1)
    edges = torch.linspace(0, 1, bins + 1, dtype=p.dtype, device=p.device)[1:-1]
    gap = (guess == y).to(p) - confidence
    total = torch.zeros(bins, dtype=p.dtype, device=p.device)
    total.index_add_(0, torch.bucketize(confidence, edges), gap)
    return total.abs().sum().item() / len(p)


@dataclass(frozen=True)
class Calibration(Task):
    """Expected calibration error, negative log-likelihood and Brier score on the test set.

    bins: of the expected calibration error.
    """

    bins: PositiveInt = 15

    metrics: ClassVar = {
        "ece": Metric("ECE, %", "lower"),
        "nll": Metric("NLL, nats", "lower", ".3f"),
        "brier": Metric("Brier", "lower", ".3f"),
    }

    @torch.no_grad()
    def evaluate(self, trained: Trained) -> dict[str, float]:
        pairs = [(trained.net(x), y) for x, y in trained.data.batches("test")]
        logits, y = torch.cat([z for z, _ in pairs]).double(), torch.cat([y for _, y in pairs])
        p = logits.softmax(1)
        return {
            "ece": 100 * expected_calibration_error(p, y, self.bins),
            "nll": F.cross_entropy(logits, y).item(),
            "brier": (p - F.one_hot(y, p.shape[1])).pow(2).sum(1).mean().item(),
        }
