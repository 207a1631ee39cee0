"""Networks as named stages, by name. Torch is imported when one is built."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from mixbench.bench.spec import choose

if TYPE_CHECKING:
    from mixbench.methods import Net

NETS: Mapping[str, str] = {
    "small": "preactresnet",
    "preactresnet18": "preactresnet",
    "preactresnet18-stride2": "preactresnet",
    "preactresnet18-narrow": "preactresnet",
    "wrn16-8": "wideresnet",
    "wrn28-10": "wideresnet",
    "resnet18": "resnet",
    "resnet50": "resnet",
    "smallvit": "vit",
    "vit-small": "zoo",
}
"""name -> the module whose function of that name, with _ for -, builds it; or ``timm/NAME``."""


def known(name: str) -> str:
    """``name`` itself. Raises BadInput, with the nearest names, if there is no such network."""
    if name.startswith("timm/"):
        from mixbench.bench.nets import zoo

        return f"timm/{zoo.known(name.removeprefix('timm/'))}"
    return choose(name, [*NETS, "timm/NAME"], "network")


def build(
    name: str, classes: int, size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> "Net":
    """A new network for images of side ``size``. Raises BadInput if it is not known, or unfit."""
    if known(name) in NETS:
        module = import_module(f"{__name__}.{NETS[name]}")
        net: Net = getattr(module, name.replace("-", "_"))(classes, size, mean, std)
        return net
    from mixbench.bench.nets import zoo

    return zoo.timm_net(name.removeprefix("timm/"), classes, size, mean, std)


def outline(name: str) -> "Net":
    """A network of that name without numbers, to look at its stages."""
    import torch

    with torch.device("meta"):
        return build(name, 10, 224, (0.5,) * 3, (0.25,) * 3)
