"""What a method does to one batch of a setting's training images, drawn."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from traceback import extract_tb
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mixbench.bench.catalogue import inapplicable
from mixbench.bench.cells import Run
from mixbench.bench.cells import method as method_of
from mixbench.bench.cells import setting as setting_of
from mixbench.bench.data import Data
from mixbench.bench.figures import UNDATED
from mixbench.bench.lab import Lab, build, open_data, reproducible
from mixbench.bench.settings import Setting
from mixbench.bench.spec import BadInput, canonical, one_line
from mixbench.bench.specimen._look import Seen, dithered, look
from mixbench.bench.specimen._picture import Specimen, picture
from mixbench.bench.training import Training, teacher, trained
from mixbench.methods import Method, Net, Objective

EXAMPLES, CORNERS = 8, 3
"""Images of a batch, of different classes, and of one that is drawn as a triangle."""
DRAWS = 20
"""Batches that are drawn of the same images: a method may do one of several things to each."""


@runtime_checkable
class Mapper(Protocol):
    """A method that tells what it weighs over images, by name: maps (b, h, w) of any size."""

    def maps(self, net: Net, x: Tensor, y: Tensor) -> Mapping[str, Tensor]: ...


def draw(method: str, setting: str, lab: Lab, seed: int, out: Path) -> None:
    """Draw what a method does to a batch. Raises BadInput if it can't be applied there, or fails.

    The network is that of the run with this seed, if it is trained, else a new one.
    """
    if out.suffix not in UNDATED:
        raise BadInput(f"a figure's file should end in {' or '.join(UNDATED)}, unlike {out}")
    spelled = canonical(method, "mixbench.methods", Method)
    run = Run(str(Setting.parse(setting)), spelled, seed)
    try:
        found = specimen(run, lab)
    except BadInput:
        raise
    except Exception as error:  # whatever a method of the user's own may raise
        said = f"{one_line(error)} ({_line(error, method_of(spelled))})"
        raise BadInput(f"{spelled} fails on a batch of {run.setting}: {said}") from error
    picture(found, out)


def _line(error: Exception, method: Method) -> str:
    """The last line of the method's own file that an error came through."""
    file = Path(inspect.getfile(type(method)))
    lines = [
        frame.lineno for frame in extract_tb(error.__traceback__) if Path(frame.filename) == file
    ]
    return f"{file.name}, line {lines[-1]}" if lines else file.name


def specimen(run: Run, lab: Lab) -> Specimen:
    """What the run's method does to a batch. Raises BadInput if it can't be applied there."""
    if why := inapplicable(run.setting, run.method):
        raise BadInput(f"{run.method} can't be applied in {run.setting}: {why}")
    with reproducible(run.seed, lab.device):
        data = open_data(setting_of(run.setting), lab, run.seed)
        objective, networks = _objective(run, lab, data)
        torch.manual_seed(run.seed)
        x, y = _examples(data, EXAMPLES)
        x = dithered(x)
        return Specimen(
            method=run.method,
            where=f"{run.setting}, seed {run.seed}, {networks}",
            images=x.cpu(),
            classes=y.argmax(1).tolist(),
            maps={name: each.float().cpu() for name, each in _maps(objective, x, y).items()},
            seen=_looks(objective, x, y, run.seed),
            cornered=_looks(objective, x[:CORNERS], y[:CORNERS], run.seed),
        )


def _looks(objective: Objective, x: Tensor, y: Tensor, seed: int) -> list[Seen]:
    return [look(objective, x, y, seed * DRAWS + i) for i in range(DRAWS)]


def _examples(data: Data, most: int) -> tuple[Tensor, Tensor]:
    """The first training images of different classes, and their targets, by class."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for batch in data.epoch(0):
        for x, y in zip(*batch, strict=True):
            if len(found) < most:
                found.setdefault(int(y.argmax()), (x, y))
        if len(found) == min(most, data.dataset.classes):
            break
    x, y = zip(*(found[c] for c in sorted(found)), strict=True)
    return torch.stack(x), torch.stack(y)


def _objective(run: Run, lab: Lab, data: Data) -> tuple[Objective, str]:
    """The method with its networks as they are when training begins; and whether they are trained.

    A teacher that is not trained is a new network, too.
    """
    method, taught_by = method_of(run.method), run.teacher
    taught = taught_by is None or trained(taught_by, lab)
    ready = taught and trained(run, lab)
    net = _trained(run, lab) if ready else _new(run, lab, data)
    if taught_by is None:
        guide, by = None, ""
    else:
        guide = teacher(run, lab) if taught else _new(taught_by, lab, data)
        by = f", taught by {'a trained' if taught else 'an untrained'} {taught_by.method}"
    return method.objective(net, guide), f"{'trained' if ready else 'untrained'} network{by}"


def _trained(run: Run, lab: Lab) -> Net:
    training = Training(run, lab)
    training.load()
    return training.objective.net


def _new(run: Run, lab: Lab, data: Data) -> Net:
    return build(setting_of(run.setting), data).to(lab.device)


@torch.no_grad()
def _maps(objective: Objective, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
    method, net = objective.method, deepcopy(objective.net).train()
    return method.maps(net, x, y) if isinstance(method, Mapper) else {}
