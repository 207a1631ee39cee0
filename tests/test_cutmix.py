"""CutMix."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise, product
from math import log, sqrt
from unittest.mock import patch

import pytest
import torch
from helpers import assert_even, assert_same, bare, batch, tiny, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, chisquare
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.methods import ratios
from mixbench.methods.baseline import Baseline
from mixbench.methods.cutmix import CutMix

pytestmark = pytest.mark.usefixtures("float64")


@contextmanager
def at_ratio(lam: float) -> Iterator[None]:
    with patch("mixbench.methods.cutmix.ratios", return_value=torch.tensor([lam])):
        yield


@contextmanager
def at_centre(height: int, width: int, centre: tuple[int, int]) -> Iterator[None]:
    """Let the centre be drawn there; height and width have to differ, so that they are known."""
    drawn = {1: 0, height: centre[0], width: centre[1]}  # 1 is the number of stages
    assert len(drawn) == 3
    with patch(
        "torch.randint", side_effect=lambda size, shape, **_: torch.full(shape, drawn[size])
    ):
        yield


@contextmanager
def swapping() -> Iterator[None]:
    """Let the images of a batch of two be each other's partner."""
    with patch("mixbench.methods.cutmix.partners", return_value=torch.tensor([1, 0])):
        yield


def box(height: int, width: int) -> tuple[Tensor, float]:
    """The pixels that are pasted, (height, width), and the target's weight of the image."""
    z = torch.zeros(2, 1, height, width)
    z[1] = 1
    with swapping():
        mixed, targets = CutMix().mix(z, torch.eye(2))
    return mixed[0, 0] == 1, targets[0, 0].item()


@pytest.mark.parametrize(
    ("lam", "centre", "rows", "columns"),
    [
        (0.75, (4, 6), range(2, 6), range(3, 9)),
        (0.75, (0, 0), range(2), range(3)),
        (0.75, (7, 11), range(5, 8), range(8, 12)),
        (0.75, (4, 11), range(2, 6), range(8, 12)),
        (0.0, (4, 6), range(8), range(12)),
        (0.0, (0, 6), range(4), range(12)),
        (1e-4, (4, 6), range(1, 7), range(1, 11)),  # sides 7 and 11 become 6 and 10
        (0.91, (4, 6), range(3, 5), range(5, 7)),  # sides 2.4 and 3.6 become 2 and 2
        (0.96, (4, 6), range(0), range(0)),  # sides 1.6 and 2.4 become 0 and 2
        (1.0, (4, 6), range(0), range(0)),
    ],
)
def test_the_box_is_the_one_worked_out_by_hand(
    lam: float, centre: tuple[int, int], rows: range, columns: range
) -> None:
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[rows.start : rows.stop, columns.start : columns.stop] = True
    with at_ratio(lam), at_centre(8, 12, centre):
        pasted, kept = box(8, 12)
    assert pasted.equal(expected)
    assert kept == pytest.approx(1 - len(rows) * len(columns) / 96, abs=1e-15)


def test_a_ratio_just_above_zero_leaves_a_border() -> None:
    with at_ratio(1e-4), patch("torch.randint", return_value=torch.tensor([16])):
        pasted, kept = box(32, 32)
    assert pasted.sum() == pasted[1:31, 1:31].sum() == 900
    assert kept == pytest.approx(1 - 900 / 1024, abs=1e-15)


@given(
    lam=st.floats(0, 1),
    height=st.integers(2, 20),
    width=st.integers(21, 40),
    where=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
)
@settings(max_examples=60, deadline=None)
def test_the_box_is_no_larger_than_drawn_and_even_unless_clipped(
    lam: float, height: int, width: int, where: tuple[float, float]
) -> None:
    centre = int(height * where[0]), int(width * where[1])
    with at_ratio(lam), at_centre(height, width, centre):
        pasted, kept = box(height, width)
    assert kept == pytest.approx(1 - pasted.double().mean().item(), abs=1e-12)
    assert pasted.sum() <= (1 - lam) * height * width + 1e-6
    halves = [int(size * sqrt(1 - lam)) // 2 for size in (height, width)]
    if all(
        half <= c <= size - half
        for half, c, size in zip(halves, centre, (height, width), strict=True)
    ):
        assert pasted.sum() == 4 * halves[0] * halves[1]
    rows, columns = pasted.any(1), pasted.any(0)
    assert pasted.equal(rows[:, None] & columns)


@pytest.mark.parametrize("seed", range(10))
def test_every_pixel_is_that_of_one_source_at_the_same_place(seed: int) -> None:
    torch.manual_seed(seed)
    b, pixels = 5, 3 * 6 * 10
    x = torch.arange(b * pixels).view(b, 3, 6, 10).double()
    partner = torch.tensor([1, 2, 3, 4, 0])
    with patch("mixbench.methods.cutmix.partners", return_value=partner):
        mixed, targets = CutMix().mix(x, torch.eye(b))
    assert (mixed % pixels).equal(x % pixels)
    source, own = mixed.long() // pixels, torch.arange(b)
    pasted = source != own.view(b, 1, 1, 1)
    assert source[pasted].equal(partner.view(b, 1, 1, 1).expand_as(source)[pasted])
    assert pasted.equal(pasted[:1, :1].expand_as(pasted))
    area = pasted[0, 0].double().mean()
    assert_same(targets[own, own], (1 - area).expand(b), atol=1e-7)
    assert_same(targets[own, partner], area.expand(b), atol=1e-7)
    assert_same(targets.sum(1), torch.ones(b), atol=1e-15)


def test_the_sum_over_the_batch_is_kept() -> None:
    torch.manual_seed(0)
    x, y = batch(6)
    with at_ratio(0.3):
        mixed, _ = CutMix().mix(x, y)
    assert not mixed.equal(x)
    assert_same(mixed.sum(0), x.sum(0), atol=1e-14)


def test_at_ratio_one_nothing_is_mixed() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(4)
    with at_ratio(1.0):
        mixed, targets = CutMix().mix(x, y)
        loss = CutMix(p=1.0).loss(net, x, y)
    assert mixed.equal(x)
    assert targets.equal(y)
    assert loss.equal(Baseline().loss(net, x, y))


def test_the_loss_is_that_of_both_labels_by_the_area() -> None:
    torch.manual_seed(0)
    net, (x, _), y = tiny(), batch(2, 8, 16), torch.eye(5)[[1, 3]]
    with at_ratio(0.75), at_centre(8, 16, (1, 8)), swapping():
        loss = CutMix(p=1.0).loss(net, x, y)
    pasted = x.clone()
    pasted[:, :, 0:3, 4:12] = x[[1, 0], :, 0:3, 4:12]
    kept, logits = 1 - 24 / 128, net(pasted)
    expected = kept * F.cross_entropy(logits, y)
    expected = expected + (1 - kept) * F.cross_entropy(logits, y[[1, 0]])
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


def test_the_loss_of_two_images_worked_out_by_hand() -> None:
    """The network sees means; the box, of 2 x 4 pixels, loses its upper half at the border."""
    x = torch.diag(torch.tensor([8.0, 16.0]) * log(2)).view(2, 2, 1, 1).expand(2, 2, 4, 8)
    with at_ratio(0.75), at_centre(4, 8, (0, 3)), swapping():
        loss = CutMix(p=1.0).loss(bare(2, nn.Identity()), x, torch.eye(2))
    each = (
        log(2**7 + 2**2) - (7 / 8 * 7 + 1 / 8 * 2) * log(2),
        log(2**1 + 2**14) - (1 / 8 * 1 + 7 / 8 * 14) * log(2),
    )
    assert loss.item() == pytest.approx(sum(each) / 2)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_one_ratio_is_drawn_for_the_whole_batch_from_alpha(alpha: float) -> None:
    with patch("mixbench.methods.cutmix.ratios", wraps=ratios) as draws:
        CutMix(alpha=alpha).mix(*batch(4))
    draws.assert_called_once_with(alpha, 1)


def kept_areas(size: int) -> Tensor:
    """The kept share of 20 000 draws; images without channels make them fast."""
    torch.manual_seed(0)
    x, y = torch.empty(2, 0, size, size), torch.eye(2)
    with swapping():
        return torch.stack([CutMix().mix(x, y)[1][0, 0] for _ in range(20_000)])


def test_the_kept_area_has_the_known_distribution_at_32() -> None:
    kept = kept_areas(32)
    assert abs(kept.mean() - 0.70) < 0.01
    assert kept.min() >= 1 - (30 / 32) ** 2 - 1e-12
    assert abs((kept == 1).double().mean() - 1 / 256) < 4 * (1 / 256 / 20_000) ** 0.5


def test_the_kept_area_has_the_known_mean_at_224() -> None:
    assert abs(kept_areas(224).mean() - 0.68) < 0.01


def areas(alpha: float, height: int, width: int) -> dict[int, float]:
    """How likely a box has each number of pixels, side by side and centre by centre."""
    ends = sorted({i / n for n in (height, width) for i in range(n + 1)})
    ratio, found = beta(alpha, alpha), dict[int, float]()
    for low, high in pairwise(ends):
        likely = ratio.cdf(1 - low**2) - ratio.cdf(1 - high**2)
        halves = [int(n * (low + high) / 2) // 2 for n in (height, width)]
        for centre in product(range(height), range(width)):
            rows, columns = (
                min(c + half, n) - max(c - half, 0)
                for c, half, n in zip(centre, halves, (height, width), strict=True)
            )
            area = rows * columns
            found[area] = found.get(area, 0) + likely / (height * width)
    return found


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_the_area_has_the_distribution_that_follows_from_ratio_and_centre(alpha: float) -> None:
    torch.manual_seed(0)
    n, expected = 3000, areas(alpha, 4, 6)
    x, y = torch.empty(2, 0, 4, 6), torch.eye(2)
    with swapping():
        pasted = [round(24 * CutMix(alpha=alpha).mix(x, y)[1][0, 1].item()) for _ in range(n)]
    counts = Counter(pasted)
    assert counts.keys() <= expected.keys()
    assert n * min(expected.values()) > 5
    assert (
        chisquare([counts[a] for a in expected], [n * p for p in expected.values()]).pvalue > 1e-3
    )


def test_all_centres_are_equally_likely() -> None:
    torch.manual_seed(0)
    counts = torch.zeros(6, 10)
    with at_ratio(1 - 0.36**2):  # sides 2.2 and 3.6 become 2 and 2: the last pixel is the centre
        for _ in range(6000):
            pasted, _ = box(6, 10)
            counts[tuple(pasted.nonzero().max(0).values)] += 1
    assert_even(counts)


def test_the_defaults_are_those_of_the_paper_for_cifar() -> None:
    assert CutMix() == CutMix(at=("pixels",), p=0.5, alpha=1.0)
