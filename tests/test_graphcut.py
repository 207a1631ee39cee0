"""Labels of least energy on grids."""

from itertools import combinations, product
from math import prod
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from torch import Tensor

from mixbench.methods import _graphcut, _pushing
from mixbench.methods._graphcut import TOGETHER, cut_labels, energy, grid_labels
from mixbench.methods._pushing import FAR, ROUNDS, begun, pushed, pushed_labels, relaxed

Grids = tuple[Tensor, Tensor, Tensor]
LIMIT = 2**27  # of the sum of what a grid is given


def random_grids(seed: int, n: int, labels: int, h: int, w: int, top: int) -> Grids:
    """Integer costs, of which no label's is convex but by chance, and weights, up to ``top``."""
    torch.manual_seed(seed)
    shapes = ((n, labels, h, w), (n, h, w - 1), (n, h - 1, w))
    costs, right, down = (torch.randint(top + 1, shape) for shape in shapes)
    weak = torch.randint(1, 9, (n, 1, 1))  # so that neither costs nor weights always win
    return costs, right // weak, down // weak


def realistic_grids(seed: int, n: int, labels: int, side: int) -> Grids:
    """Costs and weights of the size that PuzzleMix makes of images with smooth saliency."""
    torch.manual_seed(seed)
    log = torch.nn.functional.interpolate(torch.randn(2, n, 3, 3), (side, side), mode="bicubic")
    saliency = (2 * log).flatten(2).softmax(2).view(2, n, side, side)
    ratio, share = torch.rand(n, 1), torch.linspace(1, 0, labels)
    prior = (ratio - share).square()[..., None, None] / side**2
    share = share.view(-1, 1, 1)
    costs = share * saliency[1, :, None] + (1 - share) * saliency[0, :, None] + prior
    right, down = torch.rand(n, side, side - 1), torch.rand(n, side - 1, side)
    scale = 1000 * side**2
    return scale * (labels - 1) ** 2 * costs, scale * right / 8 / side, scale * down / 8 / side


def rounded(grids: Grids) -> Grids:
    costs, right, down = (part.round().long() for part in grids)
    return costs, right, down


def energies(labels: Tensor, grids: Grids) -> Tensor:
    """The energy of each grid, (n,), by loops over cells and neighbours."""
    costs, right, down = (part.tolist() for part in grids)
    _, h, w = labels.shape
    found = []
    for i, label in enumerate(labels.tolist()):
        value = sum(costs[i][label[r][c]][r][c] for r, c in product(range(h), range(w)))
        for r, c in product(range(h), range(w - 1)):
            value += right[i][r][c] * (label[r][c] - label[r][c + 1]) ** 2
        for r, c in product(range(h - 1), range(w)):
            value += down[i][r][c] * (label[r][c] - label[r + 1][c]) ** 2
        found.append(value)
    return torch.tensor(found)


def least(grids: Grids) -> Tensor:
    """The least energy of each grid, (n,): cell by cell, over all labels of the last w cells."""
    costs, right, down = grids
    n, labels, h, w = costs.shape
    square = (torch.arange(labels)[:, None] - torch.arange(labels)).square()
    table = torch.zeros(n, *[labels] * w, dtype=costs.dtype)  # by the last cell of each column
    for i, j in product(range(h), range(w)):
        table = table.movedim(1 + j, -1)
        if i:
            paid = down[:, i - 1, j].view(-1, *[1] * (w + 1)) * square
            table = (table[..., None, :] + paid).amin(-1)
        table = table + costs[:, :, i, j].view(n, *[1] * (w - 1), labels)
        table = table.movedim(-1, 1 + j)
        if j:
            paid = right[:, i, j - 1].view(-1, *[1] * w) * square
            table = (table.movedim((j, 1 + j), (-2, -1)) + paid).movedim((-2, -1), (j, 1 + j))
    return table.flatten(1).amin(1)


@given(
    seed=st.integers(0, 10**6),
    labels=st.integers(2, 4),
    h=st.integers(1, 3),
    w=st.integers(1, 3),
    top=st.sampled_from([1, 3, 20, 10**4]),
)
@settings(max_examples=40, deadline=None)
def test_of_all_labellings_none_has_less_energy_and_of_the_least_it_is_the_lowest(
    seed: int, labels: int, h: int, w: int, top: int
) -> None:
    if labels ** (h * w) > 4**6:
        h = w = 2
    grids = random_grids(seed, 1, labels, h, w, top)
    choices = torch.tensor(list(product(range(labels), repeat=h * w))).view(-1, h, w)
    costs, right, down = (part.expand(len(choices), *part.shape[1:]) for part in grids)
    values = energies(choices, (costs, right, down))
    found = grid_labels(*grids)
    assert energies(found, grids) == values.min() == least(grids)
    assert found[0].equal(choices[values == values.min()].amin(0))


@given(
    seed=st.integers(0, 10**6),
    labels=st.integers(2, 4),
    h=st.integers(1, 7),
    w=st.integers(1, 5),
    top=st.sampled_from([1, 3, 20, 10**5]),
)
@settings(max_examples=60, deadline=None)
def test_no_energy_is_less_on_larger_grids_either(
    seed: int, labels: int, h: int, w: int, top: int
) -> None:
    grids = random_grids(seed, 3, labels, h, w, top)
    assert energies(grid_labels(*grids), grids).equal(least(grids))


@pytest.mark.parametrize(
    ("labels", "side", "n"), [(2, 8, 20), (3, 2, 20), (3, 4, 20), (3, 8, 8), (4, 6, 10)]
)
def test_nor_on_grids_as_puzzlemix_makes_them(labels: int, side: int, n: int) -> None:
    grids = realistic_grids(0, n, labels, side)
    found = grid_labels(*grids)
    assert energies(found, rounded(grids)).equal(least(rounded(grids)))
    assert found.unique().tolist() == list(range(labels))


def test_nor_on_one_that_is_wider() -> None:
    grids = realistic_grids(0, 1, 2, 12)
    assert energies(grid_labels(*grids), rounded(grids)).equal(least(rounded(grids)))


@pytest.mark.parametrize("labels", [2, 3, 4])
@pytest.mark.parametrize("concentration", [0.05, 1.0])
def test_values_of_a_grid_may_sum_to_the_limit(labels: int, concentration: float) -> None:
    torch.manual_seed(0)
    n, shapes = TOGETHER, ((labels, 3, 3), (3, 2), (2, 3))
    sizes = [prod(shape) for shape in shapes]
    share = torch.distributions.Dirichlet(torch.full((n, sum(sizes)), concentration)).sample()
    values = (LIMIT * share.double()).floor().long().split(sizes, 1)
    grids = tuple(part.view(n, *shape) for part, shape in zip(values, shapes, strict=True))
    assert len(grids) == 3
    found = grid_labels(*(part.double() for part in grids))
    assert energies(found, grids).equal(least(grids))


def test_more_grids_than_fit_into_one_graph_are_solved_as_each_alone() -> None:
    grids = random_grids(0, 2 * TOGETHER + 3, 3, 4, 3, 20)
    alone = [grid_labels(*(part[i : i + 1] for part in grids)) for i in range(len(grids[0]))]
    with patch.object(_graphcut, "_graph", wraps=_graphcut._graph) as graph:
        together = grid_labels(*grids)
    assert [len(call.args[0]) for call in graph.call_args_list] == [TOGETHER, TOGETHER, 3]
    assert together.equal(torch.cat(alone))
    assert energies(together, grids).equal(least(grids))


def test_grids_of_one_shape_after_another_are_not_confused() -> None:
    shapes = [(3, 3, 4, 3), (3, 3, 3, 4), (3, 4, 3, 3), (3, 2, 4, 3), (1, 3, 4, 3), (3, 3, 4, 3)]
    for n, labels, h, w in shapes:
        grids = random_grids(1, n, labels, h, w, 20)
        found = grid_labels(*grids)
        assert found.shape == (n, h, w)
        assert found.dtype == torch.int64
        assert energies(found, grids).equal(least(grids))


def leftover(grids: Grids, rounds: int) -> tuple[Tensor, Tensor]:
    """Labels after so many rounds, and the excess of each grid that could still reach the goal."""
    _, _, h, w = grids[0].shape
    flow = begun(*grids)
    for _ in range(rounds):
        flow = pushed(flow)
    distance = [torch.full_like(left, FAR) for left in flow.goal]
    for _ in range(h * w * len(distance)):
        distance = relaxed(flow.room, flow.goal, distance)
    reached = torch.stack(distance).view(-1, len(grids[0]), h, w) < FAR
    rest = torch.stack(flow.excess).view(reached.shape) * reached
    return reached.sum(0), rest.transpose(0, 1).flatten(1).sum(1)


def integers(grids: Grids) -> Grids:
    costs, right, down = (part.round().int() for part in grids)
    return costs, right, down


@given(
    seed=st.integers(0, 10**6),
    labels=st.integers(2, 4),
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    top=st.sampled_from([0, 1, 3, 20, 10**5]),
)
@settings(max_examples=60, deadline=None)
def test_pushing_finds_the_same_labels(seed: int, labels: int, h: int, w: int, top: int) -> None:
    grids = integers(random_grids(seed, 5, labels, h, w, top))
    with patch.object(_pushing, "ROUNDS", 40):  # what is random all over needs more
        assert pushed_labels(*grids).equal(cut_labels(*grids))


@pytest.mark.parametrize(("labels", "side", "n"), [(3, 2, 64), (3, 4, 64), (2, 8, 32), (3, 8, 32)])
def test_pushing_finds_the_same_on_grids_as_puzzlemix_makes_them(
    labels: int, side: int, n: int
) -> None:
    grids = integers(realistic_grids(0, n, labels, side))
    found = pushed_labels(*grids)
    assert found.equal(cut_labels(*grids))
    assert found.dtype == torch.int64


@given(seed=st.integers(0, 10**6), rounds=st.integers(0, 12), top=st.sampled_from([3, 10**4]))
@settings(max_examples=40, deadline=None)
def test_after_few_rounds_no_more_energy_is_lost_than_is_left_to_flow(
    seed: int, rounds: int, top: int
) -> None:
    grids = integers(random_grids(seed, 4, 3, 4, 4, top))
    found, rest = leftover(grids, rounds)
    lost = energies(found, grids) - least(grids)
    assert lost.le(rest).all()
    assert found[rest == 0].equal(cut_labels(*grids)[rest == 0])


def test_after_enough_rounds_nothing_is_left_to_flow() -> None:
    grids = integers(realistic_grids(0, 16, 3, 8))
    assert leftover(grids, 2)[1].any()
    assert not leftover(grids, ROUNDS * 8)[1].any()


@pytest.mark.parametrize("labels", [2, 3, 4])
def test_nothing_overflows_when_pushed_values_sum_to_the_limit(labels: int) -> None:
    costs, right, down = (
        torch.zeros(s, dtype=torch.int32) for s in ((2, labels, 1, 2), (2, 1, 1), (2, 0, 2))
    )
    costs[:, 0, 0, 0] = costs[:, -1, 0, 1] = LIMIT // 4
    right[1] = LIMIT // 2
    assert pushed_labels(costs, right, down).equal(cut_labels(costs, right, down))


def test_pushing_reads_no_value() -> None:
    grids = tuple(part.to("meta") for part in realistic_grids(0, 2, 3, 4))
    found = grid_labels(*grids)
    assert found.device.type == "meta"
    assert found.shape == (2, 4, 4)


def test_on_the_processor_grids_are_cut_by_scipy() -> None:
    with patch.object(_graphcut, "pushed_labels") as pushing:
        grid_labels(*random_grids(0, 20, 3, 2, 2, 9))
    pushing.assert_not_called()


@given(seed=st.integers(0, 10**6), labels=st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_values_are_rounded_to_the_nearest_integers(seed: int, labels: int) -> None:
    grids = random_grids(seed, 2, labels, 3, 3, 4)
    costs, right, down = (part + 0.98 * torch.rand(part.shape) - 0.49 for part in grids)
    assert grid_labels(costs, right, down).equal(grid_labels(*grids))


def test_what_rounds_to_the_same_is_a_tie_and_what_does_not_is_none() -> None:
    none, below = torch.zeros(2, 1, 0), torch.zeros(2, 0, 1)
    costs = torch.tensor([[0.7, 0.51], [0.6, 0.4]]).view(2, 2, 1, 1)
    assert grid_labels(costs, none, below).flatten().tolist() == [0, 1]


@pytest.mark.parametrize("labels", [2, 3, 5])
def test_without_weights_each_cell_has_its_cheapest_label(labels: int) -> None:
    costs, right, down = random_grids(0, 20, labels, 5, 6, 10**4)
    assert grid_labels(costs, 0 * right, 0 * down).equal(costs.argmin(1))


@pytest.mark.parametrize(("weight", "label"), [(1, [0, 2]), (2, [0, 1]), (5, [1, 1])])
def test_the_best_labels_of_two_cells_are_those_worked_out_by_hand(
    weight: int, label: list[int]
) -> None:
    """Labels 0 0, 0 1, 0 2, 1 1 and 1 2 cost 9, 4 + w, 4 w, 8 and 4 + w; the others more."""
    costs = torch.tensor([[0, 9], [4, 4], [9, 0]]).view(1, 3, 1, 2)
    found = grid_labels(costs, torch.full((1, 1, 1), weight), torch.zeros(1, 0, 2))
    assert found.flatten().tolist() == label


@pytest.mark.parametrize("labels", [2, 3, 5])
def test_with_large_weights_the_label_that_is_cheapest_for_all_is_everywhere(labels: int) -> None:
    costs, right, down = random_grids(0, 20, labels, 5, 6, 1000)
    best = costs.sum((2, 3)).argmin(1).view(-1, 1, 1)
    large = torch.full_like(right, 10**5), torch.full_like(down, 10**5)
    assert grid_labels(costs, *large).equal(best.expand(-1, 5, 6))


def test_a_weight_of_zero_parts_the_grid() -> None:
    costs, right, down = random_grids(0, 30, 3, 4, 6, 20)
    right[:, :, 2] = 0
    found = grid_labels(costs, right, down)
    left = grid_labels(costs[..., :3], right[..., :2], down[..., :3])
    assert found.equal(
        torch.cat([left, grid_labels(costs[..., 3:], right[..., 3:], down[..., 3:])], 2)
    )


def test_what_is_given_is_left_as_it_was_and_no_gradient_is_taken() -> None:
    grids = tuple(part.double().requires_grad_() for part in random_grids(0, 3, 3, 3, 3, 9))
    before = [part.detach().clone() for part in grids]
    assert not grid_labels(*grids).requires_grad
    assert all(part.equal(old) for part, old in zip(grids, before, strict=True))


@given(seed=st.integers(0, 10**6), h=st.integers(1, 4), w=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_energy_is_that_of_loops(seed: int, h: int, w: int) -> None:
    grids = random_grids(seed, 4, 3, h, w, 1000)
    labels = torch.randint(3, (4, h, w))
    assert energy(labels, *grids).equal(energies(labels, grids))


def swapped(costs: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """The labels (h, w) at which alpha-beta swaps, begun with label 0 everywhere, stop."""
    labels, h, w = costs.shape
    cells = list(product(range(h), range(w)))
    weight = {((r, c), (r, c + 1)): int(right[r, c]) for r, c in cells if c + 1 < w}
    weight |= {((r, c), (r + 1, c)): int(down[r, c]) for r, c in cells if r + 1 < h}
    price = {cell: costs[:, cell[0], cell[1]].tolist() for cell in cells}

    def value(label: dict[tuple[int, int], int]) -> int:
        own: int = sum(price[cell][label[cell]] for cell in cells)
        return own + sum(v * (label[one] - label[other]) ** 2 for (one, other), v in weight.items())

    def swap(
        label: dict[tuple[int, int], int], alpha: int, beta: int
    ) -> dict[tuple[int, int], int]:
        """The best relabelling of cells that have alpha or beta with alpha or beta."""
        free = {cell: i for i, cell in enumerate(c for c in cells if label[c] in (alpha, beta))}
        if not free:
            return label
        size = len(free) + 2
        room = torch.zeros(size, size, dtype=torch.int32)
        pay = {cell: [price[cell][alpha], price[cell][beta]] for cell in free}
        for (one, other), v in weight.items():
            if one in free and other in free:
                room[free[one], free[other]] = room[free[other], free[one]] = (
                    v * (alpha - beta) ** 2
                )
            for cell, fixed in ((one, other), (other, one)):
                if cell in free and fixed not in free:
                    pay[cell][0] += v * (alpha - label[fixed]) ** 2
                    pay[cell][1] += v * (beta - label[fixed]) ** 2
        for cell, i in free.items():  # on the source's side is alpha
            room[i, -1], room[-2, i] = pay[cell][0], pay[cell][1]
        graph = csr_array(room.numpy())
        rest = graph - maximum_flow(graph, size - 2, size - 1).flow
        rest.eliminate_zeros()
        reached = set(breadth_first_order(rest, size - 2, return_predecessors=False).tolist())
        return label | {cell: alpha if i in reached else beta for cell, i in free.items()}

    label = dict.fromkeys(cells, 0)
    better = True
    while better:
        better = False
        for alpha, beta in combinations(range(labels), 2):
            candidate = swap(label, alpha, beta)
            if value(candidate) < value(label):
                label, better = candidate, True
    return torch.tensor([label[cell] for cell in cells]).view(h, w)


@pytest.mark.parametrize(("labels", "side", "n"), [(3, 8, 24), (4, 6, 16), (3, 16, 3)])
def test_energies_are_no_more_than_where_alpha_beta_swaps_stop(
    labels: int, side: int, n: int
) -> None:
    grids = rounded(realistic_grids(1, n, labels, side))
    local = torch.stack([swapped(*(part[i] for part in grids)) for i in range(n)])
    exact, theirs = energies(grid_labels(*grids), grids), energies(local, grids)
    assert exact.le(theirs).all()
    assert theirs.lt(1.01 * exact).all()  # or the local search would be no rival
