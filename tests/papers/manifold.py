"""Manifold mixup: arXiv 1806.05236, Section 2, with the layers of the official code."""

from papers.mixup import loss

__all__ = ["CASES", "loss"]

CASES = (
    "manifold",
    "manifold,at=layer3",
    "manifold,at=layer2+pool,k=2",
    "manifold,p=0.5,shared=False",
)
