"""Embeddings: known answers, their slow definitions, and agreement with scikit-learn."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from questions import asked_of, digit_sets, numbers, trained
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional as F

from mixbench.methods.mixup import Mixup
from mixbench.tasks import Answer, Trained, embedding
from mixbench.tasks.embedding import (
    Embedding,
    alignment,
    knn_error,
    silhouette,
    uniformity,
    within_between,
)


def clouds(n: int = 60, d: int = 5, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points of all classes, around a mean each, in random order; every class has two or more."""
    draw = torch.Generator().manual_seed(seed)
    y = (torch.arange(n) % classes)[torch.randperm(n, generator=draw)]
    means = torch.randn(classes, d, generator=draw)
    return 3 + means[y] + 0.7 * torch.randn(n, d, generator=draw), y


def clouds_to_ask(**fields: Any) -> dict[str, float]:
    """The metrics of clouds, whose neighbours are in clouds of the same means."""
    z, y = clouds(130)
    return numbers(Embedding(**fields).evaluate(asked_of(z[:50], y[:50], train=(z[50:], y[50:]))))


def slow(z: Tensor, y: Tensor, alpha: float, t: float) -> dict[str, float]:
    """The definitions, pair by pair."""
    points: NDArray[np.float64] = z.double().numpy()
    within: list[float] = []
    kernels: list[float] = []
    squares: dict[bool, list[float]] = {True: [], False: []}
    for i, j in itertools.combinations(range(len(y)), 2):
        distance = math.sqrt(((points[i] - points[j]) ** 2).sum())
        same = bool(y[i] == y[j])
        within += [distance**alpha] * same
        kernels.append(math.exp(-t * distance**2))
        squares[same].append(distance**2)
    return {
        "alignment": float(np.mean(within)),
        "uniformity": math.log(np.mean(kernels)),
        "ratio": float(np.mean(squares[True]) / np.mean(squares[False])),
    }


def fast(z: Tensor, y: Tensor, alpha: float = 2.0, t: float = 2.0) -> dict[str, float]:
    return {
        "alignment": alignment(z, y, alpha),
        "uniformity": uniformity(z, t),
        "ratio": within_between(z, y),
        "silhouette": silhouette(z, y),
    }


@given(
    st.integers(0, 10_000),
    st.integers(6, 40),
    st.integers(2, 3),
    st.sampled_from([0.5, 1.0, 2.0, 3.0]),
    st.sampled_from([0.3, 2.0]),
)
@settings(max_examples=40, deadline=None)
def test_metrics_of_pairs_are_their_definitions(
    seed: int, n: int, classes: int, alpha: float, t: float
) -> None:
    z, y = clouds(n, 3, classes, seed)
    quick = fast(z, y, alpha, t)
    for name, value in slow(z, y, alpha, t).items():
        assert quick[name] == pytest.approx(value, rel=1e-9), name


def test_metrics_by_hand() -> None:
    z, y = torch.tensor([[0.0, 0], [3, 4], [0, 2], [0, 2]]), torch.tensor([7, 7, 1, 1])
    assert alignment(z, y, 2) == (25 + 0) / 2
    assert alignment(z, y, 1) == (5 + 0) / 2
    kernels = [math.exp(-2 * d) for d in (25, 4, 4, 13, 13, 0)]
    assert uniformity(z, 2) == pytest.approx(math.log(sum(kernels) / 6))
    assert within_between(z, y) == pytest.approx((25 / 2) / ((4 + 4 + 13 + 13) / 4))
    far = math.sqrt(13)
    by_hand = [(2 - 5) / 5, (far - 5) / 5, 1, 1]
    assert silhouette(z, y) == pytest.approx(sum(by_hand) / 4)


def test_the_silhouette_is_its_definition() -> None:
    z, y = clouds(40)
    y[y == 3] = 2
    y[0] = 3  # alone in its class, which counts as zero
    distances = torch.cdist(z.double(), z.double()).numpy()
    scores = []
    for i in range(40):
        to = {int(c): distances[i, (y == c).numpy()] for c in y.unique()}
        own = to.pop(int(y[i]))
        a, b = own.sum() / max(len(own) - 1, 1), min(other.mean() for other in to.values())
        scores.append((b - a) / max(a, b) if len(own) > 1 else 0)
    assert silhouette(z, y) == pytest.approx(float(np.mean(scores)))


def test_metrics_of_pairs_agree_with_numpy_on_the_whole_matrix() -> None:
    z, y = clouds(1300, 16, 10)
    squares = ((z[:, None] - z).double().numpy() ** 2).sum(2)
    same, pair = (y[:, None] == y).numpy(), ~np.eye(len(z), dtype=bool)
    assert alignment(z, y, 2) == pytest.approx(squares[same & pair].mean(), rel=1e-6)
    assert uniformity(z, 2) == pytest.approx(math.log(np.exp(-2 * squares[pair]).mean()), rel=1e-6)
    ratio = squares[same & pair].mean() / squares[~same].mean()
    assert within_between(z, y) == pytest.approx(ratio, rel=1e-6)
    assert silhouette(z, y) == pytest.approx(float(silhouette_score(z, y)), rel=1e-5)


def neighbours(k: int, temperature: float) -> KNeighborsClassifier:
    """The vote of Wu et al., by scikit-learn: for unit vectors, ‖a − b‖² = 2 − 2 cos."""

    def weigh(distances: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.exp((1 - distances) / temperature))

    return KNeighborsClassifier(k, weights=weigh, metric="cosine", algorithm="brute")


@given(st.integers(0, 10_000), st.integers(1, 70), st.sampled_from([0.07, 1.0]))
@settings(max_examples=40, deadline=None)
def test_neighbours_agree_with_scikit_learn(seed: int, k: int, temperature: float) -> None:
    z, y = clouds(100, 4, 5, seed)
    bank, labels, z, y = z[:70], y[:70], z[70:], y[70:]
    right = neighbours(k, temperature).fit(bank.double(), labels).score(z.double(), y)
    assert knn_error(bank, labels, z, y, k, temperature) == pytest.approx(1 - right)


@pytest.mark.parametrize(("k", "elected"), [(1, 4), (2, 4), (4, 0)])
def test_neighbours_vote_by_cosine_and_the_nearest_decides_a_tie(k: int, elected: int) -> None:
    bank = torch.tensor([[1.0, 0], [9, 1], [0, 1], [0, 1]])
    labels, query = torch.tensor([4, 2, 0, 0]), torch.tensor([[2.0, 0]])
    alike = 1e30  # a temperature at which all weigh the same
    wrong = {c: knn_error(bank, labels, query, torch.tensor([c]), k, alike) for c in (0, 2, 4)}
    assert wrong == {c: c != elected for c in (0, 2, 4)}


def test_the_lower_the_temperature_the_more_the_nearest_counts() -> None:
    bank, query = torch.tensor([[1.0, 0], [1, 1], [1, 1]]), torch.tensor([[1.0, 0]])
    labels, y = torch.tensor([5, 1, 1]), torch.tensor([5])
    error = [knn_error(bank, labels, query, y, 3, temperature) for temperature in (0.07, 1e-9, 1)]
    assert error == [0, 0, 1]


@pytest.mark.parametrize("rows", [1, 7, 60, 1000])
def test_no_number_depends_on_how_much_is_held_at_once(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = clouds_to_ask(k=5)
    monkeypatch.setattr(embedding, "ROWS", rows)
    assert clouds_to_ask(k=5) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("n", [6, 600])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_where_all_embeddings_are_equal_alignment_and_uniformity_are_zero(
    n: int, value: float
) -> None:
    z, y = torch.full((n, 7), value), torch.arange(n) % 2
    assert alignment(z, y, 2) == 0
    assert uniformity(z, 2) == pytest.approx(0, abs=1e-12)


def test_classes_that_are_orthonormal_points_are_aligned() -> None:
    y = torch.arange(40) % 4
    z = torch.eye(4)[y]
    of = fast(z, y)
    assert (of["alignment"], of["ratio"], of["silhouette"]) == (0, 0, 1)
    near = 4 * math.comb(10, 2) / math.comb(40, 2)
    assert of["uniformity"] == pytest.approx(math.log(near + (1 - near) * math.exp(-4)))


@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_unit_vectors_keep_the_bounds(seed: int, per_class: int, d: int) -> None:
    n = 3 * per_class
    draw = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn(n, d, generator=draw).double())
    y = torch.arange(n) % 3
    assert 0 <= alignment(z, y, 2) <= 2 * per_class / (per_class - 1) + 1e-9
    assert -2 * 2 * n / (n - 1) - 1e-9 <= uniformity(z, 2) <= 1e-9
    assert -1 <= silhouette(z, y) <= 1


def test_the_bounds_are_met_by_antipodes() -> None:
    z, y = torch.tensor([[1.0, 0], [-1, 0]]), torch.tensor([0, 0])
    assert (alignment(z, y, 2), uniformity(z, 2)) == (4, -8)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_scale_moves_raw_alignment_and_uniformity_alone(alpha: float) -> None:
    z, y = clouds()
    once = numbers(Embedding(alpha, k=3).evaluate(asked_of(z, y, train=(z, y))))
    thrice = numbers(Embedding(alpha, k=3).evaluate(asked_of(3 * z, y, train=(z, y))))
    raw = {"alignment_raw", "uniformity_raw"}
    assert thrice["alignment_raw"] == pytest.approx(3**alpha * once["alignment_raw"])
    assert thrice["uniformity_raw"] == pytest.approx(uniformity(z, 2 * 9), rel=1e-5)
    for name in once.keys() - raw:
        assert thrice[name] == pytest.approx(once[name], rel=1e-5), name


def test_neither_rotation_nor_shift_nor_order_matters() -> None:
    z, y = clouds()
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))[0]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    moved = (z.double() @ rotation.double() + 1000)[order]
    assert fast(moved, y[order]) == pytest.approx(fast(z, y), rel=1e-5)
    kept = knn_error(z[:40], y[:40], z[40:], y[40:], 5, 0.07)
    turned, labels = (z @ rotation)[:40], y[:40]
    shuffled = order[order < 40]
    there = turned[shuffled], labels[shuffled]
    assert knn_error(*there, (z @ rotation)[40:], y[40:], 5, 0.07) == kept


def test_distances_far_beyond_the_range_of_exp_give_a_finite_uniformity() -> None:
    z = 1e4 * torch.eye(30)
    assert uniformity(z, 2) == pytest.approx(-2 * 2e8)
    assert uniformity(1e-9 * z + 5, 2) == pytest.approx(0, abs=1e-9)


def test_small_distances_survive_a_large_offset() -> None:
    z, y = clouds(600, 8)
    far = (z.double() - 3) + 1e7
    assert fast(far, y) == pytest.approx(fast(z.double() - 3, y), rel=1e-6)


def test_the_task_tells_of_unit_and_of_raw_embeddings() -> None:
    z, y = clouds(50)
    bank, labels = clouds(70)
    answer = Embedding(1.5, 0.5, 4).evaluate(asked_of(z, y, train=(bank, labels)))
    unit = F.normalize(z.double())
    assert numbers(answer) == pytest.approx(
        {
            "alignment": alignment(unit, y, 1.5),
            "uniformity": uniformity(unit, 0.5),
            "alignment_raw": alignment(z, y, 1.5),
            "uniformity_raw": uniformity(z, 0.5),
            "ratio": within_between(z, y),
            "silhouette": silhouette(z, y),
            "knn": 100 * knn_error(bank, labels, z, y, 4, 0.07),
        }
    )


def test_an_embedding_that_is_zero_stays_zero() -> None:
    z, y = torch.tensor([[0.0, 0], [5, 0], [0, 0], [0, 2]]), torch.tensor([0, 0, 1, 1])
    answer = numbers(Embedding(k=1).evaluate(asked_of(z, y, train=(z, y))))
    assert answer["alignment"] == 1


def answered(subject: Trained, seed: int = 0, **fields: Any) -> Answer:
    torch.manual_seed(seed)
    return Embedding(**fields).evaluate(subject)


def test_answers_do_not_depend_on_the_seed_of_the_run_and_leave_outputs_alone() -> None:
    subject = trained()
    outputs = subject.outputs("test")
    kept = outputs.embeddings.clone()
    first, second = (answered(subject, seed, sample=200) for seed in (0, 1))
    assert set(numbers(first)) == set(Embedding.metrics)
    assert numbers(first) == numbers(second)
    assert outputs.embeddings.equal(kept)


def shown(answer: Answer) -> tuple[Tensor, Tensor]:
    z, y = answer["figure_embeddings"], answer["figure_classes"]
    assert isinstance(z, Tensor) and isinstance(y, Tensor)
    return z, y


def test_two_networks_show_the_same_images_in_a_figure() -> None:
    few, many = trained(steps=1), trained(Mixup(), steps=4)
    (z, y), (other, classes) = (
        shown(answered(subject, seed, classes=4, per_class=20))
        for seed, subject in enumerate((few, many))
    )
    assert y.equal(classes) and not z.equal(other)
    assert y.bincount().tolist().count(20) == 4 == len(y.unique())
    assert y.equal(y.sort().values)
    for subject, points in ((few, z), (many, other)):
        test = subject.outputs("test")
        first = [test.embeddings[test.labels == c][:20] for c in y.unique()]
        assert points.equal(torch.cat(first))


def test_a_figure_shows_what_there_is() -> None:
    subject = trained()
    z, y = shown(answered(subject, classes=12, per_class=1000))
    labels = subject.outputs("test").labels
    assert y.equal(labels.sort().values)
    assert z.shape == (len(labels), subject.outputs("test").embeddings.shape[1])
    assert (z.dtype, y.dtype) == (torch.float32, torch.int64)


def test_the_classes_of_a_figure_are_drawn_from_all() -> None:
    y = torch.arange(100).repeat(2)
    z = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    classes = shown(answered(asked_of(z, y, train=(z, y)), sample=100))[1].unique()
    assert len(classes) == 10
    assert classes.max() > 50 and classes.min() < 50


def test_a_sample_bounds_the_pairs_but_neither_neighbours_nor_figure() -> None:
    z, y = clouds(600)
    subject = asked_of(z, y, train=(z[:80], y[:80]))
    whole, part = answered(subject), answered(subject, sample=300)
    for name in Embedding.metrics:
        if name == "knn":
            of_all = 100 * knn_error(z[:80], y[:80], z, y, 20, 0.07)
            assert numbers(part)[name] == numbers(whole)[name] == of_all
        else:
            assert numbers(part)[name] != numbers(whole)[name]
            assert numbers(part)[name] == pytest.approx(numbers(whole)[name], rel=0.3), name
    assert shown(part)[0].equal(shown(whole)[0])
    assert numbers(answered(subject, sample=600)) == numbers(whole)


def test_a_sample_is_drawn_at_random_from_the_whole_set() -> None:
    """Sorted by class, its first half would have half of the classes."""
    z, y = clouds(400)
    z, y = z[y.argsort()], y.sort().values
    part, whole = (answered(asked_of(z, y, train=(z, y)), sample=n) for n in (200, 400))
    assert numbers(part)["ratio"] == pytest.approx(numbers(whole)["ratio"], rel=0.2)


def test_a_class_without_a_test_image_is_left_out() -> None:
    z, y = clouds(40, 5, 4)
    subject = asked_of(z, torch.tensor([0, 1, 2, 4])[y], train=(z, y))
    assert shown(answered(subject))[1].unique().tolist() == [0, 1, 2, 4]
    plain = asked_of(z, y, train=(z, y))
    kept = numbers(answered(plain))
    assert {k: v for k, v in numbers(answered(subject)).items() if k != "knn"} == {
        k: v for k, v in kept.items() if k != "knn"
    }


def test_images_of_one_class_are_refused() -> None:
    z, _ = clouds(40)
    y = torch.full((40,), 3)
    with pytest.raises(ValueError, match="40 test images looked at are of one class"):
        answered(asked_of(z, y, train=(z, y)))


def test_classes_of_one_image_are_refused() -> None:
    z, y = torch.eye(30), torch.arange(30)
    with pytest.raises(ValueError, match="of the 30 test images looked at, no two"):
        answered(asked_of(z, y, train=(z, y)))


def test_more_neighbours_than_training_images_are_refused() -> None:
    z, y = clouds(40)
    few = asked_of(z, y, train=(z[:19], y[:19]))
    assert answered(few, k=19)
    with pytest.raises(ValueError, match="k=20, but there are 19 training images"):
        answered(few)


def test_embeddings_that_are_all_equal_are_refused() -> None:
    z, y = torch.full((40, 3), 0.1), torch.arange(40) % 2
    with pytest.raises(ArithmeticError, match="embeddings of 40 test images are all equal"):
        answered(asked_of(z, y, train=(z, y)))


def test_logits_that_are_nan_are_refused() -> None:
    z, y = clouds(40)
    z[3, 1] = torch.nan
    with pytest.raises(ArithmeticError, match="not finite"):
        answered(asked_of(z, y, train=(z, y)))


@pytest.mark.parametrize(
    "field", ["alpha", "t", "k", "temperature", "sample", "classes", "per_class"]
)
def test_a_field_that_is_not_positive_is_refused(field: str) -> None:
    wrong: dict[str, Any] = {field: 0}
    with pytest.raises(ValueError, match="greater than 0"):
        Embedding(**wrong)


def test_a_trained_network_has_better_neighbours_than_chance() -> None:
    answer = numbers(answered(trained(data=digit_sets(), steps=8)))
    assert answer["knn"] < 50
    assert answer["ratio"] < 1
