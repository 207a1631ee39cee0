"""Temperature scaling: known answers, what it can't change, and agreement with scikit-learn."""

import pytest
import torch
from questions import Sets, asked_of, numbers, trained
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from mixbench.tasks import Inapplicable, Trained
from mixbench.tasks.calibration import Calibration
from mixbench.tasks.classification import Classification
from mixbench.tasks.temperature import HIGHEST, LOWEST, Temperature, fitted


def calibrated(n: int = 2000, c: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (n, c), and classes that are drawn with just their probabilities."""
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, c, generator=draw, dtype=torch.float64)
    return logits, logits.softmax(1).multinomial(1, generator=draw)[:, 0]


def asked(times: float = 1.0) -> Trained:
    """A network whose logits are calibrated but for a factor, on test images and held-out ones."""
    (test, y), (held_out, labels) = calibrated(), calibrated(seed=1)
    return asked_of(times * test, y, held_out=(times * held_out, labels))


def told(subject: Trained) -> dict[str, float]:
    return numbers(Temperature().evaluate(subject))


def test_calibrated_logits_are_left_as_they_are() -> None:
    assert fitted(*calibrated(20_000)) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("times", [0.1, 3, 20])
def test_a_factor_of_the_logits_is_one_of_the_temperature(times: float) -> None:
    logits, y = calibrated()
    assert fitted(times * logits, y) == pytest.approx(times * fitted(logits, y), rel=1e-9)


def test_a_temperature_by_hand() -> None:
    """Of four images of equal logits, 0 and 1, three are of the second: e^(1/T) = 3."""
    logits, y = torch.tensor([[0.0, 1.0]] * 4), torch.tensor([1, 1, 0, 1])
    assert fitted(logits, y) == pytest.approx(1 / torch.tensor(3.0).log().item())


def test_the_likelihood_has_no_slope_and_no_higher_point() -> None:
    logits, y = calibrated()
    t = torch.tensor(fitted(3 * logits, y), dtype=torch.float64, requires_grad=True)
    nll = F.cross_entropy(3 * logits / t, y)
    (slope,) = torch.autograd.grad(nll, t)
    assert abs(slope.item()) < 1e-10
    for other in (LOWEST, 0.5, t.item() * 0.99, t.item() * 1.01, 8.0, HIGHEST):
        assert F.cross_entropy(3 * logits / other, y) > nll


def test_it_is_fitted_in_double_precision() -> None:
    logits, y = calibrated()
    assert fitted(logits.float(), y) == fitted(logits.float().double(), y)


def test_it_agrees_with_scikit_learn() -> None:
    logits, y = calibrated()
    logits = 2.5 * logits
    same = LogisticRegression().fit(logits.numpy(), y.numpy())  # then made to return its inputs
    same.coef_, same.intercept_ = torch.eye(5).double().numpy(), torch.zeros(5).double().numpy()
    scaled = CalibratedClassifierCV(FrozenEstimator(same), method="temperature")
    theirs = torch.from_numpy(scaled.fit(logits.numpy(), y.numpy()).predict_proba(logits.numpy()))
    torch.testing.assert_close((logits / fitted(logits, y)).softmax(1), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("times", [1, 1e6, 1e30])
def test_where_no_temperature_is_best_there_is_none(times: float) -> None:
    logits, right = times * torch.eye(5), torch.arange(5)
    with pytest.raises(Inapplicable, match="the lower a temperature, the better it fits"):
        fitted(logits, right)
    with pytest.raises(Inapplicable, match="the higher a temperature, the better it fits"):
        fitted(logits, (right + 1) % 5)


def test_overconfidence_is_cooled_and_calibration_won_back() -> None:
    subject = asked(4.0)
    before, after = numbers(Calibration().evaluate(subject)), told(subject)
    assert after["temperature"] == pytest.approx(4, rel=0.1)
    for name in ("ece", "aece", "nll", "brier"):
        assert after[name] < before[name]
    assert after["ece"] < 3 < before["ece"]


def test_underconfidence_is_cured_too() -> None:
    assert told(asked(0.25))["temperature"] == pytest.approx(0.25, rel=0.1)


def test_the_answers_are_those_of_calibration_on_divided_test_logits() -> None:
    subject = asked(2.0)
    of, t = subject.outputs("test"), told(subject)["temperature"]
    answer = Temperature(bins=7).evaluate(subject)
    expected = Calibration(bins=7).evaluate(asked_of(of.logits / t, of.labels))
    assert answer == {**expected, "temperature": t}


def test_it_is_fitted_to_held_out_images_alone() -> None:
    held_out, (logits, y) = calibrated(seed=1), calibrated()
    answers = [told(asked_of(times * logits, y, held_out=held_out)) for times in (1, 5)]
    assert answers[0]["temperature"] == answers[1]["temperature"] == fitted(*held_out)


def test_no_prediction_changes() -> None:
    subject = trained(steps=30)
    of, t = subject.outputs("test"), told(subject)["temperature"]
    divided = asked_of(of.logits.double() / t, of.labels)
    assert t != 1
    before = Classification().evaluate(subject)
    assert Classification().evaluate(divided) == before


def test_it_tells_its_metrics_and_a_diagram_and_leaves_outputs_alone() -> None:
    subject = trained(steps=30)
    before = {name: subject.outputs(name).logits.clone() for name in ("test", "held_out")}
    answer = Temperature().evaluate(subject)
    assert set(numbers(answer)) == set(Temperature().metrics)
    assert set(answer) - set(numbers(answer)) == {"confidence", "accuracy", "share"}
    assert all(subject.outputs(name).logits.equal(kept) for name, kept in before.items())


def test_its_metrics_say_that_they_are_of_scaled_logits() -> None:
    metrics = dict(Temperature().metrics)
    assert metrics.pop("temperature").better == "neither"
    assert set(metrics) == set(Calibration().metrics)
    assert all("after temperature scaling" in rule.title for rule in metrics.values())
    assert [name for name, rule in metrics.items() if rule.main] == ["ece", "nll"]


def test_without_held_out_images_it_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Inapplicable, match=r"the setting can say holdout=0\.1"):
        Temperature().evaluate(asked_of(*calibrated()))
    monkeypatch.setattr(Sets, "batches", lambda *_: iter(()))
    with pytest.raises(Inapplicable, match="nothing was held out"):
        Temperature().evaluate(asked())
