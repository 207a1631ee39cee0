"""How often the network sees which images while a run is asked all its tasks."""

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from questions import trained
from torch import Tensor, nn

from mixbench.bench.data import Gallery, Held, digits, outside
from mixbench.bench.spec import parse
from mixbench.methods.mixup import Mixup
from mixbench.tasks import Task, Trained

TEST, BATCH = 500, 64
OWN_IMAGES = {
    "classification": 0,
    "calibration": 0,
    "temperature": 0,
    "embedding": 0,
    "ood,sets=photographs+uniform+gaussian": 0,
    "ood,sets=uniform,score=knn": 0,
    "corruption,corruptions=fog+contrast,severities=2": 2 * TEST,
    "robustness,steps=3": (1 + 1) * TEST + (3 + 1) * TEST,  # attacks, and the error after each
    "landscape,pairs=50": 50 * 11,
    "intrusion,batches=2": 2 * BATCH,
    "variance,batches=3": 3 * 2 * BATCH,
}
"""How many each task makes and shows the network itself, as nobody else could have shown them."""

READ_ONCE = ("train", "test", "held_out", "photographs", "uniform", "gaussian")
ASKED_FOR_BESIDE = {
    "test": 1 + 2 + 1,  # read; attacked in two ways; and what lies between them
    "generated/fog/2": 1,
    "generated/contrast/2": 1,
}


class Counting(Gallery):
    """Counts how often images of each set are asked for."""

    def __init__(self, root: Path) -> None:
        dataset = digits.read(root).hold_out(0.1)
        data = Held(dataset, batch=BATCH, crop=1, flip=False, seed=0)
        super().__init__(data, "digits", root)
        object.__setattr__(self, "asked", Counter[str]())

    asked: Counter[str]

    def batches(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        self.asked[name] += 1
        return super().batches(name)


class Shown:
    """How many images have come to the head of a network, whoever called its stages."""

    def __init__(self, net: nn.Sequential) -> None:
        self.images = 0
        net[-1].register_forward_pre_hook(self.add)

    def add(self, head: nn.Module, args: tuple[Tensor]) -> None:
        self.images += len(args[0])


def own_images(name: str, subject: Trained) -> int:
    """Those that the task shows to its own copy of the network."""
    objective = copy.deepcopy(subject.objective)
    net = objective.net
    assert isinstance(net, nn.Sequential)
    shown = Shown(net)
    task: Task = parse(name, "mixbench.tasks", Task)
    torch.manual_seed(0)
    task.evaluate(replace(subject, net=net, objective=objective))
    return shown.images


def test_all_tasks_together_read_each_set_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "DRAWN", 700)
    monkeypatch.setattr(outside, "PHOTOGRAPHS", 700)
    gallery = Counting(tmp_path)
    subject = trained(Mixup(), gallery)
    shown = Shown(subject.outputs.net)
    assert {name: own_images(name, subject) for name in OWN_IMAGES} == OWN_IMAGES
    assert gallery.asked == dict.fromkeys(READ_ONCE, 1) | ASKED_FOR_BESIDE
    assert shown.images == sum(len(subject.outputs(name)) for name in READ_ONCE)
