"""Many draws from symmetric Dirichlet distributions."""

from math import pi

import torch
from torch import Tensor

from mixbench.methods._ops import dirichlet

MANY = 10_000


def simplex(alpha: Tensor, m: int) -> Tensor:
    """As ``dirichlet``, but two to three times as fast for many numbers on a CPU.

    There, torch draws them one by one; on a GPU, it draws them all at once.
    """
    many = alpha.numel() * m > MANY
    if alpha.is_cpu and many and m.bit_count() == 1:
        return halved(alpha, m)
    return dirichlet(alpha, m)


def halved(alpha: Tensor, m: int) -> Tensor:
    """The same law, for ``m`` a power of two: groups are halved until there are ``m`` of them.

    Of what 2 k items have together, k of them have a share with the law Beta(k alpha, k alpha).
    """
    mean = torch.full((1, *alpha.shape), 1 / m, dtype=alpha.dtype)  # of each group
    while len(mean) < m:
        k = m // (2 * len(mean))
        more = mean * _imbalance(k * alpha, len(mean))
        mean = torch.cat([mean + more, mean - more])
    return mean.movedim(0, -1)


def _imbalance(a: Tensor, n: int) -> Tensor:
    """``n`` draws of 2 B - 1, where B ~ Beta(a, a), for each entry of ``a`` (...), (n, ...).

    It is t / (2 a + t^2)^(1/2) of Student's t with 2 a degrees of freedom, which two uniform
    numbers make: Bailey, Mathematics of Computation 62 (1994), 779.
    """
    cosine = torch.rand(n, *a.shape, dtype=a.dtype).mul_(2 * pi).cos_()
    growth = torch.rand_like(cosine).neg_().log1p_().div_(-a).expm1_()
    return (cosine / (cosine.square() + 1 / growth).sqrt()).clamp(-1, 1)
