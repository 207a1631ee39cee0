"""What several tasks need."""

from collections.abc import Generator
from itertools import count
from typing import TypeVar

from torch import Tensor

from mixbench.tasks._base import Data

T = TypeVar("T")


def endless(data: Data) -> Generator[tuple[Tensor, Tensor]]:
    """The training batches of one epoch after the other. Close it: what reads ahead takes time."""
    for epoch in count():
        yield from data.epoch(epoch)


def distinct(names: tuple[T, ...]) -> tuple[T, ...]:
    """The names themselves. Raises ValueError if there is none, or one is there twice."""
    if len(set(names)) < max(len(names), 1):
        raise ValueError("Input should be one or more, none of them twice")
    return names
