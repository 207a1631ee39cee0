"""What the parts of PuzzleMix cost beside a plain step, and whether its two solvers agree.

All parts are timed in turn, batch after batch, in one process. The grids are those of real images
and of a network that input mixup trains meanwhile. Time is the process's own, of one thread.
"""

from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from time import process_time
from unittest.mock import patch

import click
import torch
from _workers import Unusable
from torch import Tensor

from mixbench.bench.cells import Store, method, setting
from mixbench.bench.formats.markdown import grid
from mixbench.bench.lab import Lab, build, open_data
from mixbench.bench.optimizers import optimizer
from mixbench.bench.spec import BadInput
from mixbench.methods import Objective, _pushing, puzzlemix
from mixbench.methods._graphcut import cut_labels, energy
from mixbench.methods._pushing import pushed_labels
from mixbench.methods._saliency import input_gradient, magnitude

ROUNDS = (2, 4, 6, 8)
PARTS = ("plain step", "saliency", "mixing, all", "of it scipy", "of it transport", "pushing")


def seconds(part: Callable[[], object]) -> float:
    start = process_time()
    part()
    return process_time() - start


class Bench:
    """PuzzleMix with so many blocks per side: the seconds of its parts, and how labels agree."""

    def __init__(self, blocks: int) -> None:
        self.method = puzzlemix.PuzzleMix(blocks=(blocks,))
        self.taken: list[list[float]] = []
        self.grids = 0
        self.wrong, self.excess = dict.fromkeys(ROUNDS, 0), dict.fromkeys(ROUNDS, 0.0)

    def look(self, objective: Objective, x: Tensor, y: Tensor, plain: float) -> None:
        net, solved = objective.net, []
        gradient, _ = input_gradient(net, x, y)
        saliency = magnitude(gradient)

        def solve(*given: Tensor) -> Tensor:
            solved.append(tuple(part.detach().round().int() for part in given))
            return cut_labels(*solved[-1])

        with patch.object(puzzlemix, "grid_labels", solve):
            mixing = seconds(lambda: self.method.mix(x, y, saliency, (x, x)))
        ((costs, right, down),) = solved
        share = 1 - cut_labels(costs, right, down) / 2
        row = [plain, seconds(lambda: input_gradient(net, x, y)), mixing]
        row += [seconds(lambda: cut_labels(costs, right, down))]
        row += [2 * seconds(lambda: self.method.arrange(x, saliency, share))]
        row += [seconds(lambda: pushed_labels(costs, right, down))]
        self.taken.append(row)
        self.compare(costs, right, down)

    def compare(self, *given: Tensor) -> None:
        exact, wide = cut_labels(*given), [part.long() for part in given]
        least = energy(exact, *wide)
        self.grids += len(exact)
        for rounds in ROUNDS:
            with patch.object(_pushing, "ROUNDS", rounds):
                found = pushed_labels(*given)
            self.wrong[rounds] += int((found != exact).flatten(1).any(1).sum())
            more = ((energy(found, *wide) - least) / least).max().item()
            self.excess[rounds] = max(self.excess[rounds], more)

    def costs(self) -> list[str]:
        return [f"{1e3 * median(part):.2f}" for part in zip(*self.taken, strict=True)]

    def agreement(self) -> Iterator[str]:
        yield f"{self.grids}"
        for rounds in ROUNDS:
            yield f"{self.wrong[rounds]} ({self.excess[rounds]:.0e})"


@click.command(help=__doc__)
@click.option("--setting", "name", default="tinycifar100/preactresnet18-narrow", show_default=True)
@click.option("--data", "root", default=Path("data"), type=click.Path(path_type=Path))
@click.option("--steps", default=200, show_default=True, help="Of training.")
@click.option("--every", default=20, show_default=True, help="Steps between looks.")
def main(name: str, root: Path, steps: int, every: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chosen = setting(name)
    try:
        data = open_data(chosen, Lab(Store(Path("results")), data=root), seed=0)
    except BadInput as error:
        raise Unusable(str(error)) from None
    objective = method("mixup").objective(build(chosen, data)).train()
    update, _ = optimizer(objective, chosen.recipe)

    def step(x: Tensor, y: Tensor) -> None:
        update.zero_grad()
        objective(x, y).backward()
        update.step()

    fitting = [blocks for blocks in puzzlemix.PuzzleMix().blocks if data.size % blocks == 0]
    benches = {blocks: Bench(blocks) for blocks in fitting}
    for i, (x, y) in enumerate(islice(cycle(islice(data.epoch(0), 100)), steps)):
        plain = seconds(lambda x=x, y=y: step(x, y))
        for bench in benches.values() if i % every == 0 else ():
            bench.look(objective, x, y, plain)
    click.echo(f"`{name}`, batches of {data.batch}, one thread, torch {torch.__version__}\n")
    rows = [[f"{blocks}", *bench.costs()] for blocks, bench in benches.items()]
    click.echo(grid([["blocks, ms", *PARTS], *rows]))
    heads = [f"wrong after {rounds} x blocks rounds (worst excess)" for rounds in ROUNDS]
    rows = [[f"{blocks}", *bench.agreement()] for blocks, bench in benches.items()]
    click.echo("\n" + grid([["blocks", "grids", *heads], *rows]))


if __name__ == "__main__":
    main()
