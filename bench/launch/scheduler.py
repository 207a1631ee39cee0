"""Slurm itself: what it has, what is in its queue, and whether its nodes see a folder."""

import json
import os
import re
import shlex
import subprocess
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shutil import rmtree, which
from tempfile import mkdtemp
from typing import TypeVar

from filelock import FileLock
from pydantic import TypeAdapter

from mixbench.bench.cells import Run, Store, written_aside
from mixbench.bench.launch import Terms
from mixbench.bench.spec import BadInput, choose, counted

NAME = "mixbench"
IDS_AT_ONCE = 500  # of jobs, in one command
WAITING = {"PENDING", "CONFIGURING"}
UNFINISHED = {*WAITING, "RUNNING", "SUSPENDED", "COMPLETING"}

OURS = {
    "array",
    "chdir",
    "dependency",
    "error",
    "nodes",
    "ntasks",
    "open_mode",
    "output",
    "requeue",
}
OURS |= {"signal", "time", "wrap"}
"""The options of sbatch that jobs here can't have otherwise; there is a --time of ours."""

LOST = "it left the queue without a result"
NO_FOLDER, NO_LOCK = 3, 4
LOOK = f"test -e {{folder}}/token || exit {NO_FOLDER}"
TRY_LOCK = f"flock -n -E 9 {{folder}}/lock true; test $? -eq 9 || exit {NO_LOCK}"
"""What a node is asked to do with a file that is locked here."""

T = TypeVar("T")


@dataclass(frozen=True)
class Allocation:
    """What Slurm is asked for.

    partition: None is the default of Slurm's.
    minutes: of a job; a run that takes longer goes on when its job is started again.
    at_once: how many jobs of an array, at most.
    apart: tasks are asked in jobs of their own, on one GPU each, after those that train.
    options: of sbatch, as they are.
    """

    partition: str | None
    minutes: int
    at_once: int | None = None
    apart: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Queued:
    """What Slurm says of a job: its state, and the node that it is on or why it waits."""

    state: str
    where: str


@dataclass(frozen=True)
class Submitted:
    """The job that a run was last submitted as; its log, relative to the results.

    training: the job before it that trains the run, if that is another one.
    """

    id: str
    log: str
    training: str | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        return (self.training, self.id) if self.training else (self.id,)

    def note(self, store: Store, run: Run) -> None:
        """Note it beside a run."""
        with written_aside(note(store, run)) as path:
            path.write_text(json.dumps(asdict(self)))


SUBMITTED = TypeAdapter(Submitted)


def minutes(text: str) -> int:
    """A time as Slurm spells it, such as 90, 12:00:00 or 2-00:00:00, rounded up. Raises BadInput."""
    days, dash, clock = text.rpartition("-")
    numbers = [*([days] if dash else []), *clock.split(":")]
    units = {1: (60,), 2: (60, 1), 3: (3600, 60, 1)}.get(len(numbers), ())
    units = (86400, 3600, 60, 1) if dash else units
    seconds = 0
    if len(numbers) <= len(units) and all(re.fullmatch("[0-9]+", each) for each in numbers):
        seconds = sum(int(n) * unit for n, unit in zip(numbers, units, strict=False))
    if not seconds:
        raise BadInput(
            f"time {text!r} should be minutes, such as 90, or have the form 12:00:00 or 2-00:00:00"
        )
    return -(-seconds // 60)


def check(terms: Terms, allocation: Allocation) -> None:
    """Raises BadInput if Slurm would refuse such jobs, or never start them."""
    if which("sbatch") is None:
        raise BadInput("no Slurm here: no sbatch on the PATH; --on local and --on ray need none")
    if ":" in terms.device:
        raise BadInput(f"device {terms.device!r}: Slurm chooses the GPUs; name cuda")
    check_options(allocation.options)
    check_gpus(gpus_of_job(terms), allocation.partition)
    wanted = flags(sbatch_options(terms, allocation) | {"time": str(allocation.minutes)})
    ask("sbatch", "--test-only", *wanted, "--wrap=true")


def check_options(given: Mapping[str, str]) -> None:
    """Raises BadInput for options of sbatch that the jobs set themselves."""
    for key in given:
        if key.replace("-", "_") in OURS:
            way = "; give --time" if key == "time" else ""
            raise BadInput(f"--slurm {key}: the jobs set this option of sbatch themselves{way}")


def check_gpus(asked: int, partition: str | None) -> None:
    """Raises BadInput if there is no such partition, or none of its nodes has so many GPUs."""
    most: dict[str, int] = {}
    default = ""
    for line in ask("sinfo", "--noheader", "--format=%P|%G").splitlines():
        name, gres = line.split("|")
        default = name.rstrip("*") if name.endswith("*") else default
        most[name.rstrip("*")] = max(gpus(gres), most.get(name.rstrip("*"), 0))
    chosen = (partition or default).split(",")
    there = max(most[choose(name, most, "partition")] for name in chosen)
    if asked > there:
        has = f"has {there} at most" if there else "has none; there is --device cpu"
        raise BadInput(
            f"a job would ask for {counted(asked, 'GPU')}, and a node of partition "
            f"{','.join(chosen)} {has}"
        )


def gpus(gres: str) -> int:
    """The GPUs of a node, of which Slurm lists what it has, such as "gpu:a100:4(S:0-1),mps:400"."""
    kinds = [kind.split(":") for kind in re.sub(r"\(.*?\)", "", gres).split(",")]
    return sum(
        int(more[-1]) if more and more[-1].isdigit() else 1
        for name, *more in kinds
        if name == "gpu"
    )


def queue() -> dict[str, Queued]:
    """What Slurm says of each of this user's jobs that have not ended, by its id."""
    jobs = ask("squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T|%R")
    rows = [line.split("|", 2) for line in jobs.splitlines()]
    return {id: Queued(state, where.strip("()")) for id, state, where in rows}


def job_of(store: Store, run: Run) -> Submitted | None:
    """The job that a run was last submitted as; None if it never was."""
    try:
        return SUBMITTED.validate_json(note(store, run).read_bytes())
    except (OSError, ValueError):
        return None


def queued_as(run: Run, store: Store, queue: Mapping[str, Queued]) -> str:
    """The id by which a run is in the queue; '' if it is not."""
    job = job_of(store, run)
    return next((id for id in job.ids if id in queue), "") if job else ""


def note(store: Store, run: Run) -> Path:
    """The file of the job that a run was last submitted as."""
    return store.folder(run) / ".job.json"


def cancel(ids: Iterable[str]) -> None:
    """Take jobs from the queue, and end those that run. One that has ended is no matter."""
    for some in chunks(list(ids), IDS_AT_ONCE):
        ask("scancel", "--quiet", *some)


def withdraw(runs: Iterable[Run], store: Store) -> int:
    """Cancel the jobs of runs, and forget them when they have ended. How many there were."""
    jobs = {run: found for run in runs if (found := job_of(store, run))}
    queued = {id for found in jobs.values() for id in found.ids} & queue().keys()
    cancel(queued)
    while queued & queue().keys():  # Slurm gives them some seconds to save
        time.sleep(1)
    for run in jobs:
        note(store, run).unlink(missing_ok=True)
    return len(queued)


def probe(terms: Terms, allocation: Allocation, patience: float = 60.0) -> str | None:
    """Ask a node whether it sees the results folder. Raises BadInput if it does not.

    Whether it sees locks there is only warned of. If it has not answered after so many seconds, the
    result is the id of the job that asks: all others are to wait for it.
    """
    folder = hidden(terms.results.absolute(), "probe-")
    (folder / "token").touch()
    look = LOOK.format(folder=shlex.quote(str(folder)))
    try_lock = TRY_LOCK.format(folder=shlex.quote(str(folder)))
    with FileLock(folder / "lock"):
        job = _submit_probe(f"{look}; {try_lock}", terms, allocation)
        try:
            answer = _answer(job, patience)
        finally:
            cancel([job])
    if answer["JobState"] in WAITING:
        late = _submit_probe(look, terms, allocation)
        warn(f"no node is free to look for the results folder: all jobs wait until job {late} has")
        return late
    rmtree(folder, ignore_errors=True)
    _judge(answer, terms.results.absolute())
    return None


def _submit_probe(script: str, terms: Terms, allocation: Allocation) -> str:
    """The id of a job that asks for no GPU, unless Slurm wants it to."""
    wanted = sbatch_options(terms, allocation) | {"time": "1", "output": os.devnull}
    small = {key: value for key, value in wanted.items() if key != "gres" and "gpu" not in key}
    try:
        return _sbatch(small, script)
    except BadInput:
        return _sbatch(wanted, script)


def _sbatch(wanted: Mapping[str, str], script: str) -> str:
    return ask("sbatch", "--parsable", *flags(wanted), f"--wrap={script}").split(";")[0]


def _answer(job: str, patience: float) -> dict[str, str]:
    """What Slurm says of a job, once it has ended, or if it has not started after so many seconds."""
    deadline = time.monotonic() + patience
    while True:
        said = dict(re.findall(r"(\w+)=(\S*)", ask("scontrol", "--oneliner", "show", "job", job)))
        late = said["JobState"] in WAITING and time.monotonic() > deadline
        if late or said["JobState"] not in UNFINISHED:
            return said
        time.sleep(0.5)


def _judge(answer: Mapping[str, str], results: Path) -> None:
    node, state, code = answer.get("BatchHost"), answer["JobState"], answer["ExitCode"]
    if code == f"{NO_FOLDER}:0":
        raise BadInput(
            f"node {node} does not see the results folder {results}; "
            "name one that the nodes share with --results"
        )
    if code == f"{NO_LOCK}:0":
        warn(f"node {node} sees no locks in {results}: start a table from one place only")
    elif state != "COMPLETED":
        raise BadInput(f"whether node {node} sees {results} is not known: the job was {state}")


def sbatch_options(terms: Terms, allocation: Allocation) -> dict[str, str]:
    """Those that are not times; the user's own come last."""
    given = {key.replace("-", "_"): value for key, value in allocation.options.items()}
    ours = {"job_name": NAME}
    if allocation.partition:
        ours["partition"] = allocation.partition
    if (count := gpus_of_job(terms)) and not any(key.startswith("gpus") for key in given):
        ours["gres"] = f"gpu:{count}"
    return ours | given


def flags(wanted: Mapping[str, str]) -> list[str]:
    """Options as sbatch takes them; one without a value stands alone."""
    return [f"--{k.replace('_', '-')}{f'={v}' if v else ''}" for k, v in wanted.items()]


def gpus_of_job(terms: Terms) -> int:
    """Of one job."""
    return 0 if terms.device == "cpu" else max(1, int(terms.gpus))


def hidden(results: Path, prefix: str) -> Path:
    """A new folder for what is not to be found in a table."""
    (hidden := results / ".slurm").mkdir(parents=True, exist_ok=True)
    return Path(mkdtemp(prefix=prefix, dir=hidden))


def ask(*command: str) -> str:
    """What a command of Slurm's prints. Raises BadInput, in its words, if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except FileNotFoundError:
        raise BadInput(f"no Slurm here: there is no {command[0]}") from None
    except subprocess.CalledProcessError as error:
        raise BadInput(f"Slurm refuses: {' '.join(error.stderr.split())}") from None


def chunks(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (things[i : i + size] for i in range(0, len(things), size))


def warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)
