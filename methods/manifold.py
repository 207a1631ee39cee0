"""Manifold mixup (Verma et al., ICML 2019, arXiv 1806.05236)."""

from typing import ClassVar

from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass

from mixbench.methods.mixup import Mixup


@dataclass(frozen=True)
class Manifold(Mixup):
    """mixup of the images or of what leaves the first or second residual stage, drawn per batch.

    The official code never draws the third stage, although it has a branch for it.
    """

    formula: ClassVar[str] = (
        "ẑ = λz + (1 − λ)z′, ŷ = λy + (1 − λ)y′, λ ~ Beta(α, α)\nz: what leaves a stage of at"
    )
    source: ClassVar[str] = "arXiv 1806.05236"

    at: tuple[str, ...] = ("pixels", "layer1", "layer2")
    alpha: PositiveFloat = 2.0
