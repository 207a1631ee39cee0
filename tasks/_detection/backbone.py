"""A run's ResNet as a detector's backbone."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mixbench.tasks._base import Inapplicable

DEPTHS = (18, 34, 50, 101, 152)
LAYERS = ("layer1", "layer2", "layer3", "layer4")
STEM = {"stem.0.": "conv1.", "stem.1.": "bn1.", "stem.": ""}
"""What torchvision calls parts of a stem whose modules have numbers, or names as in timm."""
NAMED = 3
"""Tensors that a message names of each kind."""
SIDE = 64
TOLERANCE = 0.01


@dataclass(frozen=True)
class ResNet:
    """The convolutional part of a ResNet (arXiv 1512.03385).

    depth: 18, 34, 50, 101 or 152.
    weights: by torchvision's names, which are mmdetection's and timm's too: conv1.weight,
        bn1.running_mean, layer1.0.conv1.weight, ...; without those of the head.
    mean, std: what images in [0, 1] are normalised by.
    """

    depth: int
    weights: Mapping[str, Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def resnet(net: nn.Sequential) -> ResNet:
    """The backbone in a network of named stages.

    Raises Inapplicable if it has no such ResNet, ArithmeticError if weights are not finite.
    """
    state: dict[str, Tensor] = dict(net.state_dict())
    weights = {_renamed(name): w for name, w in state.items() if not name.startswith("head.")}
    faults = {depth: _faults(_expected(depth), weights) for depth in DEPTHS}
    depth = min(DEPTHS, key=lambda depth: sum(map(len, faults[depth].values())))
    if fault := _told(faults[depth]):
        raise Inapplicable(
            "detection needs a ResNet of depth 18, 34, 50, 101 or 152 as torchvision's; "
            f"this network differs from resnet{depth}, the nearest: {fault}"
        )
    mean, std = (weights.pop(f"pixels.{name}").flatten().tolist() for name in ("mean", "std"))
    if not all(w.isfinite().all() for w in weights.values()):
        raise ArithmeticError("weights of the network are not finite: training has diverged")
    if not _alike(net, depth, weights):
        raise Inapplicable(
            f"detection needs a ResNet that computes what torchvision's resnet{depth} does; "
            "this network computes something else from tensors of the same names"
        )
    return ResNet(depth, weights, tuple(mean), tuple(std))


def fill(backbone: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a backbone, and see that every tensor arrived.

    A backbone may end early, and then leaves the weights of the layers that it does not have.
    Where its batch norm is frozen and counts no batches, it leaves the counts.
    Raises ValueError, which names the tensors, if it has some that are not among the weights, or
    of another shape, or if there are weights that it does not take.
    """
    own = backbone.state_dict()
    taken = {name: w for name, w in weights.items() if name in own or not _left(name, own)}
    if fault := _told(_faults(own, taken)):
        raise ValueError(f"weights do not fit the backbone: {_prefixed(weights)}{fault}")
    backbone.load_state_dict(taken)
    if lost := [name for name, w in backbone.state_dict().items() if _differ(w, weights[name])]:
        raise ValueError(f"weights did not arrive in the backbone: {_some(lost)}")


def _renamed(name: str) -> str:
    """torchvision's name of a tensor in a network of stages."""
    for ours, theirs in STEM.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _expected(depth: int) -> dict[str, Tensor]:
    """By torchvision's names, tensors of the shapes that a network of that depth has."""
    with torch.device("meta"):
        pixels = {"pixels.mean": torch.empty(3, 1, 1), "pixels.std": torch.empty(3, 1, 1)}
        return {**pixels, **_headless(depth).state_dict()}


def _headless(depth: int) -> Any:
    """A new ResNet of torchvision: images (b, 3, h, w) to flat maps."""
    from torchvision import models  # takes seconds

    model = getattr(models, f"resnet{depth}")()
    model.avgpool = model.fc = nn.Identity()
    return model


def _faults(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The names of tensors that are wrong, by what is wrong."""
    return {
        "missing": [name for name in expected if name not in given],
        "unexpected": [name for name in given if name not in expected],
        "of another shape": [
            f"{name} {_shape(given[name])} for {_shape(tensor)}"
            for name, tensor in expected.items()
            if name in given and given[name].shape != tensor.shape
        ],
    }


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "of no axes"


def _told(faults: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{kind}: {_some(names)}" for kind, names in faults.items() if names)


def _some(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _alike(net: nn.Sequential, depth: int, weights: Mapping[str, Tensor]) -> bool:
    """Whether the last maps are those of torchvision's ResNet with the same weights.

    Names and shapes do not tell: some variants blur, or pool elsewhere. Nothing is drawn globally.
    """
    stages = (net.get_submodule(name) for name in ("stem", *LAYERS))
    trunk = deepcopy(nn.Sequential(*stages)).eval()
    with torch.device("meta"):
        model = _headless(depth).eval()
    device, dtype = weights["conv1.weight"].device, weights["conv1.weight"].dtype
    draws = torch.Generator(device).manual_seed(0)
    x = torch.randn(1, 3, SIDE, SIDE, generator=draws, device=device, dtype=dtype)
    with torch.no_grad():
        expected = functional_call(model, dict(weights), x)
        actual = trunk(x).flatten(1)
    return actual.shape == expected.shape and bool(
        (actual - expected).norm() <= TOLERANCE * expected.norm()
    )


def _left(name: str, own: Iterable[str]) -> bool:
    """Whether a backbone may leave a weight: it ends before, or its batch norm does not count."""
    part, _, last = name.rpartition(".")
    if last == "num_batches_tracked" and f"{part}.running_var" in own:
        return True
    layer = name.partition(".")[0]
    return layer in LAYERS and all(layer > other.partition(".")[0] for other in own)


def _prefixed(weights: Mapping[str, Tensor]) -> str:
    """What to say if all names start alike."""
    prefix, dot, _ = commonprefix(list(weights)).rpartition(".")  # noqa: RUF071
    return f"all {len(weights)} have the prefix {prefix + dot!r}; " if dot else ""


def _differ(arrived: Tensor, sent: Tensor) -> bool:
    return not torch.equal(arrived, sent.to(arrived))
