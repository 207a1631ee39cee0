"""What Dense MultiMix costs beside its formula, written down with all mixed logits at once.

For each shape: its weights, drawn by torch's Dirichlet sampler and as the method draws them; then its
loss and gradients, of the same weights. Both ways take turns in one process, after one turn that is
not counted. Time is the process's own on a CPU, and that of the clock on a GPU.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import process_time
from unittest.mock import patch

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.bench.formats.markdown import grid
from mixbench.bench.speed.memory import LiveBytes
from mixbench.methods import Net, dirichlet
from mixbench.methods._simplex import simplex
from mixbench.methods.densemultimix import DenseMultiMix
from mixbench.tasks import measured

HEADS = ["shape", "what", "formula, ms", "method, ms", "method / formula"]
HEADS += ["formula, MiB", "method, MiB", "loss differs by", "gradients differ by"]


@dataclass(frozen=True)
class Shape:
    """b images, r = side * side positions, d features, c classes, n mixtures."""

    b: int
    side: int
    d: int
    c: int
    n: int = 1000

    @property
    def r(self) -> int:
        return self.side**2


SHAPES = {
    "digits": Shape(b=64, side=2, d=64, c=10),
    "cifar": Shape(b=128, side=4, d=512, c=100),
    "imagenet": Shape(b=256, side=7, d=2048, c=1000),
}

Way = Callable[[], list[Tensor]]
"""What is timed, and what it gives."""


def formula(
    method: DenseMultiMix, w: Tensor, z: Tensor, y: Tensor, head: nn.Module
) -> list[Tensor]:
    """The loss by eq. 11 to 14, and its gradients."""
    maps = z.flatten(2)
    w = w * method.attend(maps, y, head).T[:, None]  # r n b
    s = w.sum(2)  # r n
    w = w / s[..., None]
    logits, targets = w @ head(maps.permute(2, 0, 1)), w @ y  # r n c
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1), reduction="none")
    return with_gradients(((s * loss.view_as(s)).sum(1) / s.sum(1)).mean(), z, head)


def by_method(
    method: DenseMultiMix, w: Tensor, z: Tensor, y: Tensor, head: nn.Module
) -> list[Tensor]:
    """The same, by the method, as if it had drawn these weights."""
    with patch.object(DenseMultiMix, "draw", lambda *_: w):
        return with_gradients(method.dense_loss(z, y, Net(), head), z, head)


def with_gradients(loss: Tensor, z: Tensor, head: nn.Module) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, [z, *head.parameters()])]


def seconds(way: Way, device: torch.device) -> float:
    start = process_time()
    with measured(device) as measure:
        way()
    if device.type == "cpu":
        return process_time() - start
    return measure.seconds


def mebibytes(way: Way, device: torch.device) -> float:
    """The most that is there at once of what is made within."""
    if device.type == "cpu":
        with LiveBytes([]) as live:
            way()
        return float(live.peak) / 2**20
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    way()
    most = torch.cuda.max_memory_allocated(device)
    return float(most - before) / 2**20


def compared(what: str, ways: tuple[Way, Way], rounds: int, device: torch.device) -> list[str]:
    """What both ways cost, in median, and the median of their ratio."""
    for way in ways:  # to warm up
        way()
    taken = [tuple(seconds(way, device) for way in ways) for _ in range(rounds)]
    ratio = median(there / here for here, there in taken)
    times = [f"{1e3 * median(each):.2f}" for each in zip(*taken, strict=True)]
    return [what, *times, f"{ratio:.3f}", *(f"{mebibytes(way, device):.0f}" for way in ways)]


def differences(ways: tuple[Way, Way]) -> list[str]:
    """||a - b|| / ||b||, of the loss, and of all gradients."""
    (a, *gradients), (b, *others) = (way() for way in reversed(ways))
    a_all, b_all = (torch.cat([each.flatten() for each in g]) for g in (gradients, others))
    return [f"{float((p - q).norm() / q.norm()):.1e}" for p, q in ((a, b), (a_all, b_all))]


def rows(name: str, rounds: int, device: torch.device, dtype: torch.dtype) -> Iterator[list[str]]:
    """A row for the draws, and one for the loss."""
    shape, method = SHAPES[name], DenseMultiMix(n=SHAPES[name].n)
    alpha = torch.empty(shape.r, shape.n, dtype=dtype).uniform_(*method.alpha)
    draws: tuple[Way, Way] = (
        lambda: [dirichlet(alpha, shape.b)],
        lambda: [simplex(alpha, shape.b)],
    )
    yield [name, *compared("weights", draws, rounds, device), "-", "-"]
    z = torch.randn(shape.b, shape.d, shape.side, shape.side, dtype=dtype, requires_grad=True)
    y = F.one_hot(torch.randint(shape.c, (shape.b,)), shape.c).to(dtype)
    head = nn.Linear(shape.d, shape.c, dtype=dtype)
    w = simplex(alpha, shape.b)
    losses = partial(formula, method, w, z, y, head), partial(by_method, method, w, z, y, head)
    yield [
        name,
        *compared("loss and gradients", losses, rounds, device),
        *differences(losses),
    ]


@click.command(help=__doc__)
@click.option("--shape", "names", multiple=True, type=click.Choice(list(SHAPES)), default=SHAPES)
@click.option("--rounds", default=11, show_default=True, type=click.IntRange(1))
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--double", is_flag=True, help="In double precision.")
@click.option("--threads", default=torch.get_num_threads(), show_default=True, help="On a CPU.")
def main(names: tuple[str, ...], rounds: int, device: str, double: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    dtype = torch.float64 if double else torch.float32
    with (there := torch.device(device)):
        table = [row for name in names for row in rows(name, rounds, there, dtype)]
    click.echo(grid([HEADS, *table]))
    click.echo(f"torch {torch.__version__}, {device}, {threads} threads, {dtype}, {rounds} rounds")


if __name__ == "__main__":
    main()
