"""What is kept of an optimizer that goes on elsewhere."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer

from mixbench.bench.optimizers import WAYS, at_rest, optimizer, take_up
from mixbench.bench.settings import Recipe

RECIPES = [
    Recipe(epochs=4, nesterov=True, milestones=(0.25,)),
    Recipe(epochs=4, optimizer="adamw", milestones=(0.25,)),
]


def stepped(recipe: Recipe) -> tuple[nn.Module, Optimizer]:
    """A layer after an epoch of one step."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    steps, schedule = optimizer(layer, recipe)
    layer(torch.ones(1, 3)).sum().backward()
    steps.step()
    schedule.step()
    return layer, steps


def as_from_a_gpu(steps: Optimizer) -> dict[str, object]:
    """Its state as a training on a GPU would save it."""
    state = copy.deepcopy(steps.state_dict())
    for group in state["param_groups"]:
        group |= {key: True for key in WAYS if key in group}
        group["lr"] = torch.tensor(group["lr"])
    return state


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.optimizer)
def test_a_state_from_a_gpu_goes_on_as_the_cpu_computes(recipe: Recipe) -> None:
    layer, steps = stepped(recipe)
    other, goes_on = stepped(recipe)
    take_up(goes_on, as_from_a_gpu(steps))
    (group,) = goes_on.param_groups
    assert type(group["lr"]) is float and group["lr"] == pytest.approx(recipe.lr * recipe.drop)
    assert not any(group.get(key) for key in WAYS)
    for each, its in ((layer, steps), (other, goes_on)):
        its.zero_grad()
        each(torch.ones(1, 3)).square().sum().backward()
        its.step()
    for one, same in zip(layer.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, same, rtol=1e-6, atol=0)


def test_a_state_of_other_groups_is_refused() -> None:
    _, steps = stepped(RECIPES[0])
    state = steps.state_dict()
    with pytest.raises(ValueError):
        take_up(steps, state | {"param_groups": []})


def test_a_momentum_of_zero_is_that_of_a_first_step() -> None:
    """So a fused step can be taken though some gradients come later than others."""
    layers = []
    for fused in (False, True):
        torch.manual_seed(1)
        layer = nn.Linear(3, 2)
        sgd = SGD(layer.parameters(), 0.1, momentum=0.9, nesterov=True, fused=fused)
        sgd = at_rest(sgd) if fused else sgd
        for step in range(3):
            sgd.zero_grad()
            out = F.linear(torch.ones(1, 3), layer.weight) if step == 0 else layer(torch.ones(1, 3))
            out.square().sum().backward()
            sgd.step()
        layers.append(layer)
    for one, same in zip(*(layer.parameters() for layer in layers), strict=True):
        torch.testing.assert_close(one, same, rtol=1e-6, atol=1e-7)
