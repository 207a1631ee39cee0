"""Training in several processes: as one would, stopped and taken up by any number of them."""

import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import batch, bound, home, tiny_vit
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from torch.utils._pytree import tree_leaves, tree_map_only

from mixbench.bench import stop, team
from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.lab import Lab, silent
from mixbench.bench.runs import fill
from mixbench.bench.spec import BadInput, names, parse
from mixbench.bench.stop import Stopped
from mixbench.bench.training import Training, train, train_as_rank
from mixbench.methods import Method

TASKS = ["classification"]
STILL = Run("digits/smallvit,epochs=3", "baseline", 0)
"""It draws nothing, and each image's loss is its own, so that ranks change nothing but rounding."""

DRAWING = Run("digits/small,epochs=6", "mixup", 0)

MARGIN = 3.0
"""Of the test error of ``DRAWING``, in percent: of six seeds, one process has 1.0 to 3.8."""

CHEAPER = {"supermix": "supermix,steps=2", "stylemix": "stylemix,size=16"}


def both(job: Any, *arguments: object, report: team.Report = silent) -> None:
    """Do a job in two processes."""
    team.work(job, arguments, 2, "cpu", report)


def gradient(module: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
    module.zero_grad()
    module(x, y).backward()
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def compute(tell: team.Report, methods: list[str]) -> None:
    """What a team computes together, told by rank 0."""

    def report(*what: object) -> None:  # a tensor would be gone with the process that sent it
        tell(*tree_map_only(Tensor, Tensor.numpy, what))

    torch.manual_seed(0)
    objective = bound(Method(), tiny_vit())
    x, y = batch(8)
    expected = gradient(objective, x, y)
    part = slice(4 * team.rank(), 4 * team.rank() + 4)
    report("gradient", expected, gradient(team.parallel(objective), x[part], y[part]))
    report("highest", team.highest(5 * team.rank()))
    report("mean", team.mean(torch.tensor([0.1, team.rank()])))
    report("joined", team.joined(torch.arange(team.rank() + 1)))
    module = torch.nn.BatchNorm1d(1)
    module.register_buffer("running_mean", torch.ones(1) * team.rank())
    team.take_buffers(module)
    report("buffers", team.gathered(module.running_mean))
    report("methods", {name: take_steps(name) for name in methods})


def take_steps(name: str) -> list[Tensor]:
    """What each rank has after a few steps of a method."""
    torch.manual_seed(0)
    method = parse(name, "mixbench.methods", Method)
    objective = bound(method, home(method)).train()
    torch.manual_seed(team.rank())
    parallel = team.parallel(objective)
    steps = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], 0.01)
    for _ in range(6):
        steps.zero_grad()
        x, y = batch(8)
        parallel(x.detach(), y).backward()
        steps.step()
    return team.gathered(parameters_to_vector(objective.net.parameters()).detach())


@pytest.mark.usefixtures("adain")
def test_a_team_computes_what_one_process_would_and_has_the_same_weights() -> None:
    methods, told = [CHEAPER.get(n, n) for n in names("mixbench.methods")], dict[str, Any]()

    def note(what: str, *found: object) -> None:
        told[what] = tree_map_only(np.ndarray, torch.from_numpy, found)

    both(compute, methods, report=note)
    torch.testing.assert_close(*told["gradient"])
    assert told["highest"] == (5,)
    assert told["mean"][0].equal(torch.tensor([0.1, 0.5]))
    assert told["joined"][0].tolist() == [0, 0, 1]
    assert told["buffers"] == ([torch.zeros(1)] * 2,)
    assert [*told["methods"][0]] == methods
    for name, (one, other) in told["methods"][0].items():
        assert one.equal(other) and one.isfinite().all(), name


def state(run: Run, lab: Lab) -> dict[str, Any]:
    """What the run's checkpoint holds."""
    held: dict[str, Any] = torch.load(lab.store.folder(run) / "checkpoint.pt")
    return held


def weights(training: Training) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(training.objective.state_dict()) if leaf is not None]


def apart(one: Training, other: Training) -> float:
    """The largest difference of weights."""
    pairs = zip(weights(one), weights(other), strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


def errors(training: Training) -> list[tuple[float, float]]:
    return [(epoch["top1"], epoch["loss"]) for epoch in training.epochs]


def disturbed(report: team.Report, run: Run, lab: Lab, rank: int, epochs: float, how: int) -> None:
    """Train; when so many epochs are done, one of the ranks is sent a signal."""

    def tell(doing: str, done: float, total: int, images: int = 0, /) -> None:
        if team.rank() == rank and done >= epochs:
            signal.raise_signal(how)

    train_as_rank(tell, run, lab)


def all_of(report: team.Report, todo: list[tuple[Any, ...]]) -> None:
    """Several jobs one after the other, also if they are stopped."""
    for job, *arguments in todo:
        with suppress(Stopped):
            job(report, *arguments)
        stop._wanted_back.clear()


def test_a_team_trains_as_one_process_and_is_taken_up_by_any_number(tmp_path: Path) -> None:
    one, two, first, then = (Lab(Store(tmp_path / name)) for name in ("1", "2", "1-2", "2-1"))
    both(
        all_of,
        [
            (train_as_rank, STILL, two),
            (train_as_rank, DRAWING, two),
            (disturbed, STILL, then, 0, 1.4, signal.SIGUSR2),
            (disturbed, DRAWING, then, 1, 1.4, signal.SIGTERM),
        ],
    )
    for run in (STILL, DRAWING):
        held = state(run, then)
        assert (len(held["epochs"]), len(held["losses"]), len(held["others"])) == (1, 8, 1)
        assert not held["random"]["cpu"].equal(held["others"][0]["cpu"])
    assert apart(train(STILL, one), train(STILL, two)) < 1e-3
    assert apart(train(STILL, one), train(STILL, then)) < 1e-3
    assert abs(errors(train(DRAWING, one))[-1][0] - errors(train(DRAWING, two))[-1][0]) < MARGIN

    stop_alone(STILL, first, 1.4)
    both(all_of, [(train_as_rank, STILL, first), (train_as_rank, DRAWING, then)])
    assert len(state(STILL, first)["others"]) == 1
    assert apart(train(STILL, one), train(STILL, first)) < 1e-3
    assert apart(train(DRAWING, two), train(DRAWING, then)) == 0
    assert errors(train(DRAWING, two)) == errors(train(DRAWING, then))
    for a, b in zip(random(DRAWING, two), random(DRAWING, then), strict=True):
        assert a.equal(b)


def random(run: Run, lab: Lab) -> list[Tensor]:
    """The states of the generators of all ranks."""
    held = state(run, lab)
    return [each["cpu"] for each in (held["random"], *held["others"])]


def stop_alone(run: Run, lab: Lab, epochs: float) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):

        def report(doing: str, done: float, total: int, images: int = 0) -> None:
            patch.setattr(stop, "wanted_back", lambda: done >= epochs)

        train(run, lab, report)


def test_a_killed_rank_ends_the_team_in_one_line_and_the_next_goes_on(lab: Lab) -> None:
    with pytest.raises(team.RankFailed, match=r"^the process of rank 1 ended with exit code -9$"):
        both(disturbed, DRAWING, lab, 1, 2.4, signal.SIGKILL)
    done: list[float] = []
    assert fill(DRAWING, TASKS, lab, lambda what, at, *_: done.append(at)) == TASKS
    assert 0 < done[0] < 3


def fail(report: team.Report) -> None:
    if team.rank():
        raise BadInput("one.png can't be read")
    team.highest(0)


def test_what_a_rank_raises_is_told_in_one_line_with_its_traceback() -> None:
    with pytest.raises(team.RankFailed) as failed:
        both(fail)
    assert str(failed.value) == "one.png can't be read"
    assert "in fail" in failed.value.__notes__[0]


TAUGHT = Run("digits/small,epochs=1", "supermix,steps=2", 3)


def test_a_teacher_is_trained_by_a_team_too_and_the_record_tells(lab: Lab) -> None:
    heard: list[str] = []
    fill(TAUGHT, TASKS, replace(lab, processes=2), lambda doing, *_: heard.append(doing))
    ways = ["waiting for its teacher", "training its teacher", "training", *TASKS]
    assert list(dict.fromkeys(heard)) == ways
    assert TAUGHT.teacher and state(TAUGHT.teacher, lab)["made"]["processes"] == 2
    record = lab.store.read(Cell(TAUGHT, TASKS[0]))
    assert record and record["made"]["training"]["processes"] == 2


SCRIPT = """
import sys
from pathlib import Path
from mixbench.bench import stop
from mixbench.bench.cells import Run, Store
from mixbench.bench.lab import Lab
from mixbench.bench.runs import fill

if __name__ == "__main__":
    stop.heed()
    try:
        fill(Run("digits/small,epochs=10000", "mixup", 0), [], Lab(Store(Path(sys.argv[1])), processes=2))
    except stop.Stopped:
        print("stopped")
"""


@pytest.mark.parametrize(("how", "said"), [(signal.SIGTERM, "stopped\n"), (signal.SIGKILL, "")])
def test_a_team_ends_with_its_parent(lab: Lab, tmp_path: Path, how: int, said: str) -> None:
    (script := tmp_path / "script.py").write_text(SCRIPT)
    run, command = Run("digits/small,epochs=10000", "mixup", 0), [sys.executable, str(script)]
    parent = subprocess.Popen(
        [*command, str(lab.store.root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (lab.store.folder(run) / "checkpoint.pt").exists():
        assert parent.poll() is None
        time.sleep(0.1)
    parent.send_signal(how)
    out, _ = parent.communicate(timeout=120)  # until its ranks, too, have ended
    assert out == said
    assert not lab.store.claimed(run)
