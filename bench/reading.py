"""How many images a second reach a training, beside the way of torchvision's documentation."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mixbench.bench.cells import setting
from mixbench.bench.formats.markdown import grid
from mixbench.bench.lab import Lab, open_data, reproducible
from mixbench.bench.settings import Setting
from mixbench.tasks import measured

HEADS = ["images/s", "augmented", "shuffled only"]
PEERS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # classes of torchvision.datasets
PEER_WORKERS = 2

Epoch = Callable[[], Iterable[tuple[Tensor, Tensor]]]


def reading(name: str, lab: Lab, batches: int, rounds: int) -> str:
    """A Markdown table of how fast a setting's images are read and brought to the device.

    Of each way, the median of ``rounds`` times the first ``batches`` of an epoch, all in turn.
    """
    chosen = setting(name)
    both = chosen, _plain(chosen)
    ways = {"mixbench": [_ours(each, lab) for each in both]}
    if chosen.data in PEERS:
        peer = f"torchvision, DataLoader with {PEER_WORKERS} workers"
        ways[peer] = [_peer(each, lab) for each in both]
    with reproducible(0, lab.device):
        rates = [
            [[_rate(epoch, batches, lab) for epoch in pair] for pair in ways.values()]
            for _ in range(rounds)
        ]
    medians = torch.tensor(rates).median(0).values.tolist()
    rows = [[way, *map("{:.0f}".format, pair)] for way, pair in zip(ways, medians, strict=True)]
    return f"{grid([HEADS, *rows])}\n{_caption(name, lab, batches, rounds)}\n"


def _plain(chosen: Setting) -> Setting:
    """The setting without augmentation, but for the crop of files to one size."""
    recipe = replace(chosen.recipe, crop=0, flip=False, jitter=0.0, lighting=0.0)
    return replace(chosen, recipe=recipe)


def _ours(chosen: Setting, lab: Lab) -> Epoch:
    return partial(open_data(chosen, lab, seed=0).epoch, 0)


def _peer(chosen: Setting, lab: Lab) -> Epoch:
    """Torchvision's dataset and transforms, one image at a time."""
    from torchvision import datasets, transforms

    crop, flip = chosen.recipe.crop, chosen.recipe.flip
    steps: list[Any] = [transforms.RandomCrop(32, crop)] * bool(crop)
    steps += [transforms.RandomHorizontalFlip()] * flip
    view = transforms.Compose([*steps, transforms.ToTensor()])
    dataset = getattr(datasets, PEERS[chosen.data])(lab.data, transform=view)
    return lambda: (
        (x.to(lab.device), y.to(lab.device))
        for x, y in DataLoader(
            dataset, chosen.recipe.batch, shuffle=True, num_workers=PEER_WORKERS, drop_last=True
        )
    )


def _rate(epoch: Epoch, batches: int, lab: Lab) -> float:
    """Images per second of the first batches of an epoch."""
    with measured(lab.device) as measure:
        images = sum(len(x) for x, _ in islice(epoch(), batches))
    return images / measure.seconds


def _caption(name: str, lab: Lab, batches: int, rounds: int) -> str:
    return (
        f"Setting: `{name}`, to {lab.device}, on one CPU thread as runs are, "
        f"{lab.workers} workers for files, torch {torch.__version__}. The median of {rounds} times "
        f"the first {batches} batches of an epoch, the ways in turn."
    )
