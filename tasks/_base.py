"""What a task is: a question put to a trained network, answered with numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import pydantic.dataclasses
from torch import Tensor, nn


class Data(Protocol):
    """A dataset in batches of images (b, 3, h, w) in [0, 1]."""

    def batches(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The "train" or "test" images, in order and unchanged, with labels (b,)."""

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches that training saw in an epoch, with targets (b, c)."""


@dataclass(frozen=True)
class Trained:
    """A trained network, and what its training leaves to look at.

    net: in eval mode; maps images (b, 3, h, w) in [0, 1] to logits (b, c).
    objective: what was trained: maps images and targets (b, c) to the loss. It holds ``net``.
    epochs: for each epoch, the ``top1`` and ``top5`` error after it, in percent, and its ``seconds``.
    """

    net: nn.Sequential
    objective: nn.Module
    data: Data
    epochs: Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Metric:
    """How a number is read: its heading with its unit, which way is better, how it is printed.

    A main metric stands in tables that ask for the task without saying more.
    """

    title: str
    better: Literal["lower", "higher", "neither"]
    form: str = ".2f"
    main: bool = True


@pydantic.dataclasses.dataclass(frozen=True)
class Task:
    """A frozen bag of parameters with one verb, ``evaluate``.

    A change that changes numbers raises ``version``: cells of an older one are stale.
    """

    version: ClassVar[int] = 1
    metrics: ClassVar[Mapping[str, Metric]] = {}

    def evaluate(self, trained: Trained) -> dict[str, float]:
        """A number for each of ``metrics``. ``trained`` is the task's own copy.

        Random draws come from torch's global generators, which are seeded by the run.
        """
        raise NotImplementedError
