"""What several tasks need."""

from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import count
from pathlib import Path
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


def located(name: str, what: str) -> str:
    """The name of a set; one such as folder:PATH with its path in the one way that is true everywhere.

    Raises ValueError, which says ``what`` it should be, if it is a path alone, or none.
    """
    kind, colon, path = name.partition(":")
    if not colon and "/" not in name:
        return name
    if not path or not path.isprintable():
        raise ValueError(f"Input should be {what}")
    return f"{kind}:{Path(path).expanduser().resolve()}"
