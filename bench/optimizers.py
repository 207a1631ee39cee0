"""What a recipe says of the optimizer, and of its learning rate from epoch to epoch."""

import math
from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from mixbench.bench.settings import Recipe

WAYS = ("fused", "capturable")
"""What a group of parameters says of how its device computes."""


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


def take_up(steps: Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state, which may be of another device; the way to compute is kept."""
    groups = []
    for saved, here in zip(state["param_groups"], steps.param_groups, strict=True):
        way = {key: here[key] for key in WAYS if key in here}
        groups.append(saved | way | {"lr": float(saved["lr"])})
    steps.load_state_dict(state | {"param_groups": groups})


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
    """Fused on a GPU. On a CPU, this would save a few percent, and change last bits."""
    on_gpu = groups[0]["params"][0].is_cuda
    if recipe.optimizer == "adamw":
        return AdamW(groups, recipe.lr, fused=on_gpu, capturable=on_gpu)
    sgd = SGD(groups, recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=on_gpu)
    return at_rest(sgd) if on_gpu and recipe.momentum else sgd


def at_rest(sgd: SGD) -> SGD:
    """With a momentum of zero everywhere, as fused steps need where gradients come at different times."""
    for group in sgd.param_groups:
        for parameter in group["params"]:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd
