"""Training: one loop for all methods, which any number of processes can take up at any step."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mixbench.bench import stop, team
from mixbench.bench.cells import (
    Record,
    Run,
    Store,
    method,
    mismatch,
    setting,
    warn,
    written_aside,
)
from mixbench.bench.data import Gallery
from mixbench.bench.lab import (
    Lab,
    Report,
    build,
    open_data,
    random_state,
    reproducible,
    set_random_state,
    silent,
    tuned,
)
from mixbench.bench.optimizers import optimizer, take_up
from mixbench.bench.provenance import provenance
from mixbench.bench.spec import BadInput, one_line
from mixbench.bench.stepping import Plain, Step, stepper
from mixbench.methods import Net
from mixbench.tasks import Measure, Reader, Trained, Workplace, measured
from mixbench.tasks.classification import errors_at, places

CHECKPOINT_SECONDS = 300
"""How much work is lost at most when a machine is lost."""

SHARE = 0.005
"""Of the time, that checkpoints may take, unless more work would be lost."""

POLL_SECONDS = 1.0

GO_ON, SAVE, END = range(3)


def train(run: Run, lab: Lab, report: Report = silent) -> "Training":
    """The run's training, taken up at the step that its checkpoint holds.

    With one process, the result is the same, to the bit, as that of a training that was never cut
    short: on a CPU, and on a GPU as far as its kernels are deterministic. Raises Stopped, when a
    checkpoint is saved, if the process is asked to end.
    """
    train_teacher(run, lab, report)
    if lab.processes > 1 and not trained(run, lab):
        team.work(train_as_rank, (run, lab), lab.processes, lab.device.type, report)
    return train_here(run, lab, report)


def train_teacher(run: Run, lab: Lab, report: Report) -> None:
    """See that the run that the method learns from is trained, by this process or another."""
    taught_by = run.teacher
    if taught_by is None:
        return
    report("waiting for its teacher", 0, setting(run.setting).recipe.epochs)
    while not trained(taught_by, lab):
        with lab.store.claim(taught_by) as mine:
            if mine:
                train(taught_by, lab, lambda _, *at: report("training its teacher", *at))
                return
        stop.end_if_wanted_back()
        time.sleep(POLL_SECONDS)


def trained(run: Run, lab: Lab) -> bool:
    """Whether the run's checkpoint is that of the end of its training."""
    return epochs_done(run, lab.store) == _epochs(run)


def epochs_done(run: Run, store: Store) -> int:
    """How many epochs the run's checkpoint holds; 0 if there is none, or it is of no use."""
    try:
        path = store.checkpoint(run)
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return 0 if mismatch(state, run) else len(state["epochs"])
    except Exception:  # a damaged file can raise anything; ``resume`` tells of it
        return 0


def train_as_rank(report: Report, run: Run, lab: Lab) -> None:
    """Train as one of several processes, each with its own device and part of each batch."""
    lab = replace(lab, device=team.device(lab.device), workers=-(-lab.workers // team.size()))
    if lab.device.type == "cuda":
        torch.cuda.set_device(lab.device)
    train_here(run, lab, report)


def train_here(run: Run, lab: Lab, report: Report) -> "Training":
    """Train in this process, and in those that are its team."""
    with reproducible(run.seed, lab.device, lab.deterministic), tuned(lab):
        training = resume(run, lab)
        training.tell(report)
        while not training.over:
            training.epoch(report)
            if training.over:
                training.save()
            training.tell(report)
    return training


def patience(seconds: float) -> int:
    """How many seconds after a save that took ``seconds`` the next one is due."""
    return min(CHECKPOINT_SECONDS, math.ceil(seconds / SHARE))


def _epochs(run: Run) -> int:
    return setting(run.setting).recipe.epochs


def resume(run: Run, lab: Lab) -> "Training":
    """The training that a checkpoint holds; a new one if there is none, or a rank can't load it."""
    if team.highest(lab.store.checkpoint(run).exists()):
        training = Training(run, lab)
        if not team.highest(not loaded(training)):
            return training
    torch.manual_seed(run.seed)
    training = Training(run, lab)
    if team.rank():
        torch.manual_seed(training.own_seed())
    return training


def loaded(training: "Training") -> bool:
    """Take up what the checkpoint holds; if that can't be done, say why."""
    try:
        training.load()
    except Exception as error:  # a damaged file can raise anything
        warn(training.lab.store.checkpoint(training.run), one_line(error))
        return False
    return True


def teacher(run: Run, lab: Lab) -> Net | None:
    """The network that the run's method learns from, from its checkpoint."""
    taught_by = run.teacher
    if taught_by is None:
        return None
    with reproducible(run.seed, lab.device):
        training = Training(taught_by, lab)
        training.load()
    return training.objective.net.eval()


class Training:
    """All that training changes: what a checkpoint holds.

    losses: of the steps of the epoch that is not over; seconds: that they took.
    """

    def __init__(self, run: Run, lab: Lab) -> None:
        chosen = setting(run.setting)
        self.run, self.lab, self.device = run, lab, lab.device
        self.data = open_data(chosen, lab, run.seed)
        self.gallery = Gallery(self.data, chosen.data, lab.data)
        net = build(chosen, self.data).to(lab.device)
        self.objective = method(run.method).objective(net, teacher(run, lab))
        self.optimizer, self.schedule = optimizer(self.objective, chosen.recipe)
        self.epochs: list[dict[str, float]] = []
        self.losses: list[Tensor] = []
        self.seconds = 0.0
        self.made: Record = asdict(Measure())
        self.saved, self.patience = time.monotonic(), patience(0)

    @property
    def over(self) -> bool:
        return len(self.epochs) == _epochs(self.run)

    def tell(self, report: Report) -> None:
        """Say how many epochs are done, with what is done of the next one."""
        steps = self.data.steps
        done = len(self.epochs) + len(self.losses) / steps
        report("training", done, _epochs(self.run), steps * self.data.batch)

    def epoch(self, report: Report = silent) -> None:
        """Train to the end of the epoch, and note the test error after it.

        On the way, checkpoints are saved. Raises Stopped, after that, if the machine of one of the
        ranks is wanted back.
        """
        batches = self.data.epoch(len(self.epochs), start=len(self.losses))
        while due := self.steps(batches, report):
            self.save()
            if due == END:
                raise stop.Stopped
        self.end_epoch()

    def steps(self, batches: Iterator[tuple[Tensor, Tensor]], report: Report) -> int:
        """A step for each of the batches, until something else is due: what that is."""
        due = GO_ON
        self.objective.train()
        with measured(self.device) as measure:
            for x, y in batches:
                self.tell(report)
                self.step(x, y)
                if due := team.highest(self.due()):
                    break
        self.note(measure)
        return due

    def step(self, x: Tensor, y: Tensor) -> None:
        self.losses.append(self.take(x, y))
        if len(self.losses) == self.data.steps:
            self.schedule.step()

    def due(self) -> int:
        if stop.wanted_back():
            return END
        return SAVE if time.monotonic() - self.saved > self.patience else GO_ON

    @cached_property
    def take(self) -> Step:
        """How a step is taken, with gradients that are those of all ranks."""
        if team.size() > 1:
            return Plain(team.parallel(self.objective), self.optimizer)
        return stepper(self.objective, self.optimizer, self.lab.eager)

    def note(self, measure: Measure) -> None:
        """Add what some steps cost."""
        self.seconds += measure.seconds
        self.made = provenance(self.device, self.lab.command) | {
            "processes": team.size(),
            "deterministic": self.lab.deterministic,
            "compiled": not isinstance(self.take, Plain),
            "seconds": self.made["seconds"] + measure.seconds,
            "peak_memory_bytes": max(
                self.made["peak_memory_bytes"], team.highest(measure.peak_memory_bytes)
            ),
            "images": {s: len(getattr(self.data.dataset, s)) for s in ("train", "test")},
            "unreadable_images": self.made.get("unreadable_images", 0),
        }

    def end_epoch(self) -> None:
        """Note the test error, which all ranks find together, with the statistics of rank 0."""
        loss = self.mean_losses().mean().item()
        if not math.isfinite(loss):
            raise ArithmeticError(f"the loss is {loss} in epoch {len(self.epochs) + 1}")
        team.take_buffers(self.objective)
        found = places(self.objective.net.eval(), self.data.batches("test"))
        scores = errors_at(team.joined(found))
        self.epochs.append(scores | {"loss": loss, "seconds": self.seconds})
        self.made["unreadable_images"] = max(
            self.made["unreadable_images"], len(set().union(*team.gathered({*self.data.lost})))
        )
        self.losses, self.seconds = [], 0.0

    def mean_losses(self) -> Tensor:
        """The losses of the epoch so far, (steps,), each the mean over ranks."""
        return team.mean(torch.stack(self.losses)) if self.losses else torch.empty(0)

    def trained(self, workplace: Workplace) -> Trained:
        """A copy for a task to look at, and to do with as it likes."""
        objective = copy.deepcopy(self.objective).eval()
        seen = self.gallery, tuple(self.epochs), self.outputs
        return Trained(objective.net, objective, *seen, workplace)

    @cached_property
    def outputs(self) -> Reader:
        """What the network makes of sets of images, once it is trained."""
        net = copy.deepcopy(self.objective.net)  # which is not compiled, so that it can be watched
        return Reader(net.eval(), self.gallery.batches)

    def save(self) -> None:
        """Write a checkpoint, of which the ranks have a state of the generators each."""
        start = time.monotonic()
        random, *others = team.gathered(random_state(self.device))
        state = self.run.identity() | {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": random,
            "others": others,
            "epochs": self.epochs,
            "losses": self.mean_losses(),
            "seconds": self.seconds,
            "made": self.made,
        }
        if team.rank() == 0:
            path = self.lab.store.checkpoint(self.run)
            with written_aside(path) as aside, aside.open("wb") as file:
                torch.save(state, file)  # which says so, unlike a path, when a disk is full
        self.patience = team.highest(patience(time.monotonic() - start))
        self.saved = time.monotonic()

    def load(self) -> None:
        """Take up what the checkpoint holds. Raises BadInput if it is not this run's."""
        path = self.lab.store.checkpoint(self.run)
        state = torch.load(path, map_location=self.device, weights_only=True)
        if problem := mismatch(state, self.run):
            raise BadInput(problem)
        self.objective.load_state_dict(state["objective"])
        take_up(self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epochs, self.made = state["epochs"], state["made"]
        self.losses = [*state.get("losses", ())]  # older ones are of the end of an epoch
        self.seconds = state.get("seconds", 0.0)
        random = [state["random"], *state.get("others", ())]
        if team.rank() < len(random):
            set_random_state(random[team.rank()], self.device)
        else:
            torch.manual_seed(self.own_seed())

    def own_seed(self) -> int:
        """Of what this rank draws from this step on."""
        step = len(self.epochs) * self.data.steps + len(self.losses)
        return int(np.random.default_rng((self.run.seed, team.rank(), step)).integers(2**63))
