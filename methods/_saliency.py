"""Where a network looks: the gradient of its loss with respect to its input."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.methods._base import Net
from mixbench.methods._criterion import bce_on_softmax


def saliency(net: Net, x: Tensor, y: Tensor, clean: float = 0.0) -> tuple[Tensor, Tensor]:
    """How much each pixel matters, (b, h, w), and ``clean`` times the loss of the batch as it is.

    The former is the root mean square, over channels, of ``input_gradient``; see there.
    """
    gradient, loss = input_gradient(net, x, y, clean)
    return magnitude(gradient), loss


def input_gradient(net: Net, x: Tensor, y: Tensor, clean: float = 0.0) -> tuple[Tensor, Tensor]:
    """The gradient of the cross-entropy with respect to normalised pixels, (b, 3, h, w), up to a
    positive factor; and ``clean`` times that loss, in the ``unit`` of the network's criterion.

    With ``clean=0`` the network is asked in eval mode, and left as it was. Otherwise it is asked
    in its own mode, and the second result carries the gradients of this one pass, so that adding
    it to a loss costs no further one.
    """
    below, above = net.split("pixels")
    z = below(x).detach().requires_grad_()
    if not clean:
        with evaluating(net):
            loss = -(above(z).log_softmax(1) * y).sum()
        (gradient,) = torch.autograd.grad(loss, z)
        return gradient, torch.zeros_like(loss)
    parameters = [p for p in above.parameters() if p.requires_grad]
    loss = clean * unit(net, y) * F.cross_entropy(above(z), y)
    gradient, *kept = torch.autograd.grad(
        loss, [z, *parameters], allow_unused=True, materialize_grads=True
    )
    return gradient, _Spliced.apply(loss.detach(), kept, *parameters)


def unit(net: Net, y: Tensor) -> float:
    """What cross-entropy is multiplied with to be added to the criterion of the network.

    To BCE on softmax, of targets (b, c), the official codes of PuzzleMix and Co-Mixup add 2 / c of
    it: the two are equal to first order where a prediction nearly is the label.
    """
    return 2 / y.shape[1] if net.criterion is bce_on_softmax else 1


def magnitude(gradient: Tensor) -> Tensor:
    """The root mean square over channels: (b, 3, h, w) to (b, h, w)."""
    return gradient.square().mean(1).sqrt()


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Each module in eval mode; afterwards, in the mode that it was in."""
    trained = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True


class _Spliced(torch.autograd.Function):
    """A loss whose gradients with respect to parameters are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *_: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(outer[0] * gradient for gradient in ctx.gradients)
