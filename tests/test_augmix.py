"""AugMix."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations
from math import log
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import CLASSES, assert_even, assert_same, bare, batch, entropy, tiny, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from papers import augmix as paper
from PIL import Image
from pydantic import ValidationError
from scipy.stats import beta, kstest
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.methods import _augment as augment
from mixbench.methods import dirichlet
from mixbench.methods._augment import OPERATIONS, Operation
from mixbench.methods.augmix import AugMix, divergence
from mixbench.methods.baseline import Baseline

pytestmark = pytest.mark.usefixtures("float64")

GEOMETRIC = (
    augment.rotate,
    augment.shear_x,
    augment.shear_y,
    augment.translate_x,
    augment.translate_y,
)
PILLOW = dict(zip(OPERATIONS, paper.OPERATIONS, strict=True))
SIZES = [(32, 32), (17, 33), (40, 23)]
few = settings(max_examples=40, deadline=None)
each_operation = pytest.mark.parametrize("operation", OPERATIONS)


def images(k: int, height: int = 32, width: int = 32) -> Tensor:
    """8-bit noise; of every four, one smooth, one dark, one of few values, with one flat channel."""
    x = torch.randint(256, (k, 3, height, width)).double()
    x[1::4] = F.avg_pool2d(x[1::4], 7, 1, 3).round()
    x[2::4] = (x[2::4] / torch.randint(2, 40, (len(x[2::4]), 3, 1, 1))).floor() + 7
    x[3::4] = (x[3::4] / 100).floor() * 90
    x[3::4, 1] = torch.randint(256, (len(x[3::4]), 1, 1)).double()
    return x


def pillow(operation: Operation, image: Tensor, level: float) -> Tensor:
    """What the official code computes of one image, with Pillow."""
    picture = Image.fromarray(image.permute(1, 2, 0).to(torch.uint8).numpy())
    changed = torch.from_numpy(np.array(PILLOW[operation](picture, level)))
    return changed.permute(2, 0, 1).to(image)


@contextmanager
def operations(*stubs: Operation) -> Iterator[None]:
    with patch("mixbench.methods.augmix.OPERATIONS", stubs):
        yield


def digits() -> tuple[Operation, ...]:
    """Operations that append their number, 1 to 9, to the decimal digits of all pixels."""

    def append(digit: int) -> Operation:
        return lambda x, _: x * 10 + digit

    return tuple(append(digit) for digit in range(1, 10))


@contextmanager
def weighing(chains: Tensor, share: float) -> Iterator[None]:
    """Let these be the weights of chains, and of their mixture against the image."""
    pair = torch.tensor([share, 1 - share])

    def draw(alpha: Tensor, m: int) -> Tensor:
        weights = pair if m == 2 else chains
        return weights.expand(*alpha.shape, m)

    with patch("mixbench.methods.augmix.dirichlet", draw):
        yield


def eight_bit(b: int, height: int = 8, width: int = 8) -> Tensor:
    """Images in [0, 1] that come from 8 bits."""
    return torch.randint(256, (b, 3, height, width)) / 255


# operations


def test_the_operations_are_the_nine_that_corruptions_do_not_contain() -> None:
    expected = (
        "auto_contrast equalise posterise rotate solarise shear_x shear_y translate_x translate_y"
    )
    for known in (OPERATIONS, paper.OPERATIONS):
        assert [operation.__name__ for operation in known] == expected.split()


@each_operation
@pytest.mark.parametrize("size", SIZES)
def test_in_double_precision_an_operation_is_pillows(
    operation: Operation, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    x, level = images(48, *size), torch.empty(48).uniform_(-9.9, 9.9)
    expected = [pillow(operation, *pair) for pair in zip(x, level.tolist(), strict=True)]
    assert operation(x, level).equal(torch.stack(expected))


@each_operation
def test_in_single_precision_geometry_alone_is_rarely_one_grey_level_off(
    operation: Operation,
) -> None:
    torch.manual_seed(0)
    x, level = images(96).float(), torch.empty(96).uniform_(-9.9, 9.9).float()
    expected = [pillow(operation, *pair) for pair in zip(x, level.tolist(), strict=True)]
    error = (operation(x, level) - torch.stack(expected)).abs()
    if operation in GEOMETRIC:
        assert error.max() <= 1
        assert error.count_nonzero() <= 1e-4 * error.numel()
    else:
        assert not error.any()


@given(
    operation=st.sampled_from(OPERATIONS),
    level=st.floats(-9.99, 9.99),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    most=st.integers(1, 255),
    seed=st.integers(0, 10**6),
)
@few
def test_small_images_are_no_exception(
    operation: Operation, level: float, size: tuple[int, int], most: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x = torch.randint(most + 1, (1, 3, *size)).double()
    assert operation(x, torch.tensor([level])).equal(pillow(operation, x[0], level)[None])


def test_all_extremes_are_stretched_as_pillow_does() -> None:
    low, high = torch.triu_indices(256, 256, 1)  # of a channel each
    x = torch.arange(256).clamp(low[:, None], high[:, None]).double().view(-1, 3, 16, 16)
    expected = torch.stack([pillow(augment.auto_contrast, picture, 0.0) for picture in x])
    assert augment.auto_contrast(x, torch.zeros(len(x))).equal(expected)


@each_operation
def test_each_image_has_its_own_level_and_is_changed_alone(operation: Operation) -> None:
    torch.manual_seed(0)
    x, level = images(8), torch.linspace(-9.5, 9.5, 8)
    before = x.clone()
    together = operation(x, level)
    alone = [operation(x[i : i + 1], level[i : i + 1]) for i in range(8)]
    assert together.equal(torch.cat(alone))
    assert x.equal(before)


@each_operation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_comes_out_is_8_bit_and_has_the_dtype_of_what_went_in(
    operation: Operation, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x = images(64).to(dtype)
    changed = operation(x, torch.empty(64, dtype=dtype).uniform_(-10, 10))
    assert changed.dtype == dtype
    assert changed.equal(changed.round().clamp(0, 255))


@each_operation
def test_no_images_are_an_empty_batch(operation: Operation) -> None:
    assert operation(torch.empty(0, 3, 8, 8), torch.empty(0)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("operation", [*GEOMETRIC, augment.solarise])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_level_zero_changes_nothing(operation: Operation, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = images(8, 9, 14).to(dtype)
    assert operation(x, torch.zeros(8, dtype=dtype)).equal(x)


def test_level_ten_is_the_end_of_every_range() -> None:
    x, ten = images(1, 30, 45), torch.full((1,), 10.0)
    assert not augment.posterise(x, ten).any()
    assert augment.solarise(x, ten).equal(255 - x)
    assert augment.translate_x(x, ten)[..., :30].equal(x[..., 15:])
    assert not augment.translate_x(x, ten)[..., 30:].any()
    assert augment.translate_y(x, -ten)[..., 10:, :].equal(x[..., :20, :])
    assert not augment.translate_y(x, -ten)[..., :10, :].any()
    assert augment.rotate(x, ten)[0].equal(pillow(augment.rotate, x[0], 10.0))
    ramp = torch.arange(45).double().expand(1, 3, 30, 45)
    rows = (torch.arange(30) + 0.5) * 0.3
    assert_same(augment.shear_x(ramp, ten)[0, 0, :, 20], (20 + rows).floor())


@pytest.mark.parametrize(
    ("level", "bits"),
    [(0.0, 4), (0.1, 4), (1.0, 4), (2.49, 4), (2.5, 3), (3.0, 3), (5.0, 2), (7.5, 1), (10.0, 0)],
)
def test_posterising_keeps_the_highest_bits(level: float, bits: int) -> None:
    x = torch.arange(256).double().view(1, 1, 16, 16).expand(1, 3, 16, 16)
    expected = torch.arange(256) & ~(2 ** (8 - bits) - 1)
    for signed in (level, -level):
        changed = augment.posterise(x, torch.tensor([signed]))
        assert changed[0, 2].flatten().equal(expected.double())


# chains


def test_all_chains_of_operations_are_equally_likely() -> None:
    torch.manual_seed(0)
    with operations(*digits()):
        drawn = AugMix().chains(torch.zeros(60_000, 1, 1, 1)).flatten().long()
    depth = torch.stack([(drawn >= 10**i).long() for i in range(3)]).sum(0)
    assert_even(depth.bincount(minlength=4)[1:])
    for i, possible in enumerate((9, 81, 729), 1):
        kinds, counts = drawn[depth == i].unique(return_counts=True)
        assert len(kinds) == possible
        assert_even(counts)


def test_the_chains_of_two_images_are_independent() -> None:
    torch.manual_seed(0)
    depths, first = torch.zeros(3, 3), torch.zeros(9, 9)
    with operations(*digits()):
        for _ in range(2500):
            drawn = [str(int(chain)) for chain in AugMix().chains(torch.zeros(2, 1, 1, 1))]
            depths[len(drawn[0]) - 1, len(drawn[1]) - 1] += 1
            first[int(drawn[0][0]) - 1, int(drawn[1][0]) - 1] += 1
    assert_even(depths)
    assert_even(first)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_given_depth_is_that_of_all_chains(depth: int) -> None:
    with operations(*digits()):
        drawn = AugMix(depth=depth).chains(torch.zeros(50, 1, 1, 1)).flatten().long()
    assert {len(str(chain)) for chain in drawn.tolist()} == {depth}


@pytest.mark.parametrize("b", [1, 64])
def test_each_operation_is_called_once_in_each_step(b: int) -> None:
    calls = []

    def record(x: Tensor, level: Tensor) -> Tensor:
        assert len(x) == len(level)
        calls.append(len(x))
        return x

    with operations(*[record] * 9):
        AugMix(depth=3).chains(torch.zeros(b, 3, 2, 2))
    assert len(calls) == 27
    assert [sum(calls[i : i + 9]) for i in (0, 9, 18)] == [b] * 3


@pytest.mark.parametrize("severity", [0.1, 1.0, 3.0, 10.0])
def test_levels_are_uniform_up_to_the_severity_and_of_random_sign(severity: float) -> None:
    torch.manual_seed(0)
    level = AugMix(severity=severity).levels(20_000)
    assert abs((level < 0).double().mean() - 0.5) < 4 * 0.5 / 20_000**0.5
    for signed in (level[level < 0], level[level > 0]):
        size = signed.abs().sort().values
        assert size[0] >= 0.1
        assert size[-1] <= severity
        if severity > 0.1:
            rank = (torch.arange(len(size)) + 0.5) / len(size)
            gap = ((size - 0.1) / (severity - 0.1) - rank).abs().max()
            assert gap < 1.95 / len(size) ** 0.5  # Kolmogorov-Smirnov at the level 1e-3


def test_each_operation_of_each_image_has_a_level_of_its_own() -> None:
    seen: list[Tensor] = []

    def record(x: Tensor, level: Tensor) -> Tensor:
        seen.append(level)
        return x

    with operations(*[record] * 9):
        AugMix(depth=3).chains(torch.zeros(50, 3, 2, 2))
    assert len(torch.cat(seen).unique()) == 150


def test_at_severity_one_posterising_keeps_4_bits_and_at_three_it_keeps_3_or_4() -> None:
    torch.manual_seed(0)
    x = torch.arange(256).double().view(1, 1, 16, 16).expand(400, 3, 16, 16)
    values = {}
    for severity in (1.0, 3.0):
        with operations(augment.posterise):
            drawn = AugMix(severity=severity, depth=1).chains(x)
        values[severity] = {len(image.unique()) for image in drawn}
    assert values == {1.0: {16}, 3.0: {8, 16}}


# views


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("width", [1, 3, 4])
def test_views_are_the_mixtures_of_the_formula(n: int, width: int) -> None:
    torch.manual_seed(0)
    b, x = 5, eight_bit(5, 6, 10)
    method, kept = AugMix(width=width), {}

    def weigh(alpha: Tensor, m: int) -> Tensor:
        assert alpha.equal(torch.ones(n, b))
        kept["share" if "weights" in kept else "weights"] = drawn = dirichlet(alpha, m)
        return drawn

    def chain(_: AugMix, rows: Tensor) -> Tensor:
        kept["chains"] = chains(method, rows)
        return kept["chains"]

    chains = AugMix.chains
    with (
        patch("mixbench.methods.augmix.dirichlet", weigh),
        patch.object(AugMix, "chains", chain),
    ):
        views = method.views(x, n)
    assert views.shape == (n, b, 3, 6, 10)
    assert kept["weights"].shape == (n, b, width)
    assert kept["share"].shape == (n, b, 2)
    for v in range(n):
        for i in range(b):
            own = [kept["chains"][(v * width + k) * b + i] / 255 for k in range(width)]
            mixed = torch.zeros_like(x[i])
            for k in range(width):
                mixed = mixed + kept["weights"][v, i, k] * own[k]
            m = kept["share"][v, i, 0]
            assert_same(views[v, i], (1 - m) * x[i] + m * mixed, atol=1e-12)
            hull = torch.stack([x[i], *own])
            assert (views[v, i] >= hull.amin(0) - 1e-12).all()
            assert (views[v, i] <= hull.amax(0) + 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_chain_starts_at_its_own_image_in_8_bits(dtype: torch.dtype) -> None:
    x = (torch.arange(256) / torch.tensor(255.0, dtype=dtype)).view(1, 1, 16, 16)
    x = torch.cat([x.expand(1, 3, 16, 16), x.mT.expand(1, 3, 16, 16), 1 - x.expand(1, 3, 16, 16)])
    with patch.object(AugMix, "chains", side_effect=lambda rows: rows) as chains:
        AugMix(width=4).views(x, 2)
    (rows,) = chains.call_args.args
    assert rows.dtype == dtype
    assert rows.equal((x * 255).round().repeat(8, 1, 1, 1))
    assert rows[0, 0].flatten().equal(torch.arange(256).to(dtype))


def test_a_view_worked_out_by_hand() -> None:
    """0.6 * 50 + 0.4 * (0.5 * 200 + 0.25 * 100 + 0.25 * 0) = 80."""
    chains = torch.tensor([200.0, 100.0, 0.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    weights = weighing(torch.tensor([0.5, 0.25, 0.25]), 0.4)
    with patch.object(AugMix, "chains", return_value=chains), weights:
        views = AugMix().views(torch.full((1, 3, 2, 2), 50 / 255), 1)
    assert_same(255 * views, torch.full((1, 1, 3, 2, 2), 80.0), atol=1e-12)


def test_without_a_share_of_the_mixture_views_are_the_images() -> None:
    x = torch.rand(4, 3, 8, 8)
    with weighing(torch.tensor([0.2, 0.3, 0.5]), 0.0):
        views = AugMix().views(x, 2)
    assert views.equal(x.expand(2, -1, -1, -1, -1))


def test_without_a_change_by_operations_views_are_the_images() -> None:
    torch.manual_seed(0)
    x = eight_bit(6)
    still = patch.object(AugMix, "levels", lambda _, m: torch.zeros(m))
    with operations(*GEOMETRIC, augment.solarise), still:
        views = AugMix().views(x, 2)
    assert_same(views, x.expand(2, -1, -1, -1, -1), atol=1e-15)


def test_a_single_chain_with_all_weight_is_what_is_seen() -> None:
    torch.manual_seed(0)
    x = eight_bit(4)
    with operations(lambda image, _: 255 - image), weighing(torch.tensor([0.0, 1.0, 0.0]), 1.0):
        views = AugMix(depth=3).views(x, 2)
    assert_same(views, (1 - x).expand(2, -1, -1, -1, -1), atol=1e-15)


def test_two_views_of_an_image_differ_and_one_seed_gives_the_same_ones() -> None:
    x, drawn = eight_bit(6), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(AugMix().views(x, 2))
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])
    assert (drawn[0][0] != drawn[0][1]).flatten(1).any(1).all()


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_weights_and_shares_are_distributed_as_alpha_says(alpha: float) -> None:
    torch.manual_seed(0)
    kept = []

    def weigh(alphas: Tensor, m: int) -> Tensor:
        kept.append(dirichlet(alphas, m))
        return kept[-1]

    x = torch.empty(8000, 3, 0, 0)
    with (
        patch("mixbench.methods.augmix.dirichlet", weigh),
        patch.object(AugMix, "chains", lambda _, rows: rows),
    ):
        AugMix(alpha=alpha).views(x, 2)
    for weights, m in zip(kept, (3, 2), strict=True):
        assert weights.shape == (2, 8000, m)
        assert_same(weights.sum(2), torch.ones(2, 8000), atol=1e-12)
        for part in weights.flatten(0, 1).T:
            assert kstest(part, beta(alpha, (m - 1) * alpha).cdf).pvalue > 1e-3
        between_views = torch.corrcoef(weights[..., 0])[0, 1]
        assert abs(between_views) < 4 / 8000**0.5


def test_views_stay_in_range_and_single_precision_is_kept() -> None:
    torch.manual_seed(0)
    x = (torch.randint(256, (16, 3, 12, 9)) / 255).float()
    views = AugMix(severity=10.0).views(x, 2)
    assert views.dtype == torch.float32
    assert views.min() >= 0
    assert views.max() <= 1 + 1e-6


def test_autocast_does_not_round_the_views() -> None:
    x = eight_bit(4).float()
    drawn = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", enabled=enabled):
            drawn.append(AugMix().views(x, 2))
    assert drawn[0].equal(drawn[1])


def test_nothing_differentiates_through_the_augmentation() -> None:
    x, _ = batch(3)
    assert x.requires_grad
    assert not AugMix().views(x, 2).requires_grad


# the loss


@given(seed=st.integers(0, 10**6), scale=st.floats(0, 30))
@few
def test_the_divergence_is_symmetric_and_between_zero_and_log_3(seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(3, 4, CLASSES) * scale
    value = divergence(logits)
    assert -3e-7 <= value <= log(3) + 1e-12  # the clamp takes at most 1e-7 / e for each class
    for order in permutations(range(3)):
        assert_same(divergence(logits[list(order)]), value, atol=1e-14)


@given(seed=st.integers(0, 10**6))
@few
def test_the_divergence_is_that_of_the_definition(seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(3, 4, CLASSES)
    p = logits.softmax(2)
    expected = 0.0
    for i in range(4):
        mean = (p[0, i] + p[1, i] + p[2, i]) / 3
        for v in range(3):
            for c in range(CLASSES):
                expected += (p[v, i, c] * (p[v, i, c] / mean[c]).log()).item() / 3 / 4
    assert divergence(logits).item() == pytest.approx(expected, abs=1e-12)
    gain = entropy(p.mean(0)) - entropy(p).mean(0)
    assert_same(divergence(logits), gain.mean(), atol=1e-12)


def test_the_divergence_is_zero_for_equal_predictions_alone() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 4, CLASSES).repeat(3, 1, 1)
    shifted = logits + torch.randn(3, 4, 1)  # the predictions are still equal
    assert abs(divergence(shifted)) < 1e-15
    logits[2, 0, 0] += 0.01
    assert divergence(logits) > 1e-8


def test_a_divergence_worked_out_by_hand() -> None:
    """Of (1, 0), (0, 1), (1/2, 1/2), their mean is the last: (log 2 + log 2 + 0) / 3."""
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0], [0.0, 0.0]])[:, None]
    assert divergence(logits).item() == pytest.approx(0.46209812, abs=1e-8)


def test_the_divergence_of_disjoint_predictions_is_log_3() -> None:
    logits = 1000 * torch.eye(3, CLASSES)[:, None]
    assert divergence(logits).item() == pytest.approx(log(3), abs=1e-12)


def test_the_mixture_is_clamped_from_below() -> None:
    tail = torch.tensor([0.0, log(1e-9), log(1e-9)])
    p = tail.softmax(0)
    expected = p[0] * (p[0] / p[0].clamp(max=1)).log() + 2 * p[1] * (p[1] / 1e-7).log()
    assert expected < -5e-9
    assert_same(divergence(tail.expand(3, 2, 3)), expected, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_is_finite_for_one_hot_predictions(dtype: torch.dtype) -> None:
    logits = (3000 * torch.eye(3, CLASSES, dtype=dtype)[:, None]).requires_grad_()
    assert logits.softmax(2).eq(0).any()
    (gradient,) = torch.autograd.grad(divergence(logits), logits)
    assert gradient.isfinite().all()


@contextmanager
def seeing(views: Tensor) -> Iterator[None]:
    """Let these be the mixed views."""

    def see(_: AugMix, x: Tensor, n: int) -> Tensor:
        assert views.shape == (n, *x.shape)
        return views

    with patch.object(AugMix, "views", see):
        yield


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weight", [12.0, 0.7])
def test_the_loss_is_that_of_the_clean_view_and_the_divergence(soft: bool, weight: float) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().eval(), batch(4)
    y = torch.randn(4, CLASSES).softmax(1) if soft else y
    views = torch.rand(2, 4, 3, 8, 8)
    with seeing(views):
        loss = AugMix(jsd=weight).loss(net, x, y)
    p = torch.stack([net(x), net(views[0]), net(views[1])]).softmax(2)
    mean = ((p[0] + p[1] + p[2]) / 3).clamp(1e-7, 1)
    expected = -(y * p[0].log()).sum(1).mean()
    for v in range(3):
        expected = expected + weight / 3 * F.kl_div(mean.log(), p[v], reduction="batchmean")
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


def test_one_pass_sees_the_clean_images_and_then_both_views() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(4)
    views = torch.rand(2, 4, 3, 8, 8)
    seen: list[Tensor] = []
    handle = net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with seeing(views):
        AugMix().loss(net, x, y)
    handle.remove()
    assert len(seen) == 1
    assert seen[0].equal(torch.cat([x, views[0], views[1]]))


def test_without_the_divergence_one_mixed_view_is_trained_on() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(4)
    views = torch.rand(1, 4, 3, 8, 8)
    with seeing(views):
        loss = AugMix(jsd=0).loss(net, x, y)
    assert loss.equal(Baseline().loss(net, views[0], y))


def test_views_equal_to_the_images_give_the_baseline() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().eval(), batch(4)
    with seeing(x.expand(2, -1, -1, -1, -1)):
        loss = AugMix().loss(net, x, y)
    assert_same(loss, Baseline().loss(net, x, y), atol=1e-12)


class Rounded(nn.Linear):
    """A head whose logits are in half precision."""

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z).bfloat16()


def test_predictions_in_half_precision_are_compared_in_that_of_the_targets() -> None:
    torch.manual_seed(0)
    net, (x, y) = bare(3, Rounded(3, CLASSES)), batch(4)
    views = torch.rand(2, 4, 3, 8, 8)
    with seeing(views):
        loss = AugMix().loss(net, x, y)
    p = net(torch.cat([x, *views])).double().view(3, 4, CLASSES).softmax(2)
    expected = -(y * p[0].log()).sum(1).mean()
    expected = expected + 12 * (entropy(p.mean(0)) - entropy(p).mean(0)).mean()
    assert_same(loss, expected, atol=1e-12)


def test_the_defaults_are_those_of_the_official_code_for_cifar() -> None:
    assert AugMix() == AugMix(severity=3.0, width=3, depth=None, alpha=1.0, jsd=12.0)


@pytest.mark.parametrize("severity", [0.0, 10.1])
def test_a_severity_without_levels_is_refused(severity: float) -> None:
    with pytest.raises(ValidationError, match="severity"):
        AugMix(severity=severity)
