"""Manifold mixup."""

from math import log
from unittest.mock import patch

import pytest
import torch
from helpers import (
    CLASSES,
    assert_even,
    assert_same,
    batch,
    cut,
    heads,
    pair_matrix,
    pairing,
    tiny,
    with_gradients,
)
from scipy.stats import kstest
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.methods import Net
from mixbench.methods.baseline import Baseline
from mixbench.methods.manifold import Manifold
from mixbench.methods.mixup import Mixup

pytestmark = pytest.mark.usefixtures("float64")

PARTNER = [3, 4, 1, 0, 2]
STAGES = ["pixels", "layer1", "layer2"]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("stage", STAGES)
def test_at_ratio_one_nothing_is_mixed(stage: str, train: bool) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().train(train), batch(5)
    with pairing(1.0, PARTNER):
        loss = Manifold(at=(stage,)).loss(net, x, y)
    assert loss.equal(Baseline().loss(net, x, y))


def test_at_the_input_it_is_input_mixup_to_the_bit() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    torch.manual_seed(1)
    manifold = Manifold(at=("pixels",), alpha=0.7).loss(net, x, y)
    torch.manual_seed(1)
    assert manifold.equal(Mixup(alpha=0.7).loss(net, x, y))


@pytest.mark.parametrize("stage", STAGES)
def test_it_equals_a_network_with_a_hook_that_mixes(stage: str) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    with pairing(0.3, PARTNER):
        mixed = with_gradients(Manifold(at=(stage,)).loss(net, x, y), net, x)

    def hook(module: nn.Module, args: object, z: Tensor) -> Tensor:
        return 0.3 * z + 0.7 * z[PARTNER]

    net.get_submodule(stage).register_forward_hook(hook)
    logits = net(x)
    expected = 0.3 * F.cross_entropy(logits, y) + 0.7 * F.cross_entropy(logits, y[PARTNER])
    assert_same(mixed, with_gradients(expected, net, x))


class Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


def test_the_loss_of_three_images_worked_out_by_hand() -> None:
    """Features are squares of pixels; those of mixtures are (1, 6, 0), (0, 2, 9), (3, 0, 3) log 2."""
    x = torch.diag(torch.tensor([4.0, 8.0, 12.0]) * log(2)).sqrt()
    net = Net(pixels=nn.Identity(), layer1=Squares(), pool=nn.Identity(), head=nn.Identity())
    with pairing(1 / 4, [1, 2, 0]):
        loss = Manifold(at=("layer1",)).loss(net, x, torch.eye(3))
    each = (
        log(2 + 64 + 1) - (1 / 4 * 1 + 3 / 4 * 6) * log(2),
        log(1 + 4 + 512) - (1 / 4 * 2 + 3 / 4 * 9) * log(2),
        log(8 + 1 + 8) - (1 / 4 * 3 + 3 / 4 * 3) * log(2),
    )
    assert loss.item() == pytest.approx(sum(each) / 3)


@pytest.mark.parametrize("stage", STAGES)
def test_the_means_over_the_batch_are_kept(stage: str) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(6)
    z = cut(net, stage)[0](x)
    mixed, targets = Manifold().mix(z, y)
    assert not mixed.allclose(z)
    assert_same(mixed.mean(0), z.mean(0), atol=1e-14)
    assert_same(targets.sum(0), y.sum(0), atol=1e-14)


@pytest.mark.parametrize("stage", ["pixels", "layer1", "pool", "head"])
def test_before_linear_stages_it_mixes_logits(stage: str) -> None:
    torch.manual_seed(0)
    net = Net(
        pixels=nn.Flatten(), layer1=nn.Linear(12, 7), pool=nn.Identity(), head=nn.Linear(7, CLASSES)
    )
    x, y = batch(5, 2, 2)
    with pairing(0.3, PARTNER):
        loss = Manifold(at=(stage,)).loss(net, x, y)
    logits = net(x)
    expected = F.cross_entropy(0.3 * logits + 0.7 * logits[PARTNER], 0.3 * y + 0.7 * y[PARTNER])
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


@pytest.mark.parametrize("head", ["linear", "tanh", "cosine"])
def test_at_the_last_embedding_embeddings_are_mixed(head: str) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    net.head = heads(64)[head]
    with pairing(0.3, PARTNER):
        loss = Manifold(at=("pool",)).loss(net, x, y)
    z = cut(net, "pool")[0](x)
    logits = net.head(0.3 * z + 0.7 * z[PARTNER])
    expected = F.cross_entropy(logits, 0.3 * y + 0.7 * y[PARTNER])
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


@pytest.mark.parametrize("stage", [*STAGES, "pool"])
def test_both_sources_get_a_gradient(stage: str) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().eval(), batch(3)
    with patch.object(Manifold, "weights", lambda *_: torch.tensor([[0.3, 0.0, 0.7]])):
        loss = Manifold(at=(stage,)).loss(net, x, y)
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.flatten(1).any(1).tolist() == [True, False, True]


def test_weights_are_those_of_pairs() -> None:
    with pairing(0.3, PARTNER):
        assert_same(Manifold().weights(5), pair_matrix(0.3, PARTNER), atol=1e-15)


def test_by_default_ratios_are_those_of_beta_2_2() -> None:
    torch.manual_seed(0)
    with patch("mixbench.methods._ops.partners", return_value=torch.tensor([1, 0])):
        lam = torch.stack([Manifold().weights(2)[0, 0] for _ in range(4000)])
    assert kstest(lam, "beta", args=(2, 2)).pvalue > 1e-3


def test_the_input_and_the_first_two_stages_are_equally_likely() -> None:
    torch.manual_seed(0)
    net = tiny()
    drawn = [Manifold().stage(net) for _ in range(3000)]
    assert set(drawn) == set(STAGES)
    assert_even(torch.tensor([drawn.count(stage) for stage in STAGES]))


def test_the_defaults_are_those_of_the_paper_for_cifar() -> None:
    assert Manifold() == Manifold(at=("pixels", "layer1", "layer2"), p=1.0, alpha=2.0)
