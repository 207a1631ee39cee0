"""What tests of tasks ask: small trained networks, and data that is held in a dictionary."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixbench.bench.data import Held, digits
from mixbench.bench.nets import build
from mixbench.methods import Method
from mixbench.methods.baseline import Baseline
from mixbench.tasks import Answer, Data, Reader, Scenes, Trained, Workplace

EPOCHS: Sequence[Mapping[str, float]] = [
    {"top1": 20.0 - i, "top5": float(i), "loss": 3.0 - i / 6} for i in range(12)
]


class Memory(Workplace):
    """A workplace that remembers all that it is told, and keeps states as a file would."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []
        self.states: list[dict[str, Any]] = []

    def report(self, doing: str, done: int, total: int) -> None:
        self.told.append((doing, done, total))

    def keep(self, state: Mapping[str, Any]) -> None:
        self.states.append(copy.deepcopy(dict(state)))

    def kept(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.states[-1]) if self.states else None


class Sets:
    """Sets of images (n, 3, h, w) with labels (n,), by name, each in two batches."""

    def __init__(self, sets: Mapping[str, tuple[Tensor, Tensor]], classes: int = 10) -> None:
        self.sets, self.classes = sets, classes

    def batches(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        if name == "held_out" and name not in self.sets:
            return
        x, y = self.sets[name]
        half = (len(x) + 1) // 2
        yield from zip(x.split(half), y.split(half), strict=True)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.sets["train"]
        yield x, nn.functional.one_hot(y, self.classes).float()

    def scenes(self, name: str) -> Scenes:
        raise ValueError(f"there are no {name}")

    def require(self, name: str) -> None:
        if name not in self.sets:
            raise ValueError(f"there is no {name}")


def digit_sets(noise: int = 60, seed: int = 0) -> Sets:
    """scikit-learn's digits, of which 100 training images are held out, and uniform noise."""
    dataset = digits.read(Path())
    held = Held(dataset, batch=64, crop=0, flip=False, seed=0)
    train, test = (
        tuple(torch.cat(part) for part in zip(*held.batches(split), strict=True))
        for split in ("train", "test")
    )
    draw = torch.Generator().manual_seed(seed)
    return Sets(
        {
            "train": (train[0][100:], train[1][100:]),
            "held_out": (train[0][:100], train[1][:100]),
            "test": (test[0], test[1]),
            "noise": (torch.rand(noise, 3, 8, 8, generator=draw), torch.full((noise,), -1)),
        }
    )


def trained(
    method: Method | None = None, data: Data | None = None, steps: int = 3, net: str = "small"
) -> Trained:
    """A small network that saw a few steps of digits, as a task gets it."""
    torch.manual_seed(0)
    dataset = digits.read(Path())
    batches = Held(dataset, batch=64, crop=1, flip=False, seed=0)
    model = build(net, 10, 8, dataset.mean, dataset.std)
    objective = (method or Baseline()).objective(model)
    sgd = torch.optim.SGD(objective.parameters(), 0.1)
    for (x, y), _ in zip(batches.epoch(0), range(steps), strict=False):
        sgd.zero_grad()
        objective(x, y).backward()
        sgd.step()
    data = data or digit_sets()
    reader = Reader(copy.deepcopy(model).eval(), data.batches)
    return Trained(model.eval(), objective.eval(), data, EPOCHS, reader)


def asked_of(logits: Tensor, y: Tensor, **sets: tuple[Tensor, Tensor]) -> Trained:
    """A network whose embeddings and logits are its inputs (n, c), on test images and others."""
    net = nn.Sequential(nn.Identity())
    data = Sets({"test": (logits, y), **sets}, logits.shape[1])
    return Trained(net, net, data, EPOCHS, Reader(net, data.batches))


def numbers(answer: Answer) -> dict[str, float]:
    """The metrics of an answer."""
    return {name: value for name, value in answer.items() if isinstance(value, int | float)}
