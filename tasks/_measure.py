"""Time and memory of a block of code."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Measure:
    """Seconds, and the bytes at their peak: allocated on a GPU, resident in the process on a CPU."""

    seconds: float = 0.0
    peak_memory_bytes: int = 0


@contextmanager
def measured(device: torch.device) -> Iterator[Measure]:
    """A measure of the block, which is there when the block has ended."""
    measure = Measure()
    _forget_peak(device)
    start = _now(device)
    yield measure
    measure.seconds = _now(device) - start
    measure.peak_memory_bytes = _peak(device)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # only Linux can; elsewhere the peak is that of the process so far
            Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
