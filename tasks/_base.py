"""What a task is: a question put to a trained network, answered with numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import pydantic.dataclasses
from torch import Tensor, nn

from mixbench.tasks._outputs import Reader
from mixbench.tasks._scenes import Scenes


class Data(Protocol):
    """Sets of images, by name, in batches (b, 3, h, w) in [0, 1].

    "train" and "test"; "held_out", which training would have seen if it were not kept for us, and
    which may be empty; sets of no class that was trained on, such as "lsun-crop", whose labels
    are -1; and SOURCE/CORRUPTION/SEVERITY, all test images, corrupted, such as "generated/fog/3".
    """

    def batches(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The images of a set, in order and unchanged, with labels (b,).

        Raises Inapplicable if there can be no such set of what was trained on.
        """

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The training batches of an epoch, shuffled and augmented, with targets (b, c)."""

    def scenes(self, name: str) -> Scenes:
        """Images with objects in boxes: "voc0712", "coco", or of the user's own, "voc:PATH".

        Raises ValueError, which says what to do, if there are none.
        """

    def require(self, name: str) -> None:
        """Raises ValueError, which says what to do, if there is no such set; it is not read."""


class Inapplicable(Exception):
    """The question makes no sense for what was trained, and why: its cell is marked n/a."""


Answer = Mapping[str, float | list[float] | list[str] | Tensor | None]
"""By name: a number for each metric, None if it is undefined, and what figures are drawn from.

Lists are kept in the cell; tensors in a file beside it, which is not needed to print a table.
"""


class Workplace:
    """What a task that takes long needs; this one is for those who need not go on.

    workers: processes that read images.
    """

    @property
    def workers(self) -> int:
        return 0

    def report(self, doing: str, done: int, total: int) -> None:
        """Say how many of how many steps are done."""

    def keep(self, state: Mapping[str, Any]) -> None:
        """Keep numbers and tensors until the task has its cell, also if its process is killed."""

    def kept(self) -> dict[str, Any] | None:
        """What was kept last, on the host, by this task with these parameters; None if nothing."""
        return None


@dataclass(frozen=True)
class Trained:
    """A trained network, and what its training leaves to look at.

    net: in eval mode; maps images (b, 3, h, w) in [0, 1] to logits (b, c); its last child is the
        head, which maps embeddings (b, d) to logits.
    objective: what was trained: maps images and targets (b, c) to the loss. It holds ``net``.
    epochs: for each epoch, the ``top1`` and ``top5`` error after it, in percent, its mean training
        ``loss`` and its ``seconds``.
    outputs: embeddings, logits and labels of a set of images by name, shared by all tasks.
    workplace: this task's own.
    """

    net: nn.Sequential
    objective: nn.Module
    data: Data
    epochs: Sequence[Mapping[str, float]]
    outputs: Reader
    workplace: Workplace = field(default_factory=Workplace)


@dataclass(frozen=True)
class Metric:
    """How a number is read: its heading with its unit, which way is better, how it is printed.

    A main metric stands in tables that ask for the task without saying more. The complement of
    another metric is 100 minus it, and is not answered.
    """

    title: str
    better: Literal["lower", "higher", "neither"]
    form: str = ".2f"
    main: bool = True
    complement: str = ""


@pydantic.dataclasses.dataclass(frozen=True)
class Task:
    """A frozen bag of parameters with one verb, ``evaluate``.

    A change that changes numbers raises ``version``: cells of an older one are stale.
    """

    version: ClassVar[int] = 1

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The numbers that it answers with, and how they are read."""
        return {}

    @property
    def answered(self) -> list[str]:
        """Those of ``metrics`` that an answer has: all but complements."""
        return [name for name, rule in self.metrics.items() if not rule.complement]

    def check(self, data: Data) -> None:
        """Raises ValueError, which says why, if it can't be asked: a package or a set is missing."""

    def evaluate(self, trained: Trained) -> Answer:
        """A number for each of ``metrics``. ``trained`` is the task's own copy.

        Random draws come from torch's global generators, which are seeded by the run. Raises
        Inapplicable if the question makes no sense for what was trained.
        """
        raise NotImplementedError
