"""Multiple interpolations per pair, and the fields of mixup, CutMix and PuzzleMix that make them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from math import log, sqrt
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch
from helpers import (
    assert_even,
    assert_same,
    bare,
    batch,
    cut,
    pair_matrix,
    pairing,
    tiny,
    with_gradients,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor, nn

from mixbench.methods import Method, Net, ratios
from mixbench.methods.cutmix import CutMix
from mixbench.methods.manifold import Manifold
from mixbench.methods.mixup import Mixup
from mixbench.methods.multiple import Multiple
from mixbench.methods.puzzlemix import PuzzleMix

pytestmark = pytest.mark.usefixtures("float64")

PARTNER = [3, 4, 1, 0, 2]
LAMS = [0.9, 0.7, 0.4, 0.15]
ROWS, COLUMNS = [4, 0, 7, 3], [6, 11, 1, 5]  # of centres of boxes
BASES: dict[str, Any] = {
    "mixup": Mixup(),
    "manifold": Manifold(at=("layer1",)),
    "cutmix": CutMix(p=1.0),
    "nested": CutMix(p=1.0, nested=True),
    "puzzlemix": PuzzleMix(),
}
METHODS: dict[str, Any] = {
    "mixup": Mixup(),
    "manifold": Manifold(),
    "cutmix": CutMix(),
    "puzzlemix": PuzzleMix(),
}
each_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)
each_name = pytest.mark.parametrize("name", METHODS)


@contextmanager
def drawn(
    lams: Sequence[float], rows: Sequence[int] = (4,), columns: Sequence[int] = (6,)
) -> Iterator[None]:
    """Let a base draw these ratios, and partners, blocks and centres of boxes that are known.

    Images are 8 x 12, so that it is known what is drawn; there is one stage.
    """
    centres = {1: [0], 8: rows, 12: columns}

    def randint(size: int, shape: tuple[int, ...], **_: object) -> Tensor:
        values = torch.tensor(centres[size])
        return values if shape else values[0]

    lam, partner = torch.tensor(lams), torch.tensor(PARTNER)
    with (
        patch("mixbench.methods.mixup.ratios", return_value=lam),
        patch("mixbench.methods.cutmix.ratios", return_value=lam),
        patch("mixbench.methods.puzzlemix.ratios", return_value=lam),
        patch("mixbench.methods._ops.partners", return_value=partner),
        patch("mixbench.methods.cutmix.partners", return_value=partner),
        patch("mixbench.methods.puzzlemix.partners", return_value=partner),
        patch.object(PuzzleMix, "draw_blocks", lambda *_: 4),
        patch("torch.randint", side_effect=randint),
    ):
        yield


def evaluated(
    method: Method,
    net: Net,
    x: Tensor,
    y: Tensor,
    lams: Sequence[float],
    rows: Sequence[int] = ROWS,
    columns: Sequence[int] = COLUMNS,
) -> list[Tensor]:
    """The loss at these ratios and centres, and its gradients; the network learns no statistics."""
    net = deepcopy(net)
    with drawn(lams, rows, columns):
        return with_gradients(method.loss(net, x, y), net, x)


def separate(base: Any, net: Net, x: Tensor, y: Tensor) -> list[Tensor]:
    """The means of the losses and gradients of the base at each of the ratios."""
    nested = isinstance(base, CutMix) and base.nested
    each = [
        evaluated(base, net, x, y, [lam], *(([r], [c]) if not nested else (ROWS[:1], COLUMNS[:1])))
        for lam, r, c in zip(LAMS, ROWS, COLUMNS, strict=True)
    ]
    return [torch.stack(parts).mean(0) for parts in zip(*each, strict=True)]


@pytest.mark.parametrize("train", [True, False])
@each_name
def test_one_interpolation_is_the_base_to_the_bit(name: Any, train: bool) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().train(train), batch(5)
    for seed in range(4):
        results = []
        for method in (Multiple(base=name, k=1), METHODS[name]):
            torch.manual_seed(seed)
            same = deepcopy(net)
            results.append(with_gradients(method.loss(same, x, y), same, x))
        assert all(a.equal(b) for a, b in zip(*results, strict=True))


@each_name
def test_it_is_the_base_with_that_many(name: Any) -> None:
    assert Multiple(base=name, k=3).method == replace(METHODS[name], k=3)
    assert METHODS[name].k == 1
    assert name == type(METHODS[name]).__name__.lower()


@given(k=st.integers(1, 9), alpha=st.floats(0.1, 5), seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_ratios_descend_within_zero_and_one(k: int, alpha: float, seed: int) -> None:
    torch.manual_seed(seed)
    lam = ratios(alpha, k)
    assert lam.shape == (k,)
    assert (lam.diff() <= 0).all()
    assert lam.min() >= 0
    assert lam.max() <= 1


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0])
def test_before_they_are_sorted_ratios_are_independent_with_the_moments_of_beta(
    alpha: float,
) -> None:
    torch.manual_seed(0)
    n, k, variance = 10_000, 5, 1 / (4 * (2 * alpha + 1))
    lam = torch.stack([ratios(alpha, k) for _ in range(n)])
    assert abs(lam.mean() - 0.5) < 4 * (variance / (n * k)) ** 0.5
    assert abs(lam.var() / variance - 1) < 4 * (2 / (n * k)) ** 0.5
    # they have kurtosis below 3; the mean of k, which sorting does not change, nearly 3
    assert abs(lam.mean(1).var() / (variance / k) - 1) < 4 * (2 / n) ** 0.5
    assert kstest(lam.flatten(), "beta", args=(alpha, alpha)).pvalue > 1e-3


def test_sorted_uniform_ratios_are_order_statistics() -> None:
    torch.manual_seed(0)
    lam, k = torch.stack([ratios(1.0, 4) for _ in range(10_000)]), 4
    for i in range(k):
        assert kstest(lam[:, i], "beta", args=(k - i, i + 1)).pvalue > 1e-3
    assert_even(torch.histc(lam, 20, 0, 1))


@each_base
def test_k_ratios_are_drawn_from_alpha_once_for_the_batch(base: Any) -> None:
    torch.manual_seed(0)
    draws = Mock(wraps=ratios)
    module = "mixup" if isinstance(base, Mixup) else type(base).__module__.rpartition(".")[2]
    with patch(f"mixbench.methods.{module}.ratios", draws):
        replace(base, k=3, alpha=0.7).loss(tiny(), *batch(4))
    draws.assert_called_once_with(0.7, 3)


def test_the_loss_of_two_ratios_worked_out_by_hand() -> None:
    """Images are logits, those of mixtures (3, 2), (1, 6) and twice (2, 4) log 2."""
    x = torch.diag(torch.tensor([4.0, 8.0])).view(2, 2, 1, 1) * log(2)
    lam, partner = torch.tensor([3 / 4, 1 / 2]), torch.tensor([1, 0])
    with (
        patch("mixbench.methods.mixup.ratios", return_value=lam),
        patch("mixbench.methods._ops.partners", return_value=partner),
    ):
        loss = Multiple(k=2).loss(bare(2, nn.Identity()), x, torch.eye(2))
    each = (
        log(2**3 + 2**2) - (3 / 4 * 3 + 1 / 4 * 2) * log(2),
        log(2**1 + 2**6) - (1 / 4 * 1 + 3 / 4 * 6) * log(2),
        log(2**2 + 2**4) - (1 / 2 * 2 + 1 / 2 * 4) * log(2),
        log(2**2 + 2**4) - (1 / 2 * 2 + 1 / 2 * 4) * log(2),
    )
    assert loss.item() == pytest.approx(sum(each) / 4)


@pytest.mark.parametrize("train", [True, False])
@each_base
def test_the_order_of_ratios_does_not_matter(base: Any, train: bool) -> None:
    torch.manual_seed(0)
    net, (x, y), order = tiny().train(train), batch(5, 8, 12), [2, 0, 3, 1]
    method = replace(base, k=4)
    rows, columns = ([each[i] for i in order] for each in (ROWS, COLUMNS))
    if base == BASES["nested"]:
        rows, columns = ROWS, COLUMNS  # of which the first are those of all
    lams = [LAMS[i] for i in order]
    shuffled = evaluated(method, net, x, y, lams, rows, columns)
    assert_same(shuffled, evaluated(method, net, x, y, LAMS))


@pytest.mark.parametrize("train", [True, False])
@each_base
def test_equal_ratios_are_one(base: Any, train: bool) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().train(train), batch(5, 8, 12)
    repeated = evaluated(replace(base, k=4), net, x, y, [0.4] * 4, [3] * 4, [5] * 4)
    assert_same(repeated, evaluated(base, net, x, y, [0.4], [3], [5]))


@each_base
def test_loss_and_gradients_are_means_of_those_of_the_base(base: Any) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().eval(), batch(5, 8, 12)
    joint = evaluated(replace(base, k=4), net, x, y, LAMS)
    assert_same(joint, separate(base, net, x, y))


@each_base
def test_in_train_mode_they_are_not_for_statistics_are_those_of_all(base: Any) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5, 8, 12)
    joint = evaluated(replace(base, k=4), net, x, y, LAMS)
    assert not joint[0].isclose(separate(base, net, x, y)[0], rtol=0, atol=1e-4)


@given(lams=st.lists(st.floats(0, 1), min_size=1, max_size=6), partner=st.permutations(range(5)))
@settings(max_examples=25, deadline=None)
def test_the_mean_mixture_is_mixup_at_the_mean_ratio(lams: list[float], partner: list[int]) -> None:
    torch.manual_seed(0)
    x, y = batch(5)
    k, lam = len(lams), torch.tensor(lams)
    with pairing(0.5, partner), patch("mixbench.methods.mixup.ratios", return_value=lam):
        weights = Mixup(k=k).weights(5)
        mixed, targets = Mixup(k=k).mix(x, y)
    with pairing(lam.mean().item(), partner):
        expected = Mixup().mix(x, y)
    assert_same(weights, torch.cat([pair_matrix(each, partner) for each in lams]), atol=1e-15)
    assert_same(mixed.unflatten(0, (k, 5)).mean(0), expected[0], atol=1e-14)
    assert_same(targets.unflatten(0, (k, 5)).mean(0), expected[1], atol=1e-14)


def test_mixtures_are_a_path_from_each_image_to_its_partner() -> None:
    torch.manual_seed(0)
    x, y = batch(5)
    partner = torch.tensor([1, 2, 3, 4, 0])
    with patch("mixbench.methods._ops.partners", return_value=partner):
        mixed, _ = Mixup(k=6).mix(x, y)
    path = mixed.unflatten(0, (6, 5))
    from_image = (path - x).flatten(2).norm(dim=2)
    from_partner = (path - x[partner]).flatten(2).norm(dim=2)
    assert (from_image.diff(dim=0) > 0).all()
    assert (from_partner.diff(dim=0) < 0).all()
    assert_same(from_image + from_partner, (x - x[partner]).flatten(1).norm(dim=1).expand(6, 5))


@each_base
def test_there_are_k_mixtures_of_each_pair_and_targets_are_distributions(base: Any) -> None:
    torch.manual_seed(0)
    net, (x, y), k = tiny(), batch(5), 3
    seen: list[int] = []
    net.head.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    with patch.object(net, "criterion", wraps=net.criterion) as loss:
        replace(base, k=k).loss(net, x, y)
    logits, targets = loss.call_args.args
    assert seen[-1] == len(logits) == len(targets) == k * 5
    assert targets.min() >= 0
    assert_same(targets.sum(1), torch.ones(k * 5), atol=1e-14)


def pasted(method: CutMix) -> tuple[Tensor, Tensor]:
    """The pixels (k, 8, 12) that come from the partner, and targets (k, 5, 5)."""
    x = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 8, 12)
    mixed, targets = method.mix(x, torch.eye(5))
    source = mixed.unflatten(0, (method.k, 5))
    inside = source != x
    assert source.equal(torch.where(inside, x[PARTNER], x))
    assert inside.equal(inside[:, :1, :1].expand_as(inside))
    return inside[:, 0, 0], targets.unflatten(0, (method.k, 5))


@pytest.mark.parametrize("nested", [True, False])
def test_each_box_of_cutmix_is_that_of_its_ratio(nested: bool) -> None:
    with drawn(LAMS, ROWS, COLUMNS):
        inside, targets = pasted(CutMix(k=4, nested=nested))
    own = torch.arange(5)
    for k, lam in enumerate(LAMS):
        row, column = (ROWS[0], COLUMNS[0]) if nested else (ROWS[k], COLUMNS[k])
        half = int(8 * sqrt(1 - lam)) // 2, int(12 * sqrt(1 - lam)) // 2
        box = torch.zeros(8, 12, dtype=torch.bool)
        for i in range(8):
            for j in range(12):
                box[i, j] = -half[0] <= i - row < half[0] and -half[1] <= j - column < half[1]
        assert inside[k].equal(box)
        area = box.sum() / 96
        assert_same(targets[k, own, own], (1 - area).expand(5), atol=1e-15)
        assert_same(targets[k, own, PARTNER], area.expand(5), atol=1e-15)


@pytest.mark.parametrize("seed", range(20))
def test_nested_boxes_lie_in_each_other_and_less_and_less_is_kept(seed: int) -> None:
    torch.manual_seed(seed)
    partner = torch.tensor(PARTNER)
    with patch("mixbench.methods.cutmix.partners", return_value=partner):
        inside, targets = pasted(CutMix(k=6, nested=True))
    assert (inside[1:] | ~inside[:-1]).all()
    kept = targets[:, 0, 0]
    assert (kept.diff() <= 0).all()
    assert_same(kept, 1 - inside.double().mean((1, 2)), atol=1e-15)


def test_boxes_that_are_not_nested_have_independent_centres() -> None:
    torch.manual_seed(0)
    lam, n = torch.full((2,), 1 - 0.3**2), 2000  # sides 2.4 and 3.6 become 2 and 2
    with (
        patch("mixbench.methods.cutmix.ratios", return_value=lam),
        patch("mixbench.methods.cutmix.partners", return_value=torch.tensor(PARTNER)),
    ):
        boxes = torch.stack([pasted(CutMix(k=2))[0] for _ in range(n)])
    numbers = torch.arange(8 * 12).view(8, 12)
    row, column = torch.unravel_index((boxes * numbers).flatten(2).amax(2), (8, 12))  # n k
    assert_even(torch.bincount(row[:, 0] * 8 + row[:, 1], minlength=64))
    assert_even(torch.bincount(column[:, 0] * 12 + column[:, 1], minlength=144))
    assert_even(torch.bincount(row[:, 1] * 12 + column[:, 1], minlength=96))


def test_shares_of_puzzlemix_are_the_targets_and_follow_a_strong_prior() -> None:
    torch.manual_seed(0)
    x = torch.rand(5, 3, 16, 16)
    method, lams = PuzzleMix(k=5, eta=100.0, transport=False), [0.95, 0.75, 0.5, 0.2, 0.05]
    with (
        patch("mixbench.methods.puzzlemix.ratios", return_value=torch.tensor(lams)),
        patch("mixbench.methods.puzzlemix.partners", return_value=torch.tensor(PARTNER)),
    ):
        _, targets = method.mix(x, torch.eye(5), torch.rand(5, 16, 16), (x, x))
    own = targets.unflatten(0, (5, 5)).diagonal(dim1=1, dim2=2)
    # of 0, 1/2 and 1, the likeliest is that with the largest binomial probability at the ratio
    likeliest = torch.tensor([1.0, 1.0, 0.5, 0.0, 0.0])
    assert own.equal(likeliest[:, None].expand(5, 5))


@pytest.mark.parametrize("seed", range(3))
def test_the_area_of_the_mask_of_puzzlemix_is_its_target_for_each_ratio(seed: int) -> None:
    torch.manual_seed(seed)
    x, saliency = (
        torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 16, 16),
        torch.rand(5, 16, 16) ** 9,
    )
    method = PuzzleMix(k=4, blocks=(4, 8), eta=0.05, beta=0.1)
    with patch("mixbench.methods.puzzlemix.partners", return_value=torch.tensor(PARTNER)):
        mixed, targets = method.mix(x, torch.eye(5), saliency, (x, x))
    assert mixed.shape == (4 * 5, 3, 16, 16)
    assert_same(mixed.mean((1, 2, 3)), targets @ torch.arange(5.0), atol=1e-13)
    assert_same(targets.sum(1), torch.ones(4 * 5), atol=1e-14)
    own = targets.unflatten(0, (4, 5)).diagonal(dim1=1, dim2=2)
    assert all(len(each.unique()) > 1 for each in (*own, *own.T))


@pytest.mark.parametrize("k", [1, 2, 6])
def test_puzzlemix_asks_for_saliency_once_whatever_the_number(k: int) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    passes: list[tuple[str, int]] = []
    stem = net.get_submodule("stem")
    stem.register_forward_hook(lambda m, args, out: passes.append(("forward", len(out))))

    def backward(module: nn.Module, inner: object, outer: Any) -> None:
        passes.append(("backward", len(outer[0])))

    stem.register_full_backward_hook(backward)
    loss = Multiple(base="puzzlemix", k=k).loss(net, x, y)
    assert passes == [("forward", 5), ("backward", 5), ("forward", 5 * k)]
    loss.backward()
    assert passes[3:] == [("backward", 5 * k)]


@pytest.mark.parametrize("k", [1, 3])
def test_manifold_mixup_computes_clean_features_once_and_mixes_them_at_one_stage(k: int) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    seen: dict[str, int] = {}
    for stage in ("stem", "layer1", "layer2", "layer3"):
        net.get_submodule(stage).register_forward_hook(
            lambda module, args, out, stage=stage: seen.update({stage: len(out)})
        )
    counts = set()
    for _ in range(30):
        Multiple(base="manifold", k=k).loss(net, x, y)
        counts.add(tuple(seen.values()))
    clean, mixed = 5, 5 * k
    assert counts == {
        (mixed, mixed, mixed, mixed),
        (clean, clean, mixed, mixed),
        (clean, clean, clean, mixed),
    }


def test_the_mixtures_of_manifold_mixup_are_those_of_its_features() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    with drawn(LAMS):
        loss = Manifold(at=("layer1",), k=4).loss(net, x, y)
    below, above = cut(net, "layer1")
    z = below(x)
    logits = above(torch.cat([lam * z + (1 - lam) * z[PARTNER] for lam in LAMS]))
    targets = torch.cat([lam * y + (1 - lam) * y[PARTNER] for lam in LAMS])
    expected = nn.functional.cross_entropy(logits, targets)
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


@pytest.mark.parametrize("base", [Mixup(), CutMix(p=1.0)], ids=["mixup", "cutmix"])
def test_of_one_set_of_pairs_the_variance_over_draws_falls_as_one_over_k(base: Any) -> None:
    """That of each parameter's gradient; five standard errors of a ratio of variances."""
    torch.manual_seed(0)
    n, k, partner = 1500, 5, torch.tensor([1, 2, 3, 0])
    net = Net(pixels=nn.Identity(), pool=nn.Flatten(), head=nn.Linear(48, 3))
    x, y = torch.rand(4, 3, 4, 4), torch.eye(3)[[0, 1, 2, 0]]

    parameters = list(net.parameters())

    def gradients(method: Method) -> Tensor:
        rows = [torch.autograd.grad(method.loss(net, x, y), parameters) for _ in range(n)]
        return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])

    with (
        patch("mixbench.methods._ops.partners", return_value=partner),
        patch("mixbench.methods.cutmix.partners", return_value=partner),
    ):
        one, many = (gradients(replace(base, k=each)) for each in (1, k))
    ratio = one.var(0) / (k * many.var(0))
    error = ((kurtosis(one) - 1) / n + (kurtosis(many) - 1) / n).sqrt()
    assert error.max() < 0.12
    assert ((ratio - 1).abs() < 5 * error).all()
    means = one.mean(0) - many.mean(0)
    assert (means.abs() < 5 * ((one.var(0) + many.var(0)) / n).sqrt()).all()


def kurtosis(draws: Tensor) -> Tensor:
    """Of each column."""
    off = draws - draws.mean(0)
    return off.pow(4).mean(0) / off.square().mean(0).square()


def test_what_the_base_refuses_is_refused() -> None:
    net = Net(pixels=nn.Identity(), blocks=nn.Identity(), pool=nn.Identity(), head=nn.Identity())
    for name in METHODS:
        Multiple(base=name).check(tiny())  # type: ignore[arg-type]
    Multiple(base="mixup").check(net)
    with pytest.raises(ValueError, match="no stage 'layer1'"):
        Multiple(base="manifold").check(net)


@pytest.mark.parametrize("values", [{"base": "augmix"}, {"k": 0}])
def test_other_bases_and_no_interpolation_at_all_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Multiple(**values)


def test_the_defaults_are_five_interpolations_of_mixup() -> None:
    assert Multiple() == Multiple(base="mixup", k=5)
    assert CutMix() == CutMix(p=0.5, alpha=1.0, k=1, nested=False)
