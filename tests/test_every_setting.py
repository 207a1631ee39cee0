"""Every listed setting trains as its recipe says, on tiny files in the format of its dataset."""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from shutil import rmtree

import formats
import pytest
import torch
from PIL import Image
from torch.optim import SGD, AdamW
from torchvision import datasets

from mixbench.bench import data
from mixbench.bench.cells import Cell, Record, Run, Store
from mixbench.bench.data import (
    Files,
    cub,
    imagenet,
    shapes,
    speechcommands,
    tinycifar100,
    tinyimagenet,
)
from mixbench.bench.lab import Lab
from mixbench.bench.reading import Epoch, reading
from mixbench.bench.runs import fill
from mixbench.bench.settings import SETTINGS, Recipe, Setting
from mixbench.bench.training import Training, train
from mixbench.methods import bce_on_softmax

SHARED = Path(__file__).parents[2] / "shared" / "data"
CLASSES = 4


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (SHARED / name).exists(), reason=f"the real {name} is not here")


def tiny_cifar(kind: type[datasets.CIFAR10], root: Path, patch: pytest.MonkeyPatch) -> None:
    formats.cifar(root, kind, CLASSES, train=5, test=4)
    formats.trust(root, kind, patch)


def tiny_tinycifar100(root: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tinycifar100, "CLASSES", CLASSES)
    tiny_cifar(datasets.CIFAR100, root, patch)


def tiny_imagenet(root: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(imagenet, "CLASSES", CLASSES)
    formats.imagenet(root, CLASSES)


def tiny_birds(root: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cub, "CLASSES", CLASSES)
    formats.cub(root, CLASSES)


def tiny_tinyimagenet(root: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tinyimagenet, "CLASSES", len(formats.WNIDS))
    formats.tinyimagenet(root)


def tiny_speech(root: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(speechcommands, "WORDS", CLASSES)
    formats.speechcommands(root, CLASSES)


def fewer_shapes(root: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shapes, "TRAIN", 12)
    patch.setattr(shapes, "TEST", 6)


WRITE: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "cifar10": lambda root, patch: tiny_cifar(datasets.CIFAR10, root, patch),
    "cifar100": lambda root, patch: tiny_cifar(datasets.CIFAR100, root, patch),
    "tinycifar100": tiny_tinycifar100,
    "tinyimagenet": tiny_tinyimagenet,
    "imagenet": tiny_imagenet,
    "cub": tiny_birds,
    "speechcommands": tiny_speech,
    "digits": lambda root, patch: None,  # they come with scikit-learn
    "shapes": fewer_shapes,
}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Where the checkpoints of large networks are not left behind."""
    yield Lab(Store(tmp_path / "results"), tmp_path)
    rmtree(tmp_path / "results", ignore_errors=True)


def write(name: str, lab: Lab, patch: pytest.MonkeyPatch) -> None:
    assert name in WRITE, f"nothing tiny has the format of {name}: write it in tests/formats.py"
    WRITE[name](lab.data, patch)


def shortened(recipe: Recipe, batch: int) -> Recipe:
    """The recipe for one epoch of a few small images.

    In pairs of one colour each, batch norm makes gradients so large that a usual step ends in NaN.
    """
    size = recipe.size and 32
    return replace(recipe, epochs=1, warmup=0, batch=batch, size=size, lr=1e-9)


def record_of(run: Run, lab: Lab, task: str = "classification") -> Record:
    """The record of a task that is asked of a run for the first time."""
    assert fill(run, [task], lab) == [task]
    record = lab.store.read(Cell(run, task))
    assert record
    return record


def metrics_of(run: Run, lab: Lab) -> dict[str, float]:
    """Errors, and how sure the network is, which tells more of so few images."""
    return {
        name: value
        for task in ("classification", "calibration")
        for name, value in record_of(run, lab, task)["metrics"].items()
    }


def assert_scored(record: Record) -> None:
    top1 = record["metrics"]["top1"]
    assert math.isfinite(top1) and 0 <= top1 <= 100
    assert record["made"]["training"]["unreadable_images"] == 0


def assert_as_told(training: Training, recipe: Recipe) -> None:
    """What was trained is what the recipe says."""
    net, images = training.objective.net, next(training.data.epoch(0))[0]
    assert net.dtype == getattr(torch, recipe.precision)
    assert (net.criterion is bce_on_softmax) == (recipe.loss == "bce")
    assert type(training.optimizer) is {"sgd": SGD, "adamw": AdamW}[recipe.optimizer]
    assert len(images) == recipe.batch
    assert recipe.size is None or images.shape[2:] == (recipe.size, recipe.size)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_setting_trains(name: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = SETTINGS[name]
    write(listed.data, lab, monkeypatch)
    batch = 64 if listed.data == "digits" else 2
    setting = replace(listed, recipe=shortened(listed.recipe, batch))
    run = Run(str(setting), "mixup", 0)
    record = record_of(run, lab)
    assert_scored(record)
    assert record["parameters"]["setting"] == json.loads(json.dumps(asdict(setting)))
    assert_as_told(train(run, lab), setting.recipe)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_setting_has_a_shorter_form(name: str) -> None:
    shorter = Run(f"{name},epochs=200", "mixup", 0).identity()["parameters"]["setting"]
    listed = SETTINGS[name].resolved()
    assert shorter == listed | {"recipe": listed["recipe"] | {"epochs": 200}}
    assert str(Setting.parse(f"{name},epochs=200")) == f"{name},epochs=200"


def test_a_folder_and_a_network_of_timm_train_the_same_way(lab: Lab) -> None:
    formats.imagenet(lab.data, CLASSES)
    name = f"folder:{lab.data}/imagenet/timm/test_resnet,epochs=1,batch=2,size=32"
    run = Run(name, "mixup", 0)
    record = record_of(run, lab)
    assert_scored(record)
    assert record["parameters"]["setting"]["net"] == "timm/test_resnet"
    assert_as_told(train(run, lab), Setting.parse(name).recipe)


def test_two_workers_give_the_numbers_of_none(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    write("imagenet", lab, monkeypatch)
    run = Run("imagenet/timm/test_resnet,epochs=1,batch=2,size=32", "mixup", 0)
    elsewhere = Store(lab.store.root / "elsewhere")
    alone, helped = metrics_of(run, lab), metrics_of(run, replace(lab, store=elsewhere, workers=2))
    assert alone == helped


@pytest.mark.parametrize("name", ["imagenet", "cub"])
def test_tiny_files_that_are_streamed_are_jpegs(
    name: str, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(name, lab, monkeypatch)
    dataset = data.read(name, lab.data)
    for split in (dataset.train, dataset.test):
        assert isinstance(split, Files) and len(split) == CLASSES
        for path in split.paths.tolist():
            with Image.open(os.fsdecode(path)) as image:
                image.load()
                assert (image.format, image.mode) == ("JPEG", "RGB")


@needs("tiny-imagenet-mini")
def test_real_images_of_tiny_imagenet_train(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinyimagenet, "CLASSES", 20)
    (lab.data / formats.TINY).symlink_to(SHARED / "tiny-imagenet-mini")
    run = Run("tinyimagenet/timm/test_resnet,epochs=1,batch=250", "mixup", 0)
    assert_scored(record_of(run, lab))


@needs("imagenette-mini")
def test_real_images_in_folders_train(lab: Lab) -> None:
    name = f"folder:{SHARED / 'imagenette-mini'}/timm/test_resnet,epochs=1,batch=100,size=64"
    assert_scored(record_of(Run(name, "mixup", 0), lab))


def test_the_way_of_torchvision_is_timed_beside_ours(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_cifar(datasets.CIFAR10, lab.data, monkeypatch)
    shapes = set[tuple[int, ...]]()

    def rate(epoch: Epoch, batches: int, lab: Lab) -> float:
        shapes.update(tuple(x.shape) for x, _ in epoch())
        return 7.0

    monkeypatch.setattr("mixbench.bench.reading._rate", rate)
    _, _, ours, theirs, *_ = reading(
        "cifar10/preactresnet18,batch=2", lab, batches=9, rounds=2
    ).splitlines()
    assert shapes == {(2, 3, 32, 32)}
    assert ours.split() == ["|", "mixbench", "|", "7", "|", "7", "|"]
    assert theirs.startswith("| torchvision, DataLoader with 2 workers |")
