"""AlignMixup."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import log
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import (
    CLASSES,
    assert_even,
    assert_same,
    bare,
    batch,
    cut,
    pairing,
    tiny,
    total,
    with_gradients,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mixbench.methods import Net, beta
from mixbench.methods.alignmixup import AlignMixup, _sinkhorn, squared_distances
from mixbench.methods.manifold import Manifold
from mixbench.methods.mixup import Mixup

pytestmark = pytest.mark.usefixtures("float64")

METHOD = AlignMixup(p=1.0)
PARTNER = [3, 4, 1, 0, 2]
each_branch = pytest.mark.parametrize("partner_moves", [True, False])


def features(b: int, d: int, r: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(b, d, r)


@contextmanager
def drawn(lam: float, partner: Sequence[int], partner_moves: bool) -> Iterator[None]:
    """Let it draw this ratio, these partners, and which map is aligned with the other."""
    with (
        patch("mixbench.methods.alignmixup.beta", return_value=torch.tensor(lam)),
        patch("mixbench.methods.alignmixup.partners", return_value=torch.tensor(partner)),
        patch("mixbench.methods.alignmixup.chance", return_value=partner_moves),
    ):
        yield


def sinkhorn(method: AlignMixup, own: Tensor, other: Tensor) -> tuple[Tensor, int]:
    """Steps 1 to 3 of the sheet, pair by pair, and how many iterations they took."""
    b, _, r = own.shape
    eps, mass = method.eps, log(1 / r + 1e-8)
    c, u, v = own.new_zeros(b, r, r), own.new_zeros(b, r), own.new_zeros(b, r)
    for i in range(b):
        for j in range(r):
            for k in range(r):
                c[i, j, k] = ((own[i, :, j] - other[i, :, k]) ** 2).sum()
    iterations = 0
    while iterations < method.steps:
        iterations += 1
        before = u.clone()
        for i in range(b):
            for j in range(r):
                u[i, j] = eps * (mass - ((v[i] - c[i, j]) / eps).logsumexp(0))
            for k in range(r):
                v[i, k] = eps * (mass - ((u[i] - c[i, :, k]) / eps).logsumexp(0))
        if (u - before).abs().sum(1).mean() < method.tolerance:
            break
    return r * ((u[:, :, None] + v[:, None, :] - c) / eps).exp(), iterations


def aligned(
    method: AlignMixup, z: Tensor, lam: float, partner: Sequence[int], partner_moves: bool
) -> Tensor:
    """The mixed maps (b, d, r) of maps (b, d, r), position by position (step 4)."""
    plan, _ = sinkhorn(method, z.detach(), z[partner].detach())
    r, images = range(z.shape[2]), []
    for i, partner_of_i in enumerate(partner):
        a, b = z[i], z[partner_of_i]
        if partner_moves:
            moved = [total(plan[i, j, k] * b[:, k] for k in r) for j in r]
            columns = [lam * a[:, j] + (1 - lam) * moved[j] for j in r]
        else:
            moved = [total(plan[i, j, k] * a[:, j] for j in r) for k in r]
            columns = [lam * moved[k] + (1 - lam) * b[:, k] for k in r]
        images.append(torch.stack(columns, 1))
    return torch.stack(images)


@pytest.mark.parametrize(
    ("scale", "tolerance", "iterations"),
    [(0.05, 0.1, 2), (0.2, 1e-3, 18), (0.5, 0.1, 15), (3, 0.1, 100), (0.05, 0, 100)],
)
def test_the_plan_is_that_of_sinkhorns_loop_and_stops_with_it(
    scale: float, tolerance: float, iterations: int
) -> None:
    torch.manual_seed(0)
    own, other = features(3, 16, 6, scale), features(3, 16, 6, scale)
    method = replace(METHOD, tolerance=tolerance)
    expected, count = sinkhorn(method, own, other)
    assert count == iterations
    assert_same(method.plan(own, other), expected)


@given(
    b=st.integers(1, 3),
    d=st.integers(1, 5),
    r=st.integers(1, 4),
    scale=st.floats(0.01, 3),
    eps=st.floats(0.05, 1),
    steps=st.integers(1, 20),
    tolerance=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=30, deadline=None)
def test_so_it_is_for_other_parameters(
    b: int, d: int, r: int, scale: float, eps: float, steps: int, tolerance: float, seed: int
) -> None:
    torch.manual_seed(seed)
    own, other = features(b, d, r, scale), features(b, d, r, scale)
    method = replace(METHOD, eps=eps, steps=steps, tolerance=tolerance)
    assert_same(method.plan(own, other), sinkhorn(method, own, other)[0], atol=1e-9)


@pytest.mark.parametrize(("scale", "iterations"), [(0.05, 2), (0.2, 4), (0.5, 15)])
def test_single_precision_stops_at_the_same_step(scale: float, iterations: int) -> None:
    torch.manual_seed(0)
    own, other = features(3, 16, 6, scale).float(), features(3, 16, 6, scale).float()
    expected, count = sinkhorn(METHOD, own, other)
    plan = METHOD.plan(own, other)
    assert count == iterations
    assert plan.dtype == torch.float32
    assert_same(plan, expected, atol=1e-4)
    fixed = [replace(METHOD, steps=count + more, tolerance=0) for more in (-1, 0, 1)]
    assert [plan.equal(method.plan(own, other)) for method in fixed] == [False, True, False]


@given(
    b=st.integers(1, 3),
    r=st.integers(1, 4),
    scale=st.floats(0.1, 30),
    steps=st.integers(1, 20),
    tolerance=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=50, deadline=None)
def test_where_no_result_is_looked_at_the_plan_is_the_same(
    b: int, r: int, scale: float, steps: int, tolerance: float, seed: int
) -> None:
    torch.manual_seed(seed)
    method, plan = replace(METHOD, steps=steps, tolerance=tolerance), -scale * torch.rand(b, r, r)
    assert method.scaled_unseen(plan).equal(method.scaled(plan))


@pytest.mark.parametrize(
    ("scale", "tolerance", "iterations"),
    [(0.05, 1e9, 1), (0.2, 0.1, 4), (0.5, 0.1, 15), (3, 0, 100)],
)
def test_no_more_steps_are_taken_than_it_needs_where_results_are_looked_at(
    scale: float, tolerance: float, iterations: int
) -> None:
    torch.manual_seed(0)
    own, other = features(3, 16, 6, scale), features(3, 16, 6, scale)
    with patch("mixbench.methods.alignmixup._sinkhorn", wraps=_sinkhorn) as steps:
        replace(METHOD, tolerance=tolerance).plan(own, other)
    assert steps.call_count == iterations


@pytest.mark.parametrize(("tolerance", "iterations"), [(0.67, 1), (0.64, 2)])
def test_the_first_change_is_that_from_potentials_of_zero(
    tolerance: float, iterations: int
) -> None:
    own = torch.zeros(1, 4, 3)  # its first potentials are 0.1 log(1/9), three of them
    with patch("mixbench.methods.alignmixup._sinkhorn", wraps=_sinkhorn) as steps:
        replace(METHOD, tolerance=tolerance).plan(own, own)
    assert steps.call_count == iterations


def test_single_precision_is_enough_for_costs_of_thousands_of_eps() -> None:
    torch.manual_seed(0)
    own, other = features(8, 512, 16, 0.65), features(8, 512, 16, 0.65)
    exact = METHOD.plan(own, other)
    plan = METHOD.plan(own.float(), other.float()).double()
    assert (plan - exact).norm() < 1e-4 * exact.norm()


ROOT = log(2) ** 0.5
BY_HAND = (
    (True, (3 / 44 * ROOT, 37 / 22 * ROOT)),  # 3/4 (0, 2) + 1/4 (3/11, 8/11)
    (False, (3 / 14 * ROOT, 59 / 44 * ROOT)),  # 3/4 (2/7, 16/11) + 1/4 (0, 1)
)


@pytest.mark.parametrize(("partner_moves", "expected"), BY_HAND)
def test_one_step_for_two_positions_worked_out_by_hand(
    partner_moves: bool, expected: tuple[float, float]
) -> None:
    """A map (0, 2 q) and its partner (0, q), with q^2 = ln 2 and eps = 1.

    Squared distances are (0, 1) and (4, 1) times ln 2, so that exp(-C) is (1, 1/2), (1/16, 1/2).
    Its rows are made to sum to one: (2/3, 1/3), (1/9, 8/9); then its columns, which sum to 7/9 and
    11/9: (6/7, 3/11), (1/7, 8/11). Rows now sum to 87/77 and 67/77.
    """
    method = replace(METHOD, eps=1, steps=1)
    z = torch.tensor([[0, 2 * ROOT], [0, ROOT]]).view(2, 1, 1, 2)
    plan = method.plan(z[:1].flatten(2), z[1:].flatten(2))
    assert_same(plan, torch.tensor([[[6 / 7, 3 / 11], [1 / 7, 8 / 11]]]), atol=1e-7)
    with drawn(3 / 4, [1, 0], partner_moves):
        mixed, targets = method.mix(z, torch.eye(2))
    assert_same(mixed[0].flatten(), torch.tensor(expected), atol=1e-7)
    assert_same(targets[0], torch.tensor([3 / 4, 1 / 4]))


def test_one_stop_serves_the_whole_batch() -> None:
    torch.manual_seed(0)
    own, other = features(4, 16, 6, 0.1), features(4, 16, 6, 0.1)
    own[3], other[3] = 10 * own[3], 10 * other[3]
    alone, together = METHOD.plan(own[:3], other[:3]), METHOD.plan(own, other)[:3]
    assert sinkhorn(METHOD, own[:3], other[:3])[1] < sinkhorn(METHOD, own, other)[1]
    assert not alone.allclose(together, rtol=0, atol=1e-3)
    others = METHOD.plan(own[[3, 2, 1, 0]], other[[3, 2, 1, 0]])
    assert_same(others[[3, 2, 1]], together)


def test_rounding_does_not_stop_what_a_zero_tolerance_lets_run() -> None:
    own = torch.zeros(1, 4, 3)
    assert_same(replace(METHOD, tolerance=0).plan(own, own), torch.full((1, 3, 3), 1 / 3 + 1e-8))


@each_branch
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_either_map_is_aligned_as_the_formulas_say(partner_moves: bool, lam: float) -> None:
    torch.manual_seed(0)
    z, y = torch.randn(5, 7, 2, 3), torch.rand(5, CLASSES).softmax(1)
    with drawn(lam, PARTNER, partner_moves):
        mixed, targets = METHOD.mix(z, y)
    assert mixed.shape == z.shape
    assert_same(mixed.flatten(2), aligned(METHOD, z.flatten(2), lam, PARTNER, partner_moves))
    assert_same(targets, lam * y + (1 - lam) * y[PARTNER], atol=1e-14)


@each_branch
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("stage", ["layer2", "layer4"])
def test_loss_and_gradients_are_those_of_both_labels_with_a_constant_plan(
    stage: str, train: bool, partner_moves: bool
) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().train(train), batch(5)
    with drawn(0.3, PARTNER, partner_moves):
        loss = replace(METHOD, at=(stage,)).loss(net, x, y)
    below, above = cut(net, stage)
    z = below(x)
    mixed = aligned(METHOD, z.flatten(2), 0.3, PARTNER, partner_moves)
    logits = above(mixed.view_as(z))
    expected = 0.3 * F.cross_entropy(logits, y) + 0.7 * F.cross_entropy(logits, y[PARTNER])
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


def test_no_gradient_goes_through_the_plan() -> None:
    torch.manual_seed(0)
    z = features(2, 4, 3, 0.3).requires_grad_()
    assert not METHOD.plan(z, z.flip(0)).requires_grad
    step, along = 1e-6, torch.randn(2, 4, 3)
    with drawn(0.3, [1, 0], True):
        mixed, _ = METHOD.mix(z[..., None], torch.eye(2))
        weights = torch.randn_like(mixed)
        (gradient,) = torch.autograd.grad((weights * mixed).sum(), z)
        ends = [METHOD.mix((z + s * along)[..., None], torch.eye(2))[0] for s in (step, -step)]
    through_the_plan_too = (weights * (ends[0] - ends[1])).sum() / (2 * step)
    assert (gradient * along).sum() != pytest.approx(through_the_plan_too.item(), rel=1e-3)


@each_branch
def test_both_sources_get_a_gradient(partner_moves: bool) -> None:
    torch.manual_seed(0)
    z = torch.randn(3, 4, 2, 2, requires_grad=True)
    with drawn(0.3, [2, 0, 1], partner_moves):
        mixed, _ = METHOD.mix(z, torch.eye(3))
    (gradient,) = torch.autograd.grad(mixed[0].square().sum(), z)
    assert gradient.flatten(1).any(1).tolist() == [True, False, True]


def test_at_ratio_one_only_a_map_that_stays_is_unchanged() -> None:
    torch.manual_seed(0)
    z, y = torch.randn(5, 7, 2, 3), torch.eye(5)
    plan = METHOD.plan(z.flatten(2), z[PARTNER].flatten(2))
    with drawn(1.0, PARTNER, True):
        mixed, targets = METHOD.mix(z, y)
    assert mixed.equal(z)
    assert targets.equal(y)
    with drawn(1.0, PARTNER, False):
        mixed, targets = METHOD.mix(z, y)
    assert_same(mixed.flatten(2), z.flatten(2) @ plan)
    assert not mixed.allclose(z, rtol=0, atol=0.1)
    assert targets.equal(y)


def test_at_ratio_zero_only_a_partner_that_stays_is_unchanged() -> None:
    torch.manual_seed(0)
    z, y = torch.randn(5, 7, 2, 3), torch.eye(5)
    plan = METHOD.plan(z.flatten(2), z[PARTNER].flatten(2))
    with drawn(0.0, PARTNER, False):
        mixed, targets = METHOD.mix(z, y)
    assert mixed.equal(z[PARTNER])
    assert targets.equal(y[PARTNER])
    with drawn(0.0, PARTNER, True):
        mixed, targets = METHOD.mix(z, y)
    assert_same(mixed.flatten(2), z[PARTNER].flatten(2) @ plan.mT)
    assert not mixed.allclose(z[PARTNER], rtol=0, atol=0.1)
    assert targets.equal(y[PARTNER])


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [3, 0, 5, 1, 4, 2]])
def test_the_same_columns_in_another_order_find_each_other(order: list[int]) -> None:
    torch.manual_seed(0)
    own = features(2, 16, 6, 3)  # squared distances are about 3000 eps
    other = own[..., order]
    plan = METHOD.plan(own, other)
    permutation = torch.eye(6)[:, order].expand(2, 6, 6)
    assert_same(plan, permutation * (1 + 6e-8), atol=1e-12)
    assert_same(other @ plan.mT, own * (1 + 6e-8))
    assert_same(own @ plan, other * (1 + 6e-8))


@each_branch
def test_a_map_mixed_with_itself_stays_itself(partner_moves: bool) -> None:
    torch.manual_seed(0)
    z = torch.randn(1, 16, 2, 3)
    with drawn(0.3, [0], partner_moves):
        mixed, _ = METHOD.mix(3 * z, torch.eye(1))
    assert_same(mixed, 3 * z, atol=1e-6)


@pytest.mark.parametrize("scale", [0.05, 0.2, 1, 3])
def test_columns_of_the_plan_sum_to_one_converged_or_not(scale: float) -> None:
    torch.manual_seed(0)
    plan = METHOD.plan(features(4, 512, 16, scale), features(4, 512, 16, scale))
    assert_same(plan.sum(1), torch.full((4, 16), 1 + 16e-8))
    assert_same(plan.sum((1, 2)) / 16, torch.full((4,), 1 + 16e-8))
    assert plan.min() >= 0


def test_so_they_do_in_single_precision() -> None:
    torch.manual_seed(0)
    own, other = features(4, 512, 16, 0.2).float(), features(4, 512, 16, 0.2).float()
    assert_same(METHOD.plan(own, other).sum(1), torch.ones(4, 16).float(), atol=1e-5)


def test_rows_of_the_plan_sum_to_one_in_the_limit_alone() -> None:
    torch.manual_seed(0)
    own, other = features(4, 16, 6, 0.2), features(4, 16, 6, 0.2)
    plans = [
        replace(METHOD, steps=steps, tolerance=0).plan(own, other) for steps in (1, 10, 100, 1000)
    ]
    off = [(plan.sum(2) - (1 + 6e-8)).abs().max().item() for plan in plans]
    assert off == sorted(off, reverse=True)
    assert off[0] > 0.1
    assert off[-1] < 1e-8


@pytest.mark.parametrize("scale", [0.05, 0.2, 1, 3])
def test_the_mean_over_positions_is_that_of_mixed_means_if_the_partner_moves(scale: float) -> None:
    torch.manual_seed(0)
    z = features(5, 32, 9, scale)
    with drawn(0.3, PARTNER, True):
        mixed, _ = METHOD.mix(z[..., None], torch.eye(5))
    means = z.mean(2)
    assert_same(mixed.mean((2, 3)), 0.3 * means + 0.7 * (1 + 9e-8) * means[PARTNER])


@pytest.mark.parametrize(("scale", "atol"), [(0.05, 1e-5), (0.2, 1e-5), (3, 1e-3)])
def test_so_it_is_in_single_precision(scale: float, atol: float) -> None:
    torch.manual_seed(0)
    z = features(5, 512, 16, scale).float()
    with drawn(0.3, PARTNER, True):
        mixed, _ = METHOD.mix(z[..., None], torch.eye(5))
    means = z.mean(2)
    assert_same(mixed.mean((2, 3)), 0.3 * means + 0.7 * means[PARTNER], atol=atol)


def test_it_is_so_for_the_other_branch_only_once_rows_sum_to_one() -> None:
    torch.manual_seed(0)
    z = features(5, 16, 6, 0.2)
    means = z.mean(2)
    expected = 0.3 * means + 0.7 * means[PARTNER]
    converged = replace(METHOD, steps=1000, tolerance=0)
    with drawn(0.3, PARTNER, False):
        early, _ = METHOD.mix(z[..., None], torch.eye(5))
        late, _ = converged.mix(z[..., None], torch.eye(5))
    assert not early.mean((2, 3)).allclose(expected, rtol=0, atol=1e-3)
    assert_same(late.mean((2, 3)), expected, atol=1e-7)


@each_branch
def test_of_one_position_it_is_manifold_mixup(partner_moves: bool) -> None:
    torch.manual_seed(0)
    net, x, y = bare(4), torch.randn(5, 4, 1, 1, requires_grad=True), torch.eye(5)
    assert_same(METHOD.plan(x.flatten(2), x.flip(0).flatten(2)), torch.full((5, 1, 1), 1 + 1e-8))
    with drawn(0.3, PARTNER, partner_moves):
        loss = METHOD.loss(net, x, y)
    with pairing(0.3, PARTNER):
        expected = Manifold(at=("layer4",)).loss(net, x, y)
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x), atol=1e-7)


@each_branch
@pytest.mark.parametrize("shape", [(1, 3, 2, 2), (2, 5, 4, 4), (3, 4, 2, 7), (1, 4, 1, 1)])
def test_shapes_are_kept(shape: tuple[int, ...], partner_moves: bool) -> None:
    torch.manual_seed(0)
    z = torch.randn(shape)
    with patch("mixbench.methods.alignmixup.chance", return_value=partner_moves):
        mixed, targets = METHOD.mix(z, torch.eye(len(z)))
    assert mixed.shape == z.shape
    assert targets.shape == (len(z), len(z))


def test_half_of_the_batches_takes_input_mixup_and_a_quarter_each_branch() -> None:
    """Ratios and partners are fixed, so that the loss tells which of the three it was."""
    torch.manual_seed(0)
    n, net, x, y = 1000, bare(CLASSES), torch.randn(2, CLASSES, 1, 3), torch.eye(CLASSES)[:2]
    method = AlignMixup(steps=1)
    known = []
    for partner_moves in (True, False):
        with drawn(0.3, [1, 0], partner_moves):
            known.append(replace(method, p=1.0).loss(net, x, y))
    with pairing(0.6, [1, 0]):
        known.append(Mixup().loss(net, x, y))
    with (
        pairing(0.6, [1, 0]),
        patch("mixbench.methods.alignmixup.beta", return_value=torch.tensor(0.3)),
        patch("mixbench.methods.alignmixup.partners", return_value=torch.tensor([1, 0])),
    ):
        losses = torch.stack([method.loss(net, x, y) for _ in range(n)])
    shares = [losses.isclose(each, rtol=0, atol=1e-12).double().mean().item() for each in known]
    assert sum(shares) == pytest.approx(1, abs=1e-12)
    for share, p in zip(shares, (0.25, 0.25, 0.5), strict=True):
        assert abs(share - p) <= 4 * (p * (1 - p) / n) ** 0.5


def test_one_ratio_is_drawn_for_the_whole_batch_from_alpha() -> None:
    torch.manual_seed(0)
    y = torch.eye(16)
    with patch("mixbench.methods.alignmixup.beta", wraps=beta) as draws:
        _, targets = replace(METHOD, alpha=0.7).mix(torch.randn(16, 4, 2, 2), y)
    draws.assert_called_once_with(0.7)
    own = targets.diagonal()[targets.diagonal() < 1]
    assert len(own) > 8
    assert own.unique().numel() == 1


@pytest.mark.parametrize("alpha", [0.7, 2.0])
def test_ratios_are_beta_distributed_and_all_partners_equally_likely(alpha: float) -> None:
    torch.manual_seed(0)
    method, z, y = replace(METHOD, alpha=alpha, steps=1), torch.randn(3, 1, 1, 2), torch.eye(3)
    targets = torch.stack([method.mix(z, y)[1] for _ in range(2000)])
    own = targets.diagonal(dim1=1, dim2=2).amin(1)  # is one if nobody has moved
    assert stats.kstest(own[own < 1], stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    permutations, counts = (targets > 0).unique(dim=0, return_counts=True)
    assert len(permutations) == 6
    assert_even(counts)


class Sizes(TorchDispatchMode):
    """Notes the largest number of numbers that any tensor holds."""

    largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor):
                held = made.untyped_storage().nbytes() // made.element_size()
                self.largest = max(self.largest, held)
        return out


@each_branch
def test_no_tensor_is_larger_than_the_maps_or_the_plans(partner_moves: bool) -> None:
    torch.manual_seed(0)
    b, d, r = 3, 40, 36
    z = torch.randn(b, d, 6, 6, requires_grad=True)
    with patch("mixbench.methods.alignmixup.chance", return_value=partner_moves):
        sizes = Sizes()  # type: ignore[no-untyped-call]
        with sizes:
            mixed, _ = METHOD.mix(z, torch.eye(b))
            mixed.sum().backward()
    assert sizes.largest == max(b * d * r, b * r * r)


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_squared_distances_are_those_of_pairs_of_columns(scale: float) -> None:
    torch.manual_seed(0)
    one, two = features(3, 7, 4, scale), features(3, 7, 5, scale)
    distances = squared_distances(one, two)
    assert distances.shape == (3, 4, 5)
    for i in range(3):
        for j in range(4):
            for k in range(5):
                naive = (one[i, :, j] - two[i, :, k]).square().sum()
                assert distances[i, j, k].item() == pytest.approx(
                    naive.item(), abs=1e-13 * scale**2
                )


def test_squared_distances_of_equal_columns_are_not_negative() -> None:
    torch.manual_seed(0)
    columns = features(20, 50, 8, 100).float()
    distances = squared_distances(columns, columns)
    assert distances.min() >= 0
    assert distances.diagonal(dim1=1, dim2=2).max() < 1e-6 * distances.max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.05, 1, 50])
def test_the_plan_of_half_precision_is_computed_in_single(scale: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    own, other = features(2, 64, 9, scale).to(dtype), features(2, 64, 9, scale).to(dtype)
    plan = METHOD.plan(own, other)
    assert plan.dtype == dtype
    assert plan.equal(METHOD.plan(own.float(), other.float()).to(dtype))
    assert plan.isfinite().all()


@each_branch
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_of_half_precision_are_mixed_and_targets_stay_as_they_were(
    dtype: torch.dtype, partner_moves: bool
) -> None:
    torch.manual_seed(0)
    z, y, lam = torch.randn(5, 16, 2, 3).to(dtype), torch.eye(5).float(), 0.25
    with drawn(lam, PARTNER, partner_moves):
        mixed, targets = METHOD.mix(z, y)
        exact, _ = METHOD.mix(z.float(), y)
    assert mixed.dtype == dtype
    bound = 8 * torch.finfo(dtype).eps * exact.abs().max()  # of some roundings, one after another
    assert (mixed.float() - exact).abs().max() < bound
    assert targets.dtype == torch.float32
    assert targets.equal(lam * y + (1 - lam) * y[PARTNER])


@each_branch
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_is_finite_under_autocast(dtype: torch.dtype, partner_moves: bool) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().float(), batch(6)
    with (
        torch.autocast("cpu", dtype=dtype),
        patch("mixbench.methods.alignmixup.chance", return_value=partner_moves),
    ):
        loss = METHOD.objective(net)(100 * x.float(), y.float())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("stage", ["pool", "head"])
def test_stages_without_positions_are_refused(stage: str) -> None:
    with pytest.raises(ValueError, match=f"no stage '{stage}'"):
        replace(METHOD, at=(stage,)).check(tiny())


def test_a_network_without_the_stage_is_refused() -> None:
    METHOD.check(tiny())
    net = Net(pixels=nn.Identity(), blocks=nn.Identity(), pool=nn.Identity(), head=nn.Identity())
    with pytest.raises(ValueError, match="no stage 'layer4'"):
        METHOD.check(net)


def test_the_other_half_of_the_batches_takes_input_mixup_with_the_same_alpha() -> None:
    assert AlignMixup(alpha=0.7).otherwise() == Mixup(at=("pixels",), p=1.0, alpha=0.7)


def test_the_defaults_are_those_of_the_official_code() -> None:
    assert AlignMixup() == AlignMixup(
        p=0.5, at=("layer4",), alpha=2.0, eps=0.1, steps=100, tolerance=0.1
    )
