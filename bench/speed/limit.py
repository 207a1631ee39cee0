"""The limit: forward, backward and update of the same network on one batch, and nothing else."""

import torch
from torch import Tensor, nn

from mixbench.bench.data import Data
from mixbench.bench.lab import build
from mixbench.bench.optimizers import optimizer
from mixbench.bench.settings import Setting
from mixbench.bench.speed.subjects import Subject
from mixbench.bench.stepping import Branching, Cuda, Plain, Step, rates_on
from mixbench.methods import Net


class Bare(nn.Module):
    """A network and its criterion."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.net.criterion(self.net(x), y)


def bare(where: Setting, data: Data, device: torch.device, compiled: bool, eager: bool) -> Subject:
    """The network of a setting, compiled in one piece or not; on a GPU, its step is one graph."""
    torch.manual_seed(0)
    objective = Bare(build(where, data).to(device)).train()
    if compiled:
        objective.compile(dynamic=False)
    updates, _ = optimizer(objective, where.recipe)
    take: Step = Plain(objective, updates)
    if device.type == "cuda" and not eager:
        rates_on(device, updates)
        take = Branching(take, Cuda(device))
    return Subject("compiled" if compiled else "plain", objective, updates, take)
