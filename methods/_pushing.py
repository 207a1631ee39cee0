"""Minimum cuts of many grids at once, on any device: no value is read, so nothing is waited for.

Preflow-push (Goldberg, Tarjan, J. ACM 35, 1988) in parallel rounds on Ishikawa's graph (see
``_graphcut``), all of whose edges are reversed: the nodes from which its source can be reached in
what is left are the source's side of a minimum cut, and of all minimum cuts the smallest.
"""

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDS = 8  # for each cell of a grid's longer side: benchmarks/puzzlemix.py shows what is needed
DEPTH = 4  # of the last search, likewise
ENDLESS = 2**28  # more than the values of a grid sum to
FAR = 2**20  # more than a path has edges

Edge = tuple[int, int, int]
"""How many cells further on it ends, and the thresholds between labels that it leads from and to."""

Room = dict[Edge, Tensor]


class Preflow(NamedTuple):
    """What is left to flow in grids that lie row after row and one after another.

    All tensors are of integers, (cells,), and in lists there is one for each threshold. Nothing
    flows from the end of a row to the next, since weights there are zero.

    room: on edges between nodes; goal: on those to the goal; excess: in nodes.
    distance: of nodes from the goal, along edges with room, or less.
    """

    room: Room
    goal: list[Tensor]
    excess: list[Tensor]
    distance: list[Tensor]


def pushed_labels(costs: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """As ``cut_labels``, after a number of rounds that is fixed.

    The energy exceeds the least by no more than the excess that could still reach the goal. That
    is nothing as a rule, and then the labels are the same.
    """
    flow, side = begun(costs, right, down), max(costs.shape[2:])
    step, search = _steps(costs.device.type)
    for _ in range(ROUNDS * side):
        flow = step(flow)
    distance = [torch.full_like(left, FAR) for left in flow.goal]
    for _ in range(DEPTH * side):
        distance = search(flow.room, flow.goal, distance)
    above = torch.stack([each < FAR for each in distance])
    return above.sum(0).view(len(costs), *costs.shape[2:])


def begun(costs: Tensor, right: Tensor, down: Tensor) -> Preflow:
    """All that edges from the sink hold has entered the graph."""
    _, labels, _, width = costs.shape
    step = [each.flatten() for each in costs.diff(dim=1).unbind(1)]
    weights = {1: F.pad(right, (0, 1)), -1: F.pad(right, (1, 0))}
    weights |= {width: F.pad(down, (0, 0, 0, 1)), -width: F.pad(down, (0, 0, 1, 0))}
    none = torch.zeros_like(costs[:, 0]).flatten()
    room = {}
    for low, high in product(range(labels - 1), repeat=2):
        if low != high:
            room[0, low, high] = none + ENDLESS * (low < high)
        for away, weight in weights.items():
            room[away, low, high] = ((low <= high) + (low < high)) * weight.flatten()
    goal, excess = [(-each).clamp(min=0) for each in step], [each.clamp(min=0) for each in step]
    return Preflow(room, goal, excess, relaxed(room, goal, [none for _ in step]))


def pushed(flow: Preflow) -> Preflow:
    """The excess of each node has moved on to nodes that are nearer, as far as there was room."""
    room, goal, excess, distance = flow
    ended = [
        torch.where(far == 1, left.minimum(here), 0)
        for far, left, here in zip(distance, goal, excess, strict=True)
    ]
    goal = [left - end for left, end in zip(goal, ended, strict=True)]
    excess = [here - end for here, end in zip(excess, ended, strict=True)]
    gone, come = {}, {}
    for (away, tail, head), left in room.items():
        nearer = distance[tail] == _from(distance[head], away) + 1
        gone[away, tail, head] = torch.where(nearer, left.minimum(excess[tail]), 0)
        excess[tail] = excess[tail] - gone[away, tail, head]
    for away, tail, head in room:
        come[away, tail, head] = _from(gone[-away, head, tail], away)
        excess[tail] = excess[tail] + come[away, tail, head]
    room = {edge: left - gone[edge] + come[edge] for edge, left in room.items()}
    return Preflow(room, goal, excess, relaxed(room, goal, distance))


def relaxed(room: Room, goal: list[Tensor], distance: list[Tensor]) -> list[Tensor]:
    """One more than the least distance of a node to which there is room, or FAR."""
    least = [torch.where(left > 0, 0, FAR - 1) for left in goal]
    for (away, tail, head), left in room.items():
        near = torch.where(left > 0, _from(distance[head], away), FAR - 1)
        least[tail] = least[tail].minimum(near)
    return [each + 1 for each in least]


def _from(x: Tensor, away: int) -> Tensor:
    """For each cell, what the one so many cells further on has."""
    return F.pad(x, (-away, away))


@cache
def _steps(device: str) -> tuple[Callable[[Preflow], Preflow], Callable[..., list[Tensor]]]:
    """``pushed`` and ``relaxed``; on a GPU, compiled to a few kernels each."""
    if device != "cuda":
        return pushed, relaxed
    return torch.compile(pushed, dynamic=False), torch.compile(relaxed, dynamic=False)
