"""What processes do together that train one run. A process alone is rank 0 of 1."""

import logging
import os
import signal
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import Pipe, parent_process
from multiprocessing.connection import Connection
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mixbench.bench import stop
from mixbench.bench.spec import BadInput

T = TypeVar("T")

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
POLL_SECONDS = 0.1

Report = Callable[..., None]


class RankFailed(BadInput):
    """One of the processes failed, or was killed; the message says which, and why."""


def rank() -> int:
    """Which of the processes this one is."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device(first: torch.device) -> torch.device:
    """The device of this rank, where rank 0 has the ``first``; a CPU is everybody's."""
    if first.type != "cuda":
        return first
    return torch.device("cuda", (first.index or 0) + rank())


def highest(number: int) -> int:
    """The highest of all ranks' numbers."""
    if size() == 1:
        return number
    shared = torch.tensor(number)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def mean(x: Tensor) -> Tensor:
    """The mean over ranks. Of equal numbers, it is those numbers to the bit."""
    if size() == 1:
        return x
    total = x.double()
    dist.all_reduce(total)
    return (total / size()).to(x)


def gathered(thing: T) -> list[T]:
    """What each rank has; tensors in it should be on the host."""
    if size() == 1:
        return [thing]
    things: list[Any] = [None] * size()
    dist.all_gather_object(things, thing)
    return things


def joined(x: Tensor) -> Tensor:
    """The tensors (n, ...) of all ranks in one, on this rank's device."""
    return x if size() == 1 else torch.cat(gathered(x.cpu())).to(x.device)


def parallel(objective: nn.Module) -> nn.Module:
    """The module that computes the same, and whose gradients are the mean over ranks."""
    return nn.parallel.DistributedDataParallel(objective) if size() > 1 else objective


def take_buffers(module: nn.Module) -> None:
    """Give all ranks the buffers of rank 0, such as the statistics of batch normalisation."""
    if size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def work(
    job: Callable[..., None],
    arguments: tuple[Any, ...],
    processes: int,
    kind: str,
    report: Report,
) -> None:
    """Call ``job(report, *arguments)`` in so many processes on a kind of device, and wait.

    Rank 0's reports are passed on. If this process is asked to end, the ranks are, too. Raises
    Stopped if they ended for that, RankFailed if one of them failed.
    """
    here, there = Pipe(duplex=False)
    with there, TemporaryDirectory() as folder, ThreadPoolExecutor(1) as thread, here:
        team = thread.submit(_launch, processes, folder, job, arguments, BACKENDS[kind], there)
        _listen(here, team, report)
        stopped = team.result()
    if stopped:
        raise stop.Stopped


def _launch(processes: int, folder: str, *arguments: Any) -> bool:
    """Let ranks be worked in; whether they ended early. In a thread, it leaves signals alone."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="team",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        start_method="spawn",
        logs_specs=DefaultLogsSpecs(folder),
    )
    try:
        return any(elastic_launch(config, _rank)(*arguments).values())
    except ChildFailedError as error:
        raise _failure(error) from None


def _failure(error: Any) -> RankFailed:
    """What failed first, in one line, with the traceback as a note."""
    number, failure = error.get_first_failure()
    said = failure.error_file_data["message"]
    if not isinstance(said, dict):
        return RankFailed(f"the process of rank {number} ended with exit code {failure.exitcode}")
    failed = RankFailed(said["message"].removeprefix(f"{BadInput.__name__}: "))
    failed.add_note(said["extraInfo"]["py_callstack"])
    return failed


def _listen(here: Connection, team: Future[bool], report: Report) -> None:
    """Pass on what rank 0 says until all have ended; and to it, once, that it should end."""
    pid = None
    while not team.done() or here.poll():
        if pid and stop.wanted_back():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            pid = None
        if here.poll(POLL_SECONDS):
            kind, *content = here.recv()
            if kind == "at":
                report(*content)
            elif kind == "warned":
                warnings.warn(content[0], stacklevel=1)
            else:
                (pid,) = content


def _rank(
    job: Callable[..., None], arguments: tuple[Any, ...], backend: str, there: Connection
) -> bool:
    """Work as one of the ranks. Whether it was asked to end before it was through."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which tells this one
    stop.heed()
    Thread(target=_end_with_parent, daemon=True).start()
    warnings.filterwarnings("ignore", "Grad strides do not match")  # of 1 x 1 kernels, which do
    dist.init_process_group(backend)
    report = _tell(there) if rank() == 0 else _nobody
    try:
        job(report, *arguments)
    except stop.Stopped:
        return True
    dist.destroy_process_group()
    return False


def _tell(there: Connection) -> Report:
    """A report that goes through a pipe, as do warnings from now on."""
    warnings.showwarning = lambda message, *_: there.send(("warned", str(message)))
    there.send(("pid", os.getpid()))
    return lambda *what: there.send(("at", *what))


def _nobody(*what: object) -> None:
    """A report that nobody hears."""


def _end_with_parent() -> None:
    parent = parent_process()
    if parent:
        parent.join()
        os._exit(1)
