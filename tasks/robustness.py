"""Error under FGSM (Goodfellow et al., arXiv 1412.6572) and PGD (Madry et al., arXiv 1706.06083)."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.tasks import Metric, Task, Trained
from mixbench.tasks.classification import errors


@torch.enable_grad()
def attack(
    net: nn.Module, x: Tensor, y: Tensor, eps: float, step: float, steps: int, random_start: bool
) -> Tensor:
    """Images (b, 3, h, w) in [0, 1], at most ``eps`` from ``x`` at any pixel, of higher loss.

    ``steps`` of size ``step`` along the sign of the gradient of the cross-entropy with labels
    ``y`` (b,); the last iterate is returned.
    """
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    z = x + torch.empty_like(x).uniform_(-eps, eps) if random_start else x
    z = z.clamp(low, high)
    for _ in range(steps):
        z = z.detach().requires_grad_()
        loss = F.cross_entropy(net(z), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, z)
        z = (z + step * gradient.sign()).clamp(low, high)
    return z.detach()


@dataclass(frozen=True)
class Robustness(Task):
    """Top-1 error on attacked test images, the attacker knowing the network.

    fgsm: size of the single step. pgd: radius, of l-infinity. step, steps, random_start: of PGD;
    the papers do not give the number of steps, 20 is that of PuzzleMix's code. Pixels are in [0, 1].
    """

    fgsm: NonNegativeFloat = 8 / 255
    pgd: NonNegativeFloat = 4 / 255
    step: NonNegativeFloat = 2 / 255
    steps: PositiveInt = 20
    random_start: bool = True

    metrics: ClassVar = {
        "fgsm": Metric("FGSM error, %", "lower"),
        "pgd": Metric("PGD error, %", "lower"),
    }

    def evaluate(self, trained: Trained) -> dict[str, float]:
        fgsm = self._attacked(trained, self.fgsm, self.fgsm, 1, False)
        pgd = self._attacked(trained, self.pgd, self.step, self.steps, self.random_start)
        return {
            "fgsm": errors(trained.net, fgsm)["top1"],
            "pgd": errors(trained.net, pgd)["top1"],
        }

    def _attacked(
        self, trained: Trained, eps: float, step: float, steps: int, random_start: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in trained.data.batches("test"):
            yield attack(trained.net, x, y, eps, step, steps, random_start), y
