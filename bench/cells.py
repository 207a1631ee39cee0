"""Runs and cells by name, and their files under results/.

A run trains one method in one setting with one seed; a cell is one task asked of one run, and one
JSON file. Files are written aside and renamed, so what is there is whole.
"""

import hashlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from mixbench.bench.settings import Recipe, Setting
from mixbench.bench.spec import BadInput, parse, resolved
from mixbench.methods import Method
from mixbench.tasks import Task

Record = dict[str, Any]
Arrays = Mapping[str, NDArray[Any]]
EMPTY: Arrays = MappingProxyType({})


class BadFile(UserWarning):
    """A file under results/ that is not what its name says; it is treated as missing."""


@cache
def setting(text: str) -> Setting:
    return Setting.parse(text)


@cache
def method(text: str) -> Method:
    return parse(text, "mixbench.methods", Method)


@cache
def task(text: str) -> Task:
    return parse(text, "mixbench.tasks", Task)


def _versioned(thing: Method | Task) -> Record:
    return resolved(thing) | {"version": thing.version}


def _defaults(thing: Method | Task) -> Record:
    return _versioned(type(thing)())


@dataclass(frozen=True)
class Run:
    """One training, by the canonical spellings of its setting and method."""

    setting: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.setting}/{self.method}/{self.seed}"

    def defaults(self) -> Record:
        """What the parameters were before they had a name: the defaults of their classes."""
        defaults = {
            "setting": {"recipe": Recipe.defaults()},
            "method": _defaults(method(self.method)),
        }
        if self.teacher:
            defaults["teacher"] = _defaults(method(self.teacher.method))
        return defaults

    @property
    def teacher(self) -> "Run | None":
        """The run whose network this one learns from."""
        name = method(self.method).teacher
        return Run(self.setting, name, self.seed) if name else None

    def identity(self) -> Record:
        """The run's name, and every parameter that it resolves to in this version."""
        parameters = {
            "setting": setting(self.setting).resolved(),
            "method": _versioned(method(self.method)),
        }
        if self.teacher:
            parameters["teacher"] = _versioned(method(self.teacher.method))
        return {
            "setting": self.setting,
            "method": self.method,
            "seed": self.seed,
            "parameters": parameters,
        }


@dataclass(frozen=True)
class Cell:
    """One task, by its canonical spelling, asked of one run."""

    run: Run
    task: str

    def identity(self) -> Record:
        """The same for a cell."""
        run = self.run.identity()
        parameters = run["parameters"] | {"task": _versioned(task(self.task))}
        return run | {"task": self.task, "parameters": parameters}

    def defaults(self) -> Record:
        return self.run.defaults() | {"task": _defaults(task(self.task))}


def file_name(task: str) -> str:
    return f"{quote(task, safe=',=+')}.json"


class Store:
    """The results folder: RESULTS/<setting>/<method>/<seed>/<task>.json."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, run: Run) -> Path:
        where = self.root / setting(run.setting).folder
        return where / quote(run.method, safe=",=+") / str(run.seed)

    def path(self, cell: Cell) -> Path:
        return self.folder(cell.run) / file_name(cell.task)

    def read(self, cell: Cell) -> Record | None:
        """The cell's record. One that is damaged, foreign or stale is warned of, and is None."""
        path = self.path(cell)
        try:
            record: Record = json.loads(path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, RecursionError) as error:
            problem = f"it can't be read ({error})"
        else:
            problem = mismatch(record, cell) or malformed(record, cell)
        if problem:
            warn(path, problem)
            return None
        return record

    def arrays(self, cell: Cell) -> Arrays:
        """What lies beside the cell for figures; nothing if its results came without it."""
        path, record = self._beside(cell), self.read(cell) or {}
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return {}
        if _digest(content) != record.get("beside"):
            warn(path, f"it is not what was made with {self.path(cell).name}")
            return {}
        with np.load(BytesIO(content)) as file:
            return dict(file)

    def _beside(self, cell: Cell) -> Path:
        return self.path(cell).with_suffix(".npz")

    def kept(self, cell: Cell) -> Path:
        """The file of what a task keeps until its cell is there."""
        return self.path(cell).with_suffix(".pt")

    def missing(self, run: Run, tasks: Iterable[str]) -> list[str]:
        """Those of the tasks that have no cell."""
        return [task for task in tasks if self.read(Cell(run, task)) is None]

    def publish(self, cell: Cell, record: Record, arrays: Arrays = EMPTY) -> None:
        """Write a cell, and what lies beside it first, so that a cell that is there is whole.

        What its task kept until then is removed.
        """
        if arrays:
            np.savez_compressed(content := BytesIO(), **arrays)  # type: ignore[arg-type]
            record = record | {"beside": _digest(content.getvalue())}
            with written_aside(self._beside(cell)) as path:
                path.write_bytes(content.getvalue())
        with written_aside(self.path(cell)) as path:
            path.write_text(json.dumps(record, indent=1) + "\n")
        self.kept(cell).unlink(missing_ok=True)

    @contextmanager
    def claim(self, run: Run, wait: bool = False) -> Iterator[bool]:
        """Whether the run is this process's to work on; if so, until the block ends.

        The claim is a lock of the operating system's, so it ends with the process that holds it,
        wherever the file system knows such locks.
        """
        self.folder(run).mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._claim_path(run))
        try:
            patience = -1 if wait else 0.2  # somebody may be looking, as below
            lock.acquire(timeout=patience, poll_interval=0.02)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def claimed(self, run: Run) -> bool:
        """Whether some process is at work on the run."""
        if not self._claim_path(run).exists():
            return False
        with self.claim(run) as free:
            return not free

    def _claim_path(self, run: Run) -> Path:
        return self.folder(run) / ".claim"

    def check_writable(self) -> None:
        """Raises BadInput if nothing can be written here."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.root).close()
        except OSError as error:
            raise BadInput(
                f"results folder {self.root} can't be written ({error.strerror}); "
                "name another with --results"
            ) from None


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def warn(path: Path, problem: str) -> None:
    """Say that a file is treated as missing, and why."""
    warnings.warn(f"{path} is treated as missing: {problem}", BadFile, stacklevel=2)


def mismatch(record: object, named: Run | Cell) -> str:
    """How a record of a run or a cell differs from what its name stands for today; else ''.

    A parameter that the record does not have is younger than it, and the default of its class
    changes nothing; any other value does.
    """
    identity = named.identity()
    if not isinstance(record, dict) or not isinstance(record.get("parameters"), dict):
        return "it is no record of this project"
    for key in identity.keys() - {"parameters"}:
        if record.get(key) != identity[key]:
            return f"it is a record of {key} {record.get(key)!r}"
    new = _flat(identity["parameters"])
    old = _flat(named.defaults()) | _flat(record["parameters"])
    for key in dict.fromkeys((*old, *new)):
        if key not in new or old.get(key) != new[key]:
            return f"it is stale: {key} was {old.get(key)!r}, is {new.get(key)!r} today"
    return ""


def _flat(tree: object, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    leaves: dict[str, Any] = {}
    for key, branch in tree.items():
        leaves |= _flat(branch, f"{path}.{key}" if path else str(key))
    return leaves


def malformed(record: Record, cell: Cell) -> str:
    """What keeps a record's metrics from being the numbers of this cell; else ''.

    A task that does not apply to what was trained has none, and says why. A metric that is
    undefined is null.
    """
    if isinstance(record.get("inapplicable"), str):
        return ""
    metrics = record.get("metrics")
    if not isinstance(metrics, dict):
        return "it has no metrics"
    for name in task(cell.task).metrics:
        if name not in metrics:
            return f"it has no {name}"
        value = metrics[name]
        if value is not None and not _finite(value):
            return f"its {name} is {value!r}, not a number"
    return ""


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < math.inf


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.aside")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
