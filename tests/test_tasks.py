"""Tasks: known answers, and agreement with scikit-learn."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, top_k_accuracy_score
from torch import Tensor, nn

from mixbench.bench.data import Held, digits
from mixbench.bench.nets.preactresnet import small
from mixbench.bench.spec import names, parse
from mixbench.methods import Method
from mixbench.methods.baseline import Baseline
from mixbench.methods.densemultimix import DenseMultiMix
from mixbench.methods.mixup import Mixup
from mixbench.methods.multimix import MultiMix
from mixbench.tasks import Task, Trained
from mixbench.tasks.calibration import Calibration, expected_calibration_error
from mixbench.tasks.classification import Classification, errors
from mixbench.tasks.cost import Cost, LossTerms
from mixbench.tasks.robustness import Robustness, attack

EPOCHS = [{"top1": float(20 - i), "top5": float(i)} for i in range(12)]


class Plain:
    """Two test batches, whatever the split."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def batches(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.x.chunk(2), self.y.chunk(2), strict=True)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.x, nn.functional.one_hot(self.y).float()


def trained(method: Method | None = None, seed: int = 0) -> Trained:
    """A network that saw three steps of digits."""
    torch.manual_seed(seed)
    dataset = digits.read(Path())
    data = Held(dataset, batch=64, crop=1, flip=False, seed=seed)
    net = small(10, 8, dataset.mean, dataset.std)
    objective = (method or Baseline()).objective(net)
    sgd = torch.optim.SGD(objective.parameters(), 0.1)
    for (x, y), _ in zip(data.epoch(0), range(3), strict=False):
        objective(x, y).backward()
        sgd.step()
    return Trained(net.eval(), objective.eval(), data, EPOCHS)


def asked_of(logits: Tensor, y: Tensor) -> Trained:
    """A network whose logits are its inputs."""
    net = nn.Sequential(nn.Identity())
    return Trained(net, net, Plain(logits, y), EPOCHS)


@pytest.fixture(params=names("mixbench.tasks"))
def task(request: pytest.FixtureRequest) -> Task:
    built: Task = parse(request.param, "mixbench.tasks", Task)
    return built


def test_a_task_answers_with_its_metrics_and_leaves_data_alone(task: Task) -> None:
    subject = trained()
    images = subject.data.dataset.test.x.clone()  # type: ignore[attr-defined]
    scores = task.evaluate(subject)
    assert set(scores) == set(task.metrics)
    assert all(isinstance(value, int | float) and np.isfinite(value) for value in scores.values())
    assert subject.data.dataset.test.x.equal(images)  # type: ignore[attr-defined]


def test_a_task_is_decided_by_the_seed(task: Task) -> None:
    def once() -> dict[str, float]:
        subject = copy.deepcopy(trained())
        torch.manual_seed(5)
        return task.evaluate(subject)

    first, second = once(), once()
    measured = {"speed", "memory"}  # of the machine, not of the network
    assert {k: first[k] for k in first if k not in measured} == {
        k: second[k] for k in second if k not in measured
    }


def test_every_metric_prints(task: Task) -> None:
    for rule in task.metrics.values():
        assert rule.title and f"{1.5:{rule.form}}"


def random_logits(n: int = 200, c: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, c, generator=draw), torch.randint(c, (n,), generator=draw)


def test_errors_agree_with_scikit_learn() -> None:
    logits, y = random_logits()
    scores = errors(nn.Identity(), [(logits, y)])
    for k in (1, 5):
        right = top_k_accuracy_score(y, logits, k=k, labels=range(8))
        assert scores[f"top{k}"] == pytest.approx(100 * (1 - right))


def test_errors_by_hand() -> None:
    logits = torch.tensor([[3.0, 2, 1, 0, -1, -2], [3, 2, 1, 0, -1, -2], [0, 0, 0, 0, 0, 9]])
    scores = errors(nn.Identity(), [(logits, torch.tensor([0, 5, 4]))])
    assert scores == pytest.approx({"top1": 200 / 3, "top5": 200 / 3})
    nan = torch.full((1, 6), torch.nan)
    assert errors(nn.Identity(), [(nan, torch.tensor([0]))]) == {"top1": 100, "top5": 100}


def test_classification_tells_last_best_and_median_of_ten() -> None:
    logits, y = random_logits()
    scores = Classification().evaluate(asked_of(logits, y))
    assert scores["top1"] == errors(nn.Identity(), [(logits, y)])["top1"]
    assert (scores["top1_best"], scores["top5_best"]) == (9, 0)
    assert (scores["top1_median"], scores["top5_median"]) == (13.5, 6.5)


def test_calibration_agrees_with_scikit_learn() -> None:
    logits, y = random_logits()
    scores = Calibration().evaluate(asked_of(logits, y))
    p = logits.double().softmax(1).numpy()
    assert scores["nll"] == pytest.approx(log_loss(y, p, labels=range(8)))
    assert scores["brier"] == pytest.approx(
        brier_score_loss(y, p, labels=range(8), scale_by_half=False)
    )


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


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([1, 5, 15]))
@settings(max_examples=50, deadline=None)
def test_ece_is_its_definition(seed: int, n: int, bins: int) -> None:
    logits, y = random_logits(n, 4, seed)
    p = logits.double().softmax(1)
    ece = expected_calibration_error(p, y, bins)
    assert ece == pytest.approx(slow_ece(p, y, bins), abs=1e-12)
    assert 0 <= ece <= 1


def test_ece_by_hand() -> None:
    sure = torch.eye(3).double()
    assert expected_calibration_error(sure, torch.tensor([0, 1, 2]), 15) == 0
    assert expected_calibration_error(sure, torch.tensor([1, 2, 0]), 15) == 1
    fair = torch.tensor([[0.75, 0.25]] * 4).double()
    assert expected_calibration_error(fair, torch.tensor([0, 0, 0, 1]), 15) == 0
    # 0.5 closes the first of two bins: the gaps -0.5 and +0.3 of the two bins do not cancel.
    edge = torch.tensor([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1]]).double()
    assert expected_calibration_error(edge, torch.tensor([1, 0]), 2) == pytest.approx(0.4)


def test_robustness_without_a_radius_is_clean_error() -> None:
    subject = trained()
    clean = errors(subject.net, subject.data.batches("test"))["top1"]
    scores = Robustness(fgsm=0, pgd=0, steps=2).evaluate(subject)
    assert scores == {"fgsm": clean, "pgd": clean}


def test_one_step_from_the_clean_image_is_fgsm() -> None:
    scores = Robustness(fgsm=0.05, pgd=0.05, step=0.05, steps=1, random_start=False)
    answer = scores.evaluate(trained())
    assert answer["fgsm"] == answer["pgd"]


@pytest.mark.parametrize("random_start", [False, True])
def test_an_attack_stays_near_and_in_range_and_leaves_the_network_alone(random_start: bool) -> None:
    subject = trained()
    before = copy.deepcopy(subject.net.state_dict())
    x, y = next(subject.data.batches("test"))
    kept = x.clone()
    z = attack(subject.net, x, y, 0.1, 0.04, 5, random_start)
    assert x.equal(kept)
    assert (z - x).abs().max() <= 0.1 + 1e-6
    assert z.min() >= 0 and z.max() <= 1
    assert not z.requires_grad
    assert all(
        a.equal(b) for a, b in zip(before.values(), subject.net.state_dict().values(), strict=True)
    )


def test_an_attack_reaches_the_worst_case_of_a_linear_model() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(12, 2).double()
    net = nn.Sequential(nn.Flatten(), linear)
    x, y = torch.rand(50, 3, 2, 2).double() * 0.6 + 0.2, torch.randint(2, (50,))
    sign = torch.where(y == 0, 1.0, -1.0).double()
    slope = (linear.weight[0] - linear.weight[1]).detach()

    def margin(z: Tensor) -> Tensor:
        logits: Tensor = net(z).detach()
        return sign * (logits[:, 0] - logits[:, 1])

    z = attack(net, x, y, 0.1, 0.03, 10, random_start=True)
    torch.testing.assert_close(margin(z), margin(x) - 0.1 * slope.abs().sum())


def test_more_steps_hurt_more() -> None:
    one = Robustness(fgsm=0.1, pgd=0.1, step=0.03, steps=1).evaluate(trained())["pgd"]
    ten = Robustness(fgsm=0.1, pgd=0.1, step=0.03, steps=10).evaluate(trained())["pgd"]
    assert ten > one


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        (Baseline(), 64),
        (Mixup(), 64),
        (MultiMix(n=100), 100),
        (DenseMultiMix(n=100), 400),
    ],
)
def test_cost_counts_the_loss_terms(method: Method, terms: int) -> None:
    scores = Cost(steps=2).evaluate(trained(method))
    assert scores["terms"] == terms
    assert scores["speed"] > 0
    assert scores["memory"] > 50  # torch alone takes more


def test_both_criteria_count_as_loss_terms() -> None:
    logits = torch.randn(6, 5)
    with LossTerms() as terms:
        nn.functional.cross_entropy(logits, logits.softmax(1))
        nn.functional.binary_cross_entropy_with_logits(logits[:2], logits[:2].sigmoid())
    assert terms.count == 8
