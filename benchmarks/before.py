"""What a training step costs with the package of a REVISION, and with that of the working tree.

Two processes, one with each, take the same steps in turn, so that other load meets both alike. Time
is the process's own on a CPU, and that of the clock on a GPU. Losses and gradients are those of the
same weights, batches and seeds: ||now - then|| / ||then||, of all numbers of all batches together. Each round
has new processes, as where things lie in memory makes one or two percent.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median, stdev

import click
import numpy as np
import torch
from _workers import REPOSITORY, Refused, Worker, archived, workers

from mixbench.bench.formats.markdown import grid
from mixbench.bench.spec import names

Row = dict[str, float]
Pair = tuple[float, float]

COMPARED = 8
WARMUP = 4
FORMATS = {
    "then, ms": "{:.2f}",
    "now, ms": "{:.2f}",
    "now / then": "{:.3f}",
    "least": "{:.3f}",
    "most": "{:.3f}",
    "mean then, ms": "{:.2f}",
    "mean now, ms": "{:.2f}",
    "peak then, MiB": "{:.1f}",
    "peak now, MiB": "{:.1f}",
    "losses differ by": "{:.1e}",
    "gradients differ by": "{:.1e}",
    "mean loss now - then": "{:+.1e}",
    "± standard error": "{:.1e}",
}


@dataclass
class Found:
    """Of a method, then and now: seconds of the pairs of steps of each round; all else."""

    rounds: list[list[Pair]] = field(default_factory=list)
    others: Row = field(default_factory=dict)

    def row(self) -> Row:
        return timed(self.rounds) | self.others


def measure(
    found: Found, method: str, both: Sequence[Worker], steps: int, draws: int | None
) -> None:
    """Take a round of steps, and find all else in the first. Raises Refused if one side can't."""
    for worker in both:
        worker.ask("prepare", method)
    if not found.rounds:
        losses = redrawn(both, draws) if draws else repeated(both)
    for i in range(WARMUP):
        in_turn(both, "step", i)
    found.rounds.append([in_turn(both, "step", i) for i in range(steps)])
    if not found.others:
        found.others = peaking([in_turn(both, "peak", i) for i in range(COMPARED)]) | losses


def in_turn(both: Sequence[Worker], question: str, i: int) -> Pair:
    """What then and now answer; every second time, now is asked first."""
    answers = {worker.name: worker.ask(question, i) for worker in both[:: -1 if i % 2 else 1]}
    return answers["then"], answers["now"]


def timed(rounds: Sequence[Sequence[Pair]]) -> Row:
    """Of seconds of pairs of steps, in rounds: typical ones, and the ratio, with that of each round."""
    pairs = [pair for each in rounds for pair in each]
    then, now = ([1e3 * seconds for seconds in side] for side in zip(*pairs, strict=True))
    ratios = [ratio(each) for each in rounds]
    return {
        "then, ms": median(then),
        "now, ms": median(now),
        "now / then": ratio(pairs),
        "least": min(ratios),
        "most": max(ratios),
        "mean then, ms": mean(then),
        "mean now, ms": mean(now),
    }


def ratio(pairs: Sequence[Pair]) -> float:
    return median(now / then for then, now in pairs)


def peaking(peaks: Sequence[Pair]) -> Row:
    then, now = (max(side) / 2**20 for side in zip(*peaks, strict=True))
    return {"peak then, MiB": then, "peak now, MiB": now}


def repeated(both: Sequence[Worker]) -> Row:
    """By how much losses and gradients of the same draws differ."""
    losses, gradients = [], []
    for i in range(COMPARED):
        (loss_then, then), (loss_now, now) = (worker.ask("gradients", i) for worker in both)
        losses.append((loss_now - loss_then, loss_then))
        now, then = now.astype(float), then.astype(float)
        gradients.append((float(np.linalg.norm(now - then)), float(np.linalg.norm(then))))
    return {
        "losses differ by": relative(losses),
        "gradients differ by": relative(gradients),
    }


def relative(pairs: Sequence[Pair]) -> float:
    """||a|| / ||b|| of vectors of which the parts, or their norms, are given in pairs."""
    difference, size = np.linalg.norm(pairs, axis=0)
    return float(difference / size)


def redrawn(both: Sequence[Worker], draws: int) -> Row:
    """By how much the mean loss of many draws differs, on the same batches."""
    found = [[worker.ask("loss", i) for worker in both] for i in range(draws)]
    differences = [now - then for then, now in found]
    return {
        "mean loss now - then": mean(differences),
        "± standard error": stdev(differences) / draws**0.5,
    }


def markdown(rows: dict[str, Row]) -> str:
    heads = list(next(iter(rows.values())))
    body = [[name, *(FORMATS[h].format(row[h]) for h in heads)] for name, row in rows.items()]
    return grid([["method", *heads], *body])


def write(rows: dict[str, Row], out: Path) -> None:
    with out.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["method", *next(iter(rows.values()))])
        lines.writerows([name, *row.values()] for name, row in rows.items())


@click.command(help=__doc__)
@click.argument("revision")
@click.argument("setting")
@click.argument("methods", nargs=-1, metavar="[METHOD]...")
@click.option("--steps", default=20, show_default=True, type=click.IntRange(1), help="A round.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option(
    "--draws",
    metavar="N",
    type=click.IntRange(2),
    help="Compare the mean losses of N draws, where draws differ by design.",
)
@click.option(
    "--precision", default="float32", type=click.Choice(["float32", "float64"]), show_default=True
)
@click.option("--data", default="data", type=Path, show_default=True, help="The datasets.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--out", type=Path, help="Write the numbers there too, as CSV.")
def main(
    revision: str,
    setting: str,
    methods: Sequence[str],
    steps: int,
    rounds: int,
    draws: int | None,
    precision: str,
    data: Path,
    device: str,
    out: Path | None,
) -> None:
    found = {method: Found() for method in methods or names("mixbench.methods")}
    refusals: dict[str, str] = {}
    with archived(revision) as then:
        for _ in range(rounds):
            with workers(
                {"then": then, "now": REPOSITORY}, setting, data, device, precision
            ) as both:
                for method in [each for each in found if each not in refusals]:
                    try:
                        measure(found[method], method, both, steps, draws)
                    except Refused as refusal:
                        refusals[method] = str(refusal)
    rows = {method: each.row() for method, each in found.items() if method not in refusals}
    if rows:
        click.echo(markdown(rows))
    click.echo(
        f"`{setting}` in {precision}, {device}, torch {torch.__version__}. Then: {revision}. {rounds} "
        f"rounds of {steps} steps each, one thread; ratios are medians of pairs of steps, least and "
        "most those of a round."
    )
    for method, why in refusals.items():
        click.echo(f"`{method}`: {why}")
    if out and rows:
        write(rows, out)


if __name__ == "__main__":
    main()
