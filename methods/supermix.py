"""SuperMix (Dabouei et al., CVPR 2021, arXiv 2003.05034)."""

from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.methods import Guided, GuidedObjective, Net, dirichlet, full_precision


@dataclass(frozen=True)
class SuperMix(Guided):
    """Train on the images, and on mixtures whose masks a teacher finds salient and classifies well.

    The official code first fills a folder with mixtures, 8-bit images under the teacher's hard
    labels, then trains. Here the pool is filled by the first batches of the training itself, which
    draws from what there is; no folder of images is needed, and no second pass over the data.
    Images and mixtures share one pass, so that batch normalisation sees in training what it is
    tested with; in the official code each have their own.

    pool: mixtures after which no more are made.
    images: how many are mixed, at ratios from Dirichlet(alpha).
    mask: pixels per side of the masks that are optimised, before they are enlarged; sigma: of the
        Gaussian that smooths their gradients (16 and 2 for ImageNet).
    sparsity: weight of the term that drives masks to 0 and 1.
    steps: the most of them that the masks of a batch take; tolerance: the percentage of a batch
        that may be left unsolved when they end.
    weight: of both losses. The official script has 2, after a warm-up; at the learning rate of the
        recipes here, which have none, that diverges.
    """

    formula: ClassVar[str] = (
        "x̂ = Σₖ Mₖ ⊙ xₖ, ŷ = argmax T(x̂); weight · (H(y, f(x)) + H(ŷ, f(x̂)))\n"
        "M: minimal KL(Σₖ λₖŷₖ ‖ T(x̂)) + sparsity · mean M(1 − M), ŷₖ = argmax T(xₖ), λ ~ Dir(α)"
    )
    source: ClassVar[str] = "arXiv 2003.05034"

    pool: PositiveInt = 500_000
    images: PositiveInt = 2
    alpha: PositiveFloat = 3.0
    mask: PositiveInt = 8
    sigma: PositiveFloat = 1.0
    sparsity: NonNegativeFloat = 25.0
    steps: NonNegativeInt = 50
    tolerance: NonNegativeFloat = 70.0
    weight: PositiveFloat = 1.0

    passes: ClassVar[str] = (
        "1 forward + 1 backward, on mixtures; the teacher's, until the pool is full"
    )
    teacher: ClassVar[str] = "baseline"

    def objective(self, net: Net, teacher: Net | None = None) -> "SuperMixObjective":
        return SuperMixObjective(self, net, self.guide(teacher))

    @torch.enable_grad()
    def generate(self, guide: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Those of b mixtures that were solved: images (n, 3, h, w) in [0, 1], labels (n,).

        A mixture is solved when the ``images`` classes that the teacher finds most probable in it
        are those of its target.
        """
        x, target = self.sets(guide, x.detach())
        masks = x.new_zeros(len(x), self.images, 1, self.mask, self.mask)
        solved, mixed = torch.zeros(len(x), dtype=torch.bool), x[:, 0].clone()
        for step in range(self.steps + 1):
            left = (~solved).nonzero()[:, 0]
            m = masks[left].requires_grad_()
            shares = self.shares(m, x)
            mixed[left] = (shares * x[left]).sum(1).detach()
            logits = guide((shares * x[left]).sum(1))
            if step:
                solved[left] = _same_classes(logits, target[left], self.images)
            if step == self.steps or (~solved).sum() <= int(len(x) * self.tolerance / 100):
                break
            loss = self.mask_loss(logits, target[left], shares)
            masks[left] = self.moved(m, loss)
        found = (mixed[solved] * 255).floor() / 255
        with torch.no_grad():
            return found, guide(found).argmax(1) if len(found) else solved.nonzero()[:, 0]

    def sets(self, guide: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Each image with its followers in the batch, (b, images, 3, h, w), and their mixed targets,
        by the teacher's labels, (b, c).
        """
        with torch.no_grad():
            logits = guide(x)
        labels = F.one_hot(logits.argmax(1), logits.shape[1]).to(x)
        followers = [(x.roll(-i, 0), labels.roll(-i, 0)) for i in range(self.images)]
        images, classes = (torch.stack(parts, 1) for parts in zip(*followers, strict=True))
        ratio = dirichlet(torch.full((len(x),), self.alpha), self.images).to(x)
        return images, torch.einsum("bk,bkc->bc", ratio, classes)

    def shares(self, masks: Tensor, x: Tensor) -> Tensor:
        """What each image gives to each pixel, (n, images, 1, h, w), with sum one over images."""
        size = x.shape[-2:]
        large = F.interpolate(masks.flatten(0, 1), size, mode="bilinear", align_corners=False)
        share: Tensor = large.unflatten(0, masks.shape[:2]).sigmoid()
        return share / share.sum(1, keepdim=True)

    def mask_loss(self, logits: Tensor, target: Tensor, shares: Tensor) -> Tensor:
        """The loss of each mixture, (n,): the teacher's divergence, and how grey the masks are."""
        divergence = F.kl_div(logits.log_softmax(1), target, reduction="none").sum(1)
        return divergence + self.sparsity * (shares * (shares - 1)).abs().flatten(1).mean(1)

    def moved(self, masks: Tensor, loss: Tensor) -> Tensor:
        """The masks after one step, to where the loss would be zero if it were linear."""
        (slope,) = torch.autograd.grad(loss.sum(), masks)
        smooth = _blurred(slope.flatten(0, 1), self.sigma).view_as(slope)
        descent = (slope * smooth).flatten(1).sum(1)
        length = (loss.detach().abs() / (descent + 1e-10)).clamp(1e-4, 2000)
        return masks.detach() - length.view(-1, 1, 1, 1, 1) * smooth


class SuperMixObjective(GuidedObjective):
    """The objective, with the mixtures made so far: the first ``count`` of the pool."""

    method: SuperMix

    def __init__(self, method: SuperMix, net: Net, guide: nn.Module) -> None:
        super().__init__(method, net, guide)
        self.count = 0
        self.images, self.labels = torch.empty(0), torch.empty(0, dtype=torch.int64)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        if self.count < self.method.pool:
            with full_precision(x.device):
                self.add(*self.method.generate(self.guide, x))
        pick = torch.randint(max(self.count, 1), (len(x) if self.count else 0,))
        mixed, labels = self.images[pick].to(x) / 255, self.labels[pick]
        logits, mixed_logits = self.net(torch.cat([x, mixed])).tensor_split([len(x)])
        targets = F.one_hot(labels, y.shape[1]).to(y)
        loss = self.net.criterion(logits, y)
        loss = loss + self.net.criterion(mixed_logits, targets, reduction="sum") / len(x)
        return self.method.weight * loss

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Put mixtures (n, 3, h, w) in [0, 1] and labels (n,) into the pool, as many as fit."""
        if not len(self.images):
            size = self.method.pool
            self.images = torch.empty(size, *images.shape[1:], dtype=torch.uint8)
            self.labels = torch.empty(size, dtype=torch.int64)
        end = min(self.count + len(images), self.method.pool)
        new = end - self.count
        self.images[self.count : end] = (images[:new] * 255).round().to(torch.uint8)
        self.labels[self.count : end] = labels[:new]
        self.count = end

    @property
    def pool(self) -> dict[str, Tensor]:
        """Images (count, 3, h, w), uint8, and labels (count,)."""
        return {"images": self.images[: self.count], "labels": self.labels[: self.count]}

    def get_extra_state(self) -> dict[str, Tensor]:
        return {key: part.clone() for key, part in self.pool.items()}

    def set_extra_state(self, state: Any) -> None:
        self.count = 0
        if len(state["labels"]):
            with state["images"].device:
                self.add(state["images"] / 255, state["labels"])


def _same_classes(logits: Tensor, target: Tensor, k: int) -> Tensor:
    """Whether the k largest of each row are at the same places, (n,)."""
    found, wanted = (each.topk(k).indices.sort(1).values for each in (logits, target))
    return (found == wanted).all(1)


def _blurred(maps: Tensor, sigma: float) -> Tensor:
    """Maps (n, 1, h, w) smoothed by a Gaussian of 5 sigma taps, zeros around them."""
    taps = max(int(5 * sigma), 1)
    offset = torch.arange(taps).to(maps) - (taps - 1) / 2
    kernel = (-offset.square() / (2 * (taps / 5) ** 2)).exp()
    kernel = kernel / kernel.sum()
    before, after = (taps - 1) // 2, taps // 2
    padded = F.pad(maps, (before, after, before, after))
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
