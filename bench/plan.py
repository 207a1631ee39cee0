"""What the rest of a table would cost, before it is started."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice, product
from pathlib import Path
from statistics import median
from typing import Annotated
from urllib.parse import unquote

from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError
from rich.filesize import decimal
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mixbench.bench.cells import CHECKPOINT, Cell, Record, Run, Store, setting, warn
from mixbench.bench.data import Gallery
from mixbench.bench.formats.markdown import grid
from mixbench.bench.lab import Lab, open_data, reproducible, tuned
from mixbench.bench.provenance import device_name
from mixbench.bench.speed import subject
from mixbench.bench.tables import Table
from mixbench.bench.training import epochs_done
from mixbench.tasks import endless, measured

WARMUP = 5

Work = Mapping[Run, Sequence[str]]
"""Runs, and the tasks to ask of each; none of a run that others only learn from."""

Price = tuple[float, float]
"""Seconds, beside those of training, and bytes."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Images:
    """How many a run was trained and tested on."""

    train: PositiveInt
    test: NonNegativeInt


@dataclass(frozen=True)
class Trained:
    """What a record tells of its training, as far as it counts here."""

    device: str
    seconds: Annotated[Seconds, Field(gt=0)]
    images: Images
    processes: PositiveInt = 1


@dataclass(frozen=True)
class Asked:
    """The same of its task."""

    device: str
    seconds: Seconds


@dataclass(frozen=True)
class Made:
    training: Trained
    task: Asked


MADE = TypeAdapter(Made)

_opened = lru_cache(maxsize=1)(open_data)  # for all methods of a setting


@dataclass(frozen=True)
class Speed:
    """How fast a method trains on one device.

    rate: images/s. epoch: seconds, with the test after it. checkpoint: bytes; 0 if not known.
    """

    source: str
    rate: float
    epoch: float
    checkpoint: float
    devices: set[str]


@dataclass(frozen=True)
class Cost:
    """What is left of a run: seconds and bytes, and the parts whose are not known."""

    train: bool
    seconds: float
    size: float
    unknown: set[str]


@dataclass(frozen=True)
class Row:
    """What is left of a method in a setting, and the devices that its numbers are from."""

    label: str
    speed: Speed | None
    costs: Sequence[Cost]
    devices: set[str]

    @property
    def unknown(self) -> set[str]:
        return set().union(*(cost.unknown for cost in self.costs))


def plan(table: Table, lab: Lab, gpus: float = 1, steps: int = 20) -> str:
    """A Markdown table of what is left of a table: runs, images/s, hours, bytes.

    gpus: for each run. steps: of training, by a method of which no earlier cell tells the speed.
    Raises BadInput if the dataset is not there that these steps need.
    """
    work = _left_to_do(table, lab.store)
    if not work:
        return f"Nothing is left to do of `{table.name}`.\n"
    rows = [_row(label, runs, lab, gpus, steps) for label, runs in _groups(table, work)]
    costs = [cost for row in rows for cost in row.costs]
    total = Row("total", None, costs, set().union(*(row.devices for row in rows)))
    here = device_name(lab.device)
    unit = "CPU" if all(name.startswith("cpu") for name in total.devices or {here}) else "GPU"
    heads = ["method", "to train", "to ask", "images/s", "from", "hours per run"]
    lines = [[*heads, f"{unit} hours", "disk"], *(_line(row, gpus) for row in [*rows, total])]
    return f"{grid(lines)}\n{' '.join(_caption(table, total, here, gpus))}\n"


def _left_to_do(table: Table, store: Store) -> Work:
    """The runs that lack cells, with their tasks, and the teachers that these runs lack."""
    work = dict(table.todo(store))
    for teacher in [run.teacher for run in work]:
        if teacher and teacher not in work and _epochs_left(teacher, store):
            work[teacher] = []
    return work


def _epochs_left(run: Run, store: Store) -> int:
    return setting(run.setting).recipe.epochs - epochs_done(run, store)


def _groups(table: Table, work: Work) -> Iterator[tuple[str, Work]]:
    """The work by setting and method, in the table's order; methods that only teach come last."""
    methods = dict.fromkeys((*table.methods, *(run.method for run in work)))
    for name, method in product(table.settings, methods):
        if runs := [run for run in work if (run.setting, run.method) == (name, method)]:
            label = f"{name}: {method}" if len(table.settings) > 1 else method
            role = "" if method in table.methods else " (teacher)"
            yield label + role, {run: work[run] for run in runs}


def _row(label: str, work: Work, lab: Lab, gpus: float, steps: int) -> Row:
    like = next(iter(work))
    trainings, cells = _earlier(like, lab.store)
    asked = {t: _preferred(cells[t], lab) for t in chain(*work.values()) if t in cells}
    prices = {task: _price(made) for task, made in asked.items()}
    devices = {made["device"] for made in chain(*asked.values())}
    left = {run: _epochs_left(run, lab.store) for run in work}
    speed, epoch = None, 0.0
    if any(left.values()):
        speed = _told(like, trainings, lab) if trainings else _probed(like, lab, steps)
        epoch = speed.epoch / max(1, gpus)
        prices |= {CHECKPOINT: (0.0, speed.checkpoint)} if speed.checkpoint else {}
        devices |= speed.devices
    costs = [_cost(run, tasks, left[run], epoch, prices) for run, tasks in work.items()]
    return Row(label, speed, costs, devices)


def _price(made: list[Record]) -> Price:
    return median(each["seconds"] for each in made), median(each["bytes"] for each in made)


def _cost(
    run: Run, tasks: Sequence[str], left: int, epoch: float, prices: Mapping[str, Price]
) -> Cost:
    """That of a run which lacks some tasks, and so many epochs of so many seconds each."""
    untrained = left == setting(run.setting).recipe.epochs
    parts = [*tasks, CHECKPOINT] if untrained else tasks
    known = [prices[part] for part in parts if part in prices]
    seconds = left * epoch + sum(seconds for seconds, _ in known)
    return Cost(left > 0, seconds, sum(size for _, size in known), {*parts} - {*prices})


def _earlier(like: Run, store: Store) -> tuple[list[Record], Mapping[str, list[Record]]]:
    """What made the runs of a setting and method that have cells; and the cells, by task."""
    trainings: dict[Run, Record] = {}
    cells: defaultdict[str, list[Record]] = defaultdict(list)
    for path in store.folder(like).parent.glob("[0-9]*/[!.]*.json"):
        with suppress(ValueError):  # its name stands for nothing today
            cell = Cell(replace(like, seed=int(path.parent.name)), unquote(path.stem))
            record = store.read(cell)
            if record and _tells(record, path):
                size = _bytes(path) + _bytes(path.with_suffix(".npz"))
                trainings[cell.run] = record["made"]["training"]
                cells[cell.task].append(record["made"]["task"] | {"bytes": size})
    return [*trainings.values()], cells


def _tells(record: Record, path: Path) -> bool:
    """Whether it is known what made a record; a part of that which can't be used is warned of."""
    try:
        MADE.validate_python(record["made"])
    except KeyError:
        return False
    except ValidationError as error:
        part = ".".join(map(str, error.errors()[0]["loc"]))
        warn(path, f"what made it has no {part} that can be counted with")
        return False
    return True


def _preferred(made: list[Record], lab: Lab) -> list[Record]:
    """What was made on a device like the one here; all, if nothing was."""
    here = device_name(lab.device)
    return [each for each in made if each["device"] == here] or made


def _told(like: Run, trainings: list[Record], lab: Lab) -> Speed:
    """The median. Processes that trained a run together share its images/s."""
    trainings = _preferred(trainings, lab)
    recipe, images = setting(like.setting).recipe, trainings[0]["images"]
    used = images["train"] // recipe.batch * recipe.batch  # as batches are full
    seconds = median(made["seconds"] * made.get("processes", 1) for made in trainings)
    rate = recipe.epochs * used / seconds
    sizes = [*map(_bytes, lab.store.folder(like).parent.glob(f"*/{CHECKPOINT}"))]
    devices = {made["device"] for made in trainings}
    return Speed("measured", rate, (used + images["test"]) / rate, median(sizes or [0]), devices)


def _probed(like: Run, lab: Lab, steps: int) -> Speed:
    """By all steps together, as a median would hide one branch of a method that draws.

    They are not compiled, which would take longer than they do.
    """
    where, device = setting(like.setting), lab.device
    data = _opened(where, lab, seed=0)
    epochs = endless(Gallery(data, where.data, lab.data))
    alike, plainly = reproducible(0, device, lab.deterministic), tuned(replace(lab, eager=True))
    with alike, plainly, closing(epochs) as batches:
        trained = subject(like.method, where, data, device, eager=True)
        for x, y in islice(batches, WARMUP):
            trained.step(x, y)
        with measured(device) as measure:
            for x, y in islice(batches, steps):
                trained.step(x, y)
    rate = steps * data.batch / measure.seconds
    epoch = (data.steps * data.batch + len(data.dataset.test)) / rate
    state = tree_leaves([trained.objective.state_dict(), trained.optimizer.state_dict()])
    size = sum(leaf.nbytes for leaf in state if isinstance(leaf, Tensor))
    return Speed("probe", rate, epoch, size, {device_name(device)})


def _line(row: Row, gpus: float) -> list[str]:
    train, size = sum(cost.train for cost in row.costs), sum(cost.size for cost in row.costs)
    hours = [cost.seconds / 3600 for cost in row.costs]
    return [
        *(row.label, str(train), str(len(row.costs) - train)),
        *((_digits(row.speed.rate), row.speed.source) if row.speed else ("", "")),
        _sum(max(hours), _hours(max(hours)), row.unknown - {CHECKPOINT}),
        _sum(sum(hours), _hours(gpus * sum(hours)), row.unknown - {CHECKPOINT}),
        _sum(size, decimal(round(size)), row.unknown),
    ]


def _sum(known: float, text: str, unknown: set[str]) -> str:
    if not unknown:
        return text
    return f"{text} + ?" if known else "?"


def _hours(hours: float) -> str:
    return _digits(hours) if hours >= 0.01 else "< 0.01"


def _digits(number: float) -> str:
    """Rounded, to three digits or to a whole number."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _caption(table: Table, total: Row, here: str, gpus: float) -> Iterator[str]:
    """Its sentences."""
    yield f"What is left of `{table.name}`, in {_listed(table.settings)}; hours per run are those"
    yield "of the longest, and tests after epochs count as training."
    if gpus != 1:
        yield f"Training is taken to be {max(1, gpus):g} times as fast on {gpus:g} GPUs as on one."
    if others := total.devices - {here}:
        yield f"Numbers are from another device than the one here: {_listed(sorted(others))}."
    if total.unknown:
        yield f"Not counted (?), as no earlier run tells: {_listed(sorted(total.unknown))}."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
