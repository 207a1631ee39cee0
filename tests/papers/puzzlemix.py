"""PuzzleMix: arXiv 2009.06962, Section 4, with the transport and the perturbation of its code."""

from collections.abc import Callable, Mapping
from math import comb, log
from typing import Any

import numpy as np

from papers.network import (
    STRIDES,
    Array,
    Network,
    binary_cross_entropy,
    convolved,
    cross_entropy,
    softmax,
)
from papers.tape import Tape

Cell = tuple[int, int]
Edge = tuple[Cell, Cell]

DRAWS = ("torch.Tensor.uniform_",)

CASES = (
    "puzzlemix",
    "puzzlemix,blocks=2",
    "puzzlemix,blocks=2+4,patch=2",
    "puzzlemix,blocks=2,labels=2,transport=false",
    "puzzlemix,blocks=4,border=1,beta=3,gamma=1,patch=None,distance=0.05",
    "puzzlemix,blocks=8,labels=2,beta=0.3,gamma=0.2,eta=0.05,distance=0.02",
    "puzzlemix,blocks=2,labels=4,k=2,eta=0.05,beta=0.4,border=2,patch=1,distance=0.2",
    "puzzlemix,blocks=4,clean=1,beta=0.2,eta=0,patch=None,distance=0.1",
    "puzzlemix,blocks=2,clean=0.3,k=2,patch=2",
    "puzzlemix,blocks=4,adversarial=0.5,eps=0.2,distance=0.1",
    "puzzlemix,blocks=2,adversarial=1,clean=1,patch=1",
)


def loss(net: Network, x: Array, y: Array, tape: Tape, method: Any) -> float:
    sides = tape.chance(method.adversarial), tape.chance(method.adversarial)
    noise = np.zeros_like(x)
    if any(sides):
        noise = np.clip(x + tape.take("uniform_"), 0, 1) - x
    noisy, train = tape.detached(x + noise), method.clean > 0
    gradient = constant(tape, input_gradient, net, noisy, y, train)
    if any(sides):
        step = (method.eps + 2 / 255) * np.sign(gradient)
        noise = np.clip(noise + step, -method.eps, method.eps) * tape.take("rand")
    x1, x2 = (np.clip(x + noise, 0, 1) if side else x for side in sides)
    salient = np.sqrt((gradient**2).mean(1))
    fitting = [n for n in method.blocks if x.shape[2] % n == 0]
    n, images, targets = fitting[tape.choice(len(fitting))], [], []
    partner, ratios = tape.take("partners"), tape.take("ratios", method.alpha, method.k)
    for lam in ratios:
        for i, j in enumerate(partner):
            pair = x[i], x[j], salient[i], salient[j]
            z = constant(tape, best_mask, *pair, lam, n, method)
            own, other = x1[i], x2[j]
            if method.transport:
                own = moved(own, constant(tape, plan, salient[i], z, method))
                other = moved(other, constant(tape, plan, salient[j], 1 - z, method))
            shown = enlarged(z, x.shape[2])
            images.append(shown * own + (1 - shown) * other)
            targets.append(z.mean() * y[i] + (1 - z.mean()) * y[j])
    mixed = net.losses(net(np.stack(images)), np.stack(targets)).mean()
    return float(mixed + method.clean * clean_loss(net, noisy, y))


def constant(tape: Tape, decide: Callable[..., Any], *arguments: Any) -> Any:
    """What was decided when the formula was first evaluated; it is not decided again."""
    first = tape.passed == len(tape.constants)
    return tape.detached(decide(*arguments) if first else None)


def clean_loss(net: Network, x: Array, y: Array) -> float:
    """The cross-entropy of images as they are; 2 / c of it is added to BCE on softmax."""
    unit = 2 / y.shape[1] if net.criterion is binary_cross_entropy else 1
    return float(unit * cross_entropy(net(x), y).mean())


# Saliency.


def input_gradient(net: Network, x: Array, y: Array, train: bool) -> Array:
    """The slopes of the summed cross-entropy by normalised pixels, (b, 3, h, w).

    Unless the network is in train mode, its batch norm goes by what it remembers of batches; as it
    has seen none, that is mean 0 and variance 1.
    """
    z = net.pass_through("stem", net.pass_through("pixels", x))
    passed = []
    for name in ("layer1", "layer2", "layer3", "layer4"):
        mean = z.mean((0, 2, 3), keepdims=True) if train else 0.0
        variance = ((z - mean) ** 2).mean((0, 2, 3), keepdims=True) if train else 1.0
        spread = np.sqrt(variance + 1e-5)
        scale = net.weights[f"{name}.norm.weight"][:, None, None]
        normal = (z - mean) / spread
        act = np.tanh(normal * scale + net.weights[f"{name}.norm.bias"][:, None, None])
        passed.append((name, normal, scale / spread, act))
        kernel, bias = net.weights[f"{name}.conv.weight"], net.weights[f"{name}.conv.bias"]
        z = convolved(act, kernel, bias, STRIDES[name])
    slope = (softmax(net.above("layer4", z)) - y) @ net.weights["head.weight"]
    slopes = np.broadcast_to(slope[:, :, None, None], z.shape) / (z.shape[2] * z.shape[3])
    for name, normal, factor, act in reversed(passed):
        slopes = through_convolution(net, name, slopes, act) * (1 - act**2)
        if train:
            mean = slopes.mean((0, 2, 3), keepdims=True)
            slopes = slopes - mean - normal * (slopes * normal).mean((0, 2, 3), keepdims=True)
        slopes = slopes * factor
    return through_convolution(net, "stem", slopes, x)


def through_convolution(net: Network, stage: str, slopes: Array, entering: Array) -> Array:
    """The slopes by what enters a stage's convolution, of those by what leaves it."""
    b, d, h, w = entering.shape
    kernel, stride = net.weights[f"{stage}.conv.weight"], STRIDES[stage]
    found = np.zeros((b, d, h + 2, w + 2))
    for i in range(3):
        for j in range(3):
            part = np.einsum("ed,behw->bdhw", kernel[:, :, i, j], slopes)
            found[:, :, i : i + h : stride, j : j + w : stride] += part
    return found[:, :, 1:-1, 1:-1]


# The mask.


def best_mask(
    x1: Array, x2: Array, salient1: Array, salient2: Array, lam: float, n: int, method: Any
) -> Array:
    """The share z of x1 in each of n x n blocks, (n, n), in the integers of the code's solver.

    Unlike the code's, they are rounded, not truncated, and labels are integers too.
    """
    block, last = len(salient1) // n, method.labels - 1
    s1, s2 = shares(salient1, block), shares(salient2, block)
    smooth, border = method.beta / (16 * n), min(method.border, block)
    images = pooled(x1, border), pooled(x2, border)
    d = {edge: differences(images, edge, block // border) for edge in edges(n)}
    unary = np.zeros((n, n, method.labels))
    for cell in cells(n):
        u1, u2 = s2[cell], s1[cell]
        for (one, other), ((d11, d12), (d21, d22)) in d.items():
            if cell == one:
                u1 += smooth * method.gamma * (d11 + d12) / 2
                u2 += smooth * method.gamma * (d22 + d21) / 2
            if cell == other:
                u1 += smooth * method.gamma * (d11 + d21) / 2
                u2 += smooth * method.gamma * (d22 + d12) / 2
        for k in range(method.labels):
            t, p = k / last, comb(last, k) * lam ** (last - k) * (1 - lam) ** k
            cost = (1 - t) * u1 + t * u2 + method.eta / n**2 * -log(p + 1e-8)
            unary[cell][k] = round(1000 * n**2 * last**2 * cost)
    pair, label = {}, np.arange(method.labels)
    for edge, ((d11, d12), (d21, d22)) in d.items():
        weight = smooth + smooth * method.gamma * (d12 + d21 - d11 - d22) / 2
        pair[edge] = round(1000 * n**2 * weight) * (label[:, None] - label) ** 2
    z: Array = 1 - best_labels(n, unary, pair) / last
    return z


def differences(images: tuple[Array, Array], edge: Edge, m: int) -> Array:
    """D_ab on the border of two blocks of m x m pixels, (2, 2): of one of image a, above or on the
    left, and the next of image b.
    """
    (r, c), below = edge[0], edge[1][0] > edge[0][0]
    rows, columns = slice(r * m, r * m + m), slice(c * m, c * m + m)
    found = np.zeros((2, 2))
    for i, a in enumerate(images):
        for j, b in enumerate(images):
            if below:
                across = a[:, r * m + m - 1, columns] - b[:, r * m + m, columns]
            else:
                across = a[:, rows, c * m + m - 1] - b[:, rows, c * m + m]
            found[i, j] = np.abs(across).mean()
    return found


def best_labels(n: int, unary: Array, pair: Mapping[Edge, Array]) -> Array:
    """The labels (n, n) of least energy, exactly; of several, the lowest.

    Cell by cell, row by row, a table has the least energy of all labellings so far that end in
    these labels of the last n cells, an axis for each column; and another, of the cell above, with
    which label that was.

    unary: of cells and labels, (n, n, l); pair: of both labels, (l, l), for all edges.
    """
    l = unary.shape[2]
    least, above = np.zeros([l] * n), {}
    for r, c in cells(n):
        least = np.moveaxis(least, c, 0)  # k, others
        if r > 0:
            down = pair[(r - 1, c), (r, c)].reshape([l, l] + [1] * (n - 1))
            longer = least[:, None] + down  # k, label, others
            above[r, c] = np.moveaxis(longer.argmin(0), 0, c)
            least = longer.min(0)
        least = np.moveaxis((least.T + unary[r, c]).T, 0, c)
        if c > 0:
            sides = [l if axis in (c - 1, c) else 1 for axis in range(n)]
            least = least + pair[(r, c - 1), (r, c)].reshape(sides)
    state = list(np.unravel_index(least.argmin(), least.shape))
    labels = np.zeros((n, n), int)
    for r, c in reversed(cells(n)):
        labels[r, c] = state[c]
        if r > 0:
            state[c] = above[r, c][tuple(state)]
    return labels


# Transport.


def plan(salient: Array, z: Array, method: Any) -> Array:
    """What moves, (., 3): the side of patches, and from which to which, in reading order."""
    n, side = len(z), len(salient) // len(z)
    if method.patch is not None and method.patch < side:
        side = method.patch
    s, shown = shares(salient, side), enlarged(z, len(salient))[::side, ::side] > 0
    n = len(s)
    cost = np.zeros((n * n, n * n))
    for i, (r, c) in enumerate(cells(n)):
        for j, (row, column) in enumerate(cells(n)):
            far = ((r - row) ** 2 + (c - column) ** 2) / (n - 1) ** 2
            cost[i, j] = method.distance * far - s[r, c] * shown[row, column]
    won: list[tuple[int, int, int]] = []
    for _ in range(n):
        pick, won = cost.argmin(1), []
        for j in range(n * n):
            rivals = [i for i in range(n * n) if pick[i] == j and cost[i, j] < 0]
            if rivals:
                won.append((side, min(rivals, key=lambda i: cost[i, j]), j))
        for i, j in enumerate(pick):
            if (side, i, j) not in won:
                cost[i, j] += 1
    return np.array(won, float).reshape(-1, 3)


def moved(image: Array, plan: Array) -> Array:
    """The image (3, h, w) with patches where the plan has them; where it has none, there is zero."""
    found = np.zeros_like(image)
    for side, source, target in plan.astype(int):
        (r, c), (row, column) = (divmod(at, len(image[0]) // side) for at in (source, target))
        patch = image[:, r * side : (r + 1) * side, c * side : (c + 1) * side]
        found[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = patch
    return found


# Blocks.


def cells(n: int) -> list[Cell]:
    return [(r, c) for r in range(n) for c in range(n)]


def edges(n: int) -> list[Edge]:
    """Cells and their neighbours, on the right and below."""
    right = [((r, c), (r, c + 1)) for r, c in cells(n) if c + 1 < n]
    return right + [((r, c), (r + 1, c)) for r, c in cells(n) if r + 1 < n]


def pooled(image: Array, side: int) -> Array:
    """Means over squares of an image (..., h, w)."""
    *channels, h, w = image.shape
    means: Array = image.reshape(*channels, h // side, side, w // side, side).mean((-3, -1))
    return means


def shares(salient: Array, side: int) -> Array:
    """What squares have of all saliency (h, w)."""
    found = pooled(salient, side)
    normal: Array = found / found.sum()
    return normal


def enlarged(z: Array, size: int) -> Array:
    """A value for each block, (n, n), as one for each pixel, (size, size)."""
    return z.repeat(size // len(z), 0).repeat(size // len(z), 1)
