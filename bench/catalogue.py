"""What spellings stand for, remembered, so that reading results needs no torch.

Methods, tasks and networks are asked once; the answers lie in the user's cache folder until the
code changes, or what it needs. They are asked each time if a module kept elsewhere, or a path, is
spelled, as these change unseen.
"""

import json
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, wraps
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from mixbench.bench.settings import Setting
from mixbench.bench.spec import FOLDER, BadInput, one_line, parse, resolved, spell

if TYPE_CHECKING:
    from mixbench.methods import Method, Net
    from mixbench.tasks import Task

P = ParamSpec("P")
T = TypeVar("T")

KEPT = 4
"""Files that are remembered."""

Parameters = dict[str, Any]
"""Fields as JSON gives them back, and the version. They are shared, and not to be changed."""


@dataclass(frozen=True)
class Rule:
    """How a metric's number is read, as in ``tasks.Metric``."""

    title: str
    better: Literal["lower", "higher", "neither"]
    form: str
    main: bool
    complement: str

    def signed(self, difference: float) -> str:
        """A difference of two of its numbers, with its sign, if it has one in print."""
        return f"{difference:+z{self.form}}"


@dataclass(frozen=True)
class MethodEntry:
    """A method. spelling: the canonical one. defaults: the parameters of its class.

    summary: the first line of what it says of itself. guided: it asks a network trained before.
    """

    spelling: str
    parameters: Parameters
    defaults: Parameters
    summary: str
    formula: str
    source: str
    teacher: str
    guided: bool


@dataclass(frozen=True)
class TaskEntry:
    """The same of a task, and its metrics."""

    spelling: str
    parameters: Parameters
    defaults: Parameters
    summary: str
    metrics: dict[str, Rule]


def remembered(ask: Callable[P, T]) -> Callable[P, T]:
    """A function of spellings that is asked once, by any process, until the code changes."""
    answers = TypeAdapter[T](get_type_hints(ask)["return"])

    @wraps(ask)
    def recall(*spelled: P.args, **named: P.kwargs) -> T:
        if any(_changes_unseen(str(text)) for text in spelled):
            return ask(*spelled, **named)
        key = json.dumps([ask.__name__, *spelled])
        with suppress(KeyError, ValidationError):
            return answers.validate_python(_memory(_file(), _state())[key])
        answer = ask(*spelled, **named)
        _keep(key, answers.dump_python(answer, mode="json"))
        return answer

    return recall


@cache
@remembered
def method(text: str) -> MethodEntry:
    """The method that ``text`` spells. Raises BadInput."""
    from mixbench.methods import Guided

    found = live_method(text)
    return MethodEntry(
        **_described(found, text),
        formula=found.formula,
        source=found.source,
        teacher=found.teacher,
        guided=isinstance(found, Guided),
    )


@cache
@remembered
def task(text: str) -> TaskEntry:
    """The task that ``text`` spells. Raises BadInput."""
    found = live_task(text)
    rules = {name: Rule(**asdict(metric)) for name, metric in found.metrics.items()}
    return TaskEntry(**_described(found, text), metrics=rules)


@cache
@remembered
def _refusal(setting: str, method: str) -> tuple[str, bool]:
    """Why a method can't be applied in a setting, else ''; and whether it could on other machines."""
    from mixbench.methods import Lacking

    net, found = _outline(Setting.parse(setting).net), live_method(method)
    try:
        found.check(net)
    except ValueError as error:
        return one_line(BadInput(error)), isinstance(error, Lacking)
    return "", True


def inapplicable(setting: str, method: str) -> str:
    """Why a method can't be applied in a setting, here; else ''. Raises BadInput if there are no such."""
    return _refusal(setting, method)[0]


def unfit(setting: str, method: str) -> str:
    """Why it can be applied on no machine; else ''."""
    why, elsewhere = _refusal(setting, method)
    return "" if elsewhere else why


def live_method(text: str) -> "Method":
    """The object itself, for those who train. Raises BadInput."""
    from mixbench.methods import Method

    return parse(text, "mixbench.methods", Method)


def live_task(text: str) -> "Task":
    """The same of a task."""
    from mixbench.tasks import Task

    return parse(text, "mixbench.tasks", Task)


def _described(found: "Method | Task", text: str) -> dict[str, Any]:
    """What an entry of either kind has."""
    return {
        "spelling": spell(found, text.split(",")[0]),
        "parameters": resolved(found) | {"version": found.version},
        "defaults": resolved(type(found)()) | {"version": found.version},
        "summary": (found.__doc__ or "").partition("\n")[0],
    }


@cache
def _outline(net: str) -> "Net":
    from mixbench.bench import nets

    return nets.outline(net)


def _changes_unseen(text: str) -> bool:
    """Whether what it spells is kept elsewhere: a module, or a path."""
    name, _, fields = text.partition(",")
    return name.startswith(FOLDER) or "." in name or "/" in fields


@cache
def _memory(file: Path, state: str) -> dict[str, Any]:
    """What this process knows, from the file to begin with."""
    return _read(file, state)


def _keep(key: str, answer: Any) -> None:
    """Remember an answer, beside what others have written in the meantime, if that can be."""
    file, state = _file(), _state()
    known = _memory(file, state)
    known[key] = answer
    content = {"state": state, "known": _read(file, state) | known}
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=file.parent) as folder:
            aside = Path(folder, file.name)
            aside.write_text(json.dumps(content))
            aside.replace(file)
        _tidy(file.parent)


def _read(file: Path, state: str) -> dict[str, Any]:
    """What the file tells of this state; nothing if it is damaged, or of another."""
    with suppress(OSError, ValueError, RecursionError):
        match json.loads(file.read_bytes()):
            case {"state": str(written), "known": dict(known)} if written == state:
                return known
    return {}


def _file() -> Path:
    """One for each state, so that two checkouts don't make each other forget."""
    return _cache_home() / "mixbench" / f"catalogue-{_state()[:16]}.json"


def _tidy(folder: Path) -> None:
    """Remove all but the newest few."""
    files = sorted(folder.glob("catalogue-*.json"), key=lambda path: -changed(path)[0])
    for path in files[KEPT:]:
        path.unlink(missing_ok=True)


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


def _state() -> str:
    """Of all that answers depend on. Of the code, it is that at the start, which is at work here."""
    home = os.path.expanduser(os.environ.get("TORCH_HOME") or _cache_home() / "torch")
    weights = Path(home, "hub", "checkpoints")  # of torch.hub's, without asking torch
    return sha256(f"{CODE} {weights} {changed(weights)}".encode()).hexdigest()


def changed(path: Path) -> tuple[int, int]:
    """When a file or folder changed last, in ns, and its size in bytes; zeros if there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _code() -> str:
    """The files of the package, and the versions of what they call."""
    specs = [find_spec(f"mixbench.{name}") for name in ("bench", "methods", "tasks")]
    folders = [folder for spec in specs if spec for folder in spec.submodule_search_locations or ()]
    files = sorted(path for folder in folders for path in Path(folder).rglob("*.py"))
    versions = [version(name) for name in ("torch", "timm", "pydantic")]
    return repr([platform.python_version(), versions, [(str(p), changed(p)) for p in files]])


CODE = _code()
