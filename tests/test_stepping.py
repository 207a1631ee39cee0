"""How steps are taken. No GPU is needed: what records is pretended."""

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import pytest
import torch
from helpers import assert_even, assert_same, batch, bound, tiny
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from mixbench.bench.stepping import (
    WARMUP,
    Branching,
    Path,
    Plain,
    Step,
    Unrecorded,
    compile_stages,
    rates_on,
    stepper,
)
from mixbench.methods import Decision, Method, Net, Objective, chance, choice, following
from mixbench.methods._decisions import _decide
from mixbench.methods.manifold import Manifold
from mixbench.methods.mixup import Mixup
from mixbench.methods.multimix import MultiMix
from mixbench.methods.puzzlemix import PuzzleMix

METHODS = [Mixup(p=0.5), Manifold(), MultiMix(n=20)]
all_draws_are_the_devices = pytest.mark.usefixtures("host_draws_nothing")
needs_a_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")


@pytest.fixture
def host_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws on the CPU, beside decisions, are taken for those of a device."""
    monkeypatch.setattr("mixbench.bench.stepping.host_random", lambda: ())


@contextmanager
def taped() -> Iterator[list[int]]:
    """What is decided within."""
    outcomes: list[int] = []
    decided = _decide.get()

    def decide(decision: Decision) -> int:
        outcomes.append(decided(decision))
        return outcomes[-1]

    token = _decide.set(decide)
    try:
        yield outcomes
    finally:
        _decide.reset(token)


class Pretended:
    """Records what a copy of the step decides, and repeats the step with that."""

    def __init__(self, *waited: str) -> None:
        self.waited, self.recorded, self.repeated = [*waited], list[Path](), Counter[Path]()

    def run(self, step: Step, x: Tensor, y: Tensor) -> Tensor:
        return step(x, y)

    @contextmanager
    def waits(self) -> Iterator[list[str]]:
        waited: list[str] = []
        yield waited
        waited += self.waited

    def record(self, step: Step, x: Tensor, y: Tensor) -> Step:
        with torch.random.fork_rng(), taped() as outcomes:
            deepcopy(step)(x, y)
        self.recorded.append(path := tuple(outcomes))

        def repeat(x: Tensor, y: Tensor) -> Tensor:
            self.repeated[path] += 1
            with following(path) as made, taped() as more:
                loss = step(x, y)
            assert len(made) == len(more) == len(path)
            return loss

        return repeat


def plain(method: Method, net: Net) -> Plain:
    objective = bound(method, net).train()
    return Plain(objective, SGD(objective.parameters(), 0.1, momentum=0.9))


def taken(step: Step, n: int) -> list[Tensor]:
    """The losses of n steps on different batches."""
    torch.manual_seed(1)
    x, y = batch(6)
    return [step(x.detach().roll(i, 0), y) for i in range(n)]


@all_draws_are_the_devices
@pytest.mark.parametrize("method", METHODS, ids=["mixup", "manifold", "multimix"])
def test_a_recorded_step_is_the_same_as_a_plain_one(method: Method) -> None:
    torch.manual_seed(0)
    net, other, recorder = (first := tiny()), deepcopy(first), Pretended()
    losses = taken(plain(method, net), 30)
    assert taken(Branching(plain(method, other), recorder), 30) == losses
    assert len({loss.item() for loss in losses}) == 30
    assert sum(recorder.repeated.values()) > 10
    for name, tensor in net.state_dict().items():
        assert tensor.equal(other.state_dict()[name]), name


def test_the_loss_is_that_before_the_update() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(6)
    start, step = deepcopy(net), plain(Method(), net)
    weights = net.head.get_parameter("weight")
    expected = Method().loss(start.train(), x, y)
    expected.backward()
    loss = step(x, y)
    gradient = start.head.get_parameter("weight").grad
    assert gradient is not None
    assert loss.equal(expected)
    assert not loss.requires_grad
    assert_same(weights, start.head.get_parameter("weight") - 0.1 * gradient, atol=1e-7)


def test_gradients_are_not_added_up_over_steps() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(6)
    step = plain(Method(), net)
    step(x, y)
    torch.autograd.backward(Method().loss(alone := deepcopy(net), x, y))
    step(x, y)
    for parameter, own in zip(net.parameters(), alone.parameters(), strict=True):
        assert parameter.grad is not None
        assert parameter.grad.equal(own.grad)  # type: ignore[arg-type]


X = torch.zeros(()), torch.zeros(())


def stepping(step: Callable[[], object], n: int, *waited: str) -> tuple[Pretended, Branching]:
    """After n steps that do nothing else."""

    def loss(x: Tensor, y: Tensor) -> Tensor:
        step()
        return x + y

    torch.manual_seed(0)
    branching = Branching(loss, recorder := Pretended(*waited))
    for _ in range(n):
        branching(*X)
    return recorder, branching


def test_a_step_that_decides_nothing_is_recorded_when_it_is_warm() -> None:
    for n in range(WARMUP):
        assert stepping(lambda: None, n)[0].recorded == []
    recorder, _ = stepping(lambda: None, 10)
    assert recorder.recorded == [()]
    assert recorder.repeated == {(): 10 - WARMUP}


def test_each_branch_is_recorded_once() -> None:
    seen = Counter[Path]()

    def step() -> None:
        seen[(choice(3), int(chance(0.5)))] += 1

    recorder, _ = stepping(step, 200)
    assert sorted(recorder.recorded) == [(i, j) for i in range(3) for j in range(2)]
    assert min(recorder.repeated.values()) > 10


def test_a_rare_branch_is_recorded_when_it_is_due() -> None:
    recorded: list[tuple[int, int]] = []
    torch.manual_seed(0)
    branching = Branching(lambda x, y: x + int(chance(0.05)), recorder := Pretended())
    for _ in range(300):
        recorded.append((int(branching(*X)), len(recorder.recorded)))
    rare = [after for shown, after in recorded if shown]
    assert rare[:WARMUP] == [1, 1, 2]
    assert recorder.recorded == [(0,), (1,)]
    assert recorder.repeated[1,] == len(rare) - WARMUP


def test_what_is_decided_next_may_depend_on_what_was_decided() -> None:
    seen: list[tuple[int, ...]] = []

    def step() -> None:
        first = choice(2)
        seen.append((first, choice(3), int(chance(0.5))) if first else (first, int(chance(0.25))))

    recorder, _ = stepping(step, 3000)
    paths = [(0, 0), (0, 1), *((1, i, j) for i in range(3) for j in range(2))]
    assert sorted(recorder.recorded) == paths
    counts = Counter(seen)
    assert_even(torch.tensor([counts[path] for path in paths[2:]]))
    assert_even(torch.tensor([sum(counts[p] for p in paths[2:]), counts[0, 0] + counts[0, 1]]))
    share = counts[0, 1] / (counts[0, 0] + counts[0, 1])
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 1500) ** 0.5


@all_draws_are_the_devices
def test_all_three_decisions_of_puzzlemix_are_made_before_its_steps() -> None:
    torch.manual_seed(0)
    recorder = Pretended()
    step = Branching(plain(PuzzleMix(adversarial=0.5, blocks=(2, 4)), tiny()), recorder)
    losses = taken(step, 40)
    assert all(loss.isfinite() for loss in losses)
    assert len(recorder.recorded) > 2
    assert {len(path) for path in recorder.recorded} == {3}
    assert len({*recorder.recorded}) == len(recorder.recorded)


DRAWS: dict[str, Callable[[], object]] = {
    "random": random.random,
    "numpy": np.random.rand,
    "torch": lambda: torch.rand((), device="cpu"),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_step_that_draws_on_the_host_is_never_recorded(name: str) -> None:
    recorder, branching = stepping(DRAWS[name], 20)
    assert recorder.recorded == []
    assert branching.taken == {(): 20}


def test_only_the_branch_that_draws_on_the_host_is_not_recorded() -> None:
    recorder, _ = stepping(lambda: chance(0.5) and random.random(), 50)
    assert recorder.recorded == [(0,)]


def test_a_step_that_waits_for_the_device_is_never_recorded() -> None:
    assert stepping(lambda: None, 20, "called a synchronizing CUDA operation")[0].recorded == []


def test_a_step_that_fails_decides_by_chance_afterwards() -> None:
    def fail(x: Tensor, y: Tensor) -> Tensor:
        raise ArithmeticError(choice(2))

    before, branching = _decide.get(), Branching(fail, Pretended())
    with pytest.raises(ArithmeticError):
        branching(*X)
    assert _decide.get() is before


def test_on_a_cpu_steps_are_plain() -> None:
    objective = Method().objective(tiny())
    assert isinstance(stepper(objective, SGD(objective.parameters(), 0.1)), Plain)
    assert not any(compiled(stage) for stage in objective.net.children())


def test_a_schedule_changes_rates_in_place() -> None:
    optimizer = SGD([nn.Parameter(torch.ones(()))], 0.4)
    schedule = LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    rates_on(torch.device("cpu"), optimizer)
    (group,) = optimizer.param_groups
    rate = group["lr"]
    for epoch in range(3):
        assert rate.item() == pytest.approx(0.4 * 0.5**epoch)
        optimizer.step()
        schedule.step()
    assert group["lr"] is rate


def test_rates_in_tensors_are_used_as_numbers_are() -> None:
    torch.manual_seed(0)
    net, other = (first := tiny()), deepcopy(first)
    steps = [plain(Mixup(), each) for each in (net, other)]
    rates_on(torch.device("cpu"), steps[1].optimizer)
    for tensors in zip(*(taken(step, 3) for step in steps), strict=True):
        torch.testing.assert_close(*tensors, rtol=1e-6, atol=0)


def compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None


def test_compiled_stages_keep_their_names_and_copies_are_not_compiled() -> None:
    net = tiny()
    names = [*net.state_dict()]
    compile_stages(net)
    assert all(compiled(stage) for stage in net.children())
    assert [*net.state_dict()] == names
    assert not any(compiled(module) for module in deepcopy(net).modules())
    assert all(compiled(stage) for stage in net.split("layer1")[1].children())


@needs_a_compiler
def test_compiled_stages_have_the_same_loss_and_gradients() -> None:
    torch.manual_seed(0)
    net = Net(pixels=nn.Identity(), pool=nn.Flatten(), head=nn.Linear(192, 5))
    losses, gradients = [], []
    for _ in range(2):
        objective = Objective(Mixup(), net)
        torch.manual_seed(1)
        loss = objective(*batch(6))
        gradients.append(torch.autograd.grad(loss, net.head.get_parameter("weight"))[0])
        losses.append(loss)
        compile_stages(net)
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0])


class Unable(Pretended):
    """A recorder that fails to record."""

    def record(self, step: Step, x: Tensor, y: Tensor) -> Step:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")


def test_a_branch_that_fails_to_be_recorded_goes_on_and_says_why() -> None:
    torch.manual_seed(0)
    net, other = (first := tiny()), deepcopy(first)
    losses = taken(plain(Method(), net), 6)
    with pytest.warns(
        Unrecorded, match="^a step is not recorded: .*not permitted .--eager"
    ) as said:
        same = taken(Branching(plain(Method(), other), Unable()), 6)
    assert len(said) == 1
    assert_same(losses, same)
