"""Sums over many parts, of which one is held at a time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Part = Callable[..., Tensor]
"""From some rows of each tensor to a scalar."""


def summed(part: Part, size: int, *tensors: Tensor) -> Tensor:
    """The sum of ``part`` over every ``size`` rows of all ``tensors``.

    Gradients with respect to the tensors are taken with the sum, part by part, so that nothing
    which leads to a part outlives it, nor is computed twice. ``part`` must not depend on anything
    else that has a gradient.
    """
    if size >= len(tensors[0]):
        return part(*tensors)
    total: Tensor = _Summed.apply(part, size, *tensors)
    return total


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Part, size: int, *tensors: Tensor) -> Tensor:
        ctx.needs = ctx.needs_input_grad[2:]
        rows = zip(*(each.split(size) for each in tensors), strict=True)
        losses, gradients = zip(*(_value(part, ctx.needs, each) for each in rows), strict=True)
        ctx.save_for_backward(*(torch.cat(each) for each in zip(*gradients, strict=True)))
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        return None, None, *(gradient * next(saved) if needed else None for needed in ctx.needs)


def _value(
    part: Part, needs: tuple[bool, ...], rows: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What a part amounts to, and its gradient with respect to those rows that need one."""
    leaves = [each.detach().requires_grad_(n) for each, n in zip(rows, needs, strict=True)]
    needing = [leaf for leaf in leaves if leaf.requires_grad]
    with torch.enable_grad():
        loss = part(*leaves)
    return loss.detach(), torch.autograd.grad(loss, needing) if needing else ()
