"""A run: trained, and asked its tasks."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from traceback import format_exc

import torch

from mixbench.bench import stop, team
from mixbench.bench.cells import Arrays, Cell, Record, Run, file_name, setting, task
from mixbench.bench.data import Gallery
from mixbench.bench.desk import Desk
from mixbench.bench.lab import Lab, Report, build, has_bfloat16, open_data, reproducible, silent
from mixbench.bench.provenance import provenance
from mixbench.bench.spec import BadInput, one_line
from mixbench.bench.training import Training, train
from mixbench.tasks import Answer, Inapplicable, measured

LONGEST = 240
"""The letters of a cell's file name, for which most file systems have 255."""


def fill(run: Run, tasks: Iterable[str], lab: Lab, report: Report = silent) -> list[str] | None:
    """Ask the run those tasks that have no cell yet, training it first if need be.

    Without tasks, it is only trained. Returns the tasks that were asked; None if another process is
    at work on this run. Raises Stopped if this one is asked to end, when what it was at is kept.
    """
    tasks = [*tasks]
    with lab.store.claim(run) as mine:
        if not mine:
            return None
        missing = lab.store.missing(run, tasks)
        if missing or not tasks:
            ask_all(missing, train(run, lab, report), lab, report)
        return missing


class Unanswered(BadInput):
    """Tasks that failed, and why; those that could be answered have their cells."""


def ask_all(names: Iterable[str], training: Training, lab: Lab, report: Report) -> None:
    """Ask a trained run each of the tasks. Raises Unanswered at the end if some of them failed."""
    failed: dict[str, str] = {}
    for name in names:
        stop.end_if_wanted_back()
        report(name, len(training.epochs), len(training.epochs))
        try:
            lab.store.publish(Cell(training.run, name), *ask(name, training, lab, report))
        except (Exception, SystemExit) as error:  # whatever a task of the user's own may raise
            failed[f"{name}: {one_line(error)}"] = format_exc()  # the error itself holds tensors
    if failed:
        unanswered = Unanswered("; ".join(failed))
        unanswered.add_note("\n".join(failed.values()))
        raise unanswered


def ask(name: str, training: Training, lab: Lab, report: Report = silent) -> tuple[Record, Arrays]:
    """The record of one task, asked of a copy of what was trained, and what lies beside it.

    Its cost holds that of the sets of images that no task before it has read; they are named.
    """
    cell = Cell(training.run, name)
    trained = training.trained(Desk(cell, lab, report))
    before = set(trained.outputs.seconds)
    alike = reproducible(training.run.seed, lab.device, lab.deterministic)
    with alike, measured(lab.device) as measure:
        try:
            content, arrays = sorted_out(task(name).evaluate(trained), name)
        except Inapplicable as why:
            content, arrays = {"inapplicable": one_line(BadInput(why))}, {}
    read = {k: v for k, v in trained.outputs.seconds.items() if k not in before}
    here = provenance(lab.device, lab.command) | {"deterministic": lab.deterministic}
    return cell.identity() | content | {
        "made": {
            "training": training.made,
            "task": here | asdict(measure) | {"seconds_of_reading": read},
        },
    }, arrays


def sorted_out(answer: Answer, name: str) -> tuple[Record, Arrays]:
    """A task's answer as numbers and curves, for the cell, and arrays, which lie beside it.

    A curve is a number or a list, of numbers or of words. Raises TypeError or ArithmeticError if
    it is no answer.
    """
    expected = task(name).answered
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
        check_team(chosen.recipe.batch, lab)
        data = open_data(chosen, here, seed=0)
        build(chosen, data)
        check_tasks(tasks, Gallery(data, chosen.data, lab.data))


def check_team(batch: int, lab: Lab) -> None:
    """Raises BadInput if the lab's processes can't train together on equal parts of a batch."""
    if lab.processes > 1 and lab.device.type not in team.BACKENDS:
        raise BadInput(f"on {lab.device}, a run can't be trained by several processes")
    if batch % lab.processes:
        fits = max(n for n in range(1, lab.processes) if batch % n == 0)
        raise BadInput(
            f"a batch of {batch} has no {lab.processes} equal parts; --gpus-per-run {fits} would fit"
        )


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
