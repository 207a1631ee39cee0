"""Mixup methods, one file each, usable in any training loop."""

from mixbench.methods._base import LinearMixer, Method, Mixer, Net, Objective, affine
from mixbench.methods._fields import Probability, Range
from mixbench.methods._ops import beta, dirichlet, full_precision, pairs, partners

__all__ = [
    "LinearMixer",
    "Method",
    "Mixer",
    "Net",
    "Objective",
    "Probability",
    "Range",
    "affine",
    "beta",
    "dirichlet",
    "full_precision",
    "pairs",
    "partners",
]
