"""What a recipe says of the optimizer, and of its learning rate from epoch to epoch."""

import math
from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from mixbench.bench.settings import Recipe


def optimizer(objective: torch.nn.Module, recipe: Recipe) -> tuple[Optimizer, LRScheduler]:
    """The recipe's optimizer, and its schedule, which steps once per epoch."""
    steps = _steps(_groups(objective, recipe), recipe)
    return steps, LambdaLR(steps, lambda epoch: factor(recipe, epoch))


def factor(recipe: Recipe, epoch: int) -> float:
    """What the recipe's learning rate is multiplied by in an epoch."""
    if epoch < recipe.warmup:
        return (epoch + 1) / (recipe.warmup + 1)
    if recipe.schedule == "cosine":
        done = (epoch - recipe.warmup) / (recipe.epochs - recipe.warmup)
        return (1 + math.cos(math.pi * done)) / 2
    milestones = [max(1, round(share * recipe.epochs)) for share in recipe.milestones]
    return math.prod(recipe.drop for milestone in milestones if epoch >= milestone)


def _groups(objective: torch.nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """What is trained: with weight decay, and without."""
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    if recipe.decay == "all":
        return [{"params": list(trained.values()), "weight_decay": recipe.weight_decay}]
    weights = {n: p for n, p in trained.items() if n.endswith("weight") and p.ndim > 1}
    others = [p for name, p in trained.items() if name not in weights]
    return [
        {"params": list(weights.values()), "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _steps(groups: list[dict[str, Any]], recipe: Recipe) -> Optimizer:
    if recipe.optimizer == "adamw":
        return AdamW(groups, recipe.lr)
    return SGD(groups, recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)
