"""Ending in good order when the machine is wanted back: preempted, or out of time."""

import signal
from threading import Event, current_thread, main_thread

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""What a process is told by that it has to end, by systems and by Slurm."""

_wanted_back = Event()


class Stopped(BaseException):
    """The process was asked to end, and what it was at is kept. It is no failure."""


def heed() -> None:
    """From now on, signals ask this process to end at the next chance, and don't kill it."""
    for each in SIGNALS:
        signal.signal(each, lambda *_: _wanted_back.set())


def as_interrupt() -> None:
    """From now on, SIGTERM is to this process what Ctrl-C is; only a main thread can say so."""
    if current_thread() is main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def wanted_back() -> bool:
    """Whether this process was asked to end."""
    return _wanted_back.is_set()


def end_if_wanted_back() -> None:
    """Raises Stopped if this process was asked to end."""
    if wanted_back():
        raise Stopped
