"""Empirical risk minimisation: no mixing at all."""

from pydantic.dataclasses import dataclass

from mixbench.methods import Method


@dataclass(frozen=True)
class Baseline(Method):
    """The loss of the images as they are."""
