"""PuzzleMix."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from itertools import product
from math import comb, log, sqrt
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch
from helpers import CLASSES, assert_even, assert_same, bare, batch, cross_entropy, tiny, total
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, kstest
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.methods import Net, partners, ratios
from mixbench.methods._graphcut import energy, grid_labels
from mixbench.methods.puzzlemix import PuzzleMix, enlarged, pooled, sources

pytestmark = pytest.mark.usefixtures("float64")

MODULE = "mixbench.methods.puzzlemix"
Block = tuple[int, int]
Borders = dict[tuple[Block, Block], list[list[float]]]


@contextmanager
def drawing(ratio: Sequence[float], partner: Sequence[int]) -> Iterator[None]:
    """Let PuzzleMix draw these ratios and partners."""
    with (
        patch(f"{MODULE}.ratios", return_value=torch.tensor(ratio)),
        patch(f"{MODULE}.partners", return_value=torch.tensor(partner)),
    ):
        yield


@contextmanager
def sharing(z: Tensor) -> Iterator[Mock]:
    """Let ``z`` (k, b, n, n) be the shares; images then have to be cut into n x n blocks."""
    with patch.object(PuzzleMix, "shares", return_value=z) as shares:
        yield shares


@contextmanager
def watching() -> Iterator[list[tuple[tuple[Tensor, ...], Tensor]]]:
    """What the solver is given, and the labels that it finds, call by call."""
    solved: list[tuple[tuple[Tensor, ...], Tensor]] = []

    def solve(*grids: Tensor) -> Tensor:
        costs, right, down = grids
        solved.append((grids, grid_labels(costs, right, down)))
        return solved[-1][1]

    with patch(f"{MODULE}.grid_labels", solve):
        yield solved


@contextmanager
def recording(module: nn.Module) -> Iterator[list[Tensor]]:
    """What the module sees, call by call."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    yield seen
    handle.remove()


def example(
    seed: int, b: int = 4, h: int = 8, w: int = 8, n: int = 4
) -> tuple[Tensor, Tensor, list[int]]:
    """Images with coarse and fine structure, saliency of their n x n blocks, and partners."""
    torch.manual_seed(seed)
    coarse = F.interpolate(torch.rand(b, 3, 2, 2), (h, w), mode="bilinear")
    x = (0.7 * coarse + 0.3 * torch.rand(b, 3, h, w)).clamp(0, 1)
    return x, pooled(torch.randn(b, h, w).exp(), n), torch.randperm(b).tolist()


def blocks_of(n: int) -> list[Block]:
    return [(i, j) for i in range(n) for j in range(n)]


# Section by section, the energy and the transport, as loops.


def borders(one: Tensor, two: Tensor, n: int, border: int) -> Borders:
    """D_ab of the two images (3, h, w) on each border between two of n x n blocks."""
    _, h, w = one.shape
    fine = min(border, h // n, w // n)
    images = [averaged(image, fine) for image in (one, two)]
    rows, columns = h // n // fine, w // n // fine
    found = {}
    for r, c in blocks_of(n):
        down, right = (
            [(r + 1) * rows - 1, (r + 1) * rows],
            [(c + 1) * columns - 1, (c + 1) * columns],
        )
        if r + 1 < n:
            places = [((down[0], j), (down[1], j)) for j in range(c * columns, (c + 1) * columns)]
            found[(r, c), (r + 1, c)] = contrasts(images, places)
        if c + 1 < n:
            places = [((i, right[0]), (i, right[1])) for i in range(r * rows, (r + 1) * rows)]
            found[(r, c), (r, c + 1)] = contrasts(images, places)
    return found


def averaged(image: Tensor, fine: int) -> list[list[list[float]]]:
    _, h, w = image.shape
    return [
        [
            [channel[i : i + fine, j : j + fine].mean().item() for j in range(0, w, fine)]
            for i in range(0, h, fine)
        ]
        for channel in image.detach()
    ]


def contrasts(images: Sequence[Any], places: list[tuple[Block, Block]]) -> list[list[float]]:
    """The mean absolute difference of images a and b, for each a and b, at pairs of places."""
    return [
        [
            sum(
                abs(a[channel][i][j] - b[channel][k][m])
                for channel in range(3)
                for (i, j), (k, m) in places
            )
            / (3 * len(places))
            for b in images
        ]
        for a in images
    ]


def literal_energy(
    method: PuzzleMix, label: Tensor, s1: Tensor, s2: Tensor, d: Borders, lam: float
) -> float:
    """The energy of labels (n, n), 0 where the image is shown and most where its partner is."""
    n, steps = len(label), method.labels - 1
    t = {(r, c): label[r, c].item() / steps for r, c in blocks_of(n)}
    smooth = method.beta / (16 * n)
    weight = smooth * method.gamma
    value = 0.0
    for block in blocks_of(n):
        u1, u2 = s2[block].item(), s1[block].item()
        for (one, other), ((d11, d12), (d21, d22)) in d.items():
            if block == one:
                u1 += weight * (d11 + d12) / 2
                u2 += weight * (d22 + d21) / 2
            if block == other:
                u1 += weight * (d11 + d21) / 2
                u2 += weight * (d22 + d12) / 2
        k = round(t[block] * steps)
        p = comb(steps, k) * lam ** (steps - k) * (1 - lam) ** k
        value += (1 - t[block]) * u1 + t[block] * u2 - method.eta / n**2 * log(p + 1e-8)
    for (one, other), ((d11, d12), (d21, d22)) in d.items():
        value += (t[one] - t[other]) ** 2 * (smooth + weight * (d12 + d21 - d11 - d22) / 2)
    return value


def all_labels(labels: int, n: int) -> Tensor:
    return torch.tensor(list(product(range(labels), repeat=n * n))).view(-1, n, n)


def resolution(method: PuzzleMix, n: int) -> float:
    """By how much the energy of what the solver finds can exceed the least.

    A block's cost is rounded by at most 1/2, and a weight too, times at most (labels - 1)^2; the
    energies of both labellings can be off by all of that.
    """
    steps = method.labels - 1
    return (n * n + 2 * n * (n - 1) * steps**2) / (1000 * n * n * steps**2)


def plan(saliency: Tensor, wanted: Tensor, price: float) -> dict[int, int]:
    """Which patch, in reading order, each place gets, by the loops of the official code."""
    n = len(saliency)
    s, shown = saliency.flatten().tolist(), wanted.flatten().tolist()
    places = blocks_of(n)
    cost = [
        [
            price * ((r - i) ** 2 + (c - j) ** 2) / (n - 1) ** 2 - s[source] * shown[target]
            for target, (i, j) in enumerate(places)
        ]
        for source, (r, c) in enumerate(places)
    ]
    won: dict[int, int] = {}
    for _ in range(n):
        pick = [row.index(min(row)) for row in cost]
        won = {}
        for column in set(pick):
            masked = [cost[i][column] if pick[i] == column else 0.0 for i in range(n * n)]
            winner = masked.index(min(masked))
            if pick[winner] == column:
                won[column] = winner
        for i, column in enumerate(pick):
            if won.get(column) != i:
                cost[i][column] += 1
    return won


def transported(image: Tensor, saliency: Tensor, z: Tensor, method: PuzzleMix) -> Tensor:
    """The image (3, h, w) with patches moved to where its share ``z`` (n, n) is positive.

    A patch that the plan leaves empty, where none is shown or nothing is salient, stays.
    """
    n, (_, h, w) = len(z), image.shape
    block = min(h, w) // n
    count = n * (block // min(method.patch or block, block))
    tall, wide = h // count, w // count
    patches = [
        (slice(i * tall, i * tall + tall), slice(j * wide, j * wide + wide))
        for i, j in blocks_of(count)
    ]
    part = torch.stack([saliency[rows, columns].sum() for rows, columns in patches])
    shown = torch.stack([z[i * n // count, j * n // count] > 0 for i, j in blocks_of(count)])
    won = plan((part / part.sum()).view(count, -1), shown.view(count, -1), method.distance)
    moved = image.clone()
    for target, source in won.items():
        if shown[target]:
            moved[:, *patches[target]] = image[:, *patches[source]]
    return moved


def by_pixel(z: Tensor, h: int, w: int) -> Tensor:
    """The shares of n x n blocks at each of h x w pixels."""
    n = len(z)
    return torch.stack(
        [torch.stack([z[i * n // h, j * n // w] for j in range(w)]) for i in range(h)]
    )


# Labels.

variants = {
    "default": PuzzleMix(),
    "two labels": PuzzleMix(labels=2),
    "five labels": PuzzleMix(labels=5, border=2),
    "no smoothness": PuzzleMix(beta=0.0, border=1),
    "no pixels": PuzzleMix(gamma=0.0),
    "pixels alone": PuzzleMix(gamma=1.0, beta=3.0, border=8),
    "no prior": PuzzleMix(eta=0.0, labels=4),
}
each_variant = pytest.mark.parametrize("method", variants.values(), ids=variants)


@each_variant
@pytest.mark.parametrize(("n", "h", "w"), [(1, 8, 8), (2, 8, 8), (4, 8, 8), (8, 8, 8), (2, 8, 16)])
def test_the_solver_is_given_the_energy_of_the_paper(
    method: PuzzleMix, n: int, h: int, w: int
) -> None:
    x, s, partner = example(0, 4, h, w, n)
    ratio, steps = [0.8, 0.05], method.labels - 1
    with watching() as solved:
        z = method.shares((x, x[partner]), s, torch.tensor(partner), torch.tensor(ratio))
    ((grids, found),) = solved
    assert z.flatten(0, 1).equal(1 - found / steps)
    for label in torch.randint(method.labels, (3, 8, n, n)):
        expected = [
            literal_energy(
                method, label[4 * r + i], s[i], s[j], borders(x[i], x[j], n, method.border), lam
            )
            for r, lam in enumerate(ratio)
            for i, j in enumerate(partner)
        ]
        costs, right, down = grids
        given = energy(label, costs, right, down) / (1000 * n * n * steps**2)
        assert_same(given, torch.tensor(expected))


@each_variant
@pytest.mark.parametrize("seed", range(3))
def test_of_all_labellings_none_has_less_energy(method: PuzzleMix, seed: int) -> None:
    x, s, partner = example(seed, n=2)
    if method.labels > 4:
        method = replace(method, labels=4)
    ratio, choices = torch.rand(2), all_labels(method.labels, 2)
    z = method.shares((x, x[partner]), s, torch.tensor(partner), ratio)
    steps, certain = method.labels - 1, 0
    for i, j in enumerate(partner):
        d = borders(x[i], x[j], 2, method.border)
        for lam, share in zip(ratio.tolist(), z[:, i], strict=True):
            values = [literal_energy(method, label, s[i], s[j], d, lam) for label in choices]
            label = (steps * (1 - share)).round().long()
            chosen = values[int((choices == label).all((1, 2)).nonzero())]
            least, second = sorted(values)[:2]
            assert chosen <= least + resolution(method, 2)
            if second > least + resolution(method, 2):
                assert chosen == least
                certain += 1
    assert certain >= 4  # of 8


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [2, 3])
def test_for_two_labels_the_energy_is_what_is_lost_and_what_does_not_fit(n: int, seed: int) -> None:
    x, s, partner = example(seed, h=12, w=12, n=n)
    method = PuzzleMix(labels=2, eta=0.0, gamma=0.7, border=2)
    with watching() as solved:
        method.shares((x, x[partner]), s, torch.tensor(partner), torch.tensor([0.5]))
    ((costs, right, down), _), smooth = solved[0], 1.2 / (16 * n)
    for label in (
        torch.randint(2, (8, 4, n, n)) if n > 2 else all_labels(2, 2)[:, None].expand(-1, 4, 2, 2)
    ):
        given = energy(label, costs, right, down) / (1000 * n * n)
        for i, j in enumerate(partner):
            at = {block: int(label[i][block]) for block in blocks_of(n)}
            expected = sum((s[i] if at[block] else s[j])[block].item() for block in blocks_of(n))
            for (one, other), d in borders(x[i], x[j], n, 2).items():
                expected += smooth * (at[one] != at[other])
                expected += smooth * 0.7 * (d[at[one]][at[other]] + (d[0][1] + d[1][0]) / 2)
            assert given[i].item() == pytest.approx(expected, abs=1e-10)


by_hand_cases = {  # of the weight w = beta / 32 * 3 / 2 between neighbours that show all of either
    "what is salient": (PuzzleMix(labels=2, beta=1.2), [[1, 1], [0, 0]]),  # 0.6 + 2 w: 0.7125
    "smooth": (PuzzleMix(labels=2, beta=6.0), [[1, 1], [1, 1]]),  # 1, and not 0.6 + 2 w: 1.1625
    "half": (PuzzleMix(labels=3, beta=1.2), [[1, 0.5], [0.5, 0]]),  # 0.7 + w: 0.75625, prior 0.2079
    "no prior": (PuzzleMix(labels=3, beta=1.2, eta=0.0), [[1, 1], [0, 0]]),
    "dear": (PuzzleMix(labels=3, beta=24.0), [[0.5, 0.5], [0.5, 0.5]]),  # 1, prior 0.1386
}


@pytest.mark.parametrize("case", by_hand_cases)
def test_shares_of_four_blocks_are_those_worked_out_by_hand(case: str) -> None:
    """A black image whose blocks have 0.4, 0.3, 0.2 and 0.1 of its saliency, and a white one with
    0.1, 0.2, 0.3 and 0.4: so much is lost of either where the other is shown. Both differ on all
    borders by 1, so that gamma = 1/2 adds half to beta / 32. At the ratio 1/2, a label of three
    costs eta / 4 = 0.05 times log 4, log 2 or log 4; at 0.51 as much, and a little less for black.
    """
    method, z = by_hand_cases[case]
    x = torch.zeros(2, 3, 8, 8)
    x[1] = 1
    s = torch.tensor([[[0.4, 0.3], [0.2, 0.1]], [[0.1, 0.2], [0.3, 0.4]]])
    share = method.shares((x, x.flip(0)), s, torch.tensor([1, 0]), torch.tensor([0.51]))
    assert share[0, 0].tolist() == z


@given(seed=st.integers(0, 10**6), gamma=st.floats(0, 1), extreme=st.booleans())
@settings(max_examples=30, deadline=None)
def test_weights_are_never_negative(seed: int, gamma: float, extreme: bool) -> None:
    x, s, partner = example(seed)
    if extreme:
        x = x.round()
    with watching() as solved:
        PuzzleMix(gamma=gamma, border=1).shares(
            (x, x[partner]), s, torch.tensor(partner), torch.rand(1)
        )
    assert all(part.min() >= 0 for part in solved[0][0])


@pytest.mark.parametrize("labels", [2, 3, 4])
def test_shares_are_the_levels_that_labels_allow(labels: int) -> None:
    x, s, partner = example(0, 8, 16, 16, 8)
    z = PuzzleMix(labels=labels).shares((x, x[partner]), s, torch.tensor(partner), torch.rand(2))
    assert z.shape == (2, 8, 8, 8)
    assert_same(z.unique(), torch.linspace(0, 1, labels), atol=1e-15)


@pytest.mark.parametrize("n", [2, 4, 8, 16])
@pytest.mark.parametrize("eta", [0.2, 0.5])
def test_at_ratios_one_and_zero_one_image_is_shown(n: int, eta: float) -> None:
    torch.manual_seed(0)
    x, s = torch.rand(8, 3, 32, 32), pooled(0.5 + torch.rand(8, 32, 32), n)
    z = PuzzleMix(eta=eta).shares(
        (x, x.flip(0)), s, torch.arange(8).flip(0), torch.tensor([1.0, 0.0])
    )
    assert z[0].eq(1).all()
    assert z[1].eq(0).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("labels", [2, 3])
def test_without_smoothness_and_prior_the_most_salient_is_shown(seed: int, labels: int) -> None:
    x, s, partner = example(seed, 8, 16, 16, 8)
    method = PuzzleMix(eta=0.0, beta=0.0, labels=labels)
    (z,) = method.shares((x, x[partner]), s, torch.tensor(partner), torch.tensor([0.5]))
    lead = s - s[partner]
    sure = lead.abs() > 2 / (1000 * 64)  # more than integers can blur
    assert sure.double().mean() > 0.5
    assert z[sure].equal((lead > 0)[sure].double())


@pytest.mark.parametrize("seed", range(3))
def test_with_much_smoothness_each_image_has_one_share(seed: int) -> None:
    x, s, partner = example(seed, 8, 16, 16, 4)
    method = PuzzleMix(beta=500.0, gamma=0.0)
    z = method.shares((x, x[partner]), s, torch.tensor(partner), torch.tensor([0.9, 0.5, 0.1]))
    assert z.equal(z[..., :1, :1].expand_as(z))
    assert z[:, 0, 0, 0].tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("seed", range(5))
def test_on_the_way_to_the_partner_no_block_turns_back(seed: int) -> None:
    x, s, partner = example(seed, 8, 16, 16, 4)
    path = ratios(1.0, 9)
    z = PuzzleMix().shares((x, x[partner]), s, torch.tensor(partner), path)
    assert z.diff(dim=0).le(0).all()
    assert z.diff(dim=0).any()


# Transport.


def some_wanted(n: int, cases: int) -> Tensor:
    """Where masks of a few kinds are positive, (cases, n, n)."""
    density = torch.rand(cases, 1, 1) ** 2
    noise, half = torch.rand(cases, n, n) < density, torch.arange(n) < n * density
    return torch.where(torch.rand(cases, 1, 1) < 0.5, noise, half.expand(-1, n, n))


def some_salient(n: int, cases: int) -> Tensor:
    """Saliency (cases, n, n) that is even, or on few blocks, or on two, each with sum one."""
    log = torch.randn(2, cases, n * n) * torch.linspace(0.1, 8, cases)[:, None]
    return log.softmax(2).mean(0).view(-1, n, n)


@pytest.mark.parametrize(
    ("n", "cases", "price"),
    [
        (4, 200, 0.8),
        (8, 200, 0.8),
        (2, 30, 0.8),
        (4, 60, 0.05),
        (8, 30, 0.05),
        (3, 300, 0.3),
        (3, 30, 5.0),
    ],
)
def test_patches_come_from_where_the_loops_of_the_official_code_take_them(
    n: int, cases: int, price: float
) -> None:
    torch.manual_seed(n)
    saliency, wanted = some_salient(n, cases), some_wanted(n, cases)
    found, moves = sources(saliency, wanted, price), 0
    assert found.shape == (cases, n * n)
    for i in range(cases):
        won = plan(saliency[i], wanted[i], price)
        places = wanted[i].flatten().nonzero().flatten().tolist()
        assert won.keys() >= {*places}  # every place that is shown is filled
        assert [found[i, j].item() for j in places] == [won[j] for j in places]
        assert len({*won.values()}) == len(won)
        moves += sum(won[j] != j for j in places)
    assert (moves > 0) == (price < 1)


@pytest.mark.parametrize("price", [0.8, 0.02, 0.0])
def test_so_they_do_where_much_is_equal(price: float) -> None:
    torch.manual_seed(0)
    few = torch.randint(3, (60, 4, 4)) / 16 * (torch.rand(60, 4, 4) < torch.rand(60, 1, 1))
    few[:, 0, 0] = 1 / 16  # at cost 0 the first patch, alone, would win in the official code
    wanted = some_wanted(4, 60)
    found = sources(few, wanted, price)
    for i in range(60):
        won = plan(few[i], wanted[i], price)
        for j in wanted[i].flatten().nonzero().flatten().tolist():
            assert found[i, j] == won.get(j, j)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 6),
    price=st.floats(1e-3, 100),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=40, deadline=None)
def test_no_patch_is_shown_twice(seed: int, n: int, price: float, dtype: torch.dtype) -> None:
    torch.manual_seed(seed)
    saliency, wanted = some_salient(n, 5).to(dtype), some_wanted(n, 5)
    for source, shown in zip(sources(saliency, wanted, price), wanted.flatten(1), strict=True):
        assert len(source[shown].unique()) == shown.sum()


@pytest.mark.parametrize("n", [2, 4, 8])
def test_far_patches_that_cost_much_stay(n: int) -> None:
    torch.manual_seed(0)
    saliency, wanted = some_salient(n, 30), some_wanted(n, 30)
    saliency[:, 0, 0] = 0
    stay = torch.arange(n * n).expand(30, -1)
    shown = wanted.flatten(1)
    assert sources(saliency, wanted, 1e6)[shown].equal(stay[shown])


def test_where_nothing_is_salient_patches_stay() -> None:
    wanted = torch.ones(3, 4, 4, dtype=torch.bool)
    assert sources(torch.zeros(3, 4, 4), wanted, 0.8).equal(torch.arange(16).expand(3, -1))


def test_a_salient_patch_moves_to_the_nearest_place_where_it_is_shown() -> None:
    saliency = torch.full((1, 4, 4), 0.01)
    saliency[0, 1, 0] = 0.85
    wanted = torch.zeros(1, 4, 4, dtype=torch.bool)
    wanted[0, :, 2:] = True
    source = sources(saliency, wanted, 0.8).view(4, 4)
    assert source[1, 2] == 4
    assert source[:, 3].tolist() == [3, 7, 11, 15]
    assert source[[0, 2, 3], 2].tolist() == [2, 10, 14]


def test_a_patch_that_loses_its_place_goes_to_the_next_best() -> None:
    saliency = torch.full((1, 3, 3), 0.05 / 7)
    saliency[0, 0, :2] = torch.tensor([0.45, 0.5])
    wanted = torch.zeros(1, 3, 3, dtype=torch.bool)
    wanted[0, 1:, 1] = True  # both prefer the centre: at -0.3 and -0.425, rather than at -0.075
    assert sources(saliency, wanted, 0.3).view(3, 3)[1:, 1].tolist() == [1, 0]


# Mixing.


def some_shares(k: int, b: int, n: int) -> Tensor:
    return torch.randint(5, (k, b, n, n)) / 4


def mixed(
    method: PuzzleMix, z: Tensor, x: Tensor, y: Tensor, saliency: Tensor, partner: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Images and targets for given shares (k, b, n, n) and partners."""
    with drawing([0.5] * len(z), partner), sharing(z):
        return replace(method, blocks=(z.shape[-1],), k=len(z)).mix(x, y, saliency, (x, x))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("n", "h", "w"), [(1, 8, 8), (2, 8, 8), (4, 8, 8), (8, 8, 8), (4, 8, 12)])
def test_without_transport_pixels_are_mixed_where_they_are(n: int, h: int, w: int, k: int) -> None:
    x, _, partner = example(0, 4, h, w, n)
    z, y = some_shares(k, 4, n), torch.eye(4)
    method = PuzzleMix(transport=False)
    images, targets = mixed(method, z, x, y, torch.rand(4, h, w), partner)
    expected = [
        by_pixel(z[r, i], h, w) * x[i] + (1 - by_pixel(z[r, i], h, w)) * x[j]
        for r in range(k)
        for i, j in enumerate(partner)
    ]
    assert_same(images, torch.stack(expected), atol=1e-15)
    masses = [
        z[r, i].mean() * y[i] + (1 - z[r, i].mean()) * y[j]
        for r in range(k)
        for i, j in enumerate(partner)
    ]
    assert_same(targets, torch.stack(masses), atol=1e-15)


@pytest.mark.parametrize(
    ("n", "patch_side", "h", "w"),
    [
        (2, None, 8, 8),
        (2, 4, 8, 8),
        (2, 2, 8, 8),
        (2, 1, 8, 8),
        (4, 4, 8, 8),
        (4, 1, 8, 8),
        (8, 4, 16, 16),
        (2, 4, 16, 16),
        (4, 4, 8, 12),
        (2, 2, 12, 8),
    ],
)
@pytest.mark.parametrize("distance", [0.8, 0.05])
def test_patches_are_moved_and_mixed_as_in_loops(
    n: int, patch_side: int | None, h: int, w: int, distance: float
) -> None:
    x, _, partner = example(1, 4, h, w, n)
    z, saliency = some_shares(2, 4, n), (2 * torch.randn(4, h, w)).exp()
    method = PuzzleMix(patch=patch_side, distance=distance)
    images, _ = mixed(method, z, x, torch.eye(4), saliency, partner)
    expected, still = [], []
    for share in z:
        for i, j in enumerate(partner):
            mask = by_pixel(share[i], h, w)
            own = transported(x[i], saliency[i], share[i], method)
            other = transported(x[j], saliency[j], 1 - share[i], method)
            expected.append(mask * own + (1 - mask) * other)
            still.append(mask * x[i] + (1 - mask) * x[j])
    assert_same(images, torch.stack(expected), atol=1e-15)
    if distance < 0.1:
        assert (images - torch.stack(still)).abs().max() > 0.1


@given(seed=st.integers(0, 10**6), n=st.sampled_from([1, 2, 4, 8]), transport=st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_target_is_the_area_that_each_image_is_shown_on(
    seed: int, n: int, transport: bool
) -> None:
    torch.manual_seed(seed)
    level = torch.tensor([0.0, 0.25, 0.5, 1.0])
    x, partner = level.view(4, 1, 1, 1).expand(4, 3, 8, 8), [1, 2, 3, 0]
    method = PuzzleMix(blocks=(n,), transport=transport)
    with patch(f"{MODULE}.partners", return_value=torch.tensor(partner)):
        images, targets = method.mix(x, torch.eye(4), torch.rand(4, 8, 8), (x, x))
    area = (images[:, 0] - level[partner].view(4, 1, 1)) / (level - level[partner]).view(4, 1, 1)
    assert_same(area * 2, (area * 2).round(), atol=1e-12)
    own = torch.arange(4)
    assert_same(targets[own, own], area.mean((1, 2)), atol=1e-12)
    assert_same(targets[own, partner], 1 - area.mean((1, 2)), atol=1e-12)
    assert_same(targets.sum(1), torch.ones(4), atol=1e-12)


def test_soft_targets_are_mixed_like_others() -> None:
    x, _, partner = example(0)
    y, z = torch.rand(4, CLASSES).softmax(1), some_shares(1, 4, 2)
    _, targets = mixed(PuzzleMix(), z, x, y, torch.rand(4, 8, 8), partner)
    share = z[0].mean((1, 2))[:, None]
    assert_same(targets, share * y + (1 - share) * y[partner], atol=1e-15)


def test_moved_images_differ_from_others_unless_moving_costs_much() -> None:
    x, _, partner = example(0, 4, 16, 16)
    z, saliency = some_shares(1, 4, 4), (3 * torch.randn(4, 16, 16)).exp()
    still, cheap, dear = (
        mixed(method, z, x, torch.eye(4), saliency, partner)[0]
        for method in (PuzzleMix(transport=False), PuzzleMix(), PuzzleMix(distance=1e9))
    )
    assert dear.equal(still)
    assert not cheap.equal(still)


@pytest.mark.parametrize("method", [PuzzleMix(transport=False), PuzzleMix(distance=1e9)])
def test_an_image_mixed_with_itself_is_itself(method: PuzzleMix) -> None:
    x, _, _ = example(0)
    with patch(f"{MODULE}.partners", return_value=torch.arange(4)):
        images, targets = method.mix(x, torch.eye(4), torch.rand(4, 8, 8), (x, x))
    assert images.equal(x)
    assert targets.equal(torch.eye(4))


@pytest.mark.parametrize("factor", [2.0**-30, 3.7, 2.0**20])
def test_only_relative_saliency_matters(factor: float) -> None:
    x, _, _ = example(0, 6, 16, 16)
    saliency, seen = (2 * torch.randn(6, 16, 16)).exp(), []
    for each in (saliency, factor * saliency):
        torch.manual_seed(0)
        seen.append(PuzzleMix(blocks=(4,)).mix(x, torch.eye(6), each, (x, x)))
    assert_same(seen[0], seen[1], atol=0)


def test_images_of_which_nothing_is_salient_are_mixed_too() -> None:
    x, _, _ = example(0)
    images, targets = PuzzleMix().mix(x, torch.eye(4), torch.zeros(4, 8, 8), (x, x))
    assert images.isfinite().all()
    assert_same(targets.sum(1), torch.ones(4), atol=1e-12)
    assert pooled(torch.zeros(4, 8, 8), 2).equal(torch.zeros(4, 2, 2))


def test_blocks_are_parts_of_the_whole_saliency() -> None:
    saliency = torch.rand(3, 8, 12)
    found = pooled(saliency, 4)
    for i, (r, c) in product(range(3), blocks_of(4)):
        part = saliency[i, 2 * r : 2 * r + 2, 3 * c : 3 * c + 3].sum() / saliency[i].sum()
        assert_same(found[i, r, c], part, atol=1e-15)
    assert_same(enlarged(found, torch.empty(3, 3, 8, 12))[1, 0], by_pixel(found[1], 8, 12), atol=0)


# Draws.


def test_blocks_are_drawn_evenly_from_those_that_divide_the_images() -> None:
    torch.manual_seed(0)
    drawn = [PuzzleMix().draw_blocks(torch.empty(1, 3, 16, 24)) for _ in range(3000)]
    assert {*drawn} == {2, 4, 8}
    assert_even(torch.tensor([drawn.count(n) for n in (2, 4, 8)]))
    assert {PuzzleMix().draw_blocks(torch.empty(1, 3, 32, 32)) for _ in range(99)} == {2, 4, 8, 16}
    assert {PuzzleMix(blocks=(3, 5)).draw_blocks(torch.empty(1, 3, 9, 6)) for _ in range(9)} == {3}


@pytest.mark.parametrize("size", [(7, 8), (8, 7), (9, 9)])
def test_images_that_no_blocks_divide_are_refused(size: tuple[int, int]) -> None:
    objective = PuzzleMix().objective(tiny())
    with pytest.raises(ValueError, match=r"no blocks of \(2, 4, 8, 16\) divide images of \("):
        objective(*batch(2, *size))


def test_blocks_that_are_drawn_are_those_of_the_masks() -> None:
    torch.manual_seed(0)
    objective, sizes = PuzzleMix().objective(tiny()), set()
    for _ in range(30):
        with watching() as solved:
            objective(*batch(2))
        sizes.add(solved[0][0][0].shape)
    assert sizes == {(2, 3, n, n) for n in (2, 4, 8)}


@pytest.mark.parametrize(("alpha", "k"), [(1.0, 1), (0.2, 3)])
def test_ratios_and_partners_are_drawn_once_for_the_batch(alpha: float, k: int) -> None:
    with (
        patch(f"{MODULE}.ratios", wraps=ratios) as ratio,
        patch(f"{MODULE}.partners", wraps=partners) as partner,
    ):
        PuzzleMix(alpha=alpha, k=k).objective(tiny())(*batch(4))
    ratio.assert_called_once_with(alpha, k)
    partner.assert_called_once_with(4)


@pytest.mark.parametrize("clean", [0.0, 1.0])
@pytest.mark.parametrize("adversarial", [0.0, 1.0])
@pytest.mark.parametrize("k", [1, 4])
def test_the_network_is_asked_once_for_saliency_and_once_for_all_mixtures(
    k: int, adversarial: float, clean: float
) -> None:
    torch.manual_seed(0)
    net, method = tiny(), PuzzleMix(k=k, adversarial=adversarial, clean=clean)
    with (
        recording(net.head) as embeddings,
        patch.object(PuzzleMix, "shares", autospec=True, side_effect=PuzzleMix.shares) as shares,
    ):
        method.objective(net)(*batch(3)).backward()
    assert [len(each) for each in embeddings] == [3, 3 * k]
    path = shares.call_args.args[4]
    assert path.shape == (k,)
    assert path.equal(path.sort(descending=True).values)


@pytest.mark.parametrize(("alpha", "k"), [(1.0, 1), (0.3, 2)])
def test_ratios_follow_the_beta_distribution_and_partners_are_drawn_evenly(
    alpha: float, k: int
) -> None:
    torch.manual_seed(0)
    x, y, method = (
        torch.rand(3, 3, 2, 2),
        torch.eye(3),
        PuzzleMix(alpha=alpha, k=k, transport=False),
    )
    with sharing(torch.zeros(k, 3, 2, 2)) as shares:
        for _ in range(1200):
            method.mix(x, y, x[:, 0], (x, x))
    drawn = [call.args[2:] for call in shares.call_args_list]
    lam = torch.cat([ratio for _, ratio in drawn])
    assert kstest(lam.numpy(), beta(alpha, alpha).cdf).pvalue > 1e-3
    codes, counts = torch.stack([partner for partner, _ in drawn]).unique(dim=0, return_counts=True)
    assert len(codes) == 6
    assert_even(counts)


# Perturbed images.


@pytest.mark.parametrize("eps", [10 / 255, 0.3])
def test_noise_is_uniform_and_leaves_images_in_range(eps: float) -> None:
    torch.manual_seed(0)
    x = torch.rand(50, 3, 16, 16)
    noise = PuzzleMix(eps=eps).noise(x)
    assert noise.abs().max() <= eps + 1e-15
    assert (x + noise).min() >= -1e-15
    assert (x + noise).max() <= 1 + 1e-15
    inside = noise[(x > eps) & (x < 1 - eps)]
    assert_even(torch.histc(inside, 20, -eps, eps))
    clamped = PuzzleMix(eps=eps).noise(torch.zeros(50, 3, 16, 16)) == 0
    assert abs(clamped.double().mean() - 0.5) < 4 * sqrt(0.25 / clamped.numel())


def test_the_attack_steps_along_the_gradient_by_a_random_share() -> None:
    torch.manual_seed(0)
    method, noise, gradient = (
        PuzzleMix(eps=0.1),
        0.1 * torch.rand(2, 3, 4, 4),
        torch.randn(2, 3, 4, 4),
    )
    gradient[0, 0] = 0
    step = 0.1 + 2 / 255
    whole = [
        max(-0.1, min(0.1, e + step * ((g > 0) - (g < 0))))
        for e, g in zip(noise.flatten().tolist(), gradient.flatten().tolist(), strict=True)
    ]
    shares = []
    for _ in range(400):
        part = method.attack(noise, gradient)
        shares.append((part.sum() / sum(whole)).item())
        assert_same(part.flatten(), shares[-1] * torch.tensor(whole), atol=1e-12)
    assert_even(torch.histc(torch.tensor(shares), 8, 0, 1))
    assert noise.abs().max() <= 0.1


def sides(method: PuzzleMix, x: Tensor, y: Tensor, net: Net) -> tuple[Tensor, Tensor]:
    """By how much pixels shown of images, and of partners, differ from the batch's."""
    z = torch.zeros(1, len(x), 2, 2)
    z[..., 0] = 1  # images on the left, partners on the right
    method = replace(method, blocks=(2,), transport=False)
    with drawing([0.5], [*range(1, len(x)), 0]), sharing(z), recording(net) as seen:
        method.objective(net)(x, y)
    half = x.shape[3] // 2
    left, right = seen[0].split(half, 3)
    return left - x[..., :half], right - x.roll(-1, 0)[..., half:]


@pytest.mark.parametrize("probability", [0.5, 0.2])
def test_sides_are_perturbed_independently_at_the_given_rate(probability: float) -> None:
    torch.manual_seed(0)
    net, (x, y), counts, draws = bare(3), batch(2), torch.zeros(2, 2), 400
    for _ in range(draws):
        own, other = sides(PuzzleMix(adversarial=probability), x.detach(), y, net)
        counts[int(own.any()), int(other.any())] += 1
    p = torch.tensor([1 - probability, probability])
    expected = p[:, None] * p
    spread = (expected * (1 - expected) / draws).sqrt()
    assert ((counts / draws - expected).abs() < 4 * spread).all()


@pytest.mark.parametrize("seed", range(3))
def test_perturbed_pixels_are_near_and_in_range(seed: int) -> None:
    torch.manual_seed(seed)
    (x, y), eps = batch(4), 0.2
    x = x.detach().round(decimals=1)
    own, other = sides(PuzzleMix(adversarial=1.0, eps=eps), x, y, tiny())
    for noise, clean in ((own, x[..., :4]), (other, x.roll(-1, 0)[..., 4:])):
        assert 0 < noise.abs().max() <= eps + 1e-12
        assert (clean + noise).min() >= -1e-12
        assert (clean + noise).max() <= 1 + 1e-12


def test_partners_are_shown_with_their_own_noise() -> None:
    torch.manual_seed(0)
    (x, y), net = batch(4), tiny()
    with (
        patch.object(PuzzleMix, "attack", return_value=torch.arange(4).view(4, 1, 1, 1) / 100),
        patch.object(PuzzleMix, "noise", return_value=torch.zeros(4, 3, 8, 8)),
    ):
        own, other = sides(PuzzleMix(adversarial=1.0), x.detach() / 2, y, net)
    assert_same(own, (torch.arange(4) / 100).view(4, 1, 1, 1).expand_as(own), atol=1e-15)
    assert_same(other, own.roll(-1, 0), atol=1e-15)


@pytest.mark.parametrize("perturbed", [(True, True), (True, False), (False, True), (False, False)])
def test_saliency_is_that_of_noisy_images_and_borders_are_of_clean_ones(
    perturbed: tuple[bool, bool],
) -> None:
    torch.manual_seed(0)
    net, (x, y), noise = tiny(), batch(4), 0.01 * torch.randn(4, 3, 8, 8)
    x, partner = x.detach(), [1, 2, 3, 0]
    shares = patch.object(PuzzleMix, "shares", autospec=True, side_effect=PuzzleMix.shares)
    with (
        drawing([0.5], partner),
        patch(f"{MODULE}.chance", side_effect=perturbed),
        patch.object(PuzzleMix, "noise", return_value=noise),
        recording(net.get_submodule("pixels")) as seen,
        shares as given,
    ):
        PuzzleMix(adversarial=0.5).objective(net)(x, y)
    assert len(seen) == 2
    assert seen[0].equal(x + noise if any(perturbed) else x)
    own, other = given.call_args.args[1]
    assert own.equal(x)
    assert other.equal(x[partner])


# The whole.


def by_hand(
    method: PuzzleMix,
    net: Net,
    x: Tensor,
    y: Tensor,
    ratio: Sequence[float],
    partner: Sequence[int],
    noise: Tensor,
    share_of_step: float,
    perturbed: tuple[bool, bool],
) -> Tensor:
    """The loss with 2 x 2 blocks, and with noise, if any, of which the attack takes a step."""
    gradient, clean = asked(net, (x + noise).detach(), y, method.clean)
    saliency = torch.stack([(g**2).mean(0).sqrt() for g in gradient])
    step = (method.eps + 2 / 255) * gradient.sign()
    noise = share_of_step * (noise + step).clamp(-method.eps, method.eps)
    shown = [(x + noise).clamp(0, 1) if side else x for side in perturbed]
    images, targets = [], []
    for lam in ratio:
        for i, j in enumerate(partner):
            z = best_shares(method, x[i], x[j], saliency[i], saliency[j], lam)
            mask, own, other = by_pixel(z, *x.shape[2:]), shown[0][i], shown[1][j]
            if method.transport:
                own = transported(own, saliency[i], z, method)
                other = transported(other, saliency[j], 1 - z, method)
            images.append(mask * own + (1 - mask) * other)
            targets.append(z.mean() * y[i] + (1 - z.mean()) * y[j])
    terms = [cross_entropy(*each) for each in zip(net(torch.stack(images)), targets, strict=True)]
    return total(terms) / len(terms) + clean


def asked(net: Net, x: Tensor, y: Tensor, clean: float) -> tuple[Tensor, Tensor]:
    """The gradient for normalised pixels, and the loss of the batch as it is, times ``clean``."""
    net.train(clean > 0)
    stages = list(net.children())
    z = stages[0](x).detach().requires_grad_()
    logits: Tensor = z
    for stage in stages[1:]:
        logits = stage(logits)
    loss = total(cross_entropy(*each) for each in zip(logits, y, strict=True)) / len(x)
    (gradient,) = torch.autograd.grad(loss, z, retain_graph=True)
    net.train()
    return gradient, clean * loss if clean else torch.zeros(())


def best_shares(
    method: PuzzleMix, one: Tensor, two: Tensor, salient: Tensor, other: Tensor, lam: float
) -> Tensor:
    """The shares (2, 2) of least energy, which has to be the least by more than integers blur."""
    choices, d = all_labels(method.labels, 2), borders(one, two, 2, method.border)
    s1, s2 = (torch.stack([p.sum() for p in quarters(s)]).view(2, 2) for s in (salient, other))
    s1, s2 = s1 / s1.sum(), s2 / s2.sum()
    values = torch.tensor([literal_energy(method, each, s1, s2, d, lam) for each in choices])
    least, second = values.sort().values[:2]
    assert second - least > resolution(method, 2)
    return 1 - choices[values.argmin()] / (method.labels - 1)


def quarters(image: Tensor) -> list[Tensor]:
    return [part for rows in image.chunk(2) for part in rows.chunk(2, 1)]


wholes = {
    "default": PuzzleMix(),
    "two labels": PuzzleMix(labels=2),
    "still": PuzzleMix(transport=False),
    "fine patches": PuzzleMix(patch=2, distance=0.3, border=1),
    "led by saliency": PuzzleMix(labels=2, beta=0.0, eta=0.0, patch=1, distance=0.01),
    "clean loss": PuzzleMix(clean=1.0, patch=None),
    "some clean loss": PuzzleMix(clean=0.3, patch=1),
    "three per pair": PuzzleMix(k=3, clean=0.5, eta=1.0, beta=0.5),
    "perturbed": PuzzleMix(adversarial=0.1),
    "much perturbed, and clean loss": PuzzleMix(adversarial=0.1, eps=0.4, clean=1.0, patch=2),
}


@pytest.mark.parametrize(
    ("method", "perturbed"),
    [
        pytest.param(method, (own, other), id=f"{name}-{own:d}{other:d}")
        for name, method in wholes.items()
        for own, other in product([False, True], repeat=2)
        if method.adversarial or not (own or other)
    ],
)
def test_the_loss_is_that_of_the_formulas(method: PuzzleMix, perturbed: tuple[bool, bool]) -> None:
    torch.manual_seed(2)
    net, (x, y), partner = tiny(), batch(3), [2, 0, 1]
    ratio = [0.9, 0.55, 0.2][: method.k]
    twin, method = deepcopy(net), replace(method, blocks=(2,))
    noise = method.noise(x).detach() if any(perturbed) else torch.zeros_like(x)
    with (
        drawing(ratio, partner),
        patch(f"{MODULE}.chance", side_effect=perturbed),
        patch.object(PuzzleMix, "noise", return_value=noise),
        patch("torch.rand", return_value=torch.tensor(0.6)),
    ):
        loss = method.objective(net)(x, y)
    expected = by_hand(method, twin, x, y, ratio, partner, noise, 0.6, perturbed)
    assert_same(loss, expected)
    found, own = [
        torch.autograd.grad(each, [*model.parameters(), *([] if method.clean else [x])])
        for each, model in ((loss, net), (expected, twin))
    ]
    assert_same(found, own, atol=1e-9)
    assert_same(dict(net.named_buffers()), dict(twin.named_buffers()))


@pytest.mark.parametrize("clean", [0.3, 1.0])
def test_the_clean_loss_is_added(clean: float) -> None:
    torch.manual_seed(0)
    (x, y), losses = batch(4), []
    net = tiny().eval()  # so that saliency is the same with and without
    for method in (PuzzleMix(), PuzzleMix(clean=clean)):
        torch.manual_seed(1)
        losses.append(method.objective(net)(x, y))
    parameters = list(net.parameters())
    expected = clean * total(cross_entropy(*each) for each in zip(net(x), y, strict=True)) / 4
    assert_same(losses[1] - losses[0], expected)
    assert_same(
        torch.autograd.grad(losses[1] - losses[0], parameters),
        torch.autograd.grad(expected, parameters),
    )


def test_without_a_clean_loss_saliency_leaves_no_trace() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(4)
    twin = deepcopy(net)
    with recording(net) as seen:
        loss = PuzzleMix().objective(net)(x, y)
    assert all(p.grad is None for p in net.parameters())
    twin(seen[0])
    assert_same(dict(net.named_buffers()), dict(twin.named_buffers()), atol=0)
    assert loss.requires_grad


@pytest.mark.parametrize(
    "values",
    [
        {"labels": 1},
        {"gamma": 1.1},
        {"beta": -1.0},
        {"eta": -0.1},
        {"border": 0},
        {"patch": 0},
        {"blocks": (0,)},
        {"clean": -1.0},
        {"adversarial": 1.1},
        {"k": 0},
        {"alpha": 0.0},
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        PuzzleMix(**values)


def test_the_defaults_are_those_of_the_official_code_for_cifar() -> None:
    assert PuzzleMix() == PuzzleMix(
        alpha=1.0,
        blocks=(2, 4, 8, 16),
        labels=3,
        beta=1.2,
        gamma=0.5,
        eta=0.2,
        border=4,
        transport=True,
        patch=4,
        distance=0.8,
        clean=0.0,
        adversarial=0.0,
        eps=10 / 255,
        k=1,
    )
