"""Calibration: known answers, its definitions, and agreement with scikit-learn and torchmetrics."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from questions import asked_of, numbers, trained
from sklearn.metrics import brier_score_loss, log_loss
from torch import Tensor

from mixbench.tasks import Answer
from mixbench.tasks.calibration import (
    Calibration,
    adaptive_calibration_error,
    expected_calibration_error,
    reliability,
)

CLASSES = 8
Error = Callable[[Tensor, Tensor, int], float]
ERRORS: list[Error] = [expected_calibration_error, adaptive_calibration_error]


def random_logits(n: int = 200, c: int = CLASSES, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Calibrated, so that chance decides the sign of a bin's gap."""
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, c, generator=draw)
    return logits, logits.softmax(1).multinomial(1, generator=draw)[:, 0]


def probabilities(n: int, seed: int) -> tuple[Tensor, Tensor]:
    logits, y = random_logits(n, 4, seed)
    return logits.double().softmax(1), y


def sure(*confidence: float) -> Tensor:
    """Of two classes, the first with these probabilities."""
    first = torch.tensor(confidence, dtype=torch.float64)
    return torch.stack([first, 1 - first], 1)


def answer(n: int = 200, bins: int = 15) -> Answer:
    return Calibration(bins).evaluate(asked_of(*random_logits(n)))


def test_it_agrees_with_scikit_learn() -> None:
    logits, y = random_logits()
    p, scores = logits.double().softmax(1).numpy(), answer()
    brier = brier_score_loss(y, p, labels=range(CLASSES), scale_by_half=False)
    assert scores["nll"] == pytest.approx(log_loss(y, p, labels=range(CLASSES)))
    assert scores["brier"] == pytest.approx(brier)


@pytest.mark.parametrize("n", [10, 200, 5000])
def test_ece_agrees_with_torchmetrics(n: int) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, y = random_logits(n)
    theirs = multiclass_calibration_error(logits.double().softmax(1), y, CLASSES, n_bins=15)
    assert answer(n)["ece"] == pytest.approx(100 * theirs.item(), rel=1e-5)  # of float32


def slow_ece(p: Tensor, y: Tensor, bins: int) -> float:
    """The definition, bin by bin."""
    confidence, right = p.max(1).values, p.argmax(1) == y
    total = 0.0
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        if inside.any():
            gap = right[inside].double().mean() - confidence[inside].mean()
            total += inside.double().mean().item() * abs(gap.item())
    return total


def slow_aece(p: Tensor, y: Tensor, bins: int) -> float:
    """The definition, group by group, without ties."""
    images = sorted(zip(p.max(1).values.tolist(), (p.argmax(1) == y).tolist(), strict=True))
    small, larger = divmod(len(images), bins)
    total = 0.0
    for i in range(bins):
        size = small + (i < larger)
        group, images = images[:size], images[size:]
        total += abs(sum(right - confidence for confidence, right in group))
    assert not images
    return total / len(p)


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([1, 5, 15]))
@settings(max_examples=50, deadline=None)
def test_each_error_is_its_definition(seed: int, n: int, bins: int) -> None:
    p, y = probabilities(n, seed)
    ece, aece = (error(p, y, bins) for error in ERRORS)
    assert ece == pytest.approx(slow_ece(p, y, bins), abs=1e-12)
    assert aece == pytest.approx(slow_aece(p, y, bins), abs=1e-12)
    assert 0 <= ece <= 1 and 0 <= aece <= 1


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 7]))
@settings(max_examples=50, deadline=None)
def test_the_order_of_images_does_not_matter(seed: int, bins: int) -> None:
    p, y = probabilities(30, seed)
    p = p[torch.arange(30) // 4]  # so that confidences are equal across the ends of bins
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    for error in ERRORS:
        assert error(p[order], y[order], bins) == pytest.approx(error(p, y, bins), abs=1e-12)


@pytest.mark.parametrize("error", ERRORS)
def test_what_is_right_or_wrong_for_sure_has_an_error_of_none_or_all(error: Error) -> None:
    certain = torch.eye(3).double()
    assert error(certain, torch.tensor([0, 1, 2]), 15) == 0
    assert error(certain, torch.tensor([1, 2, 0]), 15) == 1


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("bins", [1, 2, 15])
def test_constant_confidence_of_that_accuracy_is_calibrated(error: Error, bins: int) -> None:
    assert error(sure(*[0.75] * 4), torch.tensor([0, 0, 0, 1]), bins) == 0


def test_a_bin_of_equal_width_is_closed_on_the_right() -> None:
    """0.5 is in the first of two bins, whose gap, -0.5, does not cancel +0.3 of the second."""
    p = torch.tensor([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1]]).double()
    assert expected_calibration_error(p, torch.tensor([1, 0]), 2) == pytest.approx(0.4)


def test_bins_of_equal_mass_by_hand() -> None:
    """0.6 and 0.7 are one bin, 0.8 and 0.9 the other, where one bin of equal width has all four."""
    p, y = sure(0.9, 0.6, 0.8, 0.7), torch.tensor([0, 1, 0, 1])
    assert adaptive_calibration_error(p, y, 2) == pytest.approx((1.3 + 0.3) / 4)
    assert expected_calibration_error(p, y, 2) == pytest.approx((1.3 - 0.3) / 4)
    assert adaptive_calibration_error(p, y, 3) == pytest.approx((1.3 + 0.2 + 0.1) / 4)


def test_images_of_equal_confidence_count_with_the_mean_of_their_gaps() -> None:
    """Of three at 0.8, one is wrong: gaps of 0.2, 0.2 and -0.8, each -0.4 / 3."""
    p, y = sure(0.6, 0.8, 0.8, 0.8), torch.tensor([0, 0, 1, 0])
    assert adaptive_calibration_error(p, y, 2) == pytest.approx((0.4 - 0.4 / 3 + 0.8 / 3) / 4)


def test_the_diagram_by_hand() -> None:
    p, y = sure(0.55, 0.65, 0.95, 0.95, 1), torch.tensor([0, 1, 1, 0, 0])
    drawn = reliability(p, y, 5)
    assert drawn["confidence"] == pytest.approx([0, 0, 55, 65, 290 / 3])
    assert drawn["accuracy"] == pytest.approx([0, 0, 100, 0, 200 / 3])
    assert drawn["share"] == pytest.approx([0, 0, 0.2, 0.2, 0.6])


@pytest.mark.parametrize("bins", [4, 15])
def test_the_diagram_has_the_error_that_stands_beside_it(bins: int) -> None:
    told = answer(bins=bins)
    parts = [told[name] for name in ("share", "accuracy", "confidence")]
    share, accuracy, confidence = (torch.tensor(part, dtype=torch.float64) for part in parts)
    assert len(share) == bins and share.sum().item() == pytest.approx(1)
    gap = (share * (accuracy - confidence).abs()).sum().item()
    assert told["ece"] == pytest.approx(gap)


def test_it_tells_its_metrics_of_a_network_and_leaves_its_outputs_alone() -> None:
    subject = trained()
    test = subject.outputs("test")
    before = test.logits.clone()
    scores = numbers(Calibration().evaluate(subject))
    assert set(scores) == set(Calibration().metrics)
    assert test.logits.equal(before)
    assert 0 < scores["ece"] <= 100 and 0 < scores["brier"] <= 2


def test_the_bins_are_those_of_both_errors() -> None:
    logits, y = random_logits()
    p, scores = logits.double().softmax(1), answer(bins=4)
    assert scores["ece"] == pytest.approx(100 * expected_calibration_error(p, y, 4))
    assert scores["aece"] == pytest.approx(100 * adaptive_calibration_error(p, y, 4))
    assert scores["aece"] != answer(bins=15)["aece"]
