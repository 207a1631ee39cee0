"""The variance of a training step's gradient (Shen et al., arXiv 2406.01417)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from itertools import islice
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from mixbench.tasks import Inapplicable, Metric, Task, Trained, Watching, endless

Several = Annotated[int, Field(ge=2)]


@dataclass(frozen=True)
class Variance(Task):
    """The trace of the gradient's covariance at fixed parameters, by the law of total variance.

    One part is of the pairs: a batch, drawn from the training set, and the partners in it, which
    are what ``torch.randperm`` draws of the batch's size. The other is of what is left once these
    are given: interpolation factors and all else that the method draws, and, where it has no such
    permutation, with whom images are mixed.

    Estimates are unbiased; so that of the pairs may fall below zero, and a share be above 100 %.

    batches: how many, one after the other, of as many epochs as it takes. Within an epoch no image
        comes twice, which the estimate allows for: it is that of independent batches.
    draws: of the interpolation, for each of them.
    """

    batches: Several = 200
    draws: Several = 2

    metrics: ClassVar = {
        "total": Metric("gradient variance", "neither", ".3g"),
        "pair": Metric("gradient variance, of pairs", "neither", ".3g", main=False),
        "interpolation": Metric(
            "gradient variance, of interpolation", "neither", ".3g", main=False
        ),
        "share": Metric("share of interpolation in gradient variance, %", "neither", ".1f"),
    }

    def evaluate(self, trained: Trained) -> dict[str, float]:
        """Raises Inapplicable if all gradients are equal."""
        objective = trained.objective.train()
        state = deepcopy(objective.state_dict())  # of a pool, say, which each loss adds to
        means, within = Spread(), 0.0
        with closing(endless(trained.data)) as batches:
            for x, y in islice(batches, self.batches):
                draws = self.gradients(objective, state, x, y)
                means.add(draws.mean)
                within += draws.variance
        interpolation = within / self.batches
        pair = means.variance - interpolation / self.draws
        total = pair + interpolation
        if not total:
            raise Inapplicable("all gradients are equal")
        share = 100 * interpolation / total
        return {"total": total, "pair": pair, "interpolation": interpolation, "share": share}

    def gradients(
        self, objective: nn.Module, state: Mapping[str, Any], x: Tensor, y: Tensor
    ) -> "Spread":
        """The gradients of ``draws`` losses of the same pairs, each from the same state."""
        spread, drawn = Spread(), list[Tensor]()
        for _ in range(self.draws):
            objective.load_state_dict(state)
            with SamePartners(len(x), drawn):
                loss = objective(x, y)
            spread.add(gradient(loss, objective))
        return spread


class SamePartners(Watching):
    """Draws permutations of ``b`` as they were ``drawn`` before, in this order; new ones join them."""

    def __init__(self, b: int, drawn: list[Tensor]) -> None:
        super().__init__()
        self.b, self.drawn, self.asked = b, drawn, 0

    def called(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        if func is not torch.randperm or self.b not in (*args[:1], kwargs.get("n")):
            return super().called(func, args, kwargs)
        if self.asked == len(self.drawn):
            self.drawn.append(super().called(func, args, kwargs))
        self.asked += 1
        return self.drawn[self.asked - 1].clone()


class Spread:
    """The mean of vectors, and the trace of their covariance, from one at a time (Welford)."""

    def __init__(self) -> None:
        self.n, self.mean, self.squares = 0, torch.zeros(()), 0.0

    def add(self, vector: Tensor) -> None:
        self.n += 1
        before = vector - self.mean
        self.mean = self.mean + before / self.n
        self.squares += (before * (vector - self.mean)).sum(dtype=torch.float64).item()

    @property
    def variance(self) -> float:
        """The unbiased estimate, from two or more vectors."""
        return self.squares / (self.n - 1)


def gradient(loss: Tensor, objective: nn.Module) -> Tensor:
    """With respect to all parameters that are trained, as one vector."""
    trained = [p for p in objective.parameters() if p.requires_grad]
    parts = torch.autograd.grad(loss, trained, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])
