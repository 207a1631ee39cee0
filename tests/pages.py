"""A small results folder, from which the page is made in tests."""

import csv
from collections.abc import Mapping

from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.tables import Table

MADE = {
    "device": "cpu of a test",
    "torch": "9.9.9",
    "commit": "abc1234",
    "command": "mixbench run board",
    "time": "2026-01-02T03:04:05+00:00",
    "seconds": 1.25,
}

BOARD = Table(
    name="board",
    caption="A caption.",
    settings=("digits/small",),
    methods=("baseline", "mixup", "cutmix", "manifold", "multimix", "transmix"),
    columns=("robustness", "classification:top1", "cost"),
    ours=("multimix",),
)
EMPTY = Table(
    name="empty",
    caption="Nothing was run.",
    settings=("digits/smallvit",),
    methods=("baseline", "mixup"),
    columns=("classification:top1",),
)
TABLES = {table.name: table for table in (BOARD, EMPTY)}

PGD = {"baseline": 100.0, "mixup": 9.5, "cutmix": 10.25, "multimix": 8.0}
"""As text, they would have another order."""


def put(
    store: Store,
    method: str,
    seed: int,
    task: str,
    metrics: Mapping[str, float | None],
    made: object = None,
) -> None:
    cell = Cell(Run("digits/small", method, seed), task)
    made = made or {"training": MADE, "task": MADE}
    store.publish(cell, cell.identity() | {"metrics": metrics, "made": made})


def refuse(store: Store, method: str, task: str, why: str) -> None:
    cell = Cell(Run("digits/small", method, 0), task)
    store.publish(cell, cell.identity() | {"inapplicable": why})


def top1(value: float) -> dict[str, float]:
    others = ("top1_best", "top1_median", "top5", "top5_best", "top5_median")
    return {"top1": value} | dict.fromkeys(others, 0.0)


def report(store: Store, table: str, method: str, value: str, **more: str) -> None:
    """Add a published figure of the top-1 error."""
    path = store.root / "reported" / "paper.csv"
    row = dict.fromkeys(("dataset", "network", "name", "metric", "std", "doubt"), "")
    row |= {"table": table, "setting": "digits/small", "method": method, "value": value}
    row |= {"column": "classification:top1", "source": "arXiv 0000.00000"} | more
    there = path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, sorted(row), lineterminator="\n")
        if not there:
            writer.writeheader()
        writer.writerow(row)


def fill(store: Store) -> Store:
    """The cells of ``BOARD``, three seeds of most, and what was reported."""
    for seed in range(3):
        for method, pgd in PGD.items():
            put(store, method, seed, "robustness", {"fgsm": 40.0 + seed, "pgd": pgd + seed / 8})
            cost = {"speed": 1000.0 / len(method), "memory": 500.0, "terms": 64.0}
            put(store, method, seed, "cost", cost)
        put(store, "baseline", seed, "classification", top1(1.5))
    put(store, "mixup", 1, "classification", top1(1.25))
    put(store, "cutmix", 0, "robustness", {"fgsm": None, "pgd": 10.25})
    report(store, "board", "baseline", "1.25", std="0.5", doubt="std: a digit may be lost")
    report(store, "empty", "mixup", "7.75", setting="digits/smallvit")
    return store
