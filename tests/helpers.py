"""What the tests of methods share."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from unittest.mock import patch

import torch
from torch import Tensor, nn

from mixbench.bench.nets.preactresnet import small
from mixbench.bench.nets.vit import smallvit
from mixbench.methods import Method, Net, Objective
from mixbench.methods._criterion import Reduction
from mixbench.methods.multimix import MultiMix

CLASSES = 5


def tiny() -> Net:
    """A network whose last map, of 8 x 8 images, is 64 x 2 x 2."""
    return small(CLASSES, 8, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def tiny_vit() -> Net:
    """A vision transformer that sees 8 x 8 images as 16 tokens."""
    return smallvit(CLASSES, 8, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def home(method: Method) -> Net:
    """A network that the method can be applied to."""
    try:
        method.check(net := tiny())
    except ValueError:
        method.check(net := tiny_vit())
    return net


def bound(method: Method, net: Net) -> Objective:
    """The method's objective, with a teacher if it needs one."""
    return method.objective(net, deepcopy(net) if method.teacher else None)


@contextmanager
def comparing(net: Net) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The logits and targets that the criterion of the network is called with."""
    seen = []
    criterion = net.criterion

    def noted(logits: Tensor, target: Tensor, /, *, reduction: Reduction = "mean") -> Tensor:
        seen.append((logits, target))
        return criterion(logits, target, reduction=reduction)

    with patch.object(net, "criterion", noted):
        yield seen


def bare(d: int, head: nn.Module | None = None) -> Net:
    """A network whose images are its last map, (b, d, h, w)."""
    return Net(
        pixels=nn.Identity(),
        layer4=nn.Identity(),
        pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        head=head or nn.Linear(d, CLASSES),
    )


def batch(b: int, height: int = 8, width: int = 8) -> tuple[Tensor, Tensor]:
    """Random images, of which gradients can be asked, and one-hot targets."""
    x = torch.rand(b, 3, height, width, requires_grad=True)
    return x, torch.eye(CLASSES)[torch.randint(CLASSES, (b,))]


def heads(d: int) -> dict[str, nn.Module]:
    """A linear head and two that do not commute with mixing."""
    return {
        "linear": nn.Linear(d, CLASSES),
        "tanh": nn.Sequential(nn.Linear(d, CLASSES), nn.Tanh()),
        "cosine": Cosine(d, CLASSES),
    }


class Cosine(nn.Linear):
    """A linear head of normalised features."""

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(nn.functional.normalize(z, dim=-1))


def cut(net: Net, stage: str) -> tuple[nn.Sequential, nn.Sequential]:
    """The stages up to and including ``stage``, and those after it."""
    stages = dict(net.named_children())
    end = list(stages).index(stage) + 1
    modules = list(stages.values())
    return nn.Sequential(*modules[:end]), nn.Sequential(*modules[end:])


def total(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum(0)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-sum_c y_c log p_c of one example, from its definition."""
    p = logits.exp() / logits.exp().sum()
    return -(target * p.log()).sum()


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-1/c sum_c [y_c log p_c + (1 - y_c) log(1 - p_c)] of one example, class by class."""
    p = logits.exp() / logits.exp().sum()
    return -total(
        target[k] * p[k].log() + (1 - target[k]) * (1 - p[k]).log() for k in range(len(p))
    ) / len(p)


def entropy(p: Tensor) -> Tensor:
    """The entropy of each row."""
    return -torch.xlogy(p, p).sum(-1)


def with_gradients(loss: Tensor, net: Net, x: Tensor) -> list[Tensor]:
    """The loss and its gradients with respect to the input and all parameters."""
    return [loss, *torch.autograd.grad(loss, [x, *net.parameters()])]


def assert_same(actual: object, expected: object, atol: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def assert_even(counts: Tensor) -> None:
    """A chi-squared test, at the level 1e-3, of counts that should be equal but for chance."""
    mean = counts.double().mean()
    statistic = ((counts - mean) ** 2 / mean).sum()
    freedom = torch.tensor(counts.numel() - 1.0, dtype=torch.float64)
    assert torch.special.gammaincc(freedom / 2, statistic / 2) > 1e-3


def pair_matrix(lam: float, partner: Sequence[int]) -> Tensor:
    """The rows lam e_i + (1 - lam) e_partner(i)."""
    w = torch.zeros(len(partner), len(partner))
    for i, j in enumerate(partner):
        w[i, i] += lam
        w[i, j] += 1 - lam
    return w


@contextmanager
def pairing(lam: float, partner: Sequence[int]) -> Iterator[None]:
    """Let mixup draw this ratio and these partners."""
    with (
        patch("mixbench.methods.mixup.ratios", return_value=torch.tensor([lam])),
        patch("mixbench.methods._ops.partners", return_value=torch.tensor(partner)),
    ):
        yield


@contextmanager
def drawing(weights: Tensor) -> Iterator[None]:
    """Let MultiMix and its kin draw ``weights`` (r, n, b)."""

    def draw(_: MultiMix, b: int, r: int) -> Tensor:
        assert (r, b) == (weights.shape[0], weights.shape[2])
        return weights

    with patch.object(MultiMix, "draw", draw):
        yield
