"""Fields that are there for what a paper leaves open, or its code does otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from unittest.mock import patch

import pytest
import torch
from helpers import assert_even, assert_same, batch, tiny
from scipy.stats import beta, kstest, uniform
from torch import Tensor

from mixbench.methods import Method, ratios
from mixbench.methods.alignmixup import AlignMixup
from mixbench.methods.cutmix import CutMix
from mixbench.methods.densemultimix import DenseMultiMix
from mixbench.methods.manifold import Manifold
from mixbench.methods.mixup import Mixup
from mixbench.methods.multimix import MultiMix
from mixbench.methods.zetamixup import ZetaMixup

pytestmark = pytest.mark.usefixtures("float64")

Per = Literal["vector", "mixture", "batch"]

OTHERWISE = (
    Mixup(shared=False),
    Manifold(shared=False),
    CutMix(p=1, corrected=False),
    ZetaMixup(m=2),
    ZetaMixup(own=False),
    AlignMixup(p=1, convex=True),
    MultiMix(p=1, n=20, alpha_per="batch"),
    DenseMultiMix(p=1, n=20, alpha_per="mixture"),
)


@pytest.mark.parametrize("method", OTHERWISE)
@pytest.mark.parametrize("b", [1, 6])
def test_it_trains_all_the_same(method: Method, b: int) -> None:
    torch.manual_seed(0)
    x, y = batch(b)
    loss = method.loss(tiny(), x, y)
    (slope,) = torch.autograd.grad(loss, x)
    assert loss.isfinite()
    assert (slope.flatten(1).abs().sum(1) > 0).all()


def test_pairs_may_have_ratios_of_their_own() -> None:
    lam, partner = torch.tensor([[0.9, 0.5, 0.2]]), torch.tensor([1, 2, 0])
    with (
        patch("mixbench.methods.mixup.ratios", return_value=lam) as drawn,
        patch("mixbench.methods._ops.partners", return_value=partner),
    ):
        weights = Mixup(alpha=2, shared=False).weights(3)
    drawn.assert_called_once_with(2.0, 1, 3)
    assert_same(weights, torch.tensor([[0.9, 0.1, 0], [0, 0.5, 0.5], [0.8, 0, 0.2]]))


def test_ratios_of_their_own_are_beta_distributed_and_independent() -> None:
    torch.manual_seed(0)
    lam = ratios(2.0, 1, 20_000)[0]
    assert kstest(lam.numpy(), beta(2, 2).cdf).pvalue > 1e-3
    assert abs(torch.corrcoef(torch.stack([lam[:-1], lam[1:]]))[0, 1]) < 0.03


def test_each_pair_has_an_ordered_path() -> None:
    torch.manual_seed(0)
    lam = ratios(1.0, 4, 5000)
    assert (lam.diff(dim=0) < 0).all()
    assert lam.shape == (4, 5000)
    for place, values in enumerate(lam):  # the largest of four uniform numbers is Beta(4, 1)
        assert kstest(values.numpy(), beta(4 - place, 1 + place).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("corrected", "kept"), [(True, 60 / 64), (False, 0.75)])
def test_targets_of_cutmix_follow_the_area_or_the_ratio(corrected: bool, kept: float) -> None:
    """A box of 4 x 4 pixels around a corner of 8 x 8, of which 2 x 2 are visible."""
    method = CutMix(p=1, corrected=corrected)
    z, y = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]), torch.eye(2)
    with (
        patch("mixbench.methods.cutmix.ratios", return_value=torch.tensor([0.75])),
        patch("mixbench.methods.cutmix.partners", return_value=torch.tensor([1, 0])),
        patch("torch.randint", return_value=torch.tensor([0])),
    ):
        mixed, targets = method.mix(z, y)
    assert mixed[0, 0].sum() == 4
    assert_same(targets, torch.tensor([[kept, 1 - kept], [1 - kept, kept]]))


def test_each_mixture_of_zeta_mixup_has_m_examples() -> None:
    torch.manual_seed(0)
    weights = torch.stack([ZetaMixup(gamma=1, m=2).weights(5) for _ in range(2000)])
    assert_same(weights.sort().values[..., -2:], torch.tensor([1, 2]).div(3).expand(2000, 5, 2))
    assert_same(weights.diagonal(dim1=1, dim2=2), torch.full((2000, 5), 2 / 3))
    assert ((weights > 0).sum(2) == 2).all()
    assert_even((weights[:, 0, 1:] > 0).sum(0))


def test_the_whole_batch_is_mixed_if_it_has_no_more_than_m() -> None:
    found = []
    for m in (None, 5, 25):
        torch.manual_seed(0)
        found.append(ZetaMixup(m=m).weights(5))
    assert_same(found[1], found[0], atol=0)
    assert_same(found[2], found[0], atol=0)
    assert (found[0] > 0).all()


def test_the_largest_weight_of_zeta_mixup_may_be_anywhere() -> None:
    torch.manual_seed(0)
    weights = torch.stack([ZetaMixup(gamma=1, own=False).weights(4) for _ in range(2000)])
    series = torch.tensor([12, 6, 4, 3]) / 25
    assert_same(weights.sort(descending=True).values, series.expand_as(weights))
    for rank in range(4):
        place = weights.argsort(descending=True)[..., rank]
        assert_even(place[:, 0].bincount(minlength=4))


@contextmanager
def aligned(lam: float, first: bool) -> Iterator[None]:
    """Two maps with two positions each, by a plan whose rows do not sum to one."""
    plan = torch.tensor([[0.5, 0.25], [0.5, 0.75]]).expand(2, 2, 2)
    with (
        patch.object(AlignMixup, "plan", return_value=plan),
        patch("mixbench.methods.alignmixup.beta", return_value=torch.tensor(lam)),
        patch("mixbench.methods.alignmixup.partners", return_value=torch.tensor([1, 0])),
        patch("mixbench.methods.alignmixup.chance", return_value=first),
    ):
        yield


def first_of(method: AlignMixup) -> Tensor:
    """The mixed map of (0, 0) with (4, 8)."""
    z = torch.tensor([[0.0, 0.0], [4.0, 8.0]]).view(2, 1, 1, 2)
    return method.mix(z, torch.eye(2))[0][0].flatten()


def test_positions_of_an_aligned_map_may_be_made_convex() -> None:
    with aligned(0.5, first=True):  # 4/2 + 8/4 = 4, 4/2 + 8 3/4 = 8, and half of either
        assert_same(first_of(AlignMixup()), torch.tensor([2.0, 4.0]))
    with aligned(0.5, first=True):  # rows (2/3, 1/3), (2/5, 3/5): 16/3 and 32/5
        assert_same(first_of(AlignMixup(convex=True)), torch.tensor([8 / 3, 16 / 5]))


def test_the_other_branch_has_no_use_for_that() -> None:
    with aligned(0.5, first=False):
        assert_same(first_of(AlignMixup(convex=True)), first_of(AlignMixup()), atol=0)


@pytest.mark.parametrize(
    ("per", "different"),
    [("vector", (3, 2000)), ("mixture", (1, 2000)), ("batch", (1, 1))],
)
def test_one_dirichlet_parameter_serves_what_the_field_says(
    per: Per, different: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    method = DenseMultiMix(n=2000, alpha_per=per)
    with patch(
        "mixbench.methods.multimix.simplex", wraps=lambda a, m: torch.ones(*a.shape, m)
    ) as s:
        method.draw(4, 3)
    alpha, m = s.call_args.args
    assert (alpha.shape, m) == ((3, 2000), 4)
    assert (len(alpha[:, 0].unique()), len(alpha[0].unique())) == different


@pytest.mark.parametrize("per", ["vector", "mixture", "batch"])
def test_dirichlet_parameters_are_uniform_in_their_range(per: Per) -> None:
    torch.manual_seed(0)
    method = MultiMix(n=10, alpha_per=per)
    alpha = torch.stack([method.draw_alpha(1)[0, 7] for _ in range(2000)])
    assert kstest(alpha.numpy(), uniform(0.5, 1.5).cdf).pvalue > 1e-3
