"""Labels on grids, of least energy, as minimum cuts (Ishikawa, TPAMI 25, 2003).

The energy of a grid is a sum over cells of the cost of their label, and over neighbours of a weight
times the squared difference of their labels. A maximum flow finds the minimum.
"""

from functools import cache
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from torch import Tensor

from mixbench.methods._pushing import pushed_labels

Ints = NDArray[np.int32]

TOGETHER = 16  # grids in one graph: more outgrow the processor's cache, fewer cost calls
NEVER = 2**27


def grid_labels(costs: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """The labels (n, h, w), int64, of least energy on each of n grids; of several, the lowest.

    costs: of each label in each cell, (n, labels, h, w); right, down: weights, >= 0, between a cell
    and its neighbour on the right (n, h, w - 1) and below (n, h - 1, w). All are rounded to
    integers; those of a grid sum to at most 2^27. Solved where the tensors are: by scipy on the
    host, by ``pushed_labels`` on an accelerator, which would wait for the host.
    """
    solve = cut_labels if costs.device.type == "cpu" else pushed_labels
    return solve(*(part.detach().round().int() for part in (costs, right, down)))


def cut_labels(costs: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """As ``grid_labels``, of integers (int32) on the host."""
    parts = [part.numpy() for part in (costs, right, down)]
    groups = range(0, len(costs), TOGETHER)
    graphs = [_graph(*(part[i : i + TOGETHER] for part in parts)) for i in groups]
    sides = [_source_side(graph, _flow(graph)) for graph in graphs]
    thresholds = np.concatenate(sides).reshape(len(costs), -1, *costs.shape[2:])
    return torch.from_numpy(thresholds.sum(1))


def energy(labels: Tensor, costs: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """The energy of labels on n grids, (n,); arguments as for ``grid_labels``."""
    own = costs.gather(1, labels[:, None])
    across = right * labels.diff(dim=2).square(), down * labels.diff(dim=1).square()
    return torch.stack([part.flatten(1).sum(1) for part in (own, *across)]).sum(0)


def _graph(costs: Ints, right: Ints, down: Ints) -> csr_array:
    """A graph whose cuts are labellings: a node, for each cell and threshold, is on the source's
    side if the label is above it. The source is the last node but one, the sink the last.
    """
    n, labels, h, w = costs.shape
    step = costs[:, 1:] - costs[:, :-1]
    values = [np.maximum(step, 0), np.maximum(-step, 0)]
    values += [np.full((n, labels - 2, h, w), NEVER, np.int32)]
    for weight in (right, down):
        for above, below in _thresholds(labels):
            values += [weight * (1 if above == below else 2)] * 2
    heads, order, starts = _topology(n, labels, h, w)
    capacities = np.concatenate([value.ravel() for value in values])[order]
    return csr_array((capacities, heads, starts))


def _thresholds(labels: int) -> list[tuple[int, int]]:
    """Pairs of thresholds, the first at least the second.

    (l - l')^2 is the sum over thresholds of [l > p, l' <= p], and twice that of [l > p, l' <= q]
    for q < p, both ways.
    """
    return [(p, q) for p, q in product(range(labels - 1), repeat=2) if p >= q]


@cache
def _topology(n: int, labels: int, h: int, w: int) -> tuple[Ints, Ints, Ints]:
    """The edges of ``_graph`` by tail: their heads, what sorts capacities so, where a tail starts."""
    node = np.arange(n * (labels - 1) * h * w).reshape(n, labels - 1, h, w)
    source, sink = np.full_like(node, node.size), np.full_like(node, node.size + 1)
    edges = [(node, sink), (source, node), (node[:, 1:], node[:, :-1])]
    for one, other in ((node[..., :-1], node[..., 1:]), (node[..., :-1, :], node[..., 1:, :])):
        for above, below in _thresholds(labels):
            edges += [(one[:, above], other[:, below]), (other[:, above], one[:, below])]
    tails, heads = (
        np.concatenate([end.ravel() for end in ends]) for ends in zip(*edges, strict=True)
    )
    order = np.lexsort((heads, tails))
    starts = np.searchsorted(tails[order], np.arange(node.size + 3))
    return heads[order].astype(np.int32), order.astype(np.int32), starts.astype(np.int32)


def _flow(graph: csr_array) -> csr_array:
    nodes = graph.shape[0]
    return maximum_flow(graph, nodes - 2, nodes - 1).flow


def _source_side(graph: csr_array, flow: csr_array) -> NDArray[np.bool_]:
    """Which nodes, but for source and sink, the source still reaches, (nodes - 2,)."""
    nodes = graph.shape[0]
    room = graph - flow
    room.eliminate_zeros()
    reached = np.zeros(nodes, bool)
    reached[breadth_first_order(room, nodes - 2, return_predecessors=False)] = True
    return reached[:-2]
