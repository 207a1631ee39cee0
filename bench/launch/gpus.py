"""The GPUs of this machine, and which of them has room for a run."""

import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from mixbench.bench.spec import BadInput

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
SPARE = 2**30  # bytes, of a process's own context
MARGIN = 1.2  # times what runs were seen to need

Pinned = tuple[str, ...]
"""GPUs that a run has, as CUDA_VISIBLE_DEVICES names them; none on a CPU."""


def visible(device: str) -> Pinned:
    """The GPUs that ``device`` stands for: "cuda:1" is one, "cuda" and "auto" are all there are."""
    kind, _, index = device.partition(":")
    count = torch.cuda.device_count() if kind in ("cuda", "auto") else 0
    listed = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    names = listed[:count] if listed else [str(i) for i in range(count)]
    return tuple(names[int(index) : int(index) + 1] if index else names)


def free_memory() -> dict[str, int]:
    """The bytes that are free on each GPU, by its number and its UUID; none if it can't be asked."""
    asked = ["nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20)
        rows = [line.split(", ") for line in lines.stdout.splitlines()]
        return {name: int(free) * 2**20 for *names, free in rows for name in names}
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


@dataclass
class Gpus:
    """Hands the GPUs of a machine to runs.

    each: GPUs for a run; below 1, as many runs share one as have room by that. At 1, a run comes to one that is in use
    when all on it have said how much memory they hold, and as much is free as any run of its
    setting was seen to need.
    """

    names: Pinned
    each: float = 1
    free: Callable[[], dict[str, int]] = free_memory
    held: dict[object, tuple[Pinned, str, int]] = field(default_factory=dict)
    need: dict[str, int] = field(default_factory=dict)

    def check(self) -> None:
        """Raises BadInput if a run asks for more GPUs than there are."""
        if self.names and self.each > len(self.names):
            there = f"there {'is' if len(self.names) == 1 else 'are'} {len(self.names)}"
            raise BadInput(f"a run asks for {self.each:g} GPUs, and {there} to use here")

    def take(self, holder: object, setting: str) -> Pinned | None:
        """GPUs for a run of a setting; None if it has to wait."""
        if not self.names:
            return ()
        by_use = sorted(self.names, key=lambda name: len(self._on(name)))
        pinned = tuple(by_use[: max(1, int(self.each))])
        if not self._have_room(pinned, setting):
            return None
        self.held[holder] = pinned, setting, 0
        return pinned

    def give_back(self, holder: object) -> None:
        self.held.pop(holder, None)

    def note(self, holder: object, memory: int) -> None:
        """A run says how many bytes it has held at the most."""
        if holder in self.held:
            pinned, setting, _ = self.held[holder]
            self.held[holder] = pinned, setting, memory
            self.need[setting] = max(memory, self.need.get(setting, 0))

    def _on(self, name: str) -> Sequence[int]:
        """The memory of each run on a GPU."""
        return [memory for pinned, _, memory in self.held.values() if name in pinned]

    def _have_room(self, pinned: Pinned, setting: str) -> bool:
        there = [memory for name in pinned for memory in self._on(name)]
        if not there:
            return True
        if self.each != 1:
            return len(there) < int(1 / self.each)
        if setting not in self.need or not all(there):
            return False
        return self._free(pinned) > MARGIN * self.need[setting] + SPARE

    def _free(self, pinned: Iterable[str]) -> int:
        free = self.free()
        return min(free.get(name, 0) for name in pinned)
