"""What a network makes of images, computed once for all tasks that look at it."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Batches = Iterable[tuple[Tensor, Tensor]]

HOST = torch.device("cpu")


class NoImages(ValueError):
    """A set of images that is empty."""


@dataclass(frozen=True)
class Outputs:
    """Of n images: embeddings (n, d), which enter the head; logits (n, c); labels (n,)."""

    embeddings: Tensor
    logits: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Outputs":
        return Outputs(*(part.to(device) for part in vars(self).values()))


@dataclass(frozen=True)
class Reader:
    """Puts sets of images through a network in eval mode, each once, and keeps what comes out.

    It is kept on the host, so that no task's memory holds what another has read; on a CPU, what
    is returned is shared, and nobody may change it.
    """

    net: nn.Sequential
    batches: Callable[[str], Batches]
    seconds: dict[str, float] = field(default_factory=dict)
    _seen: dict[str, Outputs] = field(default_factory=dict)

    def __call__(self, name: str) -> Outputs:
        """The outputs of a set, by its name in ``Data``, on the network's device.

        Raises NoImages if it is empty, ArithmeticError if a logit is not finite.
        """
        if name not in self._seen:
            start = time.perf_counter()
            self._seen[name] = outputs(self.net, self.batches(name), name).to(HOST)
            self.seconds[name] = time.perf_counter() - start
        return self._seen[name].to(_device(self.net))


@torch.no_grad()
def outputs(net: nn.Sequential, batches: Batches, name: str) -> Outputs:
    """What ``net``, as it is, makes of the labelled batches of a set of that name.

    Raises NoImages if there are none, ArithmeticError if a logit is not finite.
    """
    seen = [(*_read(net, x), y) for x, y in batches]
    if not seen:
        raise NoImages(f"{name} has no images")
    of = Outputs(*(torch.cat(part) for part in zip(*seen, strict=True)))
    if lost := int((~of.logits.isfinite()).sum()):
        raise ArithmeticError(f"{lost:,} of {of.logits.numel():,} logits of {name} are not finite")
    return of


def _read(net: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
    """What enters the head of a network, float32, and what leaves it, of images (b, 3, h, w)."""
    entering: list[Tensor] = []
    hook = net[-1].register_forward_pre_hook(lambda _, z: entering.append(z[0].float()))
    try:
        logits = net(x)
    finally:
        hook.remove()
    return entering[-1], logits


def _device(net: nn.Module) -> torch.device:
    return next((p.device for p in net.parameters()), HOST)
