"""Intrusion distance: its definition, and that what methods mix is seen."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import assert_same, batch, bound, comparing, drawing, home, pairing, tiny, tiny_vit
from hypothesis import given, settings
from hypothesis import strategies as st
from questions import EPOCHS, Sets, digit_sets, numbers, trained
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.bench.spec import names, parse
from mixbench.methods import Method, bce_on_softmax
from mixbench.methods.baseline import Baseline
from mixbench.methods.densemultimix import DenseMultiMix
from mixbench.methods.mixup import Mixup
from mixbench.methods.multimix import MultiMix
from mixbench.methods.tokenmix import TokenMix
from mixbench.methods.transmix import TransMix
from mixbench.tasks import Inapplicable, Reader, Trained
from mixbench.tasks.intrusion import Intrusion, Mixtures, first, intrusion, present

UNMIXED = {"baseline", "augmix", "supermix"}  # no target of theirs has two classes
SMALLER = {"stylemix": "stylemix,size=16"}  # AdaIN on images of 224 x 224 takes seconds
PARTNER = [2, 0, 1, 5, 3, 4]

Objective = Callable[[nn.Sequential, Tensor, Tensor], Tensor]


def mixtures(
    objective: nn.Module, net: nn.Sequential, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Embeddings that are mixed, and their classes, if they enter the head in one pass."""
    ((z, classes),) = Mixtures(net[-1]).of(objective, x, y)
    return z, classes


def scene(n: int, m: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings of mixtures of some of four classes, and clean ones with their labels."""
    draw = torch.Generator().manual_seed(seed)
    z, clean = (torch.randn(k, 3, generator=draw, dtype=torch.float64) for k in (n, m))
    mixed = torch.rand(n, 4, generator=draw) < 0.6
    return z, mixed, clean, torch.randint(4, (m,), generator=draw)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_it_is_the_squared_distance_to_the_nearest_of_other_classes(
    n: int, m: int, seed: int
) -> None:
    z, mixed, clean, labels = scene(n, m, seed)
    for i, found in enumerate(intrusion(z, mixed, clean, labels).tolist()):
        others = [j for j in range(m) if not mixed[i, labels[j]]]
        slow = min(((z[i] - clean[j]).square().sum().item() for j in others), default=torch.inf)
        assert found == pytest.approx(slow)


@pytest.mark.parametrize("n", [1, 999, 1000, 1001, 2500])
def test_many_mixtures_are_looked_at_in_parts(n: int) -> None:
    z, mixed, clean, labels = scene(n, 7, 0)
    whole = (z[:, None] - clean).square().sum(2).masked_fill(mixed[:, labels], torch.inf)
    assert_same(intrusion(z, mixed, clean, labels), whole.amin(1))


def test_it_is_exactly_zero_where_a_mixture_is_a_clean_image_of_another_class() -> None:
    clean = 100 + torch.randn(60, 512)  # far from the origin, where a product of matrices rounds
    labels, mixed = torch.arange(60) % 3, torch.tensor([True, True, False]).expand(20, 3)
    assert not intrusion(clean[labels == 2], mixed, clean, labels).any()
    assert (intrusion(clean[labels == 1], mixed, clean, labels) > 1).all()


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_more_clean_images_never_take_it_up_and_rotations_leave_it(seed: int) -> None:
    z, mixed, clean, labels = scene(8, 9, seed)
    some = intrusion(z, mixed, clean[:4], labels[:4])
    every = intrusion(z, mixed, clean, labels)
    assert (every <= some).all()
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    assert_same(intrusion(z @ rotation, mixed, clean @ rotation, labels), every)


def test_the_first_examples_of_each_class_are_taken() -> None:
    labels = torch.tensor([3, 1, 3, 3, 0, 1, 1, 0])
    assert sorted(first(labels, 2).tolist()) == [0, 1, 2, 4, 5, 7]
    assert sorted(first(labels, 9).tolist()) == list(range(8))


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        ([1, 0, 0], [0]),
        ([0.7, 0, 0.3], [0, 2]),
        ([0.5, 0.5, 0], [0, 1]),
        ([1 - 1e-7, 1e-7, 0], [0]),
        ([0.2, 0.5, 0.3], [0, 1, 2]),
        ([0.2, 0.2, 0.6, 0], [0, 1, 2]),
        ([0.25, 0.25, 0.25, 0.25], [0, 1, 2, 3]),
        ([0.5, 0.5], [0, 1]),
        ([0.92, 0.02, 0.02, 0.02, 0.02], [0]),  # smoothed by 0.1
        ([0.02, 0.35, 0.59, 0.02, 0.02], [1, 2]),
        ([0.02, -0.03, 0.59, 0.02, 0.02], [1, 2]),  # TokenMix
        ([0.02, -0.03, -0.03, 0.02, 0.02], [1, 2]),
        ([0, 0, 0], []),
    ],
)
def test_the_classes_of_a_target_are_those_of_weight(
    target: list[float], classes: list[int]
) -> None:
    assert present(torch.tensor([target]))[0].nonzero()[:, 0].tolist() == classes


@pytest.mark.parametrize("at", ["pixels", "layer2", "pool"])
@pytest.mark.parametrize("criterion", [F.cross_entropy, bce_on_softmax])
def test_the_mixtures_of_mixup_are_seen(at: str, criterion: Any) -> None:
    x, y = batch(6)
    y = torch.eye(5)[[0, 1, 1, 3, 4, 2]]
    torch.manual_seed(0)
    net = tiny().eval()
    net.criterion = criterion
    objective = Mixup(at=(at,)).objective(net)
    below, above = net.split(at)
    own = below(x)
    mixed = 0.3 * own + 0.7 * own[PARTNER]
    expected = above[:-1](mixed)
    with pairing(0.3, PARTNER):
        z, classes = mixtures(objective, net, x, y)
    two = [0, 1, 3, 4, 5]  # images 1 and 2 are a class; 2's partner is 1
    assert_same(z, expected[two].detach(), atol=1e-5)
    assert classes.equal((y + y[PARTNER])[two] > 0)


def test_every_position_of_dense_multimix_is_seen() -> None:
    torch.manual_seed(0)
    net, (x, _) = tiny().eval(), batch(4)
    y, weights = torch.eye(5)[:4], torch.rand(4, 3, 4)
    weights[0, 0] = torch.tensor([0.0, 1, 0, 0])  # one image is no mixture
    weights[1, 2] = torch.tensor([0.0, 1, 2, 0])
    method = DenseMultiMix(p=1.0, attention="uniform", n=3)
    with drawing(weights):
        z, classes = mixtures(method.objective(net), net, x, y)
    maps = net.trunk(x).flatten(2)
    rows = [(r, n) for r in range(4) for n in range(3) if (r, n) != (0, 0)]
    expected = [(weights[r, n] / weights[r, n].sum()) @ maps[:, :, r] for r, n in rows]
    assert_same(z, torch.stack(expected).detach(), atol=1e-5)
    assert classes.equal(torch.stack([weights[r, n] @ y > 0 for r, n in rows]))


@pytest.mark.usefixtures("adain")
@pytest.mark.parametrize("name", names("mixbench.methods"))
def test_of_every_method_that_mixes_targets_mixed_embeddings_are_seen(name: str) -> None:
    method = parse(SMALLER.get(name, name), "mixbench.methods", Method)
    if hasattr(method, "p"):
        method = replace(method, p=1.0)  # type: ignore[call-arg]
    torch.manual_seed(1)
    x, y = torch.rand(6, 3, 8, 8), torch.eye(5)[[0, 1, 2, 3, 0, 1]]
    torch.manual_seed(2)
    net = home(method).eval()
    objective = bound(method, net)
    seen = Mixtures(net.head)
    with comparing(net) as compared:
        found = [each for _ in range(4) for each in seen.of(objective, x, y)]
    told = [present(target).sum(1) > 1 for _, target in compared]
    if not found:
        assert not any(several.any() for several in told)
        return
    assert name not in UNMIXED
    z, classes = (torch.cat(each) for each in zip(*found, strict=True))
    assert z.shape[1:] == (64,)
    assert (classes.sum(1) > 1).all()
    assert not classes[:, 4].any()  # no image is of this class
    if compared:  # else it has a criterion of its own
        logits, targets = (torch.cat(each) for each in zip(*compared, strict=True))
        several = torch.cat(told)
        assert_same(net.head(z), logits[several], atol=1e-5)
        assert classes.equal(present(targets)[several])


@pytest.mark.parametrize("method", [TransMix(p=1.0), TransMix(p=0.0), TokenMix(p=1.0)])
def test_smoothed_targets_are_of_the_two_classes_that_are_mixed(method: Method) -> None:
    y = torch.eye(5)[[0, 1, 2, 3, 4, 1]]
    torch.manual_seed(0)
    objective = bound(method, home(method).eval())
    _, classes = mixtures(objective, objective.net, torch.rand(6, 3, 8, 8), y)
    pairs = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 1, 1, 0]]).bool()
    assert {tuple(row) for row in classes.tolist()} <= {tuple(row) for row in pairs.tolist()}
    assert len(classes)


class Own(nn.Module):
    """An objective of a user's own."""

    def __init__(self, loss: Objective, d: int = 12, classes: int = 5) -> None:
        super().__init__()
        stages = OrderedDict(pixels=nn.Flatten(), head=nn.Linear(d, classes))
        self.net, self.loss = nn.Sequential(stages), loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.net, x, y)


def half(x: Tensor) -> Tensor:
    return (x + x.roll(1, 0)) / 2


def two_terms(net: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    logits, label = net(half(x)), y.argmax(1)
    return (F.cross_entropy(logits, label) + F.cross_entropy(logits, label.roll(1))) / 2


def together(net: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    clean, mixed = net(torch.cat([x, half(x)])).chunk(2)
    return F.cross_entropy(clean, y) + F.cross_entropy(mixed, half(y))


def first_kept(net: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    clean, mixed = net(torch.cat([x, x[:1], half(x)[1:]])).chunk(2)
    return F.cross_entropy(clean, y) + F.cross_entropy(mixed, torch.cat([y[:1], half(y)[1:]]))


def clean_later(net: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    mixed, clean = net(half(x)), net(x)
    return F.cross_entropy(mixed, half(y)) + F.cross_entropy(clean, y)


def sigmoids(net: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy(net(half(x)).sigmoid(), half(y))


def logits_mixed(net: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(half(net(x)), half(y))


@pytest.mark.parametrize("loss", [two_terms, together, first_kept, clean_later, sigmoids])
def test_losses_may_be_written_in_other_ways(loss: Objective) -> None:
    torch.manual_seed(0)
    objective, x, y = Own(loss), torch.rand(4, 3, 2, 2), torch.eye(5)[[0, 1, 2, 3]]
    z, classes = mixtures(objective, objective.net, x, y)
    assert len(z) == (3 if loss is first_kept else 4)
    assert_same(z, half(x).flatten(1)[-len(z) :])
    assert classes.equal((half(y) > 0)[-len(z) :])


def test_mixtures_that_the_head_does_not_see_are_not_guessed() -> None:
    objective = Own(logits_mixed)
    with pytest.raises(Inapplicable, match="not what the head makes of them"):
        mixtures(objective, objective.net, torch.rand(4, 3, 2, 2), torch.eye(5)[:4])


def asked(objective: Own, data: Sets) -> Trained:
    net = objective.net
    return Trained(net, objective, data, EPOCHS, Reader(net, data.batches))


def some_of_all(net: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """The first image with the second, the third with both, and the last as it is."""
    w = torch.tensor([[0.5, 0.5, 0, 0], [0.2, 0.5, 0.3, 0], [0, 0, 0, 1]])
    return F.cross_entropy(net((w @ x.flatten(1)).view(3, 3, 1, 1)), w @ y)


class Smoothed(Sets):
    """The first 100 images as the only batch of each epoch, with smoothed labels."""

    smoothing = 0.0

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in super().epoch(epoch):
            yield x[:100], ((1 - self.smoothing) * y + self.smoothing / self.classes)[:100]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_its_numbers_by_hand(smoothing: float) -> None:
    x = torch.tensor([[3.0, 0, 0], [0, 3, 0], [0, 0, 4], [0, 0, 2]]).view(4, 3, 1, 1)
    data = Smoothed({"train": (x, torch.tensor([0, 1, 2, 2]))}, 3)
    data.smoothing = smoothing
    answer = Intrusion(batches=2).evaluate(asked(Own(some_of_all, 3, 3), data))
    # (1.5, 1.5, 0) is nearest to (0, 0, 2); the other mixture is of all classes
    assert answer == pytest.approx({"raw": 4.5 + 4, "normalised": 2.0, "skipped": 50.0})
    one = Intrusion(batches=1, per_class=1).evaluate(asked(Own(some_of_all, 3, 3), data))
    assert one["raw"] == pytest.approx(4.5 + 16)


def test_mixtures_of_all_classes_have_no_answer() -> None:
    x, y = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(Inapplicable, match="each mixture is of all classes"):
        Intrusion().evaluate(asked(Own(clean_later, 12, 2), Sets({"train": (x, y)}, 2)))


def test_without_mixtures_there_is_no_answer() -> None:
    with pytest.raises(Inapplicable, match="two or more classes"):
        Intrusion(batches=2).evaluate(trained(Baseline()))


def test_the_seed_decides() -> None:
    answers = []
    for seed in (3, 3, 4):
        subject = trained(Mixup(), Smoothed(digit_sets().sets))
        torch.manual_seed(seed)
        answers.append(numbers(Intrusion(batches=3).evaluate(subject)))
    assert answers[0] == answers[1] != answers[2]
    assert answers[0].keys() == Intrusion.metrics.keys()
    assert 0 < answers[0]["normalised"] < 4
    assert answers[0]["skipped"] == 0


def test_of_many_mixtures_a_random_choice_is_looked_at() -> None:
    def subject() -> Trained:
        return trained(MultiMix(p=1.0, n=60), Smoothed(digit_sets().sets))

    every = subject()
    x, y = next(every.data.epoch(0))
    torch.manual_seed(0)
    z, classes = mixtures(every.objective, every.net, x, y)
    for rows in (40, 60, 61):
        ((some, own),) = chosen(Intrusion(batches=1, rows=rows), subject())
        index = torch.cdist(some, z).argmin(1)
        assert some.equal(z[index])
        assert own.equal(classes[index])
        assert len(index.unique()) == len(index) == min(rows, 60)
        assert not index.equal(torch.arange(len(index)))


def chosen(task: Intrusion, subject: Trained) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return list(task.mixtures(subject))


def test_the_head_of_a_transformer_is_seen() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny_vit().eval(), batch(6)
    objective = Mixup(at=("pool",)).objective(net)
    y = torch.eye(5)[[0, 1, 1, 3, 4, 2]]
    with pairing(0.3, PARTNER):
        z, _ = mixtures(objective, net, x, y)
    own = net[:-1](x)
    assert_same(z, (0.3 * own + 0.7 * own[PARTNER])[[0, 1, 3, 4, 5]].detach(), atol=1e-5)
