"""What a method is: a rule that turns a network and a mini-batch into a loss."""

from collections import OrderedDict
from collections.abc import Mapping
from itertools import islice
from typing import Any, ClassVar, Self

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.methods._criterion import Criterion
from mixbench.methods._decisions import chance, choice
from mixbench.methods._fields import Probability
from mixbench.methods._ops import combined, drawing_on, full_precision


class Lacking(ValueError):
    """What a method needs is not on this machine, and how to get it; it could be applied elsewhere."""


class Net(nn.Sequential):
    """A network as named stages in a row: ``Net(pixels=..., stem=..., ..., pool=..., head=...)``.

    ``pixels`` normalises images that are in [0, 1] outside; what enters ``pool`` are the last maps
    (b, d, h, w), what leaves it is the embedding (b, d); ``head`` maps it to logits (b, c).

    Two attributes are what a setting asks of every method; ``split`` hands them on to the parts.
    criterion: the function that compares logits with targets.
    dtype: in what all stages but the head compute. Unless it is float32, they do so by autocast,
        and what leaves a network or a part is float32; logits of half precision would tie.
    """

    head: nn.Module
    criterion: Criterion = staticmethod(F.cross_entropy)
    dtype: torch.dtype = torch.float32

    def __init__(self, stages: Mapping[str, nn.Module] | None = None, /, **named: nn.Module):
        super().__init__(OrderedDict({**(stages or {}), **named}))

    def forward(self, x: Tensor) -> Tensor:
        if self.dtype == torch.float32:
            out: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return out
        stages = dict(self.named_children())
        head = stages.pop("head", nn.Identity())
        with torch.autocast(x.device.type, self.dtype):
            for stage in stages.values():
                x = stage(x)
        with full_precision(x.device):
            out = head(x.float())
        return out

    def split(self, stage: str) -> tuple["Net", "Net"]:
        """The stages up to and including ``stage``, and those after it.

        Raises ValueError if there is no such stage.
        """
        stages = dict(self.named_children())
        if stage not in stages:
            raise ValueError(f"the network has no stage {stage!r}; it has {', '.join(stages)}")
        cut = list(stages).index(stage) + 1
        return self._take(0, cut), self._take(cut, len(stages))

    @property
    def trunk(self) -> "Net":
        """The stages before ``pool``: images to the last maps."""
        return self._take(0, list(dict(self.named_children())).index("pool"))

    def _take(self, start: int, end: int) -> "Net":
        part = Net(dict(islice(self.named_children(), start, end)))
        part.criterion, part.dtype = self.criterion, self.dtype
        return part


@dataclass(frozen=True)
class Method:
    """A frozen bag of hyper-parameters with one verb, ``loss``. The base class is the baseline.

    version: a change that changes what is trained raises it: runs of an older one are stale.
    passes: what a step asks of networks beyond the forward and backward pass that trains.
    teacher: the method by which the network that ``objective`` needs was trained; "" if none.
    formula: what becomes of a batch that is mixed, in one or two lines: x, y are images and targets,
        x′, y′ their partners, x̂, ŷ what is trained on, f the network, T the teacher, H the
        criterion; Greek letters are the fields of these names.
    source: where it was published, such as "arXiv 1710.09412".
    """

    version: ClassVar[int] = 1
    formula: ClassVar[str] = ""
    source: ClassVar[str] = ""
    passes: ClassVar[str] = ""
    teacher: ClassVar[str] = ""

    def loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        """The training loss, a scalar, on images ``x`` (b, 3, h, w) in [0, 1].

        ``y`` (b, c) are target distributions, floating point: rows are non-negative and sum to
        one. Logits are compared with targets by ``net.criterion``, which is the setting's. Random
        draws land on torch's default device, which ``objective`` sets to that of ``x``.
        """
        return net.criterion(net(x), y)

    def check(self, net: Net) -> None:
        """Raises ValueError, which says why, if the method can't be applied to the network."""

    def objective(self, net: Net, teacher: Net | None = None) -> "Objective":
        """The module that is trained. ``teacher`` is a trained network, if the method names one."""
        return Objective(self, net)


class Objective(nn.Module):
    """A method bound to a network: ``objective(x, y)`` is the loss, a scalar.

    All state is in its ``state_dict``, and all draws are torch's, so that a training can resume.
    """

    def __init__(self, method: Method, net: Net) -> None:
        super().__init__()
        self.method, self.net = method, net

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with drawing_on(x.device):
            return self.loss(x, y)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.method.loss(self.net, x, y)


@dataclass(frozen=True)
class Guided(Method):
    """A method whose loss also asks a network that is not trained, its guide: here, the teacher."""

    def guided_loss(self, net: Net, guide: Any, x: Tensor, y: Tensor) -> Tensor:
        """The training loss, a scalar; arguments as for ``loss``."""
        raise NotImplementedError

    def guide(self, teacher: Net | None) -> nn.Module:
        """The network to ask. Raises ValueError if there is none."""
        if teacher is None:
            raise ValueError(f"a teacher is needed: a network that {self.teacher} trained")
        return teacher

    def loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        raise TypeError("this method needs a guide: its loss is that of its objective")

    def objective(self, net: Net, teacher: Net | None = None) -> Objective:
        return GuidedObjective(self, net, self.guide(teacher))


class GuidedObjective(Objective):
    """An objective with a guide, which is frozen, and always in eval mode."""

    method: Guided

    def __init__(self, method: Guided, net: Net, guide: nn.Module) -> None:
        super().__init__(method, net)
        self.guide = guide.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.guide.eval()
        return self

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.method.guided_loss(self.net, self.guide, x, y)


@dataclass(frozen=True)
class Switch(Method):
    """A method that mixes some batches, and leaves the others to another method.

    p: the probability that a batch is mixed; the others get the loss of ``otherwise``.
    """

    p: Probability = 1.0

    def loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        with drawing_on(x.device):
            if chance(self.p):
                return self.mixed_loss(net, x, y)
            return self.otherwise().loss(net, x, y)

    def mixed_loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        """The loss, a scalar, of a batch that is mixed; arguments as for ``loss``."""
        raise NotImplementedError

    def otherwise(self) -> Method:
        """The method of the batches that are not mixed."""
        return Method()


@dataclass(frozen=True)
class Mixer(Switch):
    """A method that mixes what leaves one stage, and the targets with it.

    at: the stages where it may mix; one is drawn for each batch.
    """

    at: tuple[str, ...] = ("pixels",)

    def mix(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mix b features (b, ...) and targets (b, c) into n features (n, ...) and targets (n, c).

        Called with the default device set to that of ``z``.
        """
        raise NotImplementedError

    def check(self, net: Net) -> None:
        for stage in self.at:
            net.split(stage)

    def mixed_loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        below, above = net.split(self.stage(net))
        z = below(x)
        with full_precision(z.device):  # or targets would be rounded
            z, y = self.mix(z, y)
        return net.criterion(above(z), y)

    def stage(self, net: Net) -> str:
        """Draw the stage after which this batch is mixed."""
        return self.at[choice(len(self.at))]


@dataclass(frozen=True)
class LinearMixer(Mixer):
    """A mixer whose mixtures are the rows of one matrix."""

    def weights(self, b: int) -> Tensor:
        """Draw the (n, b) matrix of a batch of ``b``: rows are non-negative and sum to one."""
        raise NotImplementedError

    def mix(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        w = self.weights(len(z))
        return combined(w.to(z), z), w.to(y) @ y

    def stage(self, net: Net) -> str:
        """Draw the stage; what would be mixed just before an affine head is mixed after it.

        Rows that sum to one commute with an affine map, so the loss and its gradients are the
        same, for n c instead of n d numbers.
        """
        stage = super().stage(net)
        _, above = net.split(stage)
        return "head" if len(above) == 1 and affine(above[0]) else stage


def affine(head: nn.Module) -> bool:
    """Whether it is known that ``head`` commutes with weights that sum to one."""
    return type(head) is nn.Linear
