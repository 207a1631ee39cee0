"""What compares predictions with targets."""

from typing import Literal, Protocol

from torch import Tensor
from torch.nn import functional as F

from mixbench.methods._ops import full_precision

Reduction = Literal["mean", "sum", "none"]


class Criterion(Protocol):
    """A loss of logits (b, c), affine in the target distributions (b, c).

    Its "mean" and its "sum" are over examples; "none" is the loss of each, (b,).
    ``torch.nn.functional.cross_entropy`` is one.
    """

    def __call__(
        self, logits: Tensor, target: Tensor, /, *, reduction: Reduction = "mean"
    ) -> Tensor: ...


def bce_on_softmax(logits: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Binary cross-entropy of the probability of each class, a mean over the c classes.

    It is that of manifold mixup's official code (arXiv 1806.05236), PuzzleMix's and Co-Mixup's.
    Logarithms are at least -100. Its gradient is 1 / (c - 1) of cross-entropy's where predictions
    are uniform, and 2 / c of it where they nearly are the label.
    """
    p = logits.softmax(1, dtype=target.dtype)
    with full_precision(p.device):
        target = target.clamp(max=1)  # mixed ones may exceed it by rounding, which is refused
        each = F.binary_cross_entropy(p.nan_to_num(), target, reduction="none")
    loss = each.where(p.isfinite(), p).mean(1)  # a network that diverged has NaN, not an abort
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()
