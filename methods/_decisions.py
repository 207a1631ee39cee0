"""What a step decides on the host, such as whether to mix: each outcome is another row of kernels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Coin:
    """Shows 1 with probability ``p``, else 0."""

    p: float

    def throw(self) -> int:
        return int(torch.rand((), device="cpu") < self.p)


@dataclass(frozen=True)
class Die:
    """Shows one of 0, ..., sides - 1."""

    sides: int

    def throw(self) -> int:
        return int(torch.randint(self.sides, (), device="cpu"))


Decision = Coin | Die
Decide = Callable[[Decision], int]

_decide: ContextVar[Decide] = ContextVar("_decide", default=lambda decision: decision.throw())


def chance(p: float) -> bool:
    """A coin that shows heads with probability ``p``, thrown on the host: no device is waited for."""
    return bool(_decide.get()(Coin(p)))


def choice(n: int) -> int:
    """One of 0, ..., n - 1, all equally likely, drawn on the host."""
    return _decide.get()(Die(n))


@contextmanager
def following(outcomes: Sequence[int]) -> Iterator[list[tuple[Decision, int]]]:
    """Decide within as ``outcomes`` say, and by chance after the last; what was decided, in order."""
    made: list[tuple[Decision, int]] = []
    told = iter(outcomes)

    def decide(decision: Decision) -> int:
        outcome = next(told, None)
        made.append((decision, decision.throw() if outcome is None else outcome))
        return made[-1][1]

    token = _decide.set(decide)
    try:
        yield made
    finally:
        _decide.reset(token)
