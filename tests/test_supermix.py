"""SuperMix."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from math import exp, floor
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import CLASSES, assert_even, assert_same, batch, tiny, total, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, kstest
from torch import Tensor, nn
from torch.nn import functional as F
from twins import recorded

from mixbench.bench.nets.preactresnet import Pixels
from mixbench.methods import Net, dirichlet
from mixbench.methods.baseline import Baseline
from mixbench.methods.supermix import SuperMix, SuperMixObjective, _blurred, _same_classes

pytestmark = pytest.mark.usefixtures("float64")

METHOD = SuperMix(mask=4, steps=12, tolerance=0)
each_sigma = pytest.mark.parametrize(
    "sigma", [0.3, 0.6, 1.0, 1.5, 2.0]
)  # of 1, 3, 5, 7 and 10 taps


def teacher(height: int = 8, width: int = 8, hidden: int = 0) -> Net:
    """A random one that tells random images apart; linear without hidden units."""
    d, scale = 3 * height * width, 4.0
    head = nn.Linear(hidden or d, CLASSES)
    layers: list[nn.Module] = [nn.Linear(d, hidden), nn.Tanh()] if hidden else []
    with torch.no_grad():
        head.weight.mul_(scale)
    net = Net(pixels=centred(), pool=nn.Sequential(nn.Flatten(), *layers), head=head)
    return net.eval().requires_grad_(False)


def centred() -> Pixels:
    return Pixels((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def constant_teacher() -> Net:
    """One that sees the same two classes in all images, of which targets have one alone."""
    net, seen = teacher(), torch.eye(CLASSES)[2]
    by_chance = seen.expand(9, CLASSES).topk(2).indices.unique().tolist()
    second = next(c for c in range(CLASSES) if c not in by_chance)
    with torch.no_grad():
        net.head.get_parameter("weight").zero_()
        net.head.get_parameter("bias").copy_(seen + 0.5 * torch.eye(CLASSES)[second])
    return net


def images(b: int, height: int = 8, width: int = 8) -> Tensor:
    return torch.rand(b, 3, height, width)


@contextmanager
def at_ratios(ratio: Tensor) -> Iterator[None]:
    with patch("mixbench.methods.supermix.dirichlet", return_value=ratio):
        yield


def gaussian(size: int, sigma: float) -> Tensor:
    """The matrix (size, size) that smooths a row of pixels."""
    taps = int(5 * sigma)
    weights = [exp(-((t - (taps - 1) / 2) ** 2) / (2 * (taps / 5) ** 2)) for t in range(taps)]
    matrix = torch.zeros(size, size)
    for i in range(size):
        for t in range(taps):
            j = i + t - (taps - 1) // 2
            if 0 <= j < size:
                matrix[i, j] = weights[t] / sum(weights)
    return matrix


def bilinear(size: int, large: int) -> Tensor:
    """The matrix (large, size) that enlarges a row of pixels; corners are not aligned."""
    matrix = torch.zeros(large, size)
    for i in range(large):
        at = max((i + 0.5) * size / large - 0.5, 0)
        low = min(floor(at), size - 1)
        matrix[i, low] += 1 - (at - low)
        matrix[i, min(low + 1, size - 1)] += at - low
    return matrix


def processed(masks: Tensor, height: int, width: int) -> Tensor:
    """M (k, height, width) of mask variables m (k, w, w)."""
    up, right = bilinear(masks.shape[1], height), bilinear(masks.shape[1], width)
    share = torch.stack([torch.sigmoid(up @ m @ right.T) for m in masks])
    return share / share.sum(0)


def largest(row: Tensor, k: int) -> set[int]:
    return set(row.topk(k).indices.tolist())


def generated(method: SuperMix, guide: Net, x: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor, int]:
    """Section 1 of the sheet, sample by sample: images and labels, and the number of steps."""
    b, k, (h, w) = len(x), method.images, x.shape[2:]
    label = guide(x).argmax(1).tolist()
    target = torch.zeros(b, CLASSES)
    for i in range(b):
        for j in range(k):
            target[i, label[(i + j) % b]] += ratio[i, j]
    wanted = [largest(row, k) for row in target]
    smooth = gaussian(method.mask, method.sigma)
    m, unsolved, steps = torch.zeros(b, k, method.mask, method.mask), [1] * b, 0

    def shown(i: int) -> tuple[Tensor, Tensor]:
        share = processed(m[i], h, w)
        return total(share[j] * x[(i + j) % b] for j in range(k)), share

    while sum(unsolved) > floor(b * method.tolerance / 100) and steps < method.steps:
        m.requires_grad_()
        losses = []
        for i in range(b):
            mixed, share = shown(i)
            log_p = guide(mixed[None])[0].log_softmax(0)
            some = target[i] > 0
            divergence = (target[i] * (target[i].log() - log_p))[some].sum()
            grey = (share * (share - 1)).abs().sum() / (k * h * w)
            losses.append((divergence + method.sparsity * grey) * unsolved[i])
        (q,) = torch.autograd.grad(total(losses), m)
        m = m.detach().clone()
        for i in range(b):
            if unsolved[i]:
                q_hat = torch.stack([smooth @ q[i, j] @ smooth.T for j in range(k)])
                length = losses[i].item() / ((q[i] * q_hat).sum().item() + 1e-10)
                m[i] -= min(max(length, 1e-4), 2000) * q_hat
        for i in range(b):
            unsolved[i] = int(largest(guide(shown(i)[0][None])[0], k) != wanted[i])
        steps += 1
    solved = [i for i in range(b) if not unsolved[i]]
    found = torch.stack([(shown(i)[0] * 255).floor() / 255 for i in solved]) if solved else x[:0]
    return found.detach(), guide(found).argmax(1), steps


@pytest.mark.parametrize(
    ("method", "hidden"),
    [
        (METHOD, 0),
        (METHOD, 24),
        (replace(METHOD, sigma=0.6), 24),
        (replace(METHOD, sigma=0.2), 24),
        (replace(METHOD, sigma=1.5, mask=8), 0),
        (replace(METHOD, mask=1), 24),
        (replace(METHOD, images=1), 24),
        (replace(METHOD, images=3), 24),
        (replace(METHOD, sparsity=0), 0),
        (replace(METHOD, sparsity=200), 24),
        (replace(METHOD, tolerance=50), 24),
        (replace(METHOD, tolerance=70), 0),
        (replace(METHOD, steps=1), 24),
        (replace(METHOD, steps=20), 24),
    ],
)
def test_generation_is_the_loop_of_the_sheet(method: SuperMix, hidden: int) -> None:
    torch.manual_seed(0)
    guide, x = teacher(8, 12, hidden), images(9, 8, 12)
    ratio = dirichlet(torch.full((9,), 3.0), method.images)
    with at_ratios(ratio), counting(guide) as asked:
        found, labels = method.generate(guide, x)
    expected = generated(method, guide, x, ratio)
    assert 0 < len(found) <= 9
    assert_same(found, expected[0])
    assert labels.equal(expected[1])
    steps = expected[2]
    assert len(asked) == 1 + (steps + 1) + 1  # for labels, before and after each step, for labels


@contextmanager
def counting(net: nn.Module) -> Iterator[list[int]]:
    """How many images each forward pass sees."""
    seen: list[int] = []
    hook = net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    yield seen
    hook.remove()


def test_steps_are_taken_as_long_as_more_than_the_tolerated_are_unsolved() -> None:
    torch.manual_seed(0)
    guide, x = teacher(hidden=24), images(9)
    ratio, counts = dirichlet(torch.full((9,), 3.0), 2), []
    for tolerance in (0, 11, 12, 50, 70, 99, 100):
        method = replace(METHOD, tolerance=tolerance)
        with at_ratios(ratio), counting(guide) as asked:
            found, _ = method.generate(guide, x)
        unsolved = 9 - len(found)
        steps = len(asked) - 2 - bool(len(found))
        assert unsolved <= floor(9 * tolerance / 100) or steps == 12
        counts.append(steps)
        assert_same(found, generated(method, guide, x, ratio)[0])
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 12
    assert counts[-1] == 0


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_mixtures_that_can_not_be_solved_take_all_steps_and_are_dropped(steps: int) -> None:
    torch.manual_seed(0)
    guide = constant_teacher()
    with counting(guide) as asked:
        found, labels = replace(METHOD, steps=steps).generate(guide, images(6))
    assert found.shape == (0, 3, 8, 8)
    assert labels.shape == (0,)
    assert labels.dtype == torch.long
    assert asked == [6] * (1 + steps + 1)


def test_what_is_solved_stays_as_it_is_and_is_asked_no_more() -> None:
    torch.manual_seed(0)
    guide, x = teacher(hidden=24), images(20)
    ratio, before, all_asked = dirichlet(torch.full((20,), 3.0), 2), x[:0], []
    for steps in range(1, 9):
        with at_ratios(ratio), counting(guide) as asked:
            found, _ = replace(METHOD, steps=steps).generate(guide, x)
        for image in before:
            assert (found == image).flatten(1).all(1).sum() == 1
        assert asked[:3] == [20, 20, 20]
        assert asked[-1] == len(found)
        all_asked.append(asked)
        before = found
    for more, fewer in zip(all_asked[1:], all_asked[:-1], strict=True):
        assert more[:-2] == fewer[:-1]
        assert more[-2] == 20 - fewer[-1]
    assert 0 < len(all_asked[0]) < len(before) < 20


@given(
    n=st.integers(1, 4),
    k=st.integers(1, 4),
    mask=st.integers(1, 9),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_shares_are_enlarged_masks_that_sum_to_one(
    n: int, k: int, mask: int, size: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    m = 5 * torch.randn(n, k, 1, mask, mask)
    shares = METHOD.shares(m, torch.empty(n, 3, *size))
    assert shares.shape == (n, k, 1, *size)
    assert shares.min() > 0
    assert shares.max() < 1 or k == 1
    assert_same(shares.sum(1), torch.ones(n, 1, *size), atol=1e-14)
    for i in range(n):
        assert_same(shares[i, :, 0], processed(m[i, :, 0], *size), atol=1e-13)


def test_the_shares_of_two_images_worked_out_by_hand() -> None:
    m = torch.tensor([[0.0, 4.0], [0.0, 0.0]]).view(1, 2, 1, 1, 2).expand(1, 2, 1, 2, 2)
    first = [exp(v) / (1 + exp(v)) for v in (0, 1, 3, 4)]  # enlarged: 0, 0 + 1, 4 - 1, 4
    shares = METHOD.shares(m, torch.empty(1, 3, 4, 4))
    expected = torch.tensor([share / (share + 0.5) for share in first])
    for row in shares[0, 0, 0]:
        assert_same(row, expected, atol=1e-15)
    assert_same(shares[0, 1, 0], 1 - shares[0, 0, 0], atol=1e-15)


def test_the_loss_of_masks_worked_out_by_hand() -> None:
    """0.75 log(0.75 / 0.5) + 0.25 log(0.25 / 0.5) = 0.1308, and 25 * 0.25 * 0.75 = 4.6875."""
    shares = torch.tensor([0.25, 0.75]).view(1, 2, 1, 1, 1).expand(1, 2, 1, 3, 3)
    loss = METHOD.mask_loss(torch.zeros(1, 2), torch.tensor([[0.75, 0.25]]), shares)
    assert loss.item() == pytest.approx(4.8183, abs=5e-5)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_masks_of_zeros_are_the_plain_average(k: int) -> None:
    shares = METHOD.shares(torch.zeros(2, k, 1, 4, 4), torch.empty(2, 3, 8, 8))
    assert_same(shares, torch.full((2, k, 1, 8, 8), 1 / k), atol=1e-15)


@given(b=st.integers(1, 7), k=st.integers(1, 4), seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_a_set_is_an_image_and_its_followers_and_its_target_their_labels_by_the_ratio(
    b: int, k: int, seed: int
) -> None:
    torch.manual_seed(seed)
    guide, x, ratio = teacher(), images(b), dirichlet(torch.full((b,), 3.0), k)
    with at_ratios(ratio):
        sets, target = replace(METHOD, images=k).sets(guide, x)
    label = guide(x).argmax(1)
    for i in range(b):
        for j in range(k):
            assert sets[i, j].equal(x[(i + j) % b])
        for c in range(CLASSES):
            share = sum(ratio[i, j].item() for j in range(k) if label[(i + j) % b] == c)
            assert target[i, c].item() == pytest.approx(share, abs=1e-14)
    assert_same(target.sum(1), torch.ones(b), atol=1e-14)


def test_ratios_are_drawn_for_each_mixture_from_alpha() -> None:
    torch.manual_seed(0)
    with patch("mixbench.methods.supermix.dirichlet", wraps=dirichlet) as draws:
        replace(METHOD, alpha=0.7, images=3).sets(teacher(), images(6))
    (alpha, k), _ = draws.call_args
    assert alpha.tolist() == [0.7] * 6
    assert k == 3
    draws.assert_called_once()


@pytest.mark.parametrize(("alpha", "k"), [(3.0, 2), (0.7, 3)])
def test_ratios_are_uniform_but_for_alpha_and_independent(alpha: float, k: int) -> None:
    torch.manual_seed(0)
    x = torch.rand(4000, 3, 1, 1)
    with recorded() as draws:
        replace(METHOD, alpha=alpha, images=k).sets(EightBits(), x)
    ((name, _, ratio),) = draws
    assert name == "dirichlet"
    for part in ratio.T:
        assert kstest(part, beta(alpha, (k - 1) * alpha).cdf).pvalue > 1e-3
    followed = np.corrcoef(ratio[:-1, 0], ratio[1:, 0])[0, 1]
    assert abs(followed) < 4 / 4000**0.5


def test_one_image_alone_is_its_own_mixture_in_eight_bits() -> None:
    torch.manual_seed(0)
    guide, x = teacher(), images(6)
    _, target = replace(METHOD, images=1).sets(guide, x)
    assert_same(target, F.one_hot(guide(x).argmax(1), CLASSES).to(x), atol=1e-15)
    found, labels = replace(METHOD, images=1).generate(guide, x)
    assert found.equal((x * 255).floor() / 255)
    assert labels.equal(guide(found).argmax(1))


class EightBits(nn.Module):
    """Sees class 1 in images of 8 bits, and class 0 in others."""

    def forward(self, x: Tensor) -> Tensor:
        off = (255 * x - (255 * x).round()).abs().mean((1, 2, 3)) - 0.1
        return torch.stack([off, -off], 1)


def test_labels_are_those_of_what_is_left_of_mixtures_in_eight_bits() -> None:
    torch.manual_seed(0)
    _, labels = replace(METHOD, images=1).generate(EightBits(), images(6))
    assert labels.tolist() == [1] * 6


def grey(shares: Tensor) -> Tensor:
    """The sparsity term of shares (n, k, 1, h, w) alone."""
    n = len(shares)
    logits, target = torch.zeros(n, CLASSES), torch.full((n, CLASSES), 1 / CLASSES)
    return replace(METHOD, sparsity=1).mask_loss(logits, target, shares)


def test_binary_masks_are_not_grey_and_even_ones_most() -> None:
    torch.manual_seed(0)
    first = (torch.rand(5, 1, 1, 8, 8) < 0.5).double()
    assert_same(grey(torch.cat([first, 1 - first], 1)), torch.zeros(5), atol=1e-15)
    assert_same(grey(torch.full((5, 2, 1, 8, 8), 0.5)), torch.full((5,), 0.25), atol=1e-15)
    some = torch.rand(5, 1, 1, 8, 8)
    between = grey(torch.cat([some, 1 - some], 1))
    assert (between > 0).all()
    assert (between < 0.25).all()


@pytest.mark.parametrize("sparsity", [0.0, 25.0])
def test_the_loss_of_masks_is_divergence_and_grey(sparsity: float) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(4, CLASSES), torch.rand(4, CLASSES)
    target[:, 2:] = 0  # 0 log 0 is 0
    target = target / target.sum(1, keepdim=True)
    shares = torch.rand(4, 3, 1, 5, 6)
    loss = replace(METHOD, sparsity=sparsity).mask_loss(logits, target, shares)
    for i in range(4):
        p = logits[i].exp() / logits[i].exp().sum()
        divergence = total(target[i, c] * (target[i, c] / p[c]).log() for c in range(2))
        deviation = total((s * (1 - s)).abs() for s in shares[i].flatten()) / (3 * 5 * 6)
        assert_same(loss[i], divergence + sparsity * deviation, atol=1e-13)


def test_the_taps_are_those_of_the_sheet() -> None:
    spot = torch.zeros(1, 1, 9, 9)
    spot[..., 4, 4] = 1
    spread = _blurred(spot, 1.0)[0, 0]
    taps = torch.tensor([0, 0, 0.0545, 0.2442, 0.4026, 0.2442, 0.0545, 0, 0])
    assert_same(spread.sum(0), taps, atol=5e-5)
    assert_same(spread.sum(1), taps, atol=5e-5)
    assert spread.count_nonzero() == 25


@each_sigma
@pytest.mark.parametrize("size", [1, 2, 8])
def test_smoothing_is_separable_with_zeros_around(size: int, sigma: float) -> None:
    torch.manual_seed(0)
    maps, matrix = torch.randn(3, 1, size, size), gaussian(size, sigma)
    assert_same(_blurred(maps, sigma)[:, 0], matrix @ maps[:, 0] @ matrix.T, atol=1e-14)


def masks_and_loss(method: SuperMix, n: int = 20) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Mask variables (n, 2, 1, w, w), and the loss (n,) of such, under a linear teacher."""
    guide, x = teacher(), images(n)
    sets, target = method.sets(guide, x)

    def loss(m: Tensor) -> Tensor:
        shares = method.shares(m, x)
        return method.mask_loss(guide((shares * sets).sum(1)), target, shares)

    return torch.randn(n, method.images, 1, method.mask, method.mask, requires_grad=True), loss


@each_sigma
def test_a_step_brings_the_linear_part_of_the_loss_to_zero_unless_clamped(sigma: float) -> None:
    torch.manual_seed(0)
    method = replace(METHOD, sigma=sigma)
    m, loss = masks_and_loss(method)
    before = loss(m)
    (q,) = torch.autograd.grad(before.sum(), m)
    smooth = torch.einsum("ij,nkcjl,ml->nkcim", gaussian(4, sigma), q, gaussian(4, sigma))
    length = before / (q * smooth).flatten(1).sum(1)
    free = (length > 1e-4) & (length < 2000)
    assert free.sum() > 10
    change = method.moved(m, loss(m)) - m
    left = before + (q * change).flatten(1).sum(1)
    assert_same(left[free], torch.zeros_like(left[free]), atol=1e-6)
    step = length.clamp(1e-4, 2000).view(-1, 1, 1, 1, 1) * smooth
    assert_same(change, -step, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.3, 0.6, 1.0])  # with 7 taps, it may be no descent
def test_a_small_part_of_a_step_lowers_the_loss_of_each_mixture(sigma: float) -> None:
    torch.manual_seed(0)
    method = replace(METHOD, sigma=sigma)
    m, loss = masks_and_loss(method)
    change = method.moved(m, loss(m)) - m
    assert (loss(m + 1e-4 * change) < loss(m)).all()


@pytest.mark.parametrize(
    ("slope", "offset", "length"),
    [
        (1e3, 1.0, 1e-4),  # for 1 / 32e6
        (1e-4, 1.0, 2000.0),  # for 1 / 32e-8
        (1.0, 16.0, 0.5),
        (1.0, -16.0, 0.5),
        (0.0, 1.0, 2000.0),
    ],
)
def test_the_length_of_a_step_is_clamped(slope: float, offset: float, length: float) -> None:
    method = replace(METHOD, sigma=0.2)  # no smoothing
    m = torch.zeros(3, 2, 1, 4, 4, requires_grad=True)
    moved = method.moved(m, slope * m.flatten(1).sum(1) + offset)
    assert_same(moved, torch.full_like(m, -length * slope).detach(), atol=1e-9)
    assert not moved.requires_grad


@given(seed=st.integers(0, 10**6), k=st.integers(1, CLASSES))
@settings(max_examples=30, deadline=None)
def test_a_mixture_is_solved_if_the_largest_classes_are_the_same_in_any_order(
    seed: int, k: int
) -> None:
    torch.manual_seed(seed)
    logits, target = torch.rand(30, CLASSES), torch.rand(30, CLASSES)
    expected = [largest(a, k) == largest(b, k) for a, b in zip(logits, target, strict=True)]
    assert _same_classes(logits, target, k).tolist() == expected


@pytest.mark.parametrize("k", [1, 2, 3])
def test_as_many_are_returned_as_have_the_classes_of_their_target(k: int) -> None:
    torch.manual_seed(0)
    guide, x, matches = teacher(hidden=24), images(20), 0
    with patch("mixbench.methods.supermix._same_classes", wraps=_same_classes) as tests:
        found, _ = replace(METHOD, images=k).generate(guide, x)
    for (logits, target, _), _ in tests.call_args_list:
        for seen, wanted in zip(logits, target, strict=True):
            matches += largest(seen, k) == largest(wanted, k)
    assert len(found) == matches > 0
    assert found.min() >= 0
    assert found.max() <= 1


def test_generation_neither_needs_nor_leaves_gradients() -> None:
    torch.manual_seed(0)
    guide, x = teacher(hidden=24), images(9).requires_grad_()
    ratio = dirichlet(torch.full((9,), 3.0), 2)
    with at_ratios(ratio):
        found, _ = METHOD.generate(guide, x)
        with torch.no_grad():
            again, _ = METHOD.generate(guide, x)
    assert found.equal(again)
    assert not found.requires_grad
    assert x.grad is None


def objective(
    method: SuperMix = METHOD, guide: Net | None = None, net: Net | None = None
) -> SuperMixObjective:
    made = method.objective(net or tiny(), guide or teacher())
    assert isinstance(made, SuperMixObjective)
    return made


def test_mixtures_are_added_until_the_pool_is_full() -> None:
    torch.manual_seed(0)
    guide = teacher()
    trained, counts = objective(replace(METHOD, pool=12), guide), [0]
    for _ in range(12):
        before = {key: part.clone() for key, part in trained.pool.items()}
        with counting(guide) as asked:
            trained(*batch(6))
        counts.append(len(trained.pool["labels"]))
        assert len(trained.pool["images"]) == counts[-1]
        assert bool(asked) == (counts[-2] < 12)
        for key, part in before.items() if counts[-2] else ():
            assert trained.pool[key][: len(part)].equal(part)
    assert counts == sorted(counts)
    assert counts[1] > 0
    assert counts[-1] == 12
    assert counts[-1] == counts[-2]


def test_the_pool_holds_eight_bits_rounded_down_and_the_teachers_labels() -> None:
    torch.manual_seed(0)
    guide, (x, y) = teacher(hidden=24), batch(9)
    ratio = dirichlet(torch.full((9,), 3.0), 2)
    trained = objective(guide=guide)
    with at_ratios(ratio):
        trained(x, y)
    expected, labels, _ = generated(METHOD, guide, x.detach(), ratio)
    pool = trained.pool
    assert pool["images"].dtype == torch.uint8
    assert pool["images"].double().equal((expected * 255).round())
    assert pool["labels"].equal(labels)
    assert pool["labels"].equal(guide(pool["images"] / 255).argmax(1))


def test_eight_bits_are_the_same_in_single_precision() -> None:
    every = torch.arange(256).float()
    assert (every / 255 * 255).round().to(torch.uint8).equal(torch.arange(256).to(torch.uint8))
    torch.manual_seed(0)
    trained = objective(guide=teacher().float(), net=tiny().float())
    x, y = batch(9)
    trained(x.detach().float(), y.float())
    assert len(trained.pool["labels"]) > 0
    stored = trained.pool["images"].float() / 255
    assert trained.pool["labels"].equal(trained.guide(stored).argmax(1))


def full(guide: Net | None = None, weight: float = 2.0, n: int = 7) -> SuperMixObjective:
    """An objective whose pool has ``n`` random mixtures, and is full."""
    trained = objective(replace(METHOD, pool=n, weight=weight), guide)
    trained.set_extra_state(
        {
            "images": torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8),
            "labels": torch.randint(CLASSES, (n,)),
        }
    )
    return trained


@pytest.mark.parametrize("weight", [0.5, 2.0])
@pytest.mark.parametrize("train", [True, False])
def test_the_loss_is_that_of_images_and_mixtures_times_the_weight(
    train: bool, weight: float
) -> None:
    torch.manual_seed(0)
    trained, (x, y), pick = full(weight=weight).train(train), batch(4), [6, 2, 2, 0]
    with patch("torch.randint", return_value=torch.tensor(pick)) as draw:
        loss = trained(x, y)
    draw.assert_called_once_with(7, (4,))
    net, label = trained.net, trained.pool["labels"][pick]
    mixed = trained.pool["images"][pick] / 255
    log_p = net(torch.cat([x, mixed])).log_softmax(1)  # in one batch
    natural = total(-(y[i] * log_p[i]).sum() for i in range(4)) / 4
    other = total(-log_p[4 + i, label[i]] for i in range(4)) / 4
    expected = weight * (natural + other)
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_with_nothing_solved_the_loss_is_that_of_the_images_alone(weight: float) -> None:
    torch.manual_seed(0)
    trained, (x, y) = objective(replace(METHOD, weight=weight), constant_teacher()), batch(4)
    for _ in range(3):
        expected = weight * Baseline().loss(trained.net, x, y)
        with counting(trained.net) as asked:
            loss = trained(x, y)
        assert asked == [4]
        actual = with_gradients(loss, trained.net, x)
        assert_same(actual, with_gradients(expected, trained.net, x), atol=1e-14)
    assert len(trained.pool["labels"]) == 0


def test_the_mixtures_of_a_batch_are_drawn_uniformly_from_the_pool() -> None:
    torch.manual_seed(0)
    trained, seen = full(), list[Tensor]()
    trained.net = Net(head=nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)))
    trained.net.register_forward_pre_hook(lambda _, args: seen.append(args[0][32:]))
    for _ in range(40):
        trained(*batch(32))
    drawn = torch.cat(seen)
    match = (drawn[:, None] == trained.pool["images"] / 255).flatten(2).all(2)
    assert match.sum(1).tolist() == [1] * 40 * 32
    assert_even(match.sum(0))


def test_the_very_first_batch_draws_from_its_own_mixtures() -> None:
    torch.manual_seed(0)
    trained, (x, y) = objective(), batch(9)
    with counting(trained.net) as asked:
        trained(x, y)
    assert len(trained.pool["labels"]) > 0
    assert asked == [9 + 9]


@pytest.mark.parametrize("solved", [True, False])
def test_the_teacher_is_left_as_it_was_and_not_trained(solved: bool) -> None:
    torch.manual_seed(0)
    guide = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), teacher() if solved else tiny())
    net = Net(pixels=nn.Identity(), pool=guide, head=nn.Identity()).train()
    before = deepcopy(net.state_dict())
    trained = objective(guide=net)
    for mode in (True, False, True):
        trained.train(mode)
        trained(*batch(6)).backward()
        assert trained.net.training == mode
        assert not any(module.training for module in net.modules())
    assert before.keys() == net.state_dict().keys()
    assert all(part.equal(before[key]) for key, part in net.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    trainable = [p for p in trained.parameters() if p.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in trained.net.parameters()}
    assert all(p.grad is not None and p.grad.any() for p in trainable)
    assert (len(trained.pool["labels"]) > 0) == solved


def test_the_pool_is_part_of_the_state_that_is_saved() -> None:
    torch.manual_seed(0)
    trained = objective(replace(METHOD, pool=30))
    trained(*batch(9))
    assert 0 < len(trained.pool["labels"]) < 30
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    other = objective(replace(METHOD, pool=30))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.pool.keys() == {"images", "labels"}
    for key, part in trained.pool.items():
        assert other.pool[key].equal(part)
        assert other.pool[key].dtype == part.dtype
    losses: list[Any] = []
    for each in (trained, other):
        torch.manual_seed(1)
        losses.append([each(*batch(9)).item() for _ in range(3)])
        losses.append(len(each.pool["labels"]))
    assert losses[:2] == losses[2:]


def test_a_pool_that_was_never_filled_can_be_saved_too() -> None:
    torch.manual_seed(0)
    fresh, used = objective(), objective()
    used(*batch(9))
    used.load_state_dict(fresh.state_dict())
    assert used.count == len(used.pool["images"]) == len(used.pool["labels"]) == 0
    assert used(*batch(9)).isfinite()


def test_a_teacher_is_needed() -> None:
    assert SuperMix.teacher == "baseline"
    with pytest.raises(ValueError, match="a network that baseline trained"):
        SuperMix().objective(tiny())


def test_the_defaults_are_those_for_cifar_but_for_the_weight() -> None:
    assert SuperMix() == SuperMix(
        pool=500_000,
        images=2,
        alpha=3.0,
        mask=8,
        sigma=1.0,
        sparsity=25.0,
        steps=50,
        tolerance=70.0,
        weight=1.0,
    )
