"""The labels of the cells of small grids that cost least."""

import torch
from torch import Tensor

CANDIDATES = 6  # with which 798 of 800 labellings that Co-Mixup asked for were optimal


class Labelling:
    """Finds labels for grids of side 2 or 4 that cost little in each cell and next to each other.

    pair: what neighbours with two labels cost, (labels, labels), symmetric.
    reach: from 0 to 1, the larger the more neighbours are bound to agree.

    A cell's candidates are the labels that cost least there and, by ``reach`` less with each step,
    in other cells. Among them the result is exact: dynamic programming passes over the rows, of
    which a state is one of q for the left half and one for the right. All grids are treated at
    once, and no value is read.
    """

    def __init__(self, side: int, pair: Tensor, reach: float) -> None:
        self.side, self.pair, self.k = side, pair, min(CANDIDATES, len(pair))
        at = torch.cartesian_prod(*[torch.arange(side)] * 2)
        steps = (at[:, None] - at).abs().sum(2)
        self.nearness = reach ** steps.to(pair)
        self.choices = _digits(self.k, side)  # of each cell, in a state of the row
        self.halves = _digits(self.k ** (side // 2), 2)

    def __call__(self, cost: Tensor) -> Tensor:
        """The label of each cell, (n, cells), if labels cost ``cost`` (n, cells, labels)."""
        candidates = (self.nearness @ cost).topk(self.k, largest=False).indices
        grid = self.side, self.side
        rows, down = self.tables(
            candidates.unflatten(1, grid), cost.gather(2, candidates).unflatten(1, grid)
        )
        choice = self.choices[self.chain(rows, down)].flatten(1)
        return candidates.gather(2, choice[..., None])[..., 0]

    def tables(self, label: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
        """What states cost, given the candidates (n, side, side, k).

        Of rows, (n, side, q, q), and of halves over one another, (n, side - 1, 2, q, q).
        """
        offset = label * len(self.pair)
        across = self.pair.take(offset[:, :, :-1, :, None] + label[:, :, 1:, None])
        across = across + cost[:, :, 1:, None]
        rows = cost[:, :, 0]
        for step in across.unbind(2):
            rows = (rows.unflatten(2, (-1, self.k))[..., None] + step[:, :, None]).flatten(2)
        down = self.pair.take(offset[:, :-1, :, :, None] + label[:, 1:, :, None])
        halves, *others = down.unflatten(2, (2, -1)).unbind(3)
        for other in others:
            halves = halves[..., None, :, None] + other[..., None, :, None, :]
            halves = halves.flatten(-4, -3).flatten(-2)
        return rows.unflatten(2, halves.shape[-2:]), halves

    def chain(self, rows: Tensor, down: Tensor) -> Tensor:
        """The states of rows, (n, side), that cost least; arguments as from ``tables``."""
        least, links = [rows[:, 0]], down.unbind(1)
        for row, link in zip(rows[:, 1:].unbind(1), links, strict=True):
            passed = least[-1]
            for half in link.unbind(1):  # n l r, then n r l', then n l' r'
                passed = (passed[..., None] + half[:, :, None]).amin(1)
            least.append(passed + row)
        states = [least[-1].flatten(1).argmin(1)]
        for before, link in zip(least[-2::-1], reversed(links), strict=True):
            below = self.halves[states[-1]][..., None, None].expand(*link.shape[:3], 1)
            left, right = link.gather(3, below).unbind(1)
            states.append((before + left + right.mT).flatten(1).argmin(1))
        return torch.stack(states[::-1], 1)


def _digits(base: int, n: int) -> Tensor:
    """The n digits of all numbers that have no more, (base^n, n)."""
    number = torch.arange(base**n)
    return torch.stack([number // base**i % base for i in reversed(range(n))], 1)
