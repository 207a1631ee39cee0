"""TokenMix."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import exp, log, sqrt
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import assert_even, assert_same, tiny, total, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest, uniform
from timm.data.mixup import Mixup as TimmMixup
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.bench.nets.vit import smallvit
from mixbench.methods import Net
from mixbench.methods._reversed import ReversedMixup
from mixbench.methods.tokenmix import TokenMix, _rectangle, activations

pytestmark = pytest.mark.usefixtures("float64")
CLASSES = 8
METHOD = TokenMix(p=1.0)
UNIFORM = TokenMix(p=1.0, activation="uniform")


def vit() -> Net:
    """A vision transformer, of 4 x 4 tokens, that is sure of itself."""
    net = smallvit(CLASSES, 8, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    return net


def batch(b: int, size: int = 8) -> tuple[Tensor, Tensor]:
    x = torch.rand(b, 3, size, size, requires_grad=True)
    return x, torch.eye(CLASSES)[torch.randint(CLASSES, (b,))]


class Means(nn.Module):
    """Images to tokens: a class token of zeros, and the mean colours of patches."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.cls_token, self.patch = nn.Parameter(torch.zeros(1, 1, 3)), patch

    def forward(self, x: Tensor) -> Tensor:
        patches = F.avg_pool2d(x, self.patch).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), patches], 1)


class First(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0] + x[:, 1:].sum(1)  # which is nothing but the first if there is one token


def means(patch: int) -> Net:
    """A network whose tokens are the mean colours of patches."""
    pool = nn.Sequential(nn.LayerNorm(3), First())
    head = nn.Linear(3, CLASSES)
    return Net(pixels=nn.Identity(), stem=Means(patch), pool=pool, head=head)


@contextmanager
def masked(mask: Tensor) -> Iterator[None]:
    with patch.object(TokenMix, "draw", lambda *_: mask):
        yield


def some_mask() -> Tensor:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 1:3] = mask[1:, 2:] = True
    return mask


def plain_mask(rows: int, columns: int, count: int) -> Tensor:
    """The masks of BEiT in literal loops, on draws in the same order."""

    def uniform(low: float, high: float) -> float:
        return low + torch.rand((), device="cpu").item() * (high - low)

    def integer(low: int, high: int) -> int:
        return low + int(torch.randint(high - low + 1, (), device="cpu"))

    mask = torch.zeros(rows, columns, dtype=torch.long)
    while mask.sum() < count:
        remaining, found = count - int(mask.sum()), False
        for _ in range(10):
            area = uniform(1, remaining)
            aspect = exp(uniform(log(0.3), log(1 / 0.3)))
            h, w = round(sqrt(area * aspect)), round(sqrt(area / aspect))
            if h <= rows - 1 and w <= columns - 1:
                top, left = integer(0, rows - h), integer(0, columns - w)
                new = h * w - int(mask[top : top + h, left : left + w].sum())
                if 1 <= new <= remaining:
                    mask[top : top + h, left : left + w] = 1
                    found = True
                    break
        if not found:
            break
    return mask == 1


GRIDS = [(14, 14, 112), (4, 4, 9), (7, 7, 28), (8, 8, 37), (2, 6, 7), (1, 4, 2), (2, 2, 2)]


@pytest.mark.parametrize(("rows", "columns", "count"), GRIDS)
def test_the_blocks_are_those_of_literal_loops(rows: int, columns: int, count: int) -> None:
    for seed in range(40):
        torch.manual_seed(seed)
        mask, state = METHOD.draw(rows, columns), torch.get_rng_state()
        torch.manual_seed(seed)
        assert mask.equal(plain_mask(rows, columns, count))
        assert state.equal(torch.get_rng_state())  # after as many attempts
        assert mask.dtype == torch.bool


def test_the_blocks_cover_nearly_always_as_much_as_they_should() -> None:
    torch.manual_seed(0)
    n = 600
    counts = torch.stack([METHOD.draw(14, 14).sum() for _ in range(n)])
    assert counts.max() == 112
    assert counts.min() > 0
    full, known = (counts == 112).double().mean(), 0.988  # the share in 4000 draws of others
    error = sqrt(known * (1 - known) * (1 / n + 1 / 4000))
    assert abs(full - known) < 4 * error


def test_areas_of_blocks_are_uniform_and_so_is_the_logarithm_of_their_aspect() -> None:
    """On a grid so large that what rounding does to the sides is small, and none is refused."""
    torch.manual_seed(0)
    drawn = [_rectangle(9000, 9000, 10**6) for _ in range(2000)]
    high, wide = (
        torch.tensor([len(side) for side in sides]).double() for sides in zip(*drawn, strict=True)
    )
    assert kstest(high * wide, uniform(1, 10**6).cdf).pvalue > 1e-3
    assert kstest((high / wide).log(), uniform(log(0.3), -2 * log(0.3)).cdf).pvalue > 1e-3


def test_blocks_begin_at_any_token_that_leaves_them_within_the_grid() -> None:
    torch.manual_seed(0)
    drawn = [_rectangle(4, 7, 1) for _ in range(3000)]  # of one token, or of two
    corners = [
        7 * rows[0] + columns[0] for rows, columns in drawn if len(rows) == len(columns) == 1
    ]
    assert len(corners) > 500
    assert_even(torch.tensor(corners).bincount(minlength=28))


@pytest.mark.parametrize(("rows", "columns", "count"), GRIDS)
def test_random_tokens_are_as_many_as_they_should(rows: int, columns: int, count: int) -> None:
    method = replace(METHOD, mask="random")
    masks = [method.draw(rows, columns) for _ in range(10)]
    assert [int(mask.sum()) for mask in masks] == 10 * [count]
    assert all(mask.shape == (rows, columns) for mask in masks)


def test_random_tokens_are_all_equally_likely() -> None:
    torch.manual_seed(0)
    method = replace(METHOD, mask="random")
    counts = torch.stack([method.draw(4, 4) for _ in range(4000)]).sum(0)
    assert_even(counts)  # as they sum to a constant, their variance is even less than it allows
    assert len({tuple(method.draw(4, 4).flatten().tolist()) for _ in range(20)}) > 15


@pytest.mark.parametrize("kind", ["block", "random"])
@pytest.mark.parametrize(("size", "side"), [(224, 16), (8, 2)])
def test_every_token_comes_from_one_image_and_the_same_ones_are_pasted(
    kind: Any, size: int, side: int
) -> None:
    torch.manual_seed(0)
    b, pixels = 3, 3 * size * size
    x, y = torch.arange(b * pixels).view(b, 3, size, size).double(), torch.eye(CLASSES)[:3]
    mixed, _ = replace(UNIFORM, mask=kind).mix(means(side), None, x, y)
    assert (mixed % pixels).equal(x % pixels)
    origin = (mixed // pixels).long()
    own = torch.arange(b).view(b, 1, 1, 1)
    assert ((origin == own) | (origin == b - 1 - own)).all()
    pasted = origin[0] == 2
    assert pasted.equal(origin[2] == 0)
    assert pasted.equal(pasted[:1].expand_as(pasted))
    corner = pasted[0, ::side, ::side]
    assert pasted[0].equal(corner.repeat_interleave(side, 0).repeat_interleave(side, 1))
    assert 0 < corner.sum() <= corner.numel() // 2 + round(corner.numel() / 14)


def plain_activations(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """The formula, image by image and token by token."""
    norm: Any = net.get_submodule("pool.1")
    rows = []
    for tokens, target in zip(net.trunk(x), y, strict=True):
        row = []
        for token in tokens[1:]:
            p = net.head(norm(token)).softmax(0)
            kept = p.argsort(descending=True)[:5].tolist()
            row.append(total(target[k] * p[k] for k in kept))
        rows.append(torch.stack(row) / (total(row) + 1e-8))
    return torch.stack(rows).detach()


@pytest.mark.parametrize("soft", [True, False])
def test_the_activation_is_the_teachers_probability_of_the_class_at_each_token(soft: bool) -> None:
    torch.manual_seed(0)
    net, (x, y) = vit().eval(), batch(6)
    if soft:
        y = torch.rand(6, CLASSES).softmax(1)
    a = activations(net, x, y)
    assert_same(a, plain_activations(net, x, y))
    assert a.std() > 1e-4
    assert (a == 0).any() != soft
    assert not a.requires_grad


def test_a_class_that_no_token_shows_is_not_activated() -> None:
    torch.manual_seed(0)
    net, (x, _) = means(2), batch(2)
    with torch.no_grad():
        net.head.weight.zero_()  # type: ignore[operator]
        net.head.bias.copy_(torch.arange(8.0))  # type: ignore[operator]
    a = activations(net, x, torch.eye(CLASSES)[[2, 3]])
    assert_same(a, torch.stack([torch.zeros(16), torch.full((16,), 1 / 16)]), atol=1e-7)


def shares(method: TokenMix, mask: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """s1 and s2, (b,), read from targets without smoothing where no two classes are the same."""
    target = replace(method, smoothing=0).target(mask, a, torch.eye(len(a)))
    return target.diagonal(), target.flip(1).diagonal()


def test_uniform_activation_gives_labels_by_area() -> None:
    torch.manual_seed(0)
    mask = torch.zeros(14, 14, dtype=torch.bool)
    mask[:8] = True  # 112
    own, other = shares(METHOD, mask, torch.full((4, 196), 1 / 196))
    assert_same(own, torch.full((4,), 1 - 112 / 196))
    assert_same(other, torch.full((4,), 112 / 196))
    x, y = batch(4)
    with masked(some_mask()):
        _, target = UNIFORM.mix(vit(), None, x, y)
    expected = (1 - 8 / 16) * y + 8 / 16 * y.flip(0)
    assert_same(target, 0.9 * expected + 0.1 / CLASSES - 0.1 * (expected - (y + y.flip(0)) / 2))


def test_uniform_activation_is_cutmix_by_area() -> None:
    """A rectangle of tokens, cross-entropy and no smoothing: the targets are those of CutMix."""
    torch.manual_seed(0)
    net, (x, y) = vit(), batch(4)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1:3, 0:3] = True
    method = replace(UNIFORM, smoothing=0, criterion="net")
    with masked(mask):
        loss = method.objective(net)(x, y)
    mixed = x.clone()
    mixed[:, :, 2:6, 0:6] = x.flip(0)[:, :, 2:6, 0:6]
    expected = F.cross_entropy(net(mixed), (1 - 6 / 16) * y + 6 / 16 * y.flip(0))
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


def test_activation_on_pasted_or_kept_tokens_alone_gives_all_or_nothing() -> None:
    mask = some_mask()
    pasted = mask.flatten() / mask.sum()
    kept = (~mask).flatten() / (~mask).sum()
    own, other = shares(METHOD, mask, torch.stack([pasted, pasted, kept, kept]))
    assert_same(own, torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert_same(other, torch.tensor([0.0, 0.0, 1.0, 1.0]))


def test_targets_by_hand() -> None:
    """Four tokens, of which the second and the third are pasted; eight classes, smoothed by .16.

    Image 0 keeps .1 + .2 of its own, and gets .4 + .1 of what image 1 is; that keeps .2 + .3, and
    gets .3 + .4. Each label has a half of .16 less, and all classes have .01 twice.
    """
    mask = torch.tensor([[False, True], [True, False]])
    a = torch.tensor([[0.1, 0.3, 0.4, 0.2], [0.2, 0.4, 0.1, 0.3]])
    y = torch.eye(CLASSES)[[5, 0]]
    expected = torch.full((2, CLASSES), 0.02)
    expected[0, [5, 0]] = torch.tensor([0.3 - 0.08 + 0.02, 0.5 - 0.08 + 0.02])
    expected[1, [0, 5]] = torch.tensor([0.5 - 0.08 + 0.02, 0.7 - 0.08 + 0.02])
    assert_same(replace(METHOD, smoothing=0.16).target(mask, a, y), expected)
    # As distributions: shares of .3 : .5 and .5 : .7, of which .84 remain, and .02 to all.
    expected = torch.full((2, CLASSES), 0.02)
    expected[0, [5, 0]] = torch.tensor([0.84 * 3 / 8 + 0.02, 0.84 * 5 / 8 + 0.02])
    expected[1, [0, 5]] = torch.tensor([0.84 * 5 / 12 + 0.02, 0.84 * 7 / 12 + 0.02])
    got = replace(METHOD, smoothing=0.16, criterion="net").target(mask, a, y)
    assert_same(got, expected, atol=1e-7)


@given(seed=st.integers(0, 10**6), b=st.integers(1, 7), smoothing=st.sampled_from([0.0, 0.1]))
@settings(max_examples=40, deadline=None)
def test_the_targets_are_the_formula(seed: int, b: int, smoothing: float) -> None:
    torch.manual_seed(seed)
    mask, a = torch.rand(4, 4) < 0.6, torch.rand(b, 16) ** 3
    a = a / a.sum(1, keepdim=True)
    label = torch.randint(CLASSES, (b,)).tolist()
    target = replace(METHOD, smoothing=smoothing).target(mask, a, torch.eye(CLASSES)[label])
    sums = []
    for i in range(b):
        j, s1, s2 = b - 1 - i, 0.0, 0.0
        for t, pasted in enumerate(mask.flatten().tolist()):
            s1 += 0.0 if pasted else a[i, t].item()
            s2 += a[j, t].item() if pasted else 0.0
        off = smoothing / (2 * CLASSES)
        first, second = [off] * CLASSES, [off] * CLASSES
        first[label[i]] = s1 - smoothing / 2 + off
        second[label[j]] = s2 - smoothing / 2 + off
        assert_same(target[i], torch.tensor(first) + torch.tensor(second))
        assert target[i].sum().item() == pytest.approx(s1 + s2, abs=1e-10)
        sums.append(s1 + s2)
        assert 0 <= s1 + s2 <= 2 + 1e-10
    assert sum(sums) / b == pytest.approx(1, abs=1e-10)
    for i in range(b):
        assert (b % 2 and i == b // 2) or sums[i] + sums[b - 1 - i] == pytest.approx(2, abs=1e-10)


@given(seed=st.integers(0, 10**6), b=st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_for_the_criterion_of_the_network_targets_are_distributions(seed: int, b: int) -> None:
    torch.manual_seed(seed)
    mask, a, y = torch.rand(4, 4) < 0.6, torch.rand(b, 16), torch.rand(b, CLASSES).softmax(1)
    target = replace(METHOD, criterion="net").target(mask, a, y)
    assert target.min() >= 0.1 / CLASSES
    assert_same(target.sum(1), torch.ones(b))
    s1, s2 = a @ (~mask).double().flatten(), (a @ mask.double().flatten()).flip(0)
    first, second = (s1 / (s1 + s2))[:, None], (s2 / (s1 + s2))[:, None]
    assert_same(target, 0.9 * (first * y + second * y.flip(0)) + 0.1 / CLASSES, atol=1e-6)


def test_for_it_the_area_counts_where_nothing_is_activated() -> None:
    own, other = shares(replace(METHOD, criterion="net"), some_mask(), torch.zeros(4, 16))
    assert_same((own, other), (torch.full((4,), 0.5), torch.full((4,), 0.5)))


def test_an_empty_mask_is_the_identity() -> None:
    torch.manual_seed(0)
    net, (x, y) = vit(), batch(4)
    with masked(torch.zeros(4, 4, dtype=torch.bool)):
        mixed, target = replace(UNIFORM, smoothing=0).mix(net, None, x, y)
    assert mixed.equal(x)
    assert_same(target, y)


@pytest.mark.parametrize("criterion", ["bce", "net"])
@pytest.mark.parametrize("b", [1, 4, 5])
def test_the_loss_is_the_formula(b: int, criterion: Any) -> None:
    torch.manual_seed(0)
    net, teacher, (x, y), mask = vit(), vit(), batch(b), some_mask()
    method = TokenMix(p=1.0, criterion=criterion)
    with masked(mask):
        loss = method.objective(net, teacher)(x, y)
    a = plain_activations(teacher, x, y)
    mixed = x.clone()
    for i in range(b):
        for t in range(16):
            if mask.flatten()[t]:
                rows, columns = slice(t // 4 * 2, t // 4 * 2 + 2), slice(t % 4 * 2, t % 4 * 2 + 2)
                mixed[i, :, rows, columns] = x[b - 1 - i, :, rows, columns]
    target, logits = method.target(mask, a, y), net(mixed)
    if criterion == "bce":
        p = 1 / (1 + torch.exp(-logits))
        expected = -(target * p.log() + (1 - target) * (1 - p).log()).sum() / (b * CLASSES)
    else:
        expected = -(target * logits.log_softmax(1)).sum() / b
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x), atol=1e-9)
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_targets_below_zero_give_a_finite_loss() -> None:
    torch.manual_seed(0)
    net, (x, _), mask = vit(), batch(4), some_mask()
    y = torch.eye(CLASSES)[:4]  # no pair is of one class
    pasted = (mask.flatten() / mask.sum()).expand(4, 16)
    target = METHOD.target(mask, torch.stack([*pasted[:2], *pasted[:2] * 0]), y)
    assert target.min() == pytest.approx(-0.1 / 2 + 0.1 / CLASSES, abs=1e-12)
    with masked(mask), patch("mixbench.methods.tokenmix.activations", return_value=pasted * 0):
        loss = METHOD.objective(net, vit())(x, y)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("criterion", ["bce", "net"])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_other_batches_are_those_of_timms_mixup(lam: float, criterion: Any) -> None:
    torch.manual_seed(0)
    net, (x, y) = vit(), batch(6)
    timm: Any = TimmMixup(  # type: ignore[no-untyped-call]
        mixup_alpha=0.8, label_smoothing=0.1, num_classes=CLASSES
    )
    with patch.object(timm, "_params_per_batch", return_value=(lam, False)):
        mixed, target = timm(x.detach().clone(), y.argmax(1))
    with patch("mixbench.methods._reversed.beta", return_value=torch.tensor(lam)) as draw:
        loss = TokenMix(p=0.0, criterion=criterion).objective(net, vit())(x, y)
    measure = F.cross_entropy if criterion == "net" else F.binary_cross_entropy_with_logits
    assert_same(loss, measure(net(mixed), target))
    draw.assert_called_once_with(0.8)


@pytest.mark.parametrize("mixed", [True, False])
def test_a_coin_of_p_decides(mixed: bool) -> None:
    torch.manual_seed(0)
    x, y = batch(4)
    objective = TokenMix(p=0.7).objective(vit(), vit())
    with (
        patch("mixbench.methods.tokenmix.chance", return_value=mixed) as coin,
        patch.object(TokenMix, "mix", return_value=(x, y)) as mix,
    ):
        objective(x, y)
    coin.assert_called_once_with(0.7)
    assert mix.called == mixed


def test_p_is_the_share_of_batches_with_tokens() -> None:
    torch.manual_seed(0)
    x, y = batch(2)
    objective = TokenMix(p=0.3).objective(Net(head=nn.Linear(8, CLASSES)), vit())
    with (
        patch.object(TokenMix, "mix", return_value=(x[:, 0, 0], y)) as mixed,
        patch.object(ReversedMixup, "mix", return_value=(x[:, 0, 0], y)) as otherwise,
    ):
        for _ in range(2000):
            objective(x, y)
    assert mixed.call_count + otherwise.call_count == 2000
    assert binomtest(mixed.call_count, 2000, 0.3).pvalue > 1e-3


def test_the_teacher_is_asked_once_for_the_images_as_they_are() -> None:
    torch.manual_seed(0)
    teacher, (x, y) = vit(), batch(4)
    objective = METHOD.objective(vit(), teacher).train()
    asked: list[Tensor] = []
    teacher.get_submodule("pixels").register_forward_pre_hook(lambda _, args: asked.append(args[0]))
    objective(x, y)
    (images,) = asked
    assert images.equal(x)
    assert not any(module.training for module in teacher.modules())


def test_without_a_teacher_it_is_refused_unless_none_is_asked() -> None:
    with pytest.raises(ValueError, match="a network that baseline trained"):
        TokenMix().objective(vit())
    assert not list(UNIFORM.objective(vit()).guide.parameters())  # type: ignore[union-attr]
    assert TokenMix.teacher == "baseline"


def test_a_network_without_tokens_is_refused_with_the_reason() -> None:
    TokenMix().check(vit())
    with pytest.raises(ValueError, match="tokens of a vision transformer with a class token"):
        TokenMix().check(tiny())


@pytest.mark.parametrize("activation", ["teacher", "uniform"])
@pytest.mark.parametrize("kind", ["block", "random"])
def test_the_objective_works_on_the_device_of_the_images(kind: Any, activation: Any) -> None:
    with torch.device("meta"):
        net, teacher, (x, y) = vit(), vit(), batch(6)
    for p in (0.0, 1.0):
        method = TokenMix(p=p, mask=kind, activation=activation)
        with patch("mixbench.methods._reversed.beta", lambda _: torch.rand(())):
            loss = method.objective(net, teacher)(x, y)
        assert loss.is_meta
        assert loss.shape == ()


def test_the_loss_works_under_autocast() -> None:
    torch.manual_seed(0)
    net, teacher, (x, y) = vit().float(), vit().float(), batch(6)
    objective = METHOD.objective(net, teacher)
    with masked(some_mask()):
        exact = objective(x.float(), y.float())
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective(x.float(), y.float())
            _, target = METHOD.mix(net, teacher, x.float(), y.float())
    assert target.dtype == loss.dtype == torch.float32
    sums = target.sum()  # each image adds one or, if its class is nowhere, nothing
    assert abs(sums - sums.round()) < 1e-5
    assert abs(loss - exact) < 0.1 * exact


def test_the_batch_and_the_networks_are_left_as_they_were() -> None:
    torch.manual_seed(0)
    net, teacher, (x, y) = vit(), vit(), batch(5)
    before = x.detach().clone(), y.clone(), [p.clone() for p in teacher.parameters()]
    objective = METHOD.objective(net, teacher)
    for _ in range(3):
        objective(x, y).backward()
    assert x.equal(before[0])
    assert y.equal(before[1])
    assert all(p.equal(old) for p, old in zip(teacher.parameters(), before[2], strict=True))
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_the_defaults_are_those_of_the_official_code() -> None:
    expected = TokenMix(
        p=0.5,
        input_alpha=0.8,
        smoothing=0.1,
        mask="block",
        activation="teacher",
        criterion="bce",
    )
    assert TokenMix() == expected
