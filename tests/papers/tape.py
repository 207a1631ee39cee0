"""What a formula is given besides its arguments: random draws, and what it holds constant."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np


class Tape:
    """Draws that were made elsewhere, by the name of what was drawn, each to be taken once.

    draws: name, parameters of its law, value. Who takes one says of what law it should be.

    A formula is evaluated again and again near one point, to find its slope there; each time, all
    draws are the same, and so is what it called detached, to which its slope is then blind.
    """

    def __init__(self, draws: Iterable[tuple[str, tuple[Any, ...], Any]]) -> None:
        self.draws = [*draws]
        self.constants: list[Any] = []
        self.rewind()

    def rewind(self) -> None:
        """Give all draws again, and the constants that there were."""
        self.left: defaultdict[str, deque[tuple[tuple[Any, ...], Any]]] = defaultdict(deque)
        for name, law, value in self.draws:
            self.left[name].append((law, value))
        self.passed = 0

    def take(self, name: str, *law: float) -> Any:
        """The next draw of that name: a number, or an array."""
        assert self.left[name], f"the method has drawn no more {name}: {self.draws}"
        drawn, value = self.left[name].popleft()
        assert len(drawn) == len(law), f"{name}: drawn by {drawn}, and not by {law}"
        assert all(map(np.allclose, drawn, law)), f"{name}: drawn by {drawn}, and not by {law}"
        return value

    def chance(self, p: float) -> bool:
        """Whether what happens with probability ``p`` has happened."""
        return bool(self.take("chance", p)) if 0 < p < 1 else p == 1

    def choice(self, n: int) -> int:
        """One of 0, ..., n - 1."""
        return int(self.take("choice", n)) if n > 1 else 0

    def detached(self, value: Any) -> Any:
        """The value, as it was when the formula was first evaluated."""
        return self.once(lambda: np.copy(value))

    def once(self, find: Callable[[], Any]) -> Any:
        """What was found when the formula was first evaluated; it is not searched for again."""
        if self.passed == len(self.constants):
            self.constants.append(find())
        self.passed += 1
        return self.constants[self.passed - 1]

    @property
    def rest(self) -> list[str]:
        """What was drawn, and not taken."""
        return [name for name, values in self.left.items() for _ in values]
