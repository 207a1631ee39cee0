"""The few operations that methods share. Draws are made on torch's current default device."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.distributions import Beta, Dirichlet


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """No autocast, on a device that has it."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


HOST = torch.device("cpu")

_drawn_on: ContextVar[torch.device | None] = ContextVar("_drawn_on", default=None)


@contextmanager
def drawing_on(device: torch.device) -> Iterator[None]:
    """Let draws land on a device, unless they do: a context slows all calls within down, and code is
    compiled anew for each that is nested.
    """
    if _drawn_on.get() == device or device == torch.get_default_device() == HOST:
        yield
        return
    token = _drawn_on.set(device)
    try:
        with device:
            yield
    finally:
        _drawn_on.reset(token)


def beta(alpha: float) -> Tensor:
    """One draw from Beta(alpha, alpha), a scalar in [0, 1]."""
    a = torch.full((), float(alpha))
    return Beta(a, a, validate_args=False).sample()


def ratios(alpha: float, k: int, *each: int) -> Tensor:
    """k draws from Beta(alpha, alpha) in descending order, (k,): a path from an image to another.

    each: a size, if there should be as many such paths, (k, each).
    """
    a = torch.full((k, *each), float(alpha))
    return Beta(a, a, validate_args=False).sample().sort(0, descending=True).values


def partners(b: int) -> Tensor:
    """A uniformly random permutation of ``b`` examples, (b,): with whom each one is mixed."""
    return torch.randperm(b)


def pairs(lam: Tensor, b: int) -> Tensor:
    """The (k b, b) matrix that mixes each example with one random partner, at each ratio of (k,), or
    of its own, (k, b).
    """
    eye, lam = torch.eye(b), lam.view(len(lam), -1, 1)
    return (lam * eye + (1 - lam) * eye[partners(b)]).flatten(0, 1)


def combined(w: Tensor, z: Tensor) -> Tensor:
    """Mixtures (n, ...) of features (b, ...) by weights (n, b), with the features' memory format.

    A network that gets another one is a tenth slower on some devices.
    """
    channels_last = z.ndim == 4 and z.is_contiguous(memory_format=torch.channels_last)
    mixed = torch.einsum("nb,b...->n...", w, z.movedim(1, -1) if channels_last else z)
    return mixed.movedim(-1, 1) if channels_last else mixed


def dirichlet(alpha: Tensor, m: int) -> Tensor:
    """For each entry of ``alpha`` (...), a symmetric Dirichlet vector over ``m`` items, (..., m)."""
    return Dirichlet(alpha[..., None].expand(*alpha.shape, m), validate_args=False).sample()


def box(h: int, w: int, side: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Which pixels lie in boxes of relative side (...) around centres, clipped, (..., h, w).

    As in CutMix's official code, both sides are even before the border clips them.
    """
    rows, columns = _interval(h, side, row), _interval(w, side, column)
    return rows[..., None] & columns[..., None, :]


def _interval(size: int, side: Tensor, centre: Tensor) -> Tensor:
    half, pixel = (size * side).long() // 2, torch.arange(size)
    return (pixel >= (centre - half)[..., None]) & (pixel < (centre + half)[..., None])
