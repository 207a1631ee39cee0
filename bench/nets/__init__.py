"""Networks as named stages, by name."""

from collections.abc import Callable, Mapping

import torch

from mixbench.bench.nets import zoo
from mixbench.bench.nets.preactresnet import (
    preactresnet18,
    preactresnet18_narrow,
    preactresnet18_stride2,
    small,
)
from mixbench.bench.nets.resnet import resnet18, resnet50
from mixbench.bench.nets.vit import smallvit
from mixbench.bench.nets.wideresnet import wrn16_8, wrn28_10
from mixbench.bench.spec import choose
from mixbench.methods import Net

NETS: Mapping[str, Callable[[int, int, tuple[float, ...], tuple[float, ...]], Net]] = {
    "small": small,
    "preactresnet18": preactresnet18,
    "preactresnet18-stride2": preactresnet18_stride2,
    "preactresnet18-narrow": preactresnet18_narrow,
    "wrn16-8": wrn16_8,
    "wrn28-10": wrn28_10,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "smallvit": smallvit,
    "vit-small": zoo.vit_small,
}
"""name -> (classes, pixels per side, mean, std) -> network; ``timm/NAME`` is a model of timm."""


def known(name: str) -> str:
    """``name`` itself. Raises BadInput, with the nearest names, if there is no such network."""
    if name.startswith("timm/"):
        return f"timm/{zoo.known(name.removeprefix('timm/'))}"
    return choose(name, [*NETS, "timm/NAME"], "network")


def build(
    name: str, classes: int, size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Net:
    """A new network for images of side ``size``. Raises BadInput if it is not known, or unfit."""
    if known(name) in NETS:
        return NETS[name](classes, size, mean, std)
    return zoo.timm_net(name.removeprefix("timm/"), classes, size, mean, std)


def outline(name: str) -> Net:
    """A network of that name without numbers, to look at its stages."""
    with torch.device("meta"):
        return build(name, 10, 224, (0.5,) * 3, (0.25,) * 3)
