"""Calibration after temperature scaling (Guo et al., ICML 2017, arXiv 1706.04599, section 4.2)."""

from dataclasses import replace
from math import exp, log
from typing import ClassVar

from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from mixbench.tasks import Answer, Inapplicable, Metric, NoImages, Outputs, Task, Trained
from mixbench.tasks.calibration import Calibration, calibration

LOWEST, HIGHEST = 0.01, 100.0
"""Where a temperature is looked for.

If all images are classified right, the likelihood grows as T falls to 0; if logits mislead, as it
rises.
"""


def fitted(logits: Tensor, y: Tensor) -> float:
    """The T that minimises the mean cross-entropy of logits / T, (n, c), with labels ``y`` (n,).

    As it is convex in 1/T, that is where its slope is zero. Raises Inapplicable if that is nowhere
    between ``LOWEST`` and ``HIGHEST``.
    """
    from scipy.optimize import brentq

    logits = logits.double()
    above = logits - logits.gather(1, y[:, None])  # the true class, n c

    def slope(log_t: float) -> float:
        """The derivative by 1/T: how far, in the mean, the logits are expected above the true."""
        p = (above / exp(log_t)).softmax(1)
        return (p * above).sum(1).mean().item()

    if slope(log(LOWEST)) <= 0:
        raise Inapplicable("the lower a temperature, the better it fits: all held out are right")
    if slope(log(HIGHEST)) >= 0:
        raise Inapplicable("the higher a temperature, the better it fits: logits mislead")
    return exp(brentq(slope, log(LOWEST), log(HIGHEST)))


@dataclass(frozen=True)
class Temperature(Task):
    """The answers of ``calibration``, of logits divided by a T that is fitted to held-out images.

    bins: as there.
    """

    bins: PositiveInt = 15

    metrics: ClassVar = {
        name: replace(
            rule, title=f"{rule.title}, after temperature scaling", main=name in ("ece", "nll")
        )
        for name, rule in Calibration.metrics.items()
    } | {"temperature": Metric("temperature", "neither", ".3f", main=False)}

    def evaluate(self, trained: Trained) -> Answer:
        held_out, test = _held_out(trained), trained.outputs("test")
        t = fitted(held_out.logits, held_out.labels)
        return {**calibration(test.logits.double() / t, test.labels, self.bins), "temperature": t}


def _held_out(trained: Trained) -> Outputs:
    try:
        return trained.outputs("held_out")
    except NoImages:
        why = "nothing was held out to fit it on: the setting can say holdout=0.1"
        raise Inapplicable(why) from None
