"""The tokens of a vision transformer: their grid, and how much its class token attends to each."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from mixbench.methods._base import Net


def attend(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of images, and how much the class token attends to each of n patches, (b, n).

    The attention is that of the last block, after its softmax and before dropout: a mean over
    heads, without gradient, at least in single precision. Rows sum to less than one, as what the
    class token leaves to itself is not among it.
    """
    with _watching(last_attention(net)) as seen:
        logits = net(x)
    (weights,) = seen  # b heads 1+n 1+n
    a = weights.detach()[:, :, 0, 1:]
    return logits, a.to(torch.promote_types(a.dtype, torch.float32)).mean(1)


def last_attention(net: Net) -> Any:
    """The attention layer of the last block. Raises ValueError, which says why, if there is none."""
    need = "it needs the class token's attention in a vision transformer"
    if not has_class_token(net):
        raise ValueError(f"{need}; the network has no class token")
    layers = [m for m in net.modules() if hasattr(m, "attn_drop") and hasattr(m, "fused_attn")]
    if not layers:
        raise ValueError(f"{need}; the network has no attention layer that shows it, as timm's do")
    return layers[-1]


def has_class_token(net: nn.Module) -> bool:
    """Whether one of the parameters is named ``cls_token``, as in timm."""
    return any(name.endswith("cls_token") for name, _ in net.named_parameters())


def token_grid(net: Net, x: Tensor) -> tuple[int, int]:
    """Rows and columns of the patch tokens that leave the stem, for images like ``x``."""
    below, _ = net.split("stem")
    with torch.no_grad():
        return grid(below(x[:1]).shape[1] - 1, *x.shape[-2:])


def grid(n: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of ``n`` square patches that cover an image.

    Raises ValueError if there is no such grid: if there are tokens of another kind, for example.
    """
    rows, columns = round(sqrt(n * height / width)), round(sqrt(n * width / height))
    if rows * columns != n:
        raise ValueError(f"{n} tokens are no grid of square patches of a {height} x {width} image")
    return rows, columns


@contextmanager
def _watching(layer: Any) -> Iterator[list[Tensor]]:
    """What enters the layer's dropout; a fused kernel would not show it, so there is none here."""
    seen: list[Tensor] = []
    hook = layer.attn_drop.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    fused, layer.fused_attn = layer.fused_attn, False
    try:
        yield seen
    finally:
        layer.fused_attn = fused
        hook.remove()
