"""BCE on softmax, and that all methods minimise the criterion that the network has."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from math import log
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import (
    CLASSES,
    assert_same,
    batch,
    binary_cross_entropy,
    cut,
    drawing,
    pairing,
    tiny,
    tiny_vit,
    total,
    with_gradients,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mixbench.methods import Method, Net, Objective, bce_on_softmax
from mixbench.methods._criterion import Reduction
from mixbench.methods._saliency import unit
from mixbench.methods.alignmixup import AlignMixup
from mixbench.methods.augmix import AugMix
from mixbench.methods.baseline import Baseline
from mixbench.methods.comixup import CoMixup
from mixbench.methods.cutmix import CutMix
from mixbench.methods.densemultimix import DenseMultiMix
from mixbench.methods.manifold import Manifold
from mixbench.methods.mixup import Mixup
from mixbench.methods.multimix import MultiMix
from mixbench.methods.multiple import Multiple
from mixbench.methods.puzzlemix import PuzzleMix
from mixbench.methods.saliencymix import SaliencyMix
from mixbench.methods.stylemix import StyleMix
from mixbench.methods.supermix import SuperMix, SuperMixObjective
from mixbench.methods.tokenmix import TokenMix
from mixbench.methods.transmix import TransMix
from mixbench.methods.zetamixup import ZetaMixup
from mixbench.tasks.cost import LossTerms

pytestmark = pytest.mark.usefixtures("float64")

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10**6)
classes = st.integers(2, 9)
PARTNER = [3, 4, 1, 0, 2]
reductions: list[Reduction] = ["mean", "sum", "none"]


def literal(logits: Tensor, target: Tensor) -> Tensor:
    """The loss of each row, (b,)."""
    return torch.stack([binary_cross_entropy(*each) for each in zip(logits, target, strict=True)])


def predictions(b: int, c: int) -> tuple[Tensor, Tensor]:
    """Random logits, of which gradients can be asked, and soft targets."""
    return torch.randn(b, c, requires_grad=True), torch.randn(b, c).softmax(1)


def slope(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


# BCE on softmax


@given(b=st.integers(1, 6), c=classes, seed=seeds)
@few
def test_it_is_the_formula(b: int, c: int, seed: int) -> None:
    torch.manual_seed(seed)
    logits, y = predictions(b, c)
    loss, expected = bce_on_softmax(logits, y), literal(logits, y).mean()
    assert_same([loss, slope(loss, logits)], [expected, slope(expected, logits)])


def test_it_is_what_one_can_reckon_by_hand() -> None:
    """Of p = (1/2, 1/4, 1/4): -(log 1/2 + 2 log 3/4) / 3, and with half of the target elsewhere,
    -(log 1/2 + (log 1/4 + log 3/4) / 2 + log 3/4) / 3.
    """
    logits = torch.tensor([log(2), 0.0, 0.0]).expand(2, 3)
    y = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    assert_same(bce_on_softmax(logits, y, "none"), torch.tensor([0.422837, 0.605939]), 1e-6)


def test_reductions_are_over_examples() -> None:
    torch.manual_seed(0)
    logits, y = predictions(4, 7)
    each = literal(logits, y)
    expected = {"mean": each.sum() / 4, "sum": each.sum(), "none": each}
    for reduction in reductions:
        assert_same(bce_on_softmax(logits, y, reduction=reduction), expected[reduction])


@given(c=classes, seed=seeds)
@few
def test_the_best_prediction_is_the_target(c: int, seed: int) -> None:
    torch.manual_seed(seed)
    others, y = predictions(50, c)
    best = y.log().requires_grad_()
    assert_same(slope(bce_on_softmax(best, y, "sum"), best), torch.zeros_like(best))
    assert (bce_on_softmax(others, y, "none") >= bce_on_softmax(best, y, "none")).all()


@given(c=classes, share=st.floats(0, 1), seed=seeds)
@few
def test_it_is_affine_in_the_targets(c: int, share: float, seed: int) -> None:
    torch.manual_seed(seed)
    (logits, one), (_, other) = predictions(5, c), predictions(5, c)
    losses = [bce_on_softmax(logits, y) for y in (one, other, torch.lerp(one, other, share))]
    assert_same(losses[2], torch.lerp(losses[0], losses[1], share))


def test_it_is_finite_where_a_probability_is_zero_or_one() -> None:
    logits = torch.tensor([[0.0, -1e4, -1e4]] * 2, requires_grad=True)
    right, wrong = torch.eye(3)[[0, 1]]
    each = bce_on_softmax(logits, torch.stack([right, wrong]), "none")
    assert_same(each, torch.tensor([0.0, (100 + 100) / 3]))  # -log 0 is 100
    assert slope(each.sum(), logits).isfinite().all()


@given(c=classes, seed=seeds)
@few
def test_at_uniform_predictions_its_gradient_is_that_of_cross_entropy_by_c_less_one(
    c: int, seed: int
) -> None:
    torch.manual_seed(seed)
    _, y = predictions(5, c)
    logits = torch.randn(5, 1).expand(5, c).clone().requires_grad_()
    expected = slope(F.cross_entropy(logits, y), logits) / (c - 1)
    assert_same(slope(bce_on_softmax(logits, y), logits), expected)


@given(c=classes, seed=seeds)
@few
def test_near_the_label_it_is_cross_entropy_by_half_of_c(c: int, seed: int) -> None:
    torch.manual_seed(seed)
    y = torch.eye(c)
    logits = (torch.randn(c, c) + log(1e6) * y).requires_grad_()
    (loss, expected), scale = (f(logits, y) for f in (bce_on_softmax, F.cross_entropy)), 2 / c
    torch.testing.assert_close(loss, scale * expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(
        slope(loss, logits), scale * slope(expected, logits), rtol=1e-3, atol=0
    )


def test_a_target_may_exceed_one_by_rounding() -> None:
    logits, target = torch.randn(1, 3), torch.tensor([[1 + 2.0**-52, 0.0, 0.0]])
    assert target.max() > 1
    assert_same(bce_on_softmax(logits, target), bce_on_softmax(logits, target.clamp(max=1)))


def test_of_two_classes_it_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, y = predictions(6, 2)
    assert_same(bce_on_softmax(logits, y), F.cross_entropy(logits, y))


def test_of_a_network_that_diverged_it_is_not_a_number() -> None:
    logits, y = predictions(3, 4)
    with torch.no_grad():
        logits[1, 2] = torch.nan
    each = bce_on_softmax(logits, y, "none")
    assert each.isnan().tolist() == [False, True, False]


def test_it_is_computed_in_the_precision_of_the_targets() -> None:
    torch.manual_seed(0)
    logits, y = (each.float() for each in predictions(4, 5))
    exact = bce_on_softmax(logits.bfloat16().float(), y)
    with torch.autocast("cpu", torch.bfloat16):
        assert bce_on_softmax(logits.bfloat16(), y).equal(exact)


# What a network hands on


def parts(net: Net) -> dict[str, Net]:
    below, above = net.split("layer2")
    return {"below": below, "above": above, "trunk": net.trunk, "copy": deepcopy(net)}


def test_parts_and_copies_have_the_criterion_and_the_precision_of_the_network() -> None:
    for part in parts(tiny()).values():
        assert part.criterion is F.cross_entropy
        assert part.dtype == torch.float32
    net = tiny()
    net.criterion, net.dtype = bce_on_softmax, torch.bfloat16
    for part in parts(net).values():
        assert part.criterion is bce_on_softmax
        assert part.dtype == torch.bfloat16
    assert tiny().criterion is F.cross_entropy  # as if nothing had happened
    assert tiny().dtype == torch.float32


def test_they_are_no_part_of_its_state() -> None:
    torch.manual_seed(0)
    net = tiny()
    before, stages = dict(net.state_dict()), list(net.named_children())
    net.criterion, net.dtype = bce_on_softmax, torch.bfloat16
    assert_same(dict(net.state_dict()), before, atol=0)
    assert list(net.named_children()) == stages


# Methods


@contextmanager
def comparing(net: Net) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Let the network's criterion be BCE on softmax, and see what it compares."""
    seen = []

    def noted(logits: Tensor, target: Tensor, /, *, reduction: Reduction = "mean") -> Tensor:
        seen.append((logits, target))
        return bce_on_softmax(logits, target, reduction=reduction)

    with patch.object(net, "criterion", noted):
        yield seen


@pytest.mark.parametrize(
    "method",
    [
        Baseline(),
        Mixup(),
        Mixup(p=0.0),
        Manifold(at=("layer1",)),
        CutMix(p=1.0),
        AlignMixup(p=1.0),
        AlignMixup(p=0.0),
        MultiMix(p=1.0, n=7),
        MultiMix(p=0.0),
        ZetaMixup(),
        SaliencyMix(p=1.0),
        PuzzleMix(),
        CoMixup(clean=0.0),
        Multiple(base="cutmix"),
        AugMix(jsd=0.0),
        StyleMix(p=1.0, size=16),
        StyleMix(p=1.0, size=16, normalised=True),
        StyleMix(p=0.0),
    ],
    ids=str,
)
@pytest.mark.usefixtures("adain")
def test_the_loss_is_the_formula_of_what_is_mixed(method: Method) -> None:
    torch.manual_seed(0)
    assert_literal(method.objective(tiny().eval()), *batch(5))


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize(
    "method", [TransMix(), TokenMix(activation="uniform", criterion="net")], ids=str
)
def test_so_it_is_of_vision_transformers(method: Any, p: float) -> None:
    torch.manual_seed(0)
    assert_literal(replace(method, p=p).objective(tiny_vit()), *batch(6))


def assert_literal(objective: Objective, x: Tensor, y: Tensor) -> None:
    with comparing(objective.net) as seen:
        loss = objective(x, y)
    ((logits, target),) = seen
    assert_same(loss, literal(logits, target).mean())
    assert not loss.isclose(F.cross_entropy(logits, target))


def test_mixup_compares_predictions_on_mixed_images_with_mixed_targets() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    net.criterion = bce_on_softmax
    with pairing(0.3, PARTNER):
        loss = Mixup().loss(net, x, y)
    logits = net(0.3 * x + 0.7 * x[PARTNER])
    expected = literal(logits, 0.3 * y + 0.7 * y[PARTNER]).mean()
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


def test_multimix_compares_mixed_predictions() -> None:
    torch.manual_seed(0)
    net, (x, y), w = tiny(), batch(5), torch.rand(7, 5).softmax(1)
    net.criterion = bce_on_softmax
    with drawing(w[None]):
        loss = MultiMix(p=1.0).loss(net, x, y)
    expected = literal(w @ net(x), w @ y).mean()
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


@pytest.mark.parametrize("at", ["layer4", "layer3"])
def test_dense_multimix_compares_those_of_each_position(at: str) -> None:
    torch.manual_seed(0)
    net, (x, y), w = tiny(), batch(5), torch.rand(4, 7, 5).softmax(2)
    net.criterion = bce_on_softmax
    with drawing(w):
        loss = DenseMultiMix(p=1.0, attention="uniform", at=(at,)).loss(net, x, y)
    below, rest = cut(net, at)
    z = below(x).flatten(2)  # b d r
    mixed = torch.einsum("rnb,bdr->ndr", w, z).unflatten(2, (2, 2))
    last = rest[:-2](mixed).flatten(2)  # without pool and head
    expected = total(literal(net.head(last[..., r]), w[r] @ y).mean() for r in range(4)) / 4
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


def test_augmix_adds_the_same_divergence() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().eval(), batch(5)
    losses = []
    for net.criterion in (F.cross_entropy, bce_on_softmax):
        torch.manual_seed(1)
        losses.append(AugMix().loss(net, x, y))
    logits = net(x)
    assert_same(losses[1] - losses[0], literal(logits, y).mean() - F.cross_entropy(logits, y))


def test_supermix_compares_images_and_mixtures() -> None:
    torch.manual_seed(0)
    objective: SuperMixObjective = SuperMix(pool=3).objective(tiny().eval(), tiny())
    objective.net.criterion = bce_on_softmax
    images, labels, (x, y) = torch.rand(3, 3, 8, 8), torch.tensor([4, 0, 2]), batch(5)
    objective.add(images, labels)
    with patch("torch.randint", return_value=torch.tensor([2, 0, 0, 1, 2])):
        loss = objective(x, y)
    mixed, label = objective.pool["images"] / 255, objective.pool["labels"]
    each = literal(objective.net(mixed), torch.eye(CLASSES)[label])
    expected = (literal(objective.net(x), y).sum() + each[[2, 0, 0, 1, 2]].sum()) / 5
    assert_same(loss, expected)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_tokenmix_keeps_its_own_as_its_targets_are_no_distributions(p: float) -> None:
    torch.manual_seed(0)
    net, (x, y), losses = tiny_vit(), batch(6), []
    for net.criterion in (F.cross_entropy, bce_on_softmax):
        torch.manual_seed(1)
        losses.append(TokenMix(p=p).objective(net, deepcopy(net))(x, y))
    assert losses[0].equal(losses[1])


@pytest.mark.parametrize(
    ("method", "terms"), [(Mixup(), 6), (MultiMix(p=1.0, n=10), 10), (PuzzleMix(clean=1.0), 12)]
)
def test_its_terms_are_counted_once(method: Method, terms: int) -> None:
    torch.manual_seed(0)
    net = tiny()
    net.criterion = bce_on_softmax
    with LossTerms() as counter:
        method.loss(net, *batch(6))
    assert counter.count == terms


# The clean loss of PuzzleMix and Co-Mixup

salient: list[Callable[..., Method]] = [PuzzleMix, CoMixup]
each_salient = pytest.mark.parametrize("kind", salient)


@each_salient
@pytest.mark.parametrize("clean", [0.3, 1.0])
def test_the_clean_loss_is_cross_entropy_in_the_unit_of_the_criterion(
    kind: Callable[..., Method], clean: float
) -> None:
    torch.manual_seed(0)
    net, (x, y), losses = tiny().eval(), batch(6), []
    net.criterion = bce_on_softmax
    for weight in (0.0, clean):
        torch.manual_seed(1)
        losses.append(kind(clean=weight).loss(net, x, y))
    expected = 2 * clean / CLASSES * F.cross_entropy(net(x), y)
    parameters = list(net.parameters())
    assert_same(losses[1] - losses[0], expected)
    assert_same(
        torch.autograd.grad(losses[1] - losses[0], parameters),
        torch.autograd.grad(expected, parameters),
    )


@each_salient
def test_what_is_mixed_does_not_depend_on_the_criterion(kind: Callable[..., Method]) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(6)
    images: list[Tensor] = []
    net.get_submodule("pixels").register_forward_hook(lambda _, args, out: images.append(args[0]))
    for net.criterion in (F.cross_entropy, bce_on_softmax):
        torch.manual_seed(1)
        kind(clean=1.0).loss(net, x, y)
    assert images[1].equal(images[3])
    assert not images[1].equal(x)


def test_the_unit_is_one_for_cross_entropy_and_two_by_c_for_bce() -> None:
    net = tiny()
    assert unit(net, torch.eye(CLASSES)) == 1
    net.criterion = bce_on_softmax
    assert unit(net, torch.eye(CLASSES)) == 2 / CLASSES
