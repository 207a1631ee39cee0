"""Input mixup."""

from math import log
from unittest.mock import patch

import pytest
import torch
from helpers import assert_even, assert_same, bare, batch, pairing, tiny, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import nn
from torch.nn import functional as F

from mixbench.methods import _ops, beta, pairs, partners
from mixbench.methods.baseline import Baseline
from mixbench.methods.mixup import Mixup

pytestmark = pytest.mark.usefixtures("float64")

ratios = st.floats(0, 1)
permutations = st.permutations(range(5))
few = settings(max_examples=25, deadline=None)


@given(lam=ratios, partner=permutations)
@few
def test_each_image_is_mixed_with_its_partner_and_so_are_targets(
    lam: float, partner: list[int]
) -> None:
    torch.manual_seed(0)
    x, y = batch(5)
    with pairing(lam, partner):
        mixed, targets = Mixup().mix(x, y)
    for i, j in enumerate(partner):
        assert_same(mixed[i], lam * x[i] + (1 - lam) * x[j], atol=1e-14)
        assert_same(targets[i], lam * y[i] + (1 - lam) * y[j], atol=1e-14)


@given(lam=ratios, partner=permutations)
@few
def test_mixtures_lie_between_their_sources(lam: float, partner: list[int]) -> None:
    torch.manual_seed(0)
    x, y = batch(5)
    with pairing(lam, partner):
        mixed, _ = Mixup().mix(x, y)
    assert (mixed >= torch.minimum(x, x[partner]) - 1e-15).all()
    assert (mixed <= torch.maximum(x, x[partner]) + 1e-15).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_sums_over_the_batch_are_kept(seed: int) -> None:
    torch.manual_seed(seed)
    x, y = batch(6)
    mixed, targets = Mixup().mix(x, y)
    assert not mixed.allclose(x)
    assert_same(mixed.sum(0), x.sum(0), atol=1e-14)
    assert_same(targets.sum(0), y.sum(0), atol=1e-14)


def test_targets_have_at_most_two_classes_and_one_if_both_labels_agree() -> None:
    y = torch.eye(3)[[0, 0, 1, 2]]
    with pairing(0.3, [1, 2, 3, 0]):
        _, targets = Mixup().mix(torch.rand(4, 1), y)
    assert (targets > 0).sum(1).tolist() == [1, 2, 2, 2]
    assert_same(targets.sum(1), torch.ones(4), atol=1e-15)


def test_at_ratio_one_nothing_is_mixed() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(4)
    with pairing(1.0, [1, 2, 3, 0]):
        mixed, targets = Mixup().mix(x, y)
        loss = Mixup().loss(net, x, y)
    assert mixed.equal(x)
    assert targets.equal(y)
    assert loss.equal(Baseline().loss(net, x, y))


def test_at_ratio_zero_the_batch_is_permuted() -> None:
    torch.manual_seed(0)
    x, y = batch(4)
    with pairing(0.0, [2, 0, 3, 1]):
        mixed, targets = Mixup().mix(x, y)
    assert mixed.equal(x[[2, 0, 3, 1]])
    assert targets.equal(y[[2, 0, 3, 1]])


def test_the_other_ratio_with_an_involution_gives_the_same_pairs_in_another_order() -> None:
    involution = torch.tensor([3, 1, 4, 0, 2])
    with patch("mixbench.methods._ops.partners", return_value=involution):
        one, other = pairs(torch.tensor([0.3]), 5), pairs(torch.tensor([0.7]), 5)
    assert not one.allclose(other)
    assert_same(one[involution], other, atol=1e-15)


def test_the_loss_is_that_of_both_labels() -> None:
    torch.manual_seed(0)
    net, (x, y), partner = tiny(), batch(5), [3, 4, 1, 0, 2]
    with pairing(0.3, partner):
        loss = Mixup().loss(net, x, y)
    logits = net(0.3 * x + 0.7 * x[partner])
    expected = 0.3 * F.cross_entropy(logits, y) + 0.7 * F.cross_entropy(logits, y[partner])
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


def test_the_loss_of_three_images_worked_out_by_hand() -> None:
    """Images are logits, those of mixtures (1, 6, 0), (0, 2, 9) and (3, 0, 3) log 2."""
    x = torch.diag(torch.tensor([4.0, 8.0, 12.0])).view(3, 3, 1, 1) * log(2)
    with pairing(1 / 4, [1, 2, 0]):
        loss = Mixup().loss(bare(3, nn.Identity()), x, torch.eye(3))
    each = (
        log(2 + 64 + 1) - (1 / 4 * 1 + 3 / 4 * 6) * log(2),
        log(1 + 4 + 512) - (1 / 4 * 2 + 3 / 4 * 9) * log(2),
        log(8 + 1 + 8) - (1 / 4 * 3 + 3 / 4 * 3) * log(2),
    )
    assert loss.item() == pytest.approx(sum(each) / 3)


def test_one_ratio_is_drawn_for_the_whole_batch_from_alpha() -> None:
    with patch("mixbench.methods.mixup.ratios", wraps=_ops.ratios) as draws:
        w = Mixup(alpha=0.3).weights(16)
    draws.assert_called_once_with(0.3, 1)
    mixed = w.diagonal()[w.diagonal() < 1]
    assert len(mixed) > 8
    assert mixed.unique().numel() == 1
    assert_same(w.sum(0), torch.ones(16), atol=1e-15)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0])
def test_ratios_have_the_moments_of_the_beta_distribution(alpha: float) -> None:
    torch.manual_seed(0)
    lam = torch.stack([beta(alpha) for _ in range(10_000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(lam.mean() - 0.5) < 4 * (variance / 10_000) ** 0.5
    assert abs(lam.var() / variance - 1) < 0.04


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0])
def test_ratios_are_beta_distributed(alpha: float) -> None:
    torch.manual_seed(0)
    with patch("mixbench.methods._ops.partners", return_value=torch.tensor([1, 0])):
        lam = torch.stack([Mixup(alpha=alpha).weights(2)[0, 0] for _ in range(4000)])
    assert kstest(lam, "beta", args=(alpha, alpha)).pvalue > 1e-3


def test_all_permutations_are_equally_likely() -> None:
    torch.manual_seed(0)
    codes = torch.stack([partners(4) for _ in range(4800)]) @ torch.tensor([64, 16, 4, 1])
    counts = codes.unique(return_counts=True)[1]
    assert len(counts) == 24
    assert_even(counts)


def test_every_batch_is_mixed_at_the_input_by_default() -> None:
    assert Mixup() == Mixup(at=("pixels",), p=1.0, alpha=1.0)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, "much"])
def test_a_parameter_that_no_beta_has_is_refused(alpha: object) -> None:
    with pytest.raises(ValueError, match="alpha"):
        Mixup(alpha=alpha)  # type: ignore[arg-type]
