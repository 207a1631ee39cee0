"""Training with resume, and asking tasks of what was trained."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from traceback import format_exc
from typing import Any

import torch

from mixbench.bench import nets
from mixbench.bench.cells import (
    Arrays,
    Cell,
    Record,
    Run,
    Store,
    file_name,
    method,
    mismatch,
    setting,
    task,
    warn,
    written_aside,
)
from mixbench.bench.data import Data, Dataset, Files, Gallery, Held, Streamed, held, read
from mixbench.bench.optimizers import optimizer
from mixbench.bench.provenance import provenance
from mixbench.bench.settings import Recipe, Setting
from mixbench.bench.spec import BadInput, one_line
from mixbench.methods import Net, bce_on_softmax
from mixbench.tasks import (
    Answer,
    Inapplicable,
    Measure,
    Reader,
    Trained,
    Workplace,
    measured,
)
from mixbench.tasks.classification import errors

LONGEST = 240
"""The letters of a cell's file name, for which most file systems have 255."""

Report = Callable[[str, int, int], None]
"""Called with what a run is at, and how much of how much of it is done, such as epochs."""


@dataclass(frozen=True)
class Lab:
    """Where runs happen: the results they are stored in, the folder of datasets, the device.

    workers: processes that read image files, for each run.
    """

    store: Store
    data: Path = Path("data")
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers: int = 0


def silent(doing: str, done: int, total: int) -> None:
    """A report that says nothing."""


def fill(run: Run, tasks: Iterable[str], lab: Lab, report: Report = silent) -> list[str] | None:
    """Ask the run those tasks that have no cell yet, training it first if need be.

    Returns the tasks that were asked; None if another process is at work on this run.
    """
    with lab.store.claim(run) as mine:
        if not mine:
            return None
        missing = lab.store.missing(run, tasks)
        if missing:
            ask_all(missing, train(run, lab, report), lab, report)
        return missing


class Unanswered(BadInput):
    """Tasks that failed, and why; those that could be answered have their cells."""


def ask_all(names: Iterable[str], training: "Training", lab: Lab, report: Report) -> None:
    """Ask a trained run each of the tasks. Raises Unanswered at the end if some of them failed."""
    failed: dict[str, str] = {}
    for name in names:
        report(name, len(training.epochs), len(training.epochs))
        try:
            lab.store.publish(Cell(training.run, name), *ask(name, training, lab, report))
        except (Exception, SystemExit) as error:  # whatever a task of the user's own may raise
            failed[f"{name}: {one_line(error)}"] = format_exc()  # the error itself holds tensors
    if failed:
        unanswered = Unanswered("; ".join(failed))
        unanswered.add_note("\n".join(failed.values()))
        raise unanswered


def train(run: Run, lab: Lab, report: Report = silent) -> "Training":
    """The run's training, taken up after the last epoch that its checkpoint holds.

    The result is the same, to the bit, as that of a training that was never cut short: on a CPU,
    and on a GPU as far as its kernels are deterministic.
    """
    path, total = lab.store.folder(run) / "checkpoint.pt", setting(run.setting).recipe.epochs
    teacher(run, lab, report)
    with reproducible(run.seed, lab.device):
        training = resume(run, lab, path)
        report("training", len(training.epochs), total)
        while len(training.epochs) < total:
            training.epoch()
            training.save(path)
            report("training", len(training.epochs), total)
    return training


def teacher(run: Run, lab: Lab, report: Report = silent) -> Net | None:
    """The network that the run's method learns from, trained first if it is not there."""
    taught_by = run.teacher
    if taught_by is None:
        return None
    report("waiting for its teacher", 0, setting(run.setting).recipe.epochs)
    with lab.store.claim(taught_by, wait=True):
        training = train(
            taught_by, lab, lambda _, *progress: report("training its teacher", *progress)
        )
    return training.objective.net.eval()


def resume(run: Run, lab: Lab, path: Path) -> "Training":
    """The training that a checkpoint holds; a new one if there is none, or it does not fit."""
    if path.exists():
        training = Training(run, lab)
        try:
            training.load(path)
        except Exception as error:  # a damaged file can raise anything
            warn(path, one_line(error))
        else:
            return training
    torch.manual_seed(run.seed)
    return Training(run, lab)


def ask(
    name: str, training: "Training", lab: Lab, report: Report = silent
) -> tuple[Record, Arrays]:
    """The record of one task, asked of a copy of what was trained, and what lies beside it.

    Its cost holds that of the sets of images that no task before it has read; they are named.
    """
    cell = Cell(training.run, name)
    trained = training.trained(Desk(cell, lab, report))
    before = set(trained.outputs.seconds)
    with reproducible(training.run.seed, lab.device), measured(lab.device) as measure:
        try:
            content, arrays = sorted_out(task(name).evaluate(trained), name)
        except Inapplicable as why:
            content, arrays = {"inapplicable": one_line(BadInput(why))}, {}
    read = {k: v for k, v in trained.outputs.seconds.items() if k not in before}
    return cell.identity() | content | {
        "made": {
            "training": training.made,
            "task": provenance(lab.device) | asdict(measure) | {"seconds_of_reading": read},
        },
    }, arrays


def sorted_out(answer: Answer, name: str) -> tuple[Record, Arrays]:
    """A task's answer as numbers and curves, for the cell, and arrays, which lie beside it.

    A curve is a number or a list, of numbers or of words. Raises TypeError or ArithmeticError if
    it is no answer.
    """
    expected = task(name).metrics
    if absent := [key for key in expected if key not in answer]:
        raise TypeError(f"there is no {' and no '.join(absent)} in the answer")
    metrics: Record = {key: answer[key] for key in expected}
    rest = {key: value for key, value in answer.items() if key not in metrics}
    arrays = {k: v.cpu().numpy() for k, v in rest.items() if isinstance(v, torch.Tensor)}
    curves = {key: value for key, value in rest.items() if key not in arrays}
    defined = {key: value for key, value in metrics.items() if value is not None}
    numbers = {key: value for key, value in curves.items() if not _are_words(value)}
    for key, value in (defined | numbers).items():
        for number in value if key in numbers and isinstance(value, list) else [value]:
            if type(number) not in (int, float):
                raise TypeError(f"{key} is a {type(number).__name__}, and should be a number")
            if not math.isfinite(number):
                raise ArithmeticError(f"{key} is {number}")
    return {"metrics": metrics} | ({"curves": curves} if curves else {}), arrays


def _are_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


@dataclass(frozen=True)
class Desk(Workplace):
    """Where a task works on its cell; what it keeps lies beside it."""

    cell: Cell
    lab: Lab
    tell: Report = silent

    @property
    def workers(self) -> int:
        return self.lab.workers

    def report(self, doing: str, done: int, total: int) -> None:
        self.tell(f"{self.cell.task}: {doing}", done, total)

    def keep(self, state: Mapping[str, Any]) -> None:
        """Keep numbers and tensors until the cell is there."""
        with written_aside(self.lab.store.kept(self.cell)) as aside:
            torch.save(self.cell.identity() | {"kept": dict(state)}, aside)

    def kept(self) -> dict[str, Any] | None:
        """What was kept last, on the host; None if nothing was, or it is not of this cell."""
        path = self.lab.store.kept(self.cell)
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            problem = mismatch(state, self.cell)
        except Exception as error:  # a damaged file can raise anything
            problem = one_line(error)
        if problem:
            warn(path, problem)
            return None
        kept: dict[str, Any] = state["kept"]
        return kept


class Training:
    """All that training changes: what a checkpoint holds."""

    def __init__(self, run: Run, lab: Lab) -> None:
        chosen = setting(run.setting)
        self.run, self.device = run, lab.device
        self.data = open_data(chosen, lab, run.seed)
        self.gallery = Gallery(self.data, chosen.data, lab.data)
        net = build(chosen, self.data).to(lab.device)
        self.objective = method(run.method).objective(net, teacher(run, lab))
        self.optimizer, self.schedule = optimizer(self.objective, chosen.recipe)
        self.epochs: list[dict[str, float]] = []
        self.made: Record = asdict(Measure())

    def epoch(self) -> None:
        """Train for one epoch, and note the test error after it."""
        with measured(self.device) as measure:
            loss = self.pass_over_data()
        if not math.isfinite(loss):
            raise ArithmeticError(f"the loss is {loss} in epoch {len(self.epochs) + 1}")
        scores = errors(self.objective.net.eval(), self.data.batches("test"))
        self.epochs.append(scores | {"seconds": measure.seconds})
        self.made = provenance(self.device) | {
            "seconds": self.made["seconds"] + measure.seconds,
            "peak_memory_bytes": max(self.made["peak_memory_bytes"], measure.peak_memory_bytes),
            "images": {s: len(getattr(self.data.dataset, s)) for s in ("train", "test")},
            "unreadable_images": self.data.unreadable,
        }

    def pass_over_data(self) -> float:
        """A step for each batch of the next epoch. Returns the mean loss."""
        losses = []
        self.objective.train()
        for x, y in self.data.epoch(len(self.epochs)):
            loss = self.objective(x, y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        self.schedule.step()
        return torch.stack(losses).mean().item()

    def trained(self, workplace: Workplace) -> Trained:
        """A copy for a task to look at, and to do with as it likes."""
        objective = copy.deepcopy(self.objective).eval()
        seen = self.gallery, tuple(self.epochs), self.outputs
        return Trained(objective.net, objective, *seen, workplace)

    @cached_property
    def outputs(self) -> Reader:
        """What the network makes of sets of images, once it is trained."""
        return Reader(self.objective.net.eval(), self.gallery.batches)

    def save(self, path: Path) -> None:
        state = self.run.identity() | {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": random_state(self.device),
            "epochs": self.epochs,
            "made": self.made,
        }
        with written_aside(path) as aside:
            torch.save(state, aside)

    def load(self, path: Path) -> None:
        """Take up what a checkpoint holds. Raises BadInput if it is not this run's."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if problem := mismatch(state, self.run):
            raise BadInput(problem)
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epochs, self.made = state["epochs"], state["made"]
        set_random_state(state["random"], self.device)


def check(wanted: Mapping[str, Iterable[str]], lab: Lab) -> None:
    """Raises BadInput if any of the settings can't be trained on, or asked one of its tasks.

    That is, if data is not there, or does not fit batch or network, or if the device does not have
    the setting's precision.
    """
    here = replace(lab, device=torch.device("cpu"))
    for name, tasks in wanted.items():
        chosen = setting(name)
        if chosen.recipe.precision == "bfloat16" and not has_bfloat16(lab.device):
            raise BadInput(f"{name}: {lab.device} has no bfloat16; add precision=float32")
        data = open_data(chosen, here, seed=0)
        build(chosen, data)
        check_tasks(tasks, Gallery(data, chosen.data, lab.data))


def check_tasks(names: Iterable[str], gallery: Gallery) -> None:
    """Raises BadInput if one of the tasks can't be asked."""
    for name in names:
        if len(file_name(name)) > LONGEST:
            raise BadInput(f"{name[:40]}... makes too long a name of a file; use shorter paths")
        try:
            task(name).check(gallery)
        except Exception as error:  # whatever a task of the user's own may raise
            why = one_line(BadInput(error) if isinstance(error, ValueError) else error)
            raise BadInput(f"{name} can't be asked: {why}") from None


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; a CPU does, slowly."""
    if device.type != "cuda":
        return True
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


@cache
def inapplicable(setting_name: str, method_name: str) -> str:
    """Why a method can't be applied in a setting; else ''."""
    try:
        method(method_name).check(_outline(setting(setting_name).net))
    except ValueError as error:
        return one_line(BadInput(error))
    return ""


_outline = cache(nets.outline)


def pick_device(text: str) -> torch.device:
    """The device that ``text`` names; "auto" is a GPU if there is one. Raises BadInput."""
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"device {text!r} can't be used here: {reason}") from None
    return device


def open_data(chosen: Setting, lab: Lab, seed: int) -> Data:
    """The dataset of a setting, in batches on the lab's device. Raises BadInput if it does not fit."""
    dataset, recipe = read(chosen.data, lab.data), chosen.recipe
    try:
        dataset = dataset.hold_out(recipe.holdout)
        dataset.check(recipe.batch)
        return _in_batches(dataset, recipe, lab, seed)
    except BadInput as error:
        raise BadInput(f"{chosen.data}: {error}") from None


def _in_batches(dataset: Dataset, recipe: Recipe, lab: Lab, seed: int) -> Data:
    if isinstance(dataset.train, Files):
        if recipe.size is None or recipe.crop:
            raise BadInput("images are read from files: give size=224, or another, and crop=0")
        return Streamed(
            dataset,
            batch=recipe.batch,
            size=recipe.size,
            flip=recipe.flip,
            jitter=recipe.jitter,
            lighting=recipe.lighting,
            seed=seed,
            smoothing=recipe.smoothing,
            strict=recipe.strict,
            workers=lab.workers,
            device=lab.device,
        )
    if recipe.size or recipe.jitter or recipe.lighting:
        raise BadInput("size, jitter and lighting are for images that are read from files")
    return Held(
        held(dataset, lab.device),
        batch=recipe.batch,
        crop=recipe.crop,
        flip=recipe.flip,
        seed=seed,
        smoothing=recipe.smoothing,
    )


def build(chosen: Setting, data: Data) -> Net:
    """A new network of a setting, for the classes and pixels of its dataset."""
    dataset = data.dataset
    net = nets.build(chosen.net, dataset.classes, data.size, dataset.mean, dataset.std)
    net.dtype = getattr(torch, chosen.recipe.precision)
    if chosen.recipe.loss == "bce":
        net.criterion = bce_on_softmax
    return net.to(memory_format=torch.channels_last)


@contextmanager
def reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators, and compute on one CPU thread; both are restored afterwards.

    With more threads, numbers would depend on how many runs share the machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
