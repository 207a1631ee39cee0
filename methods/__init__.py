"""Mixup methods, one file each, usable in any training loop."""

from mixbench.methods._base import (
    Guided,
    GuidedObjective,
    Lacking,
    LinearMixer,
    Method,
    Mixer,
    Net,
    Objective,
    Switch,
    affine,
)
from mixbench.methods._criterion import Criterion, bce_on_softmax
from mixbench.methods._decisions import Decision, chance, choice, following
from mixbench.methods._fields import Probability, Range
from mixbench.methods._ops import (
    beta,
    box,
    dirichlet,
    drawing_on,
    full_precision,
    pairs,
    partners,
    ratios,
)
from mixbench.methods._saliency import evaluating, saliency

__all__ = [
    "Criterion",
    "Decision",
    "Guided",
    "GuidedObjective",
    "Lacking",
    "LinearMixer",
    "Method",
    "Mixer",
    "Net",
    "Objective",
    "Probability",
    "Range",
    "Switch",
    "affine",
    "bce_on_softmax",
    "beta",
    "box",
    "chance",
    "choice",
    "dirichlet",
    "drawing_on",
    "evaluating",
    "following",
    "full_precision",
    "pairs",
    "partners",
    "ratios",
    "saliency",
]
