"""What takes training steps."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mixbench.bench.cells import method
from mixbench.bench.data import Data
from mixbench.bench.lab import build
from mixbench.bench.optimizers import optimizer
from mixbench.bench.settings import Setting
from mixbench.bench.stepping import Step, stepper


@dataclass
class Subject:
    """A network in training: ``objective(x, y)`` is the loss, and ``take`` how a step is taken.

    passes: what a step asks of networks beyond one forward and backward pass.
    """

    name: str
    objective: nn.Module
    optimizer: Optimizer
    take: Step
    passes: str = ""

    def step(self, x: Tensor, y: Tensor) -> None:
        self.take(x, y)


def subject(
    name: str, where: Setting, data: Data, device: torch.device, eager: bool = False
) -> Subject:
    """A method, with a network of its own, and, if it needs one, a teacher that is not trained."""
    chosen = method(name)
    torch.manual_seed(0)
    net, teacher = (build(where, data).to(device) for _ in range(2))
    objective = chosen.objective(net, teacher if chosen.teacher else None).train()
    updates, _ = optimizer(objective, where.recipe)
    return Subject(name, objective, updates, stepper(objective, updates, eager), chosen.passes)
