"""The few operations that methods share. Draws are made on torch's current default device."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.distributions import Beta, Dirichlet


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """No autocast, on a device that has it."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def chance(p: float) -> bool:
    """A coin that shows heads with probability ``p``, thrown on the host: no device is waited for."""
    return bool(torch.rand((), device="cpu") < p)


def beta(alpha: float) -> Tensor:
    """One draw from Beta(alpha, alpha), a scalar in [0, 1]."""
    a = torch.full((), float(alpha))
    return Beta(a, a, validate_args=False).sample()


def partners(b: int) -> Tensor:
    """A uniformly random permutation of ``b`` examples, (b,): with whom each one is mixed."""
    return torch.randperm(b)


def pairs(lam: Tensor, b: int) -> Tensor:
    """The (b, b) matrix that mixes each example, at ratio ``lam``, with one random partner."""
    eye = torch.eye(b)
    return lam * eye + (1 - lam) * eye[partners(b)]


def dirichlet(alpha: Tensor, m: int) -> Tensor:
    """For each entry of ``alpha`` (...), a symmetric Dirichlet vector over ``m`` items, (..., m)."""
    return Dirichlet(alpha[..., None].expand(*alpha.shape, m), validate_args=False).sample()
