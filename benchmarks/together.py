"""Images/s of several runs at once on one machine or GPU, and of such runs one after another.

Each run is a process of its own. All ways are timed in turn, round after round; a process that is
not asked waits. On a CPU, one run also takes its steps with as many threads as there are runs.
"""

from collections.abc import Sequence
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import click
import torch

from mixbench.bench.cells import Run, Store
from mixbench.bench.formats.markdown import grid
from mixbench.bench.lab import Lab, reproducible, tuned
from mixbench.bench.provenance import device_name
from mixbench.bench.training import Training
from mixbench.tasks import endless, measured

WARMUP = 10


def work(pipe: Connection, run: Run, lab: Lab) -> None:
    """Take as many steps as is asked through the pipe, with so many threads, until it is closed."""
    with reproducible(run.seed, lab.device), tuned(lab):
        training = Training(run, lab)
        training.objective.train()
        batches = endless(training.gallery)
        while True:
            try:
                steps, threads = pipe.recv()
            except EOFError:
                return
            torch.set_num_threads(threads)
            with measured(lab.device):
                for x, y in islice(batches, steps):
                    training.take(x, y)
            pipe.send(steps * training.data.batch)


def rate(pipes: Sequence[Connection], steps: int, threads: int) -> float:
    """Images/s of all runs together, from the start of all to the end of the last."""
    start = perf_counter()
    for pipe in pipes:
        pipe.send((steps, threads))
    images = sum(pipe.recv() for pipe in pipes)
    return float(images / (perf_counter() - start))


@click.command(help=__doc__)
@click.argument("setting", default="digits/small")
@click.argument("method", default="baseline")
@click.option("--runs", default=2, show_default=True, help="At once.")
@click.option("--steps", default=50, show_default=True, help="Of each, in a round.")
@click.option("--rounds", default=10, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--data", type=Path, default="data", show_default=True)
def main(
    setting: str, method: str, runs: int, steps: int, rounds: int, device: str, data: Path
) -> None:
    context, pipes = get_context("spawn"), list[Connection]()
    with TemporaryDirectory() as results:
        lab = Lab(Store(Path(results)), data, torch.device(device))
        for seed in range(runs):
            here, there = context.Pipe()
            arguments = there, Run(setting, method, seed), lab
            context.Process(target=work, args=arguments, daemon=True).start()
            there.close()
            pipes.append(here)
        ways = {"one after another": (pipes[:1], 1), f"{runs} at once": (pipes, 1)}
        if lab.device.type == "cpu":
            ways[f"one after another, {runs} threads"] = pipes[:1], runs
        rate(pipes, WARMUP, 1)
        rates = [[rate(asked, steps, n) for asked, n in ways.values()] for _ in range(rounds)]
    body = [["", "images/s", "of one after another"]]
    for name, *each in zip(ways, *rates, strict=True):
        ratio = median(mine / row[0] for mine, row in zip(each, rates, strict=True))
        body.append([name, f"{median(each):,.0f}", f"{ratio:.2f}"])
    click.echo(grid(body), nl=False)
    click.echo(
        f"\n`{setting}`, `{method}`, medians of {rounds} rounds of {steps} steps, "
        f"{device_name(lab.device)}, torch {torch.__version__}."
    )


if __name__ == "__main__":
    main()
