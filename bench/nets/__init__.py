"""Networks as named stages, by name."""

from collections.abc import Callable, Mapping

import torch

from mixbench.bench.nets.preactresnet import preactresnet18, small
from mixbench.bench.nets.vit import smallvit
from mixbench.methods import Net

NETS: Mapping[str, Callable[[int, int, tuple[float, ...], tuple[float, ...]], Net]] = {
    "small": small,
    "preactresnet18": preactresnet18,
    "smallvit": smallvit,
}
"""name -> (classes, pixels per side, mean, std) -> network"""


def outline(name: str) -> Net:
    """A network of that name without numbers, to look at its stages."""
    with torch.device("meta"):
        return NETS[name](10, 32, (0.5,) * 3, (0.25,) * 3)
