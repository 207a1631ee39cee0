"""The landscape between images: networks whose behaviour in between is known, and the pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from questions import EPOCHS, Sets, numbers, trained
from torch import Tensor, nn

from mixbench.bench.spec import BadInput, parse
from mixbench.tasks import Reader, Task, Trained
from mixbench.tasks.landscape import Landscape, picked, random_pairs, walk

ENDS = torch.eye(3)[[0, 1, 2, 0, 1, 2]], torch.tensor([0, 1, 2, 0, 1, 2])


class Logits(nn.Module):
    """Images (b, 3) are probabilities, raised to a power, and told as logits."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        return self.power * x.clamp(min=1e-30).log()


class Constant(nn.Module):
    """All logits are the same, but that of one class."""

    def __init__(self, c: int, logit: float) -> None:
        super().__init__()
        self.c, self.logit = c, logit

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x).index_fill(1, torch.tensor(self.c), self.logit)


def asked_of(layer: nn.Module, test: tuple[Tensor, Tensor] = ENDS) -> Trained:
    """A network that has all its say in one layer, before a head that changes nothing."""
    net = nn.Sequential(layer, nn.Identity())
    data = Sets({"test": test}, 3)
    return Trained(net, net, data, EPOCHS, Reader(net, data.batches))


def test_a_network_that_is_linear_in_between_has_no_error_and_no_deviation() -> None:
    answer = Landscape(pairs=50, points=5).evaluate(asked_of(Logits(1)))
    assert numbers(answer) == pytest.approx({"error": 0, "neither": 0, "deviation": 0}, abs=1e-6)
    assert answer["position"] == [0, 0.25, 0.5, 0.75, 1]
    assert answer["confidence"] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert answer["accuracy"] == answer["either"] == [100] * 5


def test_deviation_is_from_the_share_of_the_first_image() -> None:
    answer = Landscape(pairs=50, points=5).evaluate(asked_of(Logits(2)))
    assert answer["confidence"] == pytest.approx([1, 0.9, 0.5, 0.1, 0])
    assert numbers(answer) == pytest.approx({"error": 0, "neither": 0, "deviation": 0.3 / 3})


def test_accuracy_is_of_the_nearer_end_and_in_the_middle_of_either() -> None:
    test = torch.eye(3)[[0, 1]], torch.tensor([0, 1])
    zero_first = 100 * (random_pairs(test[1], 10)[:, 0] == 0).double().mean().item()
    assert 0 < zero_first < 100
    answer = Landscape(pairs=10, points=5).evaluate(asked_of(Constant(0, 9.0), test))
    ends = [zero_first] * 2, [100 - zero_first] * 2
    assert answer["accuracy"] == pytest.approx([*ends[0], 100, *ends[1]])
    assert answer["either"] == [100] * 5
    assert answer["error"] == pytest.approx(100 - (zero_first + 100 + 100 - zero_first) / 3)


def test_a_third_class_is_wrong_everywhere() -> None:
    test = torch.eye(3)[[0, 1]], torch.tensor([0, 1])
    answer = Landscape(pairs=10, points=3).evaluate(asked_of(Constant(2, 9.0), test))
    assert answer["accuracy"] == answer["either"] == [0, 0, 0]
    assert answer["error"] == 100


def test_a_walk_goes_from_the_first_image_to_the_second() -> None:
    seen: list[Tensor] = []
    net = nn.Identity()
    net.register_forward_hook(lambda _, x, y: seen.append(y.clone()))
    ends = torch.rand(4, 2, 3)
    walk(net, ends, torch.zeros(4, 2).long(), torch.tensor([0.0, 0.25, 1.0]))
    first, second = ends.unbind(1)
    expected = torch.stack([first, 0.75 * first + 0.25 * second, second])
    torch.testing.assert_close(torch.stack(seen), expected)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30), st.integers(1, 50))
@settings(deadline=None)
def test_pairs_are_of_different_classes(labels: list[int], n: int) -> None:
    y = torch.tensor(labels)
    if len(set(labels)) == 1:
        with pytest.raises(ValueError, match="2 classes or more"):
            random_pairs(y, n)
        return
    pairs = random_pairs(y, n)
    assert pairs.shape == (n, 2)
    assert (y[pairs[:, 0]] != y[pairs[:, 1]]).all()


def test_every_pair_of_different_classes_is_equally_likely() -> None:
    y = torch.tensor([2, 0, 2, 0])
    pairs, counts = random_pairs(y, 8000).unique(dim=0, return_counts=True)
    assert len(pairs) == 8
    assert (counts - 1000).abs().max() < 150  # five standard deviations


def test_pairs_do_not_depend_on_the_global_seed() -> None:
    y = torch.arange(100) % 7
    torch.manual_seed(1)
    first = random_pairs(y, 20)
    torch.manual_seed(2)
    assert first.equal(random_pairs(y, 20))


def test_the_images_picked_are_those_of_the_indices() -> None:
    x = torch.rand(10, 3)
    batches = [(part, torch.zeros(len(part))) for part in x.split(4)]
    pick = torch.tensor([0, 3, 4, 9])
    assert picked(batches, pick).equal(x[pick])


def test_as_many_pairs_as_are_asked_are_walked_in_batches() -> None:
    seen: list[int] = []
    subject = asked_of(Logits(1))
    subject.net.register_forward_hook(lambda _, x, y: seen.append(len(y)))
    Landscape(pairs=300, points=3).evaluate(subject)
    assert max(seen) < 300
    assert sum(seen) == len(ENDS[1]) + 3 * 300


def test_one_class_is_refused() -> None:
    subject = asked_of(Logits(1), (torch.eye(3), torch.tensor([1, 1, 1])))
    with pytest.raises(ValueError, match="2 classes or more"):
        Landscape().evaluate(subject)


def test_what_is_not_finite_only_in_between_is_refused() -> None:
    class Hole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / (x - 0.5).ne(0)

    with pytest.raises(ArithmeticError, match="not finite"):
        Landscape(pairs=5).evaluate(asked_of(Hole()))


@pytest.mark.parametrize("points", [1, 2, 4])
def test_points_are_three_or_more_and_odd(points: int) -> None:
    with pytest.raises(BadInput, match=r"points: it should be (odd|greater)"):
        parse(f"landscape,points={points}", "mixbench.tasks", Task)


def test_a_trained_network_is_asked_in_a_moment_and_left_alone() -> None:
    subject = trained()
    before = [parameter.clone() for parameter in subject.net.state_dict().values()]
    answer = Landscape(pairs=200).evaluate(subject)
    assert set(numbers(answer)) == set(Landscape.metrics)
    assert all(len(value) == 11 for value in answer.values() if isinstance(value, list))
    assert answer == Landscape(pairs=200).evaluate(subject)
    after = subject.net.state_dict().values()
    assert all(a.equal(b) for a, b in zip(before, after, strict=True))
