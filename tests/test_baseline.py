"""The baseline: cross-entropy, and what the other methods rely on in it."""

from math import log

import pytest
import torch
from helpers import assert_same, bare, batch, cross_entropy, cut, tiny, total, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mixbench.methods.baseline import Baseline

pytestmark = pytest.mark.usefixtures("float64")


def test_the_loss_is_the_mean_cross_entropy() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(6)
    expected = total(map(cross_entropy, net(x), y)) / 6
    assert_same(
        with_gradients(Baseline().loss(net, x, y), net, x), with_gradients(expected, net, x)
    )


def test_the_loss_of_two_images_worked_out_by_hand() -> None:
    """Images are logits; probabilities are (1, 2, 5) / 8 and (6, 3, 1) / 10."""
    x = torch.tensor([[1.0, 2.0, 5.0], [6.0, 3.0, 1.0]]).log().view(2, 3, 1, 1)
    y = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    expected = (log(8 / 2) + log(10 / 6) / 2 + log(10 / 1) / 2) / 2
    assert Baseline().loss(bare(3, nn.Identity()), x, y).item() == pytest.approx(expected)


def test_one_hot_targets_give_the_loss_of_integer_labels() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(6)
    assert_same(Baseline().loss(net, x, y), F.cross_entropy(net(x), y.argmax(1)), atol=1e-6)


@given(lam=st.floats(0, 1), smoothing=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_the_loss_is_linear_in_targets(lam: float, smoothing: float) -> None:
    torch.manual_seed(0)
    net, (x, first), (_, second) = tiny(), batch(4), batch(4)
    first, second = ((1 - smoothing) * y + smoothing / y.shape[1] for y in (first, second))
    mixed = Baseline().loss(net, x, lam * first + (1 - lam) * second)
    apart = (
        lam * Baseline().loss(net, x, first),
        (1 - lam) * Baseline().loss(net, x, second),
    )
    assert_same(mixed, sum(apart))


def test_nothing_is_drawn() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(4)
    before = torch.get_rng_state()
    Baseline().loss(net, x, y)
    assert torch.get_rng_state().equal(before)


def test_logits_of_the_mean_are_the_mean_of_dense_logits() -> None:
    torch.manual_seed(0)
    net, (x, _) = tiny(), batch(4)
    maps = cut(net, "layer4")[0](x)
    dense = total(net.head(maps[..., p, q]) for p in range(2) for q in range(2)) / 4
    assert_same(net(x), dense)
