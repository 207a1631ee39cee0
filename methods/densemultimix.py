"""Dense MultiMix (Venkataramanan et al., NeurIPS 2023, arXiv 2311.05538, Section 3.3)."""

from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.methods import Criterion, Net, affine, full_precision
from mixbench.methods._attention import grid, has_class_token
from mixbench.methods._parts import summed
from mixbench.methods.multimix import MultiMix

TINY = 1e-12
AT_ONCE = 8_000_000
Size = tuple[int, int]


@dataclass(frozen=True)
class DenseMultiMix(MultiMix):
    """MultiMix at every position of the last feature map, weighted by attention (eq. 11 to 14).

    Positions of a vision transformer are its patches, after the last block and the norm, as in
    ``at=block12``. Its class token has no part in this, and learns from the other batches alone.

    attention: what the features of a position are compared with: "gap", their mean over positions;
        "cam", the classifier's weights of the true class; "uniform", nothing.
    squash: how the scores become attention: "relu" and l1 normalisation, or "softmax".
    detach: whether the attention is a constant for the gradient (the paper does not say).
    reduction: of the positions' losses to one (the paper does not say): their "mean" or "sum", or
        "global", a mean in which each position weighs as much as its attention.
    """

    formula: ClassVar[str] = (
        "Ẑʲ = ZʲMʲ, Ŷʲ = YMʲ, Mʲ = diag(aʲ)Λʲdiag(s)⁻¹, s = Λʲᵀaʲ, at each position j\n"
        "λₖʲ ~ Dir(αₖʲ), αₖʲ ~ U(alpha), k = 1, …, n; aʲ: attention of the b examples to j"
    )
    source: ClassVar[str] = "arXiv 2311.05538, eq. 11 to 14"

    at: tuple[str, ...] = ("layer4",)
    attention: Literal["gap", "cam", "uniform"] = "gap"
    squash: Literal["relu", "softmax"] = "relu"
    detach: bool = True
    reduction: Literal["mean", "sum", "global"] = "mean"

    def check(self, net: Net) -> None:
        if has_class_token(net) and self.p == 1:
            raise ValueError("it mixes patches; the class token, which classifies, needs p below 1")
        for stage in self.at:
            _, above = net.trunk.split(stage)
            if has_class_token(net) and len(above):
                *_, last = dict(above.named_children())
                raise ValueError(
                    f"it mixes tokens that leave the last block, {last}, not at={stage}"
                )
            if self.attention == "cam" and (len(above) or readout(net) is not net.head):
                raise ValueError(f"attention=cam needs the map that the head sees, not at={stage}")

    def mixed_loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        below, above = net.trunk.split(self.stage(net))
        z = below(x)
        with full_precision(z.device):  # half precision would lose TINY
            z = z.to(torch.promote_types(z.dtype, y.dtype))
            return self.dense_loss(as_maps(net, z, x), y, above, readout(net))

    def dense_loss(self, z: Tensor, y: Tensor, above: Net, head: nn.Module) -> Tensor:
        """The loss of features (b, d, h, w), with the stages between them and the pool."""
        a = self.attend(z.flatten(2), y, head)
        w = self.draw(len(z), a.shape[1]).to(a) * a.T[:, None]  # r n b
        s = w.sum(2)  # r n
        w = w / s.clamp(min=TINY)[..., None]
        y = y.to(w)
        if not len(above) and affine(head):  # rows of w sum to one wherever s is not zero
            return mixed_logits_loss(above.criterion, w, _dense(head, z), y, self.shares(s))
        mixed = above(_maps(w @ _positions(z), _size(z)))
        target, s = _resize(w @ y, s, _size(z), _size(mixed))
        losses = _losses(above.criterion, _dense(head, mixed), target)
        return (self.shares(s) * losses).sum()

    def attend(self, z: Tensor, y: Tensor, head: nn.Module) -> Tensor:
        """The attention of each image to its r positions, (b, r), from its features (b, d, r).

        Rows sum to one. A row without any positive score becomes uniform.
        """
        uniform = torch.full_like(z[:, 0], 1 / z.shape[2])
        if self.attention == "uniform":
            return uniform
        u = z.mean(2) if self.attention == "gap" else y.to(z) @ _class_weights(head, z.shape[1])
        scores = torch.einsum("bdr,bd->br", z, u)
        if self.squash == "softmax":
            a = scores.softmax(1)
        else:
            total = scores.relu().sum(1, keepdim=True)
            a = torch.where(total > TINY, scores.relu() / total.clamp(min=TINY), uniform)
        return a.detach() if self.detach else a

    def maps(self, net: Net, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The attention over what leaves each stage where it may mix, (b, h, w), for who looks."""
        found = {}
        for stage in self.at:
            z = as_maps(net, net.trunk.split(stage)[0](x), x)
            a = self.attend(z.flatten(2), y, readout(net))
            found[f"attention over {stage}"] = a.view(len(z), *_size(z))
        return found

    def shares(self, s: Tensor) -> Tensor:
        """By how much each mixture's loss counts (r, n), from the weights ``s`` (r, n) (eq. 14)."""
        if self.reduction == "global":
            return s / s.sum().clamp(min=TINY)
        each = s / s.sum(1, keepdim=True).clamp(min=TINY)
        return each / len(s) if self.reduction == "mean" else each


def mixed_logits_loss(
    criterion: Criterion, w: Tensor, logits: Tensor, y: Tensor, shares: Tensor
) -> Tensor:
    """The losses, added up by their shares (r, n), of logits (r, b, c) mixed by ``w`` (r, n, b).

    Targets (b, c) are mixed alike. At most ``AT_ONCE`` mixed logits are there at once, unless those
    of one position are more.
    """

    def loss(w: Tensor, logits: Tensor, shares: Tensor) -> Tensor:
        return (shares * _losses(criterion, w @ logits, w @ y)).sum()

    mixed = w.shape[1] * y.shape[1]  # of one position
    return summed(loss, max(1, AT_ONCE // mixed), w, logits, shares)


def as_maps(net: Net, z: Tensor, x: Tensor) -> Tensor:
    """Maps (b, d, h, w) of features of images ``x``: themselves, or the patches of tokens.

    Of tokens (b, 1 + h w, d), each patch passes the pool in the place of the class token.
    """
    if not has_class_token(net):
        return z
    patches = z[:, 1:]
    size = grid(patches.shape[1], *x.shape[-2:])
    features: Tensor = net.get_submodule("pool")(patches.flatten(0, 1)[:, None])
    maps: Tensor = features.view_as(patches).transpose(1, 2).unflatten(2, size)
    return maps


def readout(net: Net) -> nn.Module:
    """What maps the features (n, d) of positions to logits: the head, behind layers of the pool.

    A pool of pixels has none; in some networks there is a norm or a convolution in it. That of
    tokens is passed before.
    """
    pool = dict(net.named_children())["pool"]
    if has_class_token(net) or not list(pool.parameters()):
        return net.head
    return nn.Sequential(nn.Unflatten(1, (-1, 1, 1)), pool, net.head)


def _class_weights(head: nn.Module, d: int) -> Tensor:
    """The (c, d) weights of the classifier."""
    if isinstance(head, nn.Linear) and head.in_features == d:
        return head.weight
    raise ValueError(f"attention=cam needs a linear head for {d} features, not {head}")


def _size(z: Tensor) -> Size:
    return z.shape[2], z.shape[3]


def _positions(z: Tensor) -> Tensor:
    """Feature maps (b, d, h, w) as a batch of features per position, (r, b, d) with r = h w."""
    return z.flatten(2).permute(2, 0, 1)


def _dense(head: nn.Module, z: Tensor) -> Tensor:
    """The logits of each position, (r, b, c), of feature maps (b, d, h, w)."""
    positions = _positions(z)
    logits: Tensor = head(positions.flatten(0, 1))
    return logits.view(*positions.shape[:2], -1)


def _maps(z: Tensor, size: Size) -> Tensor:
    """The inverse of ``_positions``, for maps of height and width ``size``."""
    return z.permute(1, 2, 0).reshape(*z.shape[1:], *size)


def _resize(y: Tensor, s: Tensor, old: Size, new: Size) -> tuple[Tensor, Tensor]:
    """Targets (r, n, c) and weights (r, n) on a coarser map: means, of targets by their weights."""
    weight = F.adaptive_avg_pool2d(_maps(s[..., None], old), new)
    target = F.adaptive_avg_pool2d(_maps(s[..., None] * y, old), new) / weight.clamp(min=TINY)
    return _positions(target), _positions(weight)[..., 0]


def _losses(criterion: Criterion, logits: Tensor, target: Tensor) -> Tensor:
    """The loss of each position and mixture, (r, n)."""
    loss = criterion(logits.flatten(0, 1), target.flatten(0, 1), reduction="none")
    return loss.view(logits.shape[:2])
