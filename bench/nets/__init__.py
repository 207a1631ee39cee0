"""Networks as named stages, by name."""

from collections.abc import Callable, Mapping

from mixbench.bench.nets.preactresnet import preactresnet18, small
from mixbench.methods import Net

NETS: Mapping[str, Callable[[int, tuple[float, ...], tuple[float, ...]], Net]] = {
    "small": small,
    "preactresnet18": preactresnet18,
}
"""name -> (classes, mean, std) -> network"""
