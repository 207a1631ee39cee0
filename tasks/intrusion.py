"""How near mixed embeddings come to classes that are not mixed: MultiMix's intrusion distance.

Venkataramanan et al., NeurIPS 2023, arXiv 2311.05538.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.tasks import Inapplicable, Metric, Task, Trained, Watching, endless
from mixbench.tasks.cost import CRITERIA

TINY = 1e-6  # what rounding leaves of a weight of zero
CHUNK = 1000


def intrusion(z: Tensor, mixed: Tensor, clean: Tensor, labels: Tensor) -> Tensor:
    """The squared distance of each mixed embedding (n, d) to the nearest clean one (m, d) of
    another class than its own, which are ``mixed`` (n, c), bool; infinite if there is none, (n,).
    """
    parts = zip(z.split(CHUNK), mixed.split(CHUNK), strict=True)
    return torch.cat([_intrusion(*part, clean, labels) for part in parts])


def _intrusion(z: Tensor, mixed: Tensor, clean: Tensor, labels: Tensor) -> Tensor:
    own = mixed[:, labels]  # n m
    nearest = torch.cdist(z, clean).masked_fill(own, torch.inf).argmin(1)
    squared = (z - clean[nearest]).square().sum(1)  # cdist itself is not precise near zero
    return squared.masked_fill(own.all(1), torch.inf)


def first(labels: Tensor, per_class: int) -> Tensor:
    """The indices of the first ``per_class`` examples of each class, by labels (n,)."""
    ordered, index = labels.sort(stable=True)
    rank = torch.arange(len(labels), device=labels.device) - torch.searchsorted(ordered, ordered)
    return index[rank < per_class]


def present(target: Tensor) -> Tensor:
    """The classes that targets (n, c) mix, bool: those whose weight is not zero.

    If none is zero, those whose weight is not what label smoothing gave to all: a weight below 1/c
    that two or more classes have exactly, and more classes than have any other.
    """
    zero = target.abs() < TINY
    common = target.mode(1, keepdim=True).values
    shared = target == common
    smoothed = (shared.sum(1, keepdim=True) > 1) & (common < 1 / target.shape[1])
    return torch.where(zero.any(1, keepdim=True) | ~smoothed, ~zero, ~shared)


class _Call(NamedTuple):
    """What entered a head, (n, d), what left it, (n, c), and the classes of its targets, (n, c)."""

    embeddings: Tensor
    logits: Tensor
    mixed: Tensor


class _Linear(nn.Linear):
    """A head that is not known to be affine: methods mix what enters it, not what leaves it."""


class Mixtures(Watching):
    """Sees what enters a head, and by ``CRITERIA``, with which targets it is compared.

    The head is changed: the network should be a copy.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        if type(head) is nn.Linear:
            head.__class__ = _Linear
        head.register_forward_hook(self._note)

    def of(self, objective: nn.Module, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Embeddings (n, d), float32, that are mixed of two or more classes, and these (n, c), bool,
        for each call of the head in which there are such.

        Raises Inapplicable if predictions on mixtures are not rows of the head's logits, in a row
        and in order, nor their softmax or sigmoid.
        """
        self.calls.clear()
        with self:
            objective(x, y)
        several = [(call, call.mixed.sum(1) > 1) for call in self.calls]
        return [(call.embeddings[n], call.mixed[n]) for call, n in several if n.any()]

    def _note(self, head: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        logits = out.detach().flatten(0, -2)
        mixed = torch.zeros_like(logits, dtype=torch.bool)
        self.calls.append(_Call(args[0].detach().flatten(0, -2).float(), logits, mixed))

    def called(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        if func in CRITERIA:
            self._compare(*args[:2])
        return super().called(func, args, kwargs)

    def _compare(self, prediction: Tensor, target: Tensor) -> None:
        """Note the classes of targets (n, c), or of labels (n,), of predictions (n, c)."""
        if not target.is_floating_point():
            target = F.one_hot(target, prediction.shape[1]).to(prediction)
        mixed = present(target.detach())
        for call in self.calls:
            if rows := _rows(prediction.detach(), call.logits.to(prediction)):
                call.mixed[rows] |= mixed
                return
        if (mixed.sum(1) > 1).any():
            raise Inapplicable("its predictions on mixtures are not what the head makes of them")


def _rows(prediction: Tensor, logits: Tensor) -> slice | None:
    """Where among the logits (m, c) those of the predictions (n, c) are."""
    n, starts = len(prediction), len(logits) - len(prediction) + 1
    if starts < 1:
        return None
    for out in (logits, logits.softmax(1), logits.sigmoid()):
        like_first = out[:starts].isclose(prediction[0]).all(1)
        for start in like_first.nonzero()[:, 0].tolist():
            if out[start : start + n].allclose(prediction):
                return slice(start, start + n)
    return None


@dataclass(frozen=True)
class Intrusion(Task):
    """The mean squared distance of mixed embeddings to the nearest clean one of other classes.

    The method mixes training batches, as in training but in eval mode and without the setting's
    label smoothing. Of what enters the head, that counts which is compared with a target of two
    or more classes; a target's classes are excluded (see ``present``). Loss functions other than
    ``CRITERIA`` are not seen. Clean embeddings are those of the first training images of each
    class, not augmented.

    per_class: the number of clean embeddings.
    batches: how many are mixed.
    rows: the most mixtures of a pass that are looked at; if there are more, a random choice.
    """

    per_class: PositiveInt = 10
    batches: PositiveInt = 50
    rows: PositiveInt = 10_000

    metrics: ClassVar = {
        "normalised": Metric("intrusion distance, unit norm", "higher", ".3f"),
        "raw": Metric("intrusion distance", "higher", ".3g", main=False),
        "skipped": Metric("mixtures of all classes, skipped, %", "neither", ".1f", main=False),
    }

    def evaluate(self, trained: Trained) -> dict[str, float]:
        """Raises Inapplicable if nothing is mixed of two classes, or everything of all."""
        train = trained.outputs("train")
        index = first(train.labels, self.per_class)
        clean, labels = train.embeddings[index], train.labels[index]
        raw, normalised = [], []
        for z, mixed in self.mixtures(trained):
            raw.append(intrusion(z, mixed, clean, labels))
            normalised.append(intrusion(F.normalize(z), mixed, F.normalize(clean), labels))
        if not raw:
            raise Inapplicable(
                "it is not seen to compare a prediction with a target of two or more classes"
            )
        distances = torch.stack([torch.cat(raw), torch.cat(normalised)]).double()
        skipped = distances[0].isinf()
        if skipped.all():
            raise Inapplicable("each mixture is of all classes")
        means = distances[:, ~skipped].mean(1).tolist()
        share = 100 * skipped.double().mean().item()
        return {"raw": means[0], "normalised": means[1], "skipped": share}

    def mixtures(self, trained: Trained) -> Iterator[tuple[Tensor, Tensor]]:
        """Embeddings (n, d), n at most ``rows``, and their classes (n, c), bool."""
        seen = Mixtures(list(trained.net)[-1])
        with closing(endless(trained.data)) as batches:
            for x, y in islice(batches, self.batches):
                for z, mixed in seen.of(trained.objective, x, _one_hot(y)):
                    chosen = torch.randperm(len(z), device=z.device)[: self.rows]
                    yield z[chosen], mixed[chosen]


def _one_hot(y: Tensor) -> Tensor:
    """Targets (b, c) as they were before labels were smoothed."""
    return F.one_hot(y.argmax(1), y.shape[1]).to(y)
