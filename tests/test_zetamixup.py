"""zeta-mixup."""

from math import log
from unittest.mock import patch

import pytest
import torch
from helpers import (
    assert_even,
    assert_same,
    bare,
    batch,
    cross_entropy,
    drawing,
    pairing,
    tiny,
    total,
    with_gradients,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mixbench.methods.baseline import Baseline
from mixbench.methods.mixup import Mixup
from mixbench.methods.multimix import MultiMix
from mixbench.methods.zetamixup import ZetaMixup

pytestmark = pytest.mark.usefixtures("float64")

few = settings(max_examples=30, deadline=None)
sizes = st.integers(1, 40)
seeds = st.integers(0, 10**6)


def series(gamma: float, b: int) -> Tensor:
    """The truncated, normalised p-series."""
    terms = [i**-gamma for i in range(1, b + 1)]
    return torch.tensor([term / sum(terms) for term in terms])


@given(gamma=st.floats(0.01, 10), b=sizes, seed=seeds)
@few
def test_rows_are_permutations_of_the_series_with_the_largest_on_the_image_itself(
    gamma: float, b: int, seed: int
) -> None:
    torch.manual_seed(seed)
    w = ZetaMixup(gamma=gamma).weights(b)
    assert w.shape == (b, b)
    assert_same(w.sum(1), torch.ones(b), atol=1e-14)
    assert_same(w.sort(1, descending=True).values, series(gamma, b).expand(b, b), atol=1e-14)
    assert w.argmax(1).equal(torch.arange(b))


@given(gamma=st.floats(1.7287, 10), b=sizes, seed=seeds)
@few
def test_the_label_of_the_image_itself_prevails(gamma: float, b: int, seed: int) -> None:
    torch.manual_seed(seed)
    _, y = batch(b, 1, 1)
    _, targets = ZetaMixup(gamma=gamma).mix(torch.rand(b, 2), y)
    assert_same(targets.sum(1), torch.ones(b), atol=1e-14)
    assert (targets * y).sum(1).min() >= series(gamma, b)[0] - 1e-14 > 0.5
    assert targets.argmax(1).equal(y.argmax(1))


@given(gamma=st.floats(0, 10), b=sizes, seed=seeds)
@few
def test_mixtures_lie_between_the_extremes_of_the_batch(gamma: float, b: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(b, 3, 2, 2)
    mixed, _ = ZetaMixup(gamma=gamma).mix(x, torch.ones(b, 1))
    assert (mixed >= x.amin(0) - 1e-13).all()
    assert (mixed <= x.amax(0) + 1e-13).all()


def test_the_loss_is_the_one_of_the_sheet() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    w = ZetaMixup(gamma=1.0).weights(5)
    with patch.object(ZetaMixup, "weights", lambda *_: w):
        loss = ZetaMixup().loss(net, x, y)
    logits = net(torch.stack([total(w[s, i] * x[i] for i in range(5)) for s in range(5)]))
    targets = [total(w[s, i] * y[i] for i in range(5)) for s in range(5)]
    expected = total(map(cross_entropy, logits, targets)) / 5
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


def test_the_weights_of_three_images_worked_out_by_hand() -> None:
    """1, 1/2 and 1/3 over their sum, the first to the image itself, the last to the larger key."""
    keys = torch.tensor([[0.4, 0.9, 0.1], [0.2, 0.5, 0.7], [0.6, 0.3, 0.0]])
    with patch("torch.rand", return_value=keys):
        w = ZetaMixup(gamma=1).weights(3)
    assert_same(w * 11, torch.tensor([[6.0, 2.0, 3.0], [3.0, 6.0, 2.0], [2.0, 3.0, 6.0]]))


def test_the_loss_of_three_images_worked_out_by_hand() -> None:
    """Images are logits, those of mixtures (6, 2, 6), (3, 6, 4) and (2, 3, 12) log 2."""
    w = torch.tensor([[6.0, 2.0, 3.0], [3.0, 6.0, 2.0], [2.0, 3.0, 6.0]]) / 11
    x = torch.diag(torch.tensor([11.0, 11.0, 22.0])).view(3, 3, 1, 1) * log(2)
    with patch.object(ZetaMixup, "weights", lambda *_: w):
        loss = ZetaMixup().loss(bare(3, nn.Identity()), x, torch.eye(3))
    each = (
        log(2**6 + 2**2 + 2**6) - (6 * 6 + 2 * 2 + 3 * 6) / 11 * log(2),
        log(2**3 + 2**6 + 2**4) - (3 * 3 + 6 * 6 + 2 * 4) / 11 * log(2),
        log(2**2 + 2**3 + 2**12) - (2 * 2 + 3 * 3 + 6 * 12) / 11 * log(2),
    )
    assert loss.item() == pytest.approx(sum(each) / 3)


def test_it_is_multimix_of_the_images_with_the_same_weights() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    w = ZetaMixup(gamma=1.0).weights(5)
    with patch.object(ZetaMixup, "weights", lambda *_: w), drawing(w[None]):
        zeta = ZetaMixup().loss(net, x, y)
        multi = MultiMix(at=("pixels",), p=1.0).loss(net, x, y)
    assert_same(with_gradients(zeta, net, x), with_gradients(multi, net, x))


def test_the_weights_of_the_paper() -> None:
    w = ZetaMixup().weights(128)[0].sort(descending=True).values
    assert w[0] == pytest.approx(0.802, abs=5e-4)
    assert w[1] == pytest.approx(0.115, abs=5e-4)
    assert 1 / (w**2).sum() == pytest.approx(1.52, abs=5e-3)


def test_the_mean_over_the_batch_is_not_kept() -> None:
    torch.manual_seed(0)
    used = ZetaMixup().weights(128).sum(0)
    assert 0.8 < used.min() < 0.85
    assert 1.2 < used.max() < 1.6


def test_a_large_gamma_mixes_nothing() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    assert ZetaMixup(gamma=2000).weights(5).equal(torch.eye(5))
    assert ZetaMixup(gamma=2000).loss(net, x, y).equal(Baseline().loss(net, x, y))


def test_gamma_zero_gives_the_mean_of_the_batch() -> None:
    assert_same(ZetaMixup(gamma=0).weights(5), torch.full((5, 5), 0.2), atol=1e-15)


@given(gamma=st.floats(0, 10))
@few
def test_of_two_images_it_is_mixup_at_a_fixed_ratio(gamma: float) -> None:
    with pairing(1 / (1 + 2**-gamma), [1, 0]):
        expected = Mixup().weights(2)
    assert_same(ZetaMixup(gamma=gamma).weights(2), expected, atol=1e-15)


def test_one_image_is_left_alone() -> None:
    assert ZetaMixup().weights(1).equal(torch.ones(1, 1))


def test_equal_labels_stay_one_hot() -> None:
    torch.manual_seed(0)
    y = torch.eye(3)[[1, 1, 1, 1, 1]]
    _, targets = ZetaMixup().mix(torch.rand(5, 2), y)
    assert_same(targets, y, atol=1e-15)


def test_rows_are_permuted_independently() -> None:
    torch.manual_seed(0)
    w = ZetaMixup().weights(16)
    rolled = torch.stack([row.roll(-s) for s, row in enumerate(w)])
    assert len(w.unique(dim=0)) == len(rolled.unique(dim=0)) == 16


def test_all_permutations_of_all_rows_are_equally_likely() -> None:
    torch.manual_seed(0)
    second = [ZetaMixup().weights(3).sort(1).indices[:, 1] for _ in range(1600)]
    counts = torch.stack(second).unique(dim=0, return_counts=True)[1]
    assert len(counts) == 8
    assert_even(counts)


def test_each_row_has_all_permutations_of_the_other_weights_alike() -> None:
    torch.manual_seed(0)
    w = torch.stack([ZetaMixup().weights(4) for _ in range(2400)])
    codes = w.argsort(descending=True) @ torch.tensor([64, 16, 4, 1])
    for row in codes.T:
        counts = row.unique(return_counts=True)[1]
        assert len(counts) == 6
        assert_even(counts)


def test_every_batch_is_mixed_at_the_input_by_default() -> None:
    assert ZetaMixup() == ZetaMixup(at=("pixels",), p=1.0, gamma=2.8)
