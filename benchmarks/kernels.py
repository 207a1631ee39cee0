"""How many kernels a GPU would launch for a forward and backward pass of each method.

Each operation that computes counts as one, in the mean over some batches, so that each branch has
its share; most is that of the batch with the most. Host and device wait for each other where a value is
read or a list is copied; one or two of these are decisions that are made on the host in any case. All of
this is counted on a CPU. The optimizer's kernels are the same for all methods.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import mean

import click
from _workers import REPOSITORY, Refused, Worker, archived, workers

from mixbench.bench.formats.markdown import grid
from mixbench.bench.spec import names

BASELINE = "baseline"
HEADS = ["kernels", "beyond the baseline's", "most", "waits"]


def counted(method: str, worker: Worker, batches: int) -> list[tuple[int, int]]:
    """The kernels and the waits of each batch. Raises Refused."""
    worker.ask("prepare", method)
    return [worker.ask("launches", i) for i in range(batches)]


def row(found: Sequence[tuple[int, int]], least: float) -> list[str]:
    kernels, waits = zip(*found, strict=True)
    typical = mean(kernels)
    return [f"{typical:.0f}", f"{typical - least:.0f}", f"{max(kernels)}", f"{mean(waits):.1f}"]


@click.command(help=__doc__)
@click.argument("setting")
@click.argument("methods", nargs=-1, metavar="[METHOD]...")
@click.option("--before", metavar="REVISION", help="Count those of a revision, too.")
@click.option("--batches", default=32, show_default=True, type=click.IntRange(1))
@click.option("--data", default="data", type=Path, show_default=True, help="The datasets.")
def main(
    setting: str, methods: Sequence[str], before: str | None, batches: int, data: Path
) -> None:
    rows: list[list[str]] = []
    refusals: list[str] = []
    with ExitStack() as stack:
        sides = {"then": stack.enter_context(archived(before))} if before else {}
        sides["now"] = REPOSITORY
        ready = stack.enter_context(workers(sides, setting, data, "cpu"))
        least = [mean(k for k, _ in counted(BASELINE, each, batches)) for each in ready]
        for method in methods or names("mixbench.methods"):
            try:
                found = [counted(method, worker, batches) for worker in ready]
            except Refused as refusal:
                refusals.append(f"`{method}`: {refusal}")
            else:
                parts = [row(*each) for each in zip(found, least, strict=True)]
                rows.append([method, *(text for part in parts for text in part)])
    heads = [f"{head} {side}" if before else head for side in sides for head in HEADS]
    click.echo(grid([["method", *heads], *rows]))
    then = f" Then: {before}." if before else ""
    click.echo(f"`{setting}`, {batches} batches.{then}")
    for line in refusals:
        click.echo(line)


if __name__ == "__main__":
    main()
