"""What a loss does to a batch, seen from outside: what goes through the stages of the network, and
what is compared with targets. Nothing is known of the method.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.bench.spec import BadInput
from mixbench.methods import Net, Objective
from mixbench.methods._criterion import Reduction
from mixbench.tasks import Watching

IMAGES = "pixels"
"""The stage that what is mixed as images has left, or not yet entered."""
BLEND = -1
EQUAL = 2e-6
"""How near two pixels are that were equal before they were normalised and back."""
DITHER = 0.4 / 255
LOSSES = (F.cross_entropy, F.binary_cross_entropy_with_logits)
"""What a method may compare by that does not ask the network's criterion."""


@dataclass(frozen=True)
class Seen:
    """What one call of a loss did to b examples.

    stage: after which it mixed; "pixels" if it mixed images, "" if nothing.
    images: (n, 3, h, w) in [0, 1], as they entered the network; none if it mixed no images.
    owner: whose pixel each of theirs is, (n, h, w): an example's number, or BLEND.
    weights: of the examples in the target of each image, (n, b), NaN if it has none; of each
        mixture, if it mixed no images.
    """

    stage: str
    images: Tensor
    owner: Tensor
    weights: Tensor

    @property
    def pasted(self) -> bool:
        """Whether most images have pixels that are an example's: also those mixed with themselves."""
        return bool((self.owner != BLEND).flatten(1).any(1).float().mean() > 0.5)

    @property
    def what(self) -> str:
        """What was mixed, and how, in words; "" if nothing was."""
        if self.stage != IMAGES:
            return self.stage and f"what leaves {self.stage} is mixed"
        return "images are pasted" if self.pasted else "images are blended"


@dataclass
class Pass:
    """What entered and what left the stages of a network, by name, in one pass through it."""

    entered: dict[str, Tensor] = field(default_factory=dict)
    left: dict[str, Tensor] = field(default_factory=dict)

    def before(self, stages: Sequence[str]) -> "Pass":
        """The part of it that went through these stages."""
        kept = ({k: v for k, v in d.items() if k in stages} for d in (self.entered, self.left))
        return Pass(*kept)


@dataclass(frozen=True)
class Comparison:
    """Logits (n, c) that were compared with targets (n, c), and what came of it."""

    logits: Tensor
    target: Tensor
    loss: Tensor


class Watched(Watching):
    """Notes what goes through a network while it is entered. The network is not to be used again."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.passes: list[Pass] = []
        self.by_criterion: list[Comparison] = []
        self.by_function: list[Comparison] = []
        self.stages = [name for name, _ in net.named_children()]
        self.criterion, net.criterion = net.criterion, self.compare
        for name, stage in net.named_children():
            stage.register_forward_pre_hook(partial(self.enter, name))
            stage.register_forward_hook(partial(self.leave, name))

    def enter(self, name: str, _: nn.Module, args: Sequence[Any]) -> None:
        """A pass begins, or branches off the last one, where a stage is entered once more."""
        if not self.passes:
            self.passes.append(Pass())
        elif name in self.passes[-1].entered:
            before = self.stages[: self.stages.index(name)]
            self.passes.append(self.passes[-1].before(before))
        self.passes[-1].entered[name] = args[0].detach()

    def leave(self, name: str, _: nn.Module, args: Sequence[Any], out: Tensor) -> None:
        self.passes[-1].left[name] = out.detach()

    def compare(
        self, logits: Tensor, target: Tensor, /, *, reduction: Reduction = "mean"
    ) -> Tensor:
        loss = self.criterion(logits, target, reduction=reduction)
        self.by_criterion.append(Comparison(logits, target, loss))
        return loss

    def called(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        out = super().called(func, args, kwargs)
        if func in LOSSES:
            given = signature(func).bind(*args, **kwargs).arguments
            logits, target = given["input"], given["target"]
            if target.ndim == 1:
                target = F.one_hot(target, logits.shape[1]).to(logits)
            self.by_function.append(Comparison(logits, target, out))
        return out

    def comparisons(self, loss: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Logits and targets (n, c), once for the same logits. Raises BadInput if there are none."""
        compared = self.by_criterion or self.by_function
        if not compared:
            raise BadInput("its loss compares no logits with targets: it should by net.criterion")
        same: dict[int, list[Comparison]] = {}
        for each in compared:
            same.setdefault(id(each.logits), []).append(each)
        return [(each[0].logits.detach(), _target(each, loss)) for each in same.values()]


def _target(compared: Sequence[Comparison], loss: Tensor) -> Tensor:
    """The one target that asks the same of the same logits as several do.

    Each weighs as much as the loss changes with what came of it.
    """
    if len(compared) == 1:
        return compared[0].target.detach()
    parts = [each.loss for each in compared]
    slopes = torch.autograd.grad(loss, parts, materialize_grads=True, retain_graph=True)
    share = torch.stack([slope.reshape(-1, 1) for slope in slopes])  # j (n or 1) 1
    targets = torch.stack([each.target for each in compared])  # j n c
    return (share * targets).sum(0) / share.sum(0)


def dithered(x: Tensor) -> Tensor:
    """Images in [0, 1] of which no two pixels are equal; in 8 bits they are what they were."""
    return x.lerp(torch.rand_like(x), DITHER)


def look(objective: Objective, x: Tensor, y: Tensor, seed: int) -> Seen:
    """What a copy of the objective does, with this seed, to b ``dithered`` images with targets.

    The targets (b, c) are linearly independent. Raises BadInput if it compares nothing with targets.
    """
    objective = deepcopy(objective).train()
    pixels, (_, first, *_) = objective.net.split(IMAGES)[0], dict(objective.net.named_children())
    levels = pixels(torch.stack([torch.zeros_like(x), torch.ones_like(x), x]).flatten(0, 1))
    black, white, given = levels.unflatten(0, (3, len(x)))
    watched = Watched(objective.net)
    torch.manual_seed(seed)
    with watched:
        loss = objective(x, y)
    paths = [
        Path(_pass(logits, watched.passes), logits, (target @ y.pinverse().to(target)).cpu())
        for logits, target in watched.comparisons(loss)
    ]
    stages = [_mixed_after(x, path) for path in paths]
    stage = min(filter(None, stages), key=watched.stages.index, default="")
    mixing = [path for path, after in zip(paths, stages, strict=True) if after == stage]
    if stage != IMAGES:
        none = torch.empty(0, *x.shape[1:])
        return Seen(stage, none, none[:, 0].long(), torch.cat([path.weights for path in mixing]))
    images, weights = _mixed_images(mixing, first, given)
    black, white = black[:1].double(), white[:1].double()
    images = ((images.double() - black) / (white - black)).cpu()
    return Seen(stage, images.float(), owners(images, x.double().cpu()), weights)


class Path(NamedTuple):
    """How logits (n, c) came about, and the weights (n, b) of examples in their targets."""

    way: Pass
    logits: Tensor
    weights: Tensor


def _mixed_images(paths: Sequence[Path], stage: str, given: Tensor) -> tuple[Tensor, Tensor]:
    """What entered a stage, but for whole batches that were ``given``; with weights (n, b)."""
    images, weights = [], []
    for way in {id(path.way): path.way for path in paths}.values():
        w = _of_rows(way.left["head"], [path for path in paths if path.way is way])
        entered = way.entered[stage]
        for rows in torch.arange(len(entered)).split(len(given)):
            if not _among(entered[rows], given):
                images.append(entered[rows])
                weights.append(w[rows])
    return torch.cat(images), torch.cat(weights)


def _pass(logits: Tensor, passes: Sequence[Pass]) -> Pass:
    """The pass that the logits came out of: the last one, if they are not as they came out."""
    whole = [each for each in passes if "head" in each.left]
    if not whole:
        raise BadInput("its loss does not ask the network's head")
    return next((p for p in reversed(whole) if _among(logits, p.left["head"])), whole[-1])


def _mixed_after(x: Tensor, path: Path) -> str:
    """The first stage after which what arrived is not what left it; "" if it always is."""
    last, left = IMAGES, x
    for stage, entered in path.way.entered.items():
        if not _among(entered, left):
            return last
        last, left = stage, path.way.left[stage]
    return "" if _among(path.logits, left) else last


def _of_rows(out: Tensor, paths: Sequence[Path]) -> Tensor:
    """The weights (n, b) of what left the head (n, c), NaN where it was compared with nothing."""
    weights = torch.full((len(out), paths[0].weights.shape[1]), torch.nan)
    for path in paths:
        if len(path.logits) == len(out):
            return path.weights
        found = dict(zip(_rows(path.logits), path.weights, strict=True))
        for i, row in enumerate(_rows(out)):
            weights[i] = found.get(row, weights[i])
    return weights


def _among(some: Tensor, all: Tensor) -> bool:
    """Whether each row of the one is one of the other's."""
    return {*_rows(some)} <= {*_rows(all)}


def _rows(z: Tensor) -> list[bytes]:
    return [row.tobytes() for row in z.float().cpu().numpy()]


def owners(images: Tensor, x: Tensor) -> Tensor:
    """In which of the ``dithered`` images (b, 3, h, w) each pixel of others is, (n, h, w); or BLEND."""
    from scipy.spatial import cKDTree

    points, known = (each.movedim(1, -1).flatten(0, 2).numpy() for each in (images, x))
    _, nearest = cKDTree(known).query(points, distance_upper_bound=EQUAL)
    owner = torch.from_numpy(nearest) // (len(known) // len(x))
    owner = torch.where(owner < len(x), owner, BLEND)
    return owner.view(len(images), *images.shape[2:])
