"""Runs on a cluster of Ray's, or on this machine, with Ray to hand out its GPUs."""

import logging
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import urlsplit

from mixbench.bench import stop
from mixbench.bench.cells import Run
from mixbench.bench.launch import Job, Terms, heartbeat, local, share
from mixbench.bench.launch.progress import Progress, progress
from mixbench.bench.spec import BadInput, counted, one_line

POLL_SECONDS = 2.0
CONNECT_SECONDS = 5.0

OWN: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
"""What a Ray of our own is started with; results are files, so it has next to nothing to store."""

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
"""Ray tells nobody of its use, and prints nothing of what it tells drivers when a node dies.

It reads this when it is imported.
"""

Node = Mapping[str, Any]
"""What Ray says of one."""


def launch(jobs: Sequence[Job], terms: Terms, address: str | None) -> dict[Run, str]:
    """Fill the cells of all jobs, as many at once as Ray has room for. The runs that failed, and why.

    address: of a cluster of Ray's; None starts one on this machine, for as long as it takes. Raises
    BadInput if it can't be reached, has no room for a run, or does not share the results folder.
    """
    terms.store.check_writable()
    with connected(address), token(terms.results.absolute()) as shared:
        terms = settled(terms, alive())
        nodes = with_room(terms, alive())
        check_nodes(nodes, shared)
        with progress(len(jobs)) as show:
            tasks = submitted(jobs, terms, shared)
            return followed(tasks, terms, sum(room(node, cards(terms)) for node in nodes), show)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be a driver of Ray's. What is still at work when the block ends is ended."""
    os.environ.update(QUIET)
    try:
        import ray
    except ModuleNotFoundError:
        raise BadInput("there is no Ray here: pip install 'mixbench[ray]'") from None
    try:
        if address:
            check_reachable(address)
        own = {} if address else OWN
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise BadInput(f"no Ray can be reached at {address or 'this machine'}: {why}") from None
    stop.as_interrupt()  # Ray would leave without a word to the runs
    try:
        yield
    finally:
        ray.shutdown()


def check_reachable(address: str) -> None:
    """Raises OSError or ValueError if nobody listens there. Ray itself would try for minutes."""
    place = urlsplit(address if "//" in address else f"//{address}")
    if place.port:
        socket.create_connection((place.hostname or "", place.port), CONNECT_SECONDS).close()


@contextmanager
def token(results: Path) -> Iterator[Path]:
    """A file in the results folder, by which a node can tell that it sees that very folder."""
    with NamedTemporaryFile(dir=results, prefix=".shared-") as file:
        yield Path(file.name)


def check_seen(shared: Path) -> None:
    """Raises BadInput if this machine does not see the driver's results folder."""
    if not shared.exists():
        raise BadInput(
            f"{socket.gethostname()} does not see the results folder {shared.parent}; "
            "name one with --results that all nodes share"
        )


def alive() -> list[Node]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def cards(terms: Terms) -> float:
    """The GPUs that Ray is asked for, for each run."""
    return 0 if terms.device == "cpu" else terms.gpus


def room(node: Node, gpus: float) -> int:
    """How many runs with so many GPUs, and a core, a node can hold at once."""
    cores, there = (node["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU"))
    return int(min(cores, there / gpus) if gpus else cores)


def settled(terms: Terms, nodes: Iterable[Node]) -> Terms:
    """The terms as they hold on any node: absolute paths, and GPUs, if there are any, for all.

    Raises BadInput if they name one GPU.
    """
    if ":" in terms.device:
        raise BadInput(f"device {terms.device!r}: Ray chooses the GPUs; name cuda")
    terms = replace(terms, results=terms.results.absolute(), data=terms.data.absolute())
    if terms.device != "auto":
        return terms
    return replace(terms, device="cuda" if any("GPU" in n["Resources"] for n in nodes) else "cpu")


def with_room(terms: Terms, nodes: Iterable[Node]) -> list[Node]:
    """The nodes that can hold a run. Raises BadInput if there is none."""
    nodes = list(nodes)
    if found := [node for node in nodes if room(node, cards(terms))]:
        return found
    most = max(node["Resources"].get("GPU", 0) for node in nodes)
    raise BadInput(
        f"no node of Ray's has {counted(cards(terms), 'GPU')} and a core for a run; "
        f"the most GPUs on one are {most:g}"
    )


def check_nodes(nodes: Sequence[Node], shared: Path) -> None:
    """Raises BadInput, naming the node, if one can't import this, or see the results folder.

    A node that is gone by then gets no run.
    """
    import ray
    from ray.exceptions import NodeDiedError, RayError, TaskUnschedulableError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0)(check_seen)
    looks = [
        look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(shared)
        for node in nodes
    ]
    for node, each in zip(nodes, looks, strict=True):
        try:
            ray.get(each)
        except (NodeDiedError, TaskUnschedulableError):
            continue
        except RayError as error:
            raise BadInput(f"node {node['NodeManagerAddress']}: {reason(error)}") from None


def submitted(jobs: Iterable[Job], terms: Terms, shared: Path) -> dict[Any, Run]:
    """A task of Ray's for each job. Ray tries it again if its process or its node dies."""
    import ray

    task = ray.remote(num_cpus=1, num_gpus=cards(terms), max_retries=terms.retries)(work)
    return {task.remote(job, terms, shared, Path.cwd()): job.run for job in jobs}


def work(job: Job, terms: Terms, shared: Path, modules: Path) -> dict[Run, str]:
    """Fill a job's cells, on a node of Ray's. As ``local.launch``.

    modules: the folder where the driver finds those of the user's own.
    """
    check_seen(shared)
    if str(modules) not in sys.path:
        sys.path.append(str(modules))
    workers = share(terms.workers, at_once=room(this_node(), cards(terms)))
    return local.launch((job,), replace(terms, workers=workers), at_once=1)


def this_node() -> Node:
    import ray

    here = ray.get_runtime_context().get_node_id()
    return next(node for node in alive() if node["NodeID"] == here)


def followed(tasks: dict[Any, Run], terms: Terms, at_once: int, show: Progress) -> dict[Run, str]:
    """Wait for tasks, and show what they are at. The runs that failed, and why.

    Ray starts tasks in their order, so those that are at work are the first ones that have not
    ended.
    """
    import ray

    failed: dict[Run, str] = {}
    try:
        while tasks:
            ended, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=POLL_SECONDS)
            for task in ended:
                run = tasks.pop(task)
                lost = failure(task, run)
                show.end(str(run), f"failed: {lost[run]}" if lost else local.DONE)
                failed |= lost
            for run in islice(tasks.values(), at_once):
                if beat := heartbeat.read(terms.store, run):
                    show.at(str(run), beat.doing, int(beat.done), beat.total)
    except KeyboardInterrupt:
        stop_gently(list(tasks))
        raise
    return failed


def failure(task: Any, run: Run) -> dict[Run, str]:
    """What a task that has ended says of its run, or Ray says of the task."""
    import ray
    from ray.exceptions import RayError

    try:
        lost: dict[Run, str] = ray.get(task)
    except RayError as error:
        return {run: reason(error)}
    return lost


def reason(error: BaseException) -> str:
    """What a task raised; else what happened to it."""
    return one_line(getattr(error, "cause", None) or error)


def stop_gently(tasks: list[Any]) -> None:
    """Drop the tasks that wait, and let those that are at work save their runs."""
    import ray

    for task in tasks:
        ray.cancel(task)
    ray.wait(tasks, num_returns=len(tasks), timeout=local.PATIENCE_SECONDS)
