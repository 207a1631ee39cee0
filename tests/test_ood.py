"""Detection of unknown classes: known answers, slow definitions, and what other libraries say."""

import copy
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from questions import EPOCHS, Sets, asked_of, trained
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from torch import Tensor, nn

from mixbench.bench.data import outside
from mixbench.bench.spec import BadInput, canonical, parse
from mixbench.tasks import Inapplicable, Reader, Task, Trained, ood
from mixbench.tasks.ood import OOD, energy, knn, max_logit, msp, odin, told_apart

SCORES = ("msp", "energy", "maxlogit", "odin", "knn")
RATES = ("auroc", "aupr_in", "aupr_out", "accuracy", "fpr95")


def rates(inside: list[float], outside: list[float]) -> dict[str, float]:
    return told_apart(
        torch.tensor(inside, dtype=torch.float64), torch.tensor(outside, dtype=torch.float64)
    )


def all_of(auroc: float, aupr_in: float, aupr_out: float, accuracy: float, fpr95: float) -> Any:
    return pytest.approx(
        dict(zip(RATES, (auroc, aupr_in, aupr_out, accuracy, fpr95), strict=True)), abs=1e-9
    )


def test_perfect_separation_is_all() -> None:
    assert rates([3, 4, 4], [2, 1]) == all_of(100, 100, 100, 100, 0)


def test_one_score_for_all_is_chance() -> None:
    assert rates([1, 1, 1], [1]) == all_of(50, 75, 25, 50, 100)


def test_the_same_scores_on_both_sides_are_chance() -> None:
    assert rates([1, 2, 3, 4], [1, 2, 3, 4]) == all_of(50, 50, 50, 50, 100)


def test_what_is_reversed_is_no_better_than_refusing_all() -> None:
    # Descending, the two known ones are found third and fourth: precision 1/3, then 2/4.
    found = 100 * (1 / 3 + 2 / 4) / 2
    assert rates([1, 2], [3, 4]) == all_of(0, found, found, 50, 100)


def test_rates_by_hand() -> None:
    # 4 in, 3 both, 2 out, 1 in, 0 out.
    got = rates([4, 3, 1], [3, 2, 0])
    assert got["auroc"] == pytest.approx(100 * (3 + 2.5 + 1) / 9)
    assert got["aupr_in"] == pytest.approx(100 * (1 + 2 / 3 + 3 / 5) / 3)
    assert got["aupr_out"] == pytest.approx(100 * (1 + 2 / 3 + 3 / 5) / 3)
    assert got["accuracy"] == pytest.approx(100 * (2 / 3 + 2 / 3) / 2)
    assert got["fpr95"] == pytest.approx(100 * 2 / 3)


def test_nineteen_of_twenty_are_95_percent() -> None:
    kept = [float(i) for i in range(20)]
    assert rates(kept, [0.5, 1.5])["fpr95"] == 50
    assert rates(kept[:19], [0.5, 1.5])["fpr95"] == 100
    assert rates(kept, kept)["fpr95"] == 95


def average_precision(found: list[float], others: list[float]) -> float:
    """The sum of precisions, each times the gain of recall, over distinct scores, descending."""
    total = before = 0.0
    for score in sorted({*found, *others}, reverse=True):
        right, wrong = sum(s >= score for s in found), sum(s >= score for s in others)
        total += (right - before) / len(found) * right / (right + wrong)
        before = right
    return total


def slow_rates(inside: list[float], outside: list[float]) -> dict[str, float]:
    """Each by its definition."""
    thresholds = [*inside, *outside, math.inf]
    wins = [(a > b) + (a == b) / 2 for a in inside for b in outside]
    accuracies = [
        (sum(s >= t for s in inside) / len(inside) + sum(s < t for s in outside) / len(outside)) / 2
        for t in thresholds
    ]
    keeping = max(t for t in thresholds if 20 * sum(s >= t for s in inside) >= 19 * len(inside))
    return {
        "auroc": 100 * sum(wins) / len(wins),
        "aupr_in": 100 * average_precision(inside, outside),
        "aupr_out": 100 * average_precision([-s for s in outside], [-s for s in inside]),
        "accuracy": 100 * max(accuracies),
        "fpr95": 100 * sum(s >= keeping for s in outside) / len(outside),
    }


tied = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=45)


@given(tied, tied)
@settings(max_examples=200, deadline=None)
def test_rates_are_their_definitions(inside: list[float], outside: list[float]) -> None:
    assert rates(inside, outside) == pytest.approx(slow_rates(inside, outside), abs=1e-9)


@given(tied, tied)
@settings(max_examples=50, deadline=None)
def test_rates_depend_on_the_order_alone(inside: list[float], outside: list[float]) -> None:
    expected = rates(inside, outside)
    for rising in (math.exp, lambda s: s**3 + s, lambda s: 1e-300 * s):
        assert rates([rising(s) for s in inside], [rising(s) for s in outside]) == expected


@given(tied, tied)
@settings(max_examples=50, deadline=None)
def test_with_roles_and_sign_swapped_the_precisions_swap(
    inside: list[float], outside: list[float]
) -> None:
    one, other = rates(inside, outside), rates([-s for s in outside], [-s for s in inside])
    assert other["auroc"] == pytest.approx(one["auroc"])
    assert other["accuracy"] == pytest.approx(one["accuracy"])
    assert (other["aupr_in"], other["aupr_out"]) == pytest.approx((one["aupr_out"], one["aupr_in"]))


def many(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores, most of which occur more than once."""
    draw = torch.Generator().manual_seed(seed)
    inside = torch.randn(3000, generator=draw).double() + 0.7
    return (200 * inside).round(), (200 * torch.randn(2000, generator=draw).double()).round()


def test_rates_agree_with_scikit_learn() -> None:
    inside, outside = many()
    got, scores = told_apart(inside, outside), torch.cat([inside, outside]).numpy()
    known = np.repeat([1, 0], [len(inside), len(outside)])
    assert got["auroc"] == pytest.approx(100 * roc_auc_score(known, scores))
    assert got["aupr_in"] == pytest.approx(100 * average_precision_score(known, scores))
    assert got["aupr_out"] == pytest.approx(
        100 * average_precision_score(known, -scores, pos_label=0)
    )
    best = max(balanced_accuracy_score(known, scores >= t) for t in np.unique(scores)[::10])
    assert 100 * best <= got["accuracy"] <= 100 * best + 1


def test_rates_agree_with_torchmetrics() -> None:
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    inside, outside = many(1)
    got, scores = told_apart(inside, outside), torch.cat([inside, outside]) / 4000 + 0.5
    known = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).long()
    auroc = metrics.binary_auroc(scores, known)
    aupr_in = metrics.binary_average_precision(scores, known)
    aupr_out = metrics.binary_average_precision(1 - scores, 1 - known)
    expected = [100 * float(value) for value in (auroc, aupr_in, aupr_out)]
    assert [got["auroc"], got["aupr_in"], got["aupr_out"]] == pytest.approx(expected, rel=1e-5)


def test_the_largest_probability_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [math.log(2), 0.0], [5.0, 5.0]])
    assert msp(logits).tolist() == pytest.approx([math.log(3), math.log(2), 0], abs=1e-6)
    assert msp(logits, 2).tolist() == pytest.approx([math.log(3) / 2, math.log(2) / 2, 0], abs=1e-6)


@given(st.integers(0, 1000), st.sampled_from([1.0, 7.0, 1000.0]))
@settings(max_examples=20, deadline=None)
def test_the_largest_probability_is_that_of_softmax(seed: int, temperature: float) -> None:
    logits = 3 * torch.randn(20, 6, generator=torch.Generator().manual_seed(seed))
    p = (logits.double() / temperature).softmax(1).max(1).values
    expected = (p / (1 - p)).log()
    torch.testing.assert_close(msp(logits, temperature), expected, rtol=1e-11, atol=1e-11)


def test_probabilities_that_round_to_one_keep_their_order() -> None:
    logits = torch.tensor([[gap, 0.0, 0.0] for gap in (20, 40, 41, 200, 1e4)])
    assert len(logits.softmax(1).max(1).values.unique()) == 1
    assert all(a < b for a, b in pairwise(msp(logits).tolist()))


@given(st.integers(0, 1000), st.integers(-50, 50))
@settings(max_examples=30, deadline=None)
def test_classes_in_another_order_and_shifted_logits_tie(seed: int, shift: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randint(-400, 400, (7, 40), generator=draw) / 64
    order = torch.randperm(40, generator=draw)
    for temperature in (1.0, 1000.0):
        assert msp(logits, temperature).equal(msp(logits[:, order] + shift, temperature))


def test_energy_and_the_largest_logit_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [-7.0, -7.0], [300.0, 299.0]])
    expected = [math.log(4), -7 + math.log(2), 300 + math.log(1 + math.exp(-1))]
    assert energy(logits).tolist() == pytest.approx(expected)
    second = 2 * math.log(2 * math.exp(-7 / 2))
    assert energy(logits, 2).tolist()[1] == pytest.approx(second)
    assert max_logit(logits).tolist() == pytest.approx([math.log(3), -7, 300])


def small_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Flatten(), nn.Linear(12, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Linear(16, 5)
    return nn.Sequential(*layers).double().eval()


def literal_odin(net: nn.Module, x: Tensor, temperature: float, eps: float) -> Tensor:
    """One image after another, as the paper says it."""
    scores = []
    for image in x:
        image = image[None].clone().requires_grad_()
        log_p = torch.log_softmax(net(image) / temperature, 1)
        log_p[0, log_p.argmax()].backward()
        assert image.grad is not None
        moved = image.detach() - eps * (-image.grad).sign()
        p = torch.softmax(net(moved) / temperature, 1).max().detach()
        scores.append((p / (1 - p)).log())
    return torch.stack(scores)


@pytest.mark.parametrize("temperature", [1.0, 1000.0])
@pytest.mark.parametrize("eps", [0.0, 0.0014, 0.1])
def test_odin_is_what_its_paper_says(temperature: float, eps: float) -> None:
    net, x = small_net(), torch.rand(30, 3, 2, 2).double()
    expected = literal_odin(net, x, temperature, eps)
    torch.testing.assert_close(odin(net, x, temperature, eps), expected, rtol=1e-9, atol=1e-12)


def test_odin_raises_the_score_and_leaves_network_and_images_alone() -> None:
    net, x = small_net(), torch.rand(30, 3, 2, 2).double()
    before, kept = copy.deepcopy(net.state_dict()), x.clone()
    with torch.no_grad():
        assert (odin(net, x, 10, 1e-4) > msp(net(x), 10)).all()
    assert x.equal(kept) and not x.requires_grad
    assert all(p.grad is None for p in net.parameters())
    assert all(v.equal(before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("k", [1, 5, 40])
def test_neighbours_agree_with_scikit_learn(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ood, "CHUNK", 7)
    z, train = torch.randn(30, 6), torch.randn(40, 6)
    nearest = NearestNeighbors(n_neighbors=k).fit(normalize(train.double().numpy()))
    distances, _ = nearest.kneighbors(normalize(z.double().numpy()))
    torch.testing.assert_close(
        knn(z, train, k), -torch.from_numpy(distances[:, -1]), rtol=1e-5, atol=1e-6
    )


def test_neighbours_do_not_depend_on_lengths() -> None:
    z, train = torch.randn(20, 6), torch.randn(40, 6)
    torch.testing.assert_close(knn(3 * z, 0.1 * train, 4), knn(z, train, 4), rtol=0, atol=1e-6)


def test_neighbours_that_are_very_near_are_told_apart() -> None:
    angles = torch.tensor([1e-5, 2e-5, 3e-5])
    z = torch.stack([angles.cos(), angles.sin()], 1)
    expected = -angles.double()
    torch.testing.assert_close(knn(z, torch.tensor([[1.0, 0.0]]), 1), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("score", SCORES)
def test_a_task_answers_with_its_metrics_and_leaves_what_is_shared_alone(score: str) -> None:
    subject = trained()
    shared = {name: copy.deepcopy(subject.outputs(name)) for name in ("train", "test", "noise")}
    answer = OOD(sets=("noise", "held_out"), score=score).evaluate(subject)  # type: ignore[arg-type]
    assert set(answer) == set(OOD(sets=("noise", "held_out")).metrics)
    assert all(0 <= value <= 100 for value in answer.values())
    for name, before in shared.items():
        after = subject.outputs(name)
        assert after.logits.equal(before.logits) and after.embeddings.equal(before.embeddings)


def test_three_means_are_main_and_every_metric_has_its_own_heading() -> None:
    metrics = OOD(sets=("a", "b")).metrics
    assert [name for name, rule in metrics.items() if rule.main] == ["auroc", "aupr_in", "aupr_out"]
    assert len({rule.title for rule in metrics.values()}) == len(metrics) == 15
    assert {name for name, rule in metrics.items() if rule.better == "lower"} == {
        *("fpr95", "fpr95_a", "fpr95_b")
    }


def test_headings_tell_score_and_sizes() -> None:
    assert "equal sizes" in OOD().metrics["aupr_in"].title
    assert "equal sizes" not in OOD(equal=False).metrics["aupr_in"].title
    assert all("knn" in rule.title for rule in OOD(score="knn").metrics.values())


def test_the_papers_sets_are_known() -> None:
    assert set(OOD().sets) <= {*outside.FILES, *outside.NO_FILES}
    assert len(OOD().sets) == 7 and OOD().score == "msp"


def drawn(n: int, seed: int, c: int = 3) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, c, generator=draw), torch.zeros(n).long()


@pytest.mark.parametrize(
    ("score", "of"), [("msp", msp), ("energy", energy), ("maxlogit", max_logit)]
)
def test_each_set_has_its_values_and_their_mean_is_told(score: str, of: Any) -> None:
    (x, y), a, b = drawn(40, 0), drawn(40, 1), drawn(40, 2)
    answer = OOD(sets=("a", "b"), score=score).evaluate(asked_of(x, y, a=a, b=b))  # type: ignore[arg-type]
    one, other = told_apart(of(x), of(a[0])), told_apart(of(x), of(b[0]))
    assert one != other
    for name in RATES:
        assert answer[f"{name}_a"] == pytest.approx(one[name])
        assert answer[f"{name}_b"] == pytest.approx(other[name])
        assert answer[name] == pytest.approx((one[name] + other[name]) / 2)


def test_parameters_of_scores_are_used() -> None:
    def auroc(**parameters: Any) -> float:
        (x, y), a, train = drawn(40, 0, 5), drawn(40, 1, 5), drawn(30, 2, 5)
        subject = asked_of(x, y, a=a, train=train)
        return OOD(sets=("a",), **parameters).evaluate(subject)["auroc"]

    assert auroc(score="energy") != auroc(score="energy", temperature=20)
    assert auroc(score="knn", k=1) != auroc(score="knn", k=30)
    assert auroc(score="odin", odin_temperature=1, odin_eps=0) == auroc(score="msp")


@pytest.mark.parametrize(("temperature", "eps"), [(1000.0, 0.0014), (2.0, 0.1)])
def test_odin_is_asked_with_its_parameters(temperature: float, eps: float) -> None:
    net, y = small_net(), torch.zeros(50).long()
    x, a = (torch.rand(50, 3, 2, 2).double() for _ in range(2))
    data = Sets({"test": (x, y), "a": (2 * a, y)})
    task = OOD(sets=("a",), score="odin", odin_temperature=temperature, odin_eps=eps)
    answer = task.evaluate(Trained(net, net, data, EPOCHS, Reader(net, data.batches)))
    scores = (literal_odin(net, images, temperature, eps) for images in (x, 2 * a))
    assert {name: answer[name] for name in RATES} == told_apart(*scores)


def test_parameters_are_those_of_the_scores_papers() -> None:
    task = OOD()
    assert (task.temperature, task.odin_temperature, task.odin_eps, task.k) == (1, 1000, 0.0014, 50)


def test_confidence_that_rounds_to_one_is_told_apart() -> None:
    sure = torch.tensor([[41.0, 0.0]] * 4)
    less = torch.tensor([[40.0, 0.0]] * 4)
    y = torch.zeros(4).long()
    assert OOD(sets=("a",)).evaluate(asked_of(sure, y, a=(less, y)))["auroc"] == 100


@pytest.mark.parametrize(("inside", "out"), [(30, 10), (10, 30)])
def test_sizes_are_made_equal(inside: int, out: int) -> None:
    subject = asked_of(
        torch.ones(inside, 2), torch.zeros(inside), a=(torch.ones(out, 2), torch.zeros(out))
    )
    equal = OOD(sets=("a",)).evaluate(subject)
    assert (equal["aupr_in"], equal["aupr_out"]) == (50, 50)
    whole = OOD(sets=("a",), equal=False).evaluate(subject)
    share = 100 * inside / (inside + out)
    assert (whole["aupr_in"], whole["aupr_out"]) == pytest.approx((share, 100 - share))


@pytest.mark.parametrize(("inside", "out"), [(60, 11), (11, 60)])
def test_the_seed_alone_decides_what_is_compared(inside: int, out: int) -> None:
    x, y = drawn(inside, 0)

    def once(seed: int, before: int = 0, sets: tuple[str, ...] = ("a",)) -> float:
        torch.manual_seed(seed)
        torch.rand(before)
        subject = asked_of(x, y, a=drawn(out, 1), b=drawn(7, 2))
        return OOD(sets=sets).evaluate(subject)["auroc_a"]

    assert once(1) == once(1, before=3) == once(1, sets=("b", "a"))
    assert len({once(seed) for seed in range(5)}) > 1


def test_a_set_that_is_not_there_is_named_before_anything_is_read() -> None:
    (x, y), a = drawn(4, 0), drawn(4, 1)
    data = asked_of(x, y, a=a).data
    OOD(sets=("a",)).check(data)
    with pytest.raises(ValueError, match="there is no b"):
        OOD(sets=("a", "b")).check(data)


class Without(Sets):
    """Sets of which "a" has no images."""

    def batches(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(()) if name == "a" else super().batches(name)


@pytest.mark.parametrize("score", SCORES)
def test_a_set_without_images_is_named(score: str) -> None:
    net, data = nn.Sequential(nn.Identity()), Without({"test": drawn(60, 0), "train": drawn(60, 1)})
    subject = Trained(net, net, data, EPOCHS, Reader(net, data.batches))
    with pytest.raises(ValueError, match=r"^a has no images$"):
        OOD(sets=("a",), score=score).evaluate(subject)  # type: ignore[arg-type]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("where", ["test", "a"])
def test_what_is_not_a_number_is_refused_and_named(score: str, where: str) -> None:
    sets = {"test": drawn(60, 0), "a": drawn(60, 1)}
    sets[where][0][3, 1] = torch.nan
    subject = asked_of(*sets["test"], a=sets["a"], train=drawn(60, 2))
    with pytest.raises(ArithmeticError, match=f"of {where} are not finite"):
        OOD(sets=("a",), score=score).evaluate(subject)  # type: ignore[arg-type]


@pytest.mark.parametrize("score", ["msp", "odin"])
def test_the_probability_of_one_class_says_nothing(score: str) -> None:
    (x, y), a = drawn(4, 0, 1), drawn(4, 1, 1)
    with pytest.raises(Inapplicable, match="single class"):
        OOD(sets=("a",), score=score).evaluate(asked_of(x, y, a=a))  # type: ignore[arg-type]
    assert OOD(sets=("a",), score="energy").evaluate(asked_of(x, y, a=a))["auroc"] >= 0


def test_more_neighbours_than_training_images_are_refused() -> None:
    (x, y), a, train = drawn(4, 0), drawn(4, 1), drawn(12, 2)
    subject = asked_of(x, y, a=a, train=train)
    OOD(sets=("a",), score="knn", k=12).evaluate(subject)
    with pytest.raises(ValueError, match=r"k=13 neighbours .* the 12 training embeddings"):
        OOD(sets=("a",), score="knn", k=13).evaluate(subject)


def test_sets_are_some_and_different() -> None:
    with pytest.raises(ValueError, match="one or more"):
        OOD(sets=())
    with pytest.raises(
        BadInput, match=r"sets: it should be one or more, none of them twice, not 'a\+b\+a'"
    ):
        parse("ood,sets=a+b+a", "mixbench.tasks", Task)
    with pytest.raises(BadInput, match="score: it should be 'msp'"):
        parse("ood,score=entropy", "mixbench.tasks", Task)
    spelled = "ood,sets=uniform+folder:/x,score=knn,k=200"
    assert canonical(spelled, "mixbench.tasks", Task) == spelled
