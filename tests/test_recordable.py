"""A step of every method can be recorded on a GPU: it reads nothing back, and decides in one place.

Tensors on torch's "meta" device have no values, so whatever reads one fails there, without a GPU.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest
import torch
from helpers import batch, bound, home
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mixbench.bench.spec import names, parse
from mixbench.bench.stepping import Branching, Cuda, Plain, host_random
from mixbench.methods import Decision, Method, Objective, beta, chance, choice, following
from mixbench.methods._decisions import Coin, Die

PACKAGE = "mixbench.methods"
WAITING = {
    "augmix": "how many images each operation gets is drawn on the host",
    "supermix": "mixtures are made until enough are solved, and counted",
    "tokenmix": "blocks are drawn on the host until enough tokens are covered",
}
"""spelling -> why its steps can't be recorded"""

MORE = [
    "alignmixup,convex=True,steps=9",
    "comixup,part=3",
    "cutmix,corrected=False",
    "cutmix,k=2,nested=True",
    "densemultimix,alpha_per=batch,n=20",
    "densemultimix,p=1",
    "mixup,k=2,shared=False",
    "mixup,k=3,p=0.5",
    "multimix,m=3,n=20",
    "multiple,base=cutmix,k=2",
    "multiple,base=manifold,k=2",
    "multiple,base=puzzlemix,k=2",
    "puzzlemix,adversarial=0.1,blocks=2,clean=1",
    "saliencymix,official=True",
    "stylemix,cut=True,size=16",
    "stylemix,normalised=True,size=16",
    "tokenmix,activation=uniform,mask=random",
    "tokenmix,criterion=net,mask=random",
    "transmix,area=0",
    "zetamixup,m=3,own=False",
]
SMALLER = {
    "alignmixup": "alignmixup,steps=9",
    "stylemix": "stylemix,size=16",
}  # or they take seconds
SPELLINGS = [SMALLER.get(name, name) for name in names(PACKAGE)]
METHODS = {spelling: parse(spelling, PACKAGE, Method) for spelling in SPELLINGS + MORE}
RECORDABLE = {s: method for s, method in METHODS.items() if s not in WAITING}

pytestmark = pytest.mark.usefixtures("adain")
each_recordable = pytest.mark.parametrize("method", RECORDABLE.values(), ids=RECORDABLE)
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

Path = tuple[int, ...]


def outcomes(decision: Decision) -> Sequence[int]:
    """All that a decision can come to."""
    if isinstance(decision, Die):
        return range(decision.sides)
    return [outcome for outcome, p in ((0, 1 - decision.p), (1, decision.p)) if p > 0]


def branches(step: Callable[[], object]) -> list[Path]:
    """The outcomes of all decisions of each branch of a step."""
    found, open_paths = [], [Path()]
    while open_paths:
        start = open_paths.pop()
        with following(start) as made:
            step()
        path = tuple(outcome for _, outcome in made)
        found.append(path)
        for i in range(len(start), len(made)):
            open_paths += [(*path[:i], o) for o in outcomes(made[i][0]) if o != path[i]]
    return found


class Hindrance(RuntimeError):
    """What keeps a step from being recorded."""


class Watched(TorchDispatchMode):
    """Refuses tensors that are made on the host, or of numbers that lie there."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.lift_fresh.default:
            raise Hindrance("a tensor is made of a list or a number")
        if func in MISSING:
            return torch.empty_like(args[0])
        out = func(*args, **(kwargs or {}))
        if not all(made.is_meta for made in tree_leaves(out) if isinstance(made, Tensor)):
            raise Hindrance(f"{func} is done on the host")
        return out


MISSING = {  # on meta, as values decide about nothing
    torch.ops.aten._sample_dirichlet.default,
    torch.ops.aten.binomial.default,
}
watched = Watched()  # type: ignore[no-untyped-call]


def hindrance(step: Callable[[], object], path: Path = ()) -> str:
    """Why a branch of a step, on meta, can't be recorded, or ""."""
    before = host_random()
    try:
        with following(path), watched:
            step()
    except (RuntimeError, TypeError) as error:
        return str(error).splitlines()[0]
    return "" if host_random() == before else "something is drawn on the host"


def training_step(objective: Objective, x: Tensor, y: Tensor) -> Callable[[], None]:
    return lambda: objective(x, y).backward()


def on_the_host(method: Method) -> tuple[Objective, Tensor, Tensor]:
    """The method's objective, and a batch."""
    torch.manual_seed(0)
    x, y = batch(6)
    return bound(method, home(method)).train(), x.detach(), y


def on_meta(method: Method) -> Callable[[], None]:
    objective, x, y = on_the_host(method)
    return training_step(objective.to("meta"), x.to("meta"), y.to("meta"))


@each_recordable
def test_no_branch_reads_a_number_or_draws_on_the_host(method: Method) -> None:
    paths = branches(training_step(*on_the_host(method)))
    step = on_meta(method)
    assert {path: found for path in paths if (found := hindrance(step, path))} == {}


@pytest.mark.parametrize("name", WAITING)
def test_what_is_said_to_wait_still_does(name: str) -> None:
    paths = branches(training_step(*on_the_host(METHODS[name])))
    step = on_meta(METHODS[name])
    assert any(hindrance(step, path) for path in paths)


def test_blocks_are_all_that_tokenmix_waits_for() -> None:
    paths, step = [(0,), (1,)], on_meta(METHODS["tokenmix"])
    assert [bool(hindrance(step, path)) for path in paths] == [False, True]


def contents(value: object) -> object:
    """What a change of ``value``, other than of numbers in tensors, would change."""
    if isinstance(value, dict):
        return {key: contents(each) for key, each in value.items()}
    if isinstance(value, Tensor):
        return id(value), value.data_ptr()
    return id(value) if isinstance(value, nn.Module) else repr(value)


def state(objective: nn.Module) -> dict[str, object]:
    """Of every module, what it is made of."""
    return {name: contents(vars(module)) for name, module in objective.named_modules()}


@each_recordable
def test_a_step_changes_nothing_but_numbers_in_tensors_that_stay(method: Method) -> None:
    objective, x, y = on_the_host(method)
    step = training_step(objective, x, y)
    before = state(objective)
    for path in branches(step):
        with following(path):
            step()
    assert state(objective) == before


@pytest.mark.parametrize("kept", ["attribute", "buffer", "list"])
def test_state_that_is_kept_elsewhere_is_seen(kept: str) -> None:
    module: Any = nn.Module()
    if kept == "buffer":
        module.register_buffer("seen", torch.zeros(()))
    else:
        module.seen = [] if kept == "list" else 0
    before = state(module)
    assert state(module) == before
    module.seen = module.seen + ([1] if kept == "list" else 1)
    assert state(module) != before


X = torch.zeros(4, 3, device="meta")
FORBIDDEN: dict[str, Callable[[], object]] = {
    "item": lambda: X.sum().item(),
    "bool": lambda: bool(X.sum() > 0),
    "tolist": lambda: X.tolist(),
    "cpu": lambda: X.cpu(),
    "numpy": lambda: X.numpy(),
    "mask": lambda: X[X > 0],
    "nonzero": lambda: X.nonzero(),
    "length": lambda: X[: X.sum().long()],
    "list": lambda: torch.tensor([1.0, 2.0], device="meta"),
    "scalar": lambda: torch.tensor(2.0, device="meta"),
    "index": lambda: X[[0, 1]],
    "host": lambda: X + torch.ones(3).to(X),
    "draw": lambda: X * float(torch.rand((), device="cpu")),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_waits_is_seen(name: str) -> None:
    assert hindrance(FORBIDDEN[name])


def test_what_waits_for_nothing_is_not() -> None:
    def step() -> None:
        with torch.device("meta"):
            x = torch.where(X > 0, 2 * X, 0.0)[torch.randperm(4)]
            x[-1] = 1.0
            x * beta(2.0)

    assert hindrance(step) == ""


def test_every_branch_is_walked_once() -> None:
    def step() -> None:
        if chance(0.5):
            choice(3)
        elif not chance(0.0):
            chance(1.0)

    assert sorted(branches(step)) == [(0, 0, 1), (1, 0), (1, 1), (1, 2)]
    assert outcomes(Coin(0.5)) == [0, 1]


@contextmanager
def waiting_refused() -> Iterator[None]:
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@on_a_gpu
@each_recordable
def test_no_branch_waits_for_a_gpu(method: Method) -> None:
    paths = branches(training_step(*on_the_host(method)))
    objective, x, y = on_the_host(method)
    step = training_step(objective.cuda(), x.cuda(), y.cuda())
    for path in paths:
        with following(path):
            step()  # what is lazy is made now
            with waiting_refused():
                step()


@on_a_gpu
@each_recordable
def test_recorded_steps_have_the_losses_of_plain_ones(method: Method) -> None:
    losses = []
    objective, x, y = on_the_host(method)
    for recorded in (False, True):
        own = deepcopy(objective).cuda()
        plain = Plain(own, torch.optim.SGD(own.parameters(), 0.01))
        step = Branching(plain, Cuda(torch.device("cuda"))) if recorded else plain
        torch.manual_seed(1)
        losses.append(torch.stack([step(x.cuda(), y.cuda()) for _ in range(20)]))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-3)
