"""What several tasks need."""

from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import count
from typing import Any, TypeVar

from torch import Tensor
from torch.overrides import TorchFunctionMode

from mixbench.tasks._base import Data

T = TypeVar("T")


class Watching(TorchFunctionMode):
    """Sees the functions of torch that are called while it is entered, wherever that is."""

    def called(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """What a call returns."""
        return func(*args, **kwargs)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.called(func, args, kwargs or {})


def endless(data: Data) -> Generator[tuple[Tensor, Tensor]]:
    """The training batches of one epoch after the other. Close it: what reads ahead takes time."""
    for epoch in count():
        yield from data.epoch(epoch)


def distinct(names: tuple[T, ...]) -> tuple[T, ...]:
    """The names themselves. Raises ValueError if there is none, or one is there twice."""
    if len(set(names)) < max(len(names), 1):
        raise ValueError("Input should be one or more, none of them twice")
    return names
