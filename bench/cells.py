"""Runs and cells by name, and their files under results/.

A run trains one method in one setting with one seed; a cell is one task asked of one run, and one
JSON file. Files are written aside and renamed, so what is there is whole.
"""

import fcntl
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from reprlib import Repr
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from mixbench.bench import catalogue
from mixbench.bench.catalogue import live_method, live_task
from mixbench.bench.settings import Recipe, Setting
from mixbench.bench.spec import BadInput, one_line, resolved

if TYPE_CHECKING:
    from numpy.typing import NDArray

Record = dict[str, Any]
Arrays: TypeAlias = Mapping[str, "NDArray[Any]"]
CHECKPOINT = "checkpoint.pt"
LARGEST = 1e100
"""What a metric may be: sums and squares of more would not be finite."""
EMPTY: Arrays = MappingProxyType({})


class BadFile(UserWarning):
    """A file under results/ that is not what its name says; it is treated as missing."""


@cache
def setting(text: str) -> Setting:
    return Setting.parse(text)


method, task = cache(live_method), cache(live_task)


@cache
def _setting_parameters(text: str) -> Record:
    return resolved(setting(text))


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
            "method": catalogue.method(self.method).defaults,
        }
        if self.teacher:
            defaults["teacher"] = catalogue.method(self.teacher.method).defaults
        return defaults

    @property
    def teacher(self) -> "Run | None":
        """The run whose network this one learns from."""
        name = catalogue.method(self.method).teacher
        return Run(self.setting, name, self.seed) if name else None

    def identity(self) -> Record:
        """The run's name, and every parameter that it resolves to in this version.

        Others are given the same lists and dicts: they are not to be changed.
        """
        parameters = {
            "setting": _setting_parameters(self.setting),
            "method": (known := catalogue.method(self.method)).parameters,
        }
        if known.teacher:
            parameters["teacher"] = catalogue.method(known.teacher).parameters
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
        parameters = run["parameters"] | {"task": catalogue.task(self.task).parameters}
        return run | {"task": self.task, "parameters": parameters}

    def defaults(self) -> Record:
        return self.run.defaults() | {"task": catalogue.task(self.task).defaults}


@cache
def _folder(setting_name: str, method_name: str) -> str:
    return f"{setting(setting_name).folder}/{quote(method_name, safe=',=+')}"


@cache
def file_name(task: str) -> str:
    return f"{quote(task, safe=',=+')}.json"


class Store:
    """The results folder: RESULTS/<setting>/<method>/<seed>/<task>.json."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, run: Run) -> Path:
        return self.root / f"{_folder(run.setting, run.method)}/{run.seed}"

    def path(self, cell: Cell) -> Path:
        return self.folder(cell.run) / file_name(cell.task)

    def read(self, cell: Cell) -> Record | None:
        """The cell's record. One that is damaged, foreign or stale is warned of, and is None.

        Raises BadInput if the cell's name stands for nothing.
        """
        path = self.path(cell)
        try:
            content = path.read_bytes()
            record: Record = json.loads(content)
            if rb"\ud" in content.lower():
                json.dumps(record, ensure_ascii=False).encode()  # raises where half a letter is
            problem = mismatch(record, cell) or malformed(record, cell)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except BadInput:
            raise
        except (OSError, ValueError, RecursionError) as error:
            problem = f"it can't be read ({error})"
        if problem:
            warn(path, problem)
            return None
        return record

    def arrays(self, cell: Cell) -> Arrays:
        """What lies beside the cell for figures; nothing if its results came without it."""
        path, record = self._beside(cell), self.read(cell) or {}
        try:
            content = path.read_bytes()
            if digest(content) == record.get("beside"):
                return _unpacked(content)
            problem = f"it is not what was made with {self.path(cell).name}"
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except Exception as error:  # a file can hold anything
            problem = f"it can't be read ({one_line(error)})"
        warn(path, problem)
        return {}

    def _beside(self, cell: Cell) -> Path:
        return self.path(cell).with_suffix(".npz")

    def kept(self, cell: Cell) -> Path:
        """The file of what a task keeps until its cell is there."""
        return self.path(cell).with_suffix(".pt")

    def checkpoint(self, run: Run) -> Path:
        """The file of what a training that is not over, or that was, can be taken up from."""
        return self.folder(run) / CHECKPOINT

    def error(self, run: Run) -> Path:
        """The file of why the run failed, if it did when it was last tried."""
        return self.folder(run) / "error.txt"

    def failure(self, run: Run) -> str:
        """The last line of it; else ''."""
        try:
            return self.error(run).read_text(errors="replace").strip().rpartition("\n")[2]
        except OSError:
            return ""

    def log(self, run: Run) -> Path:
        """The file of what the run's processes said."""
        return self.folder(run) / "log.txt"

    def missing(self, run: Run, tasks: Iterable[str]) -> list[str]:
        """Those of the tasks that have no cell."""
        there = self._files(run)
        return [
            name
            for name in tasks
            if file_name(name) not in there or self.read(Cell(run, name)) is None
        ]

    def _files(self, run: Run) -> set[str]:
        """The names in the run's folder."""
        folder = self.folder(run)
        try:
            return set(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            warn(folder, f"it can't be read ({error})")
        return set()

    def publish(self, cell: Cell, record: Record, arrays: Arrays = EMPTY) -> None:
        """Write a cell, and what lies beside it first, so that a cell that is there is whole.

        What its task kept until then is removed.
        """
        if arrays:
            import numpy as np

            np.savez_compressed(content := BytesIO(), **arrays)  # type: ignore[arg-type]
            record = record | {"beside": digest(content.getvalue())}
            with written_aside(self._beside(cell)) as path:
                path.write_bytes(content.getvalue())
        with written_aside(self.path(cell)) as path:
            path.write_text(json.dumps(record, indent=1) + "\n")
        self.kept(cell).unlink(missing_ok=True)

    @contextmanager
    def claim(self, run: Run) -> Iterator[bool]:
        """Whether the run is this process's to work on; if so, until the block ends.

        The claim is a lock of the operating system's, so it ends with the process that holds it,
        wherever the file system knows such locks.
        """
        from filelock import FileLock, Timeout

        self.folder(run).mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._claim_path(run))
        try:
            lock.acquire(timeout=0.2, poll_interval=0.02)  # somebody may be looking, as below
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def claimed(self, run: Run) -> bool:
        """Whether some process is at work on the run. Any number of processes may look at once."""
        try:
            with self._claim_path(run).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except (FileNotFoundError, NotADirectoryError):
            pass
        return False

    def _claim_path(self, run: Run) -> Path:
        return self.folder(run) / ".claim"

    def check_writable(self) -> None:
        """Raises BadInput if nothing can be written here, or the file system knows no locks."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root, buffering=0) as file:
                file.write(b"x")
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput(
                f"results folder {self.root} can't be written or locked ({error.strerror}); "
                "name another with --results"
            ) from None


def _unpacked(content: bytes) -> Arrays:
    import numpy as np

    with np.load(BytesIO(content)) as file:
        return dict(file)


def digest(content: bytes) -> str:
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
    for key in identity:
        if key != "parameters" and record.get(key) != identity[key]:
            return f"it is a record of {key} {_brief(record.get(key))}"
    if record["parameters"] == identity["parameters"]:  # most are, and this is quick
        return ""
    new = _flat(identity["parameters"])
    old = _flat(named.defaults()) | _flat(record["parameters"])
    for key in dict.fromkeys((*old, *new)):
        if key not in new or old.get(key) != new[key]:
            was, today = _brief(old.get(key)), _brief(new.get(key))
            return f"it is stale: {_name(key)} was {was}, is {today} today"
    return ""


def _flat(tree: object, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    leaves: dict[str, Any] = {}
    for key, branch in tree.items():
        leaves |= _flat(branch, f"{path}.{key}" if path else str(key))
    return leaves


def malformed(record: Record, cell: Cell) -> str:
    """What keeps a record from being an answer of this cell, with all that lies in it; else ''.

    A task that does not apply to what was trained has no metrics, and says why. A metric that is
    undefined is null. What made a record need not be known.
    """
    answer = _not_applied(record) if "inapplicable" in record else _not_answered(record, cell)
    return answer or _odd_curves(record.get("curves", {})) or _odd_origin(record.get("made", {}))


def _not_applied(record: Record) -> str:
    """What is wrong with a record that says why it has no metrics."""
    if not isinstance(record["inapplicable"], str):
        return f"its inapplicable is {_brief(record['inapplicable'])}, not a reason"
    return "it has metrics, and says that it has none" if "metrics" in record else ""


def _not_answered(record: Record, cell: Cell) -> str:
    metrics = record.get("metrics")
    if not isinstance(metrics, dict):
        return "it has no metrics"
    for name in _answered(cell.task):
        if name not in metrics:
            return f"it has no {name}"
    for name, value in metrics.items():
        if value is not None and not is_number(value):
            return f"its {_name(name)} is {_brief(value)}, not a number to count with"
    return ""


def _odd_curves(curves: object) -> str:
    """What keeps them from being numbers, lists of numbers, or lists of words, by name."""
    if not isinstance(curves, dict):
        return f"its curves are {_brief(curves)}"
    for name, curve in curves.items():
        values = curve if isinstance(curve, list) else [curve]
        words = curve is values and all(isinstance(value, str) for value in values)
        if not words and not all(map(is_number, values)):
            return f"its curve {_name(name)} is neither of numbers nor of words"
    return ""


def _odd_origin(made: object) -> str:
    """What keeps it from being two records: of the training, and of the task."""
    parts = made.values() if isinstance(made, dict) else [made]
    odd = [part for part in parts if not isinstance(part, dict)]
    return f"what made it is {_brief(odd[0])}" if odd else ""


@cache
def _answered(task_name: str) -> tuple[str, ...]:
    """The metrics that a record of the task has."""
    rules = catalogue.task(task_name).metrics
    return tuple(name for name, rule in rules.items() if not rule.complement)


def _brief(value: object) -> str:
    """What was found in a file, on one short line, however long or deep it is."""
    short = Repr()
    short.maxstring = 100
    return short.repr(value)


def _name(key: str) -> str:
    """The same of a name, without quotes."""
    return _brief(key)[1:-1]


def is_number(value: object) -> bool:
    """Whether it is one that can be counted with: no truth value, and small enough for squares."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST


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
    except BaseException as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = (
                str(path),
                None,
            )  # the other name says nothing to users
        raise
