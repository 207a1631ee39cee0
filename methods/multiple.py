"""Multiple interpolations per pair (Shen et al., arXiv 2406.01417)."""

from typing import ClassVar, Literal

from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from mixbench.methods import Method, Net
from mixbench.methods.cutmix import CutMix
from mixbench.methods.manifold import Manifold
from mixbench.methods.mixup import Mixup
from mixbench.methods.puzzlemix import PuzzleMix

BASES: dict[str, type[Mixup | CutMix | PuzzleMix]] = {
    "mixup": Mixup,
    "manifold": Manifold,
    "cutmix": CutMix,
    "puzzlemix": PuzzleMix,
}


@dataclass(frozen=True)
class Multiple(Method):
    """k mixtures of each image with its partner, at k ordered ratios, by another method.

    All k b of them make one batch, of which the loss is the mean; ratios are shared by the batch,
    as in the bases. There is no official code. For other parameters of a base, give it its own k:
    ``cutmix,p=1,k=5,nested=True`` has boxes within boxes (the paper's choice is not known).
    """

    formula: ClassVar[str] = (
        "(1/k) Σᵢ H(ŷ(λᵢ), f(x̂(λᵢ))), λ₁ ≥ … ≥ λₖ, each ~ Beta(α, α)\nx̂, ŷ and α: of base"
    )
    source: ClassVar[str] = "arXiv 2406.01417"

    passes: ClassVar[str] = "all images k times, in the same pass; the base's"

    base: Literal["mixup", "manifold", "cutmix", "puzzlemix"] = "mixup"
    k: PositiveInt = 5

    def loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        return self.method.loss(net, x, y)

    def check(self, net: Net) -> None:
        self.method.check(net)

    @property
    def method(self) -> Method:
        """The base, with k interpolations."""
        return BASES[self.base](k=self.k)
