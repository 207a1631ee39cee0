"""Tasks against their papers, as ``papers.protocols`` transcribes them."""

import numpy as np
import pytest
import torch
from helpers import CLASSES
from hypothesis import given, settings
from hypothesis import strategies as st
from papers import protocols
from papers.network import Network
from questions import EPOCHS, Sets, asked_of
from torch import Tensor
from twins import numpy_network, small_vit, weights_of

from mixbench.methods import Net
from mixbench.tasks import Reader, Trained
from mixbench.tasks.calibration import Calibration
from mixbench.tasks.robustness import Robustness

pytestmark = pytest.mark.usefixtures("float64")
seeded = pytest.mark.parametrize("seed", range(3))


def attacked_networks(seed: int) -> tuple[Net, Network]:
    torch.manual_seed(seed)
    net = small_vit().eval().requires_grad_(False)
    return net, numpy_network(weights_of(net), "ce")


def images(b: int) -> tuple[Tensor, Tensor]:
    """Some pixels are at an end of the range."""
    x = torch.rand(b, 3, 8, 8)
    return (2 * x - 0.5).clamp(0, 1), torch.randint(CLASSES, (b,))


@seeded
def test_fgsm_is_that_of_the_paper(seed: int) -> None:
    net, literal = attacked_networks(seed)
    x, y = images(3)
    moved = Robustness().attacked("fgsm", net, x, y).numpy()
    expected = protocols.fgsm(literal, x.numpy(), y.numpy(), 8 / 255)
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("random_start", [True, False])
@seeded
def test_pgd_is_that_of_the_paper(seed: int, random_start: bool) -> None:
    net, literal = attacked_networks(seed)
    (x, y), eps = images(2), 4 / 255
    task = Robustness(steps=5, random_start=random_start)
    torch.manual_seed(seed)
    moved = task.attacked("pgd", net, x, y).numpy()
    torch.manual_seed(seed)
    start = x + torch.empty_like(x).uniform_(-eps, eps) if random_start else x
    expected = protocols.pgd(
        literal, x.numpy(), y.numpy(), start.numpy(), eps, step=2 / 255, steps=5
    )
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-12)


def test_the_error_under_attack_is_of_the_attacked_images() -> None:
    net, literal = attacked_networks(0)
    x, _ = images(12)
    y = net(x).argmax(1)
    data = Sets({"test": (x, y)})
    task = Robustness(attacks=("fgsm",), fgsm_eps=0.02)
    answer = task.evaluate(Trained(net, net, data, EPOCHS, Reader(net, data.batches)))
    moved = protocols.fgsm(literal, x.numpy(), y.numpy(), 0.02)
    expected = protocols.error(literal(moved), y.numpy())
    assert answer == {"fgsm": pytest.approx(expected)}
    assert 0 < expected < 100


@given(seed=st.integers(0, 10**6), n=st.integers(1, 20), scale=st.sampled_from([0.1, 1.0, 30.0]))
@settings(max_examples=40, deadline=None)
def test_likelihood_and_brier_score_are_their_definitions(seed: int, n: int, scale: float) -> None:
    torch.manual_seed(seed)
    logits, y = scale * torch.randn(n, CLASSES), torch.randint(CLASSES, (n,))
    answer = Calibration().evaluate(asked_of(logits, y))
    literal = logits.numpy(), y.numpy()
    assert answer["nll"] == pytest.approx(protocols.negative_log_likelihood(*literal))
    assert answer["brier"] == pytest.approx(protocols.brier(*literal))


def test_likelihood_and_brier_score_by_hand() -> None:
    """Of p = (1/2, 1/4, 1/4), once right and once not: (log 2 + log 4) / 2, and
    (1/4 + 1/16 + 1/16 + 1/4 + 9/16 + 1/16) / 2.
    """
    logits = torch.tensor([[np.log(2), 0.0, 0.0]]).expand(2, 3)
    answer = Calibration().evaluate(asked_of(logits, torch.tensor([0, 1])))
    assert answer["nll"] == pytest.approx(1.5 * np.log(2))
    assert answer["brier"] == pytest.approx(0.625)
