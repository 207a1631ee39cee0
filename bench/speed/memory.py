"""How much memory a training step takes."""

from collections.abc import Iterable, Sequence
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mixbench.bench.speed.subjects import Subject
from mixbench.bench.stepping import Plain


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors, those given and those made within, that are alive at once."""

    def __init__(self, there: object) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: set[int] = set()
        self.add(there)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.add(out)
        return out

    def add(self, made: object) -> None:
        for leaf in tree_leaves(made):
            if (
                isinstance(leaf, Tensor)
                and (key := leaf.untyped_storage()._cdata) not in self.known
            ):
                self.known.add(key)
                self.now += leaf.untyped_storage().nbytes()
                self.peak = max(self.peak, self.now)
                finalize(leaf.untyped_storage(), self.drop, key, leaf.untyped_storage().nbytes())

    def drop(self, key: int, size: int) -> None:
        self.known.remove(key)
        self.now -= size


def peak(subject: Subject, batches: Iterable[tuple[Tensor, Tensor]]) -> int:
    """The most bytes of weights, optimizer and all else that a step has at once.

    Of steps that are neither compiled nor recorded.
    """
    step = Plain(subject.objective, subject.optimizer)
    with torch.compiler.set_stance("force_eager"):
        return max(_peak(step, x, y) for x, y in batches)


def _peak(step: Plain, x: Tensor, y: Tensor) -> int:
    live = LiveBytes([*_state(step), x, y])
    if x.device.type != "cuda":
        with live:
            step(x, y)
        return live.peak
    torch.cuda.reset_peak_memory_stats(x.device)
    others = torch.cuda.memory_allocated(x.device) - live.now
    step(x, y)
    return torch.cuda.max_memory_allocated(x.device) - others


def _state(step: Plain) -> list[object]:
    """All that is there between two steps; who keeps it also keeps gradients that are dropped."""
    gradients = [parameter.grad for parameter in step.objective.parameters()]
    return [step.objective.state_dict(), step.optimizer.state_dict(), gradients]
