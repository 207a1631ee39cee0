"""Empirical risk minimisation: no mixing at all."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from mixbench.methods import Method


@dataclass(frozen=True)
class Baseline(Method):
    """The loss of the images as they are."""

    formula: ClassVar[str] = "ŷ = y, x̂ = x"
    source: ClassVar[str] = "Vapnik, Statistical Learning Theory, 1998"
