"""How a training step is taken: loss, gradients, update; on a GPU, compiled and as CUDA graphs."""

import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mixbench.bench.spec import one_line
from mixbench.methods import Decision, Objective, following

Step = Callable[[Tensor, Tensor], Tensor]
"""From images (b, 3, h, w) and targets (b, c) to the loss before the update, a scalar."""

Path = tuple[int, ...]
"""The outcomes of all that a step decides on the host, in order."""

WARMUP = 3
"""How often a branch is taken before it is recorded: until what is lazy is there."""

VARIANTS = 1024
"""Of compiled code, for networks, stages, modes and shapes: torch counts those of a process together."""

WAITED = "called a synchronizing"
"""What torch warns of; that its debug mode does not detect all of it is another warning."""


class Unrecorded(UserWarning):
    """A step that can't be recorded as a CUDA graph, and is taken as it is written."""


def stepper(objective: Objective, optimizer: Optimizer, eager: bool = False) -> Step:
    """How steps are best taken where the objective is: on a GPU, unless ``eager``, it is compiled."""
    plain = Plain(objective, optimizer)
    device = next(objective.parameters()).device
    if eager or device.type != "cuda":
        return plain
    compile_stages(objective.net)
    rates_on(device, optimizer)
    return Branching(plain, Cuda(device))


class Plain:
    """A step as it is written down."""

    def __init__(self, objective: nn.Module, optimizer: Optimizer) -> None:
        self.objective, self.optimizer = objective, optimizer

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = self.objective(x, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def compile_stages(net: nn.Sequential) -> None:
    """Let each stage be compiled when it is first used.

    Not the objective, whose draws would break the graph. Names in the state dict stay what they
    are, and copies are not compiled.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, VARIANTS)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, VARIANTS)
    for stage in net.children():
        stage.compile(dynamic=False)


def rates_on(device: torch.device, optimizer: Optimizer) -> None:
    """Keep learning rates in tensors, which a schedule changes in place: a graph reads them there."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float32, device=device)


class Recorder(Protocol):
    """What records a step once, so that it can be repeated at no cost to the host."""

    def run(self, step: Step, x: Tensor, y: Tensor) -> Tensor:
        """Take a step that is not recorded."""

    def waits(self) -> AbstractContextManager[list[str]]:
        """What the host waits for within, as is known afterwards."""

    def record(self, step: Step, x: Tensor, y: Tensor) -> Step:
        """The step, to be repeated on other batches of this shape; it is not taken yet."""


class Branching:
    """Takes steps of which each branch is recorded, when it has been taken a few times.

    What a step decides on the host is decided before it; what comes next to decide follows from
    what was decided. A branch in which the host waits for the device, or draws anything else, can't
    be recorded, and is run each time.
    """

    def __init__(self, step: Step, recorder: Recorder) -> None:
        self.step, self.recorder = step, recorder
        self.next: dict[Path, Decision] = {}
        self.taken: Counter[Path] = Counter()
        self.recorded: dict[Path, Step] = {}

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        path = self.decided()
        if path in self.recorded:
            return self.recorded[path](x, y)
        self.taken[path] += 1
        if self.taken[path] != WARMUP:
            return self.run(path, x, y)
        with self.watched() as steady:
            loss = self.run(path, x, y)
        if steady():
            self.record(path, x, y)
        return loss

    def record(self, path: Path, x: Tensor, y: Tensor) -> None:
        """Record a branch; if that can't be done, say why, and leave it."""
        try:
            with following(path):
                self.recorded[path] = self.recorder.record(self.step, x, y)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            why = f"{one_line(error)} (--eager records none)"
            warnings.warn(f"a step is not recorded: {why}", Unrecorded, stacklevel=2)

    def decided(self) -> Path:
        """Outcomes for all that the next step will decide, as far as that is known."""
        path: Path = ()
        while decision := self.next.get(path):
            path = *path, decision.throw()
        return path

    def run(self, path: Path, x: Tensor, y: Tensor) -> Tensor:
        """Take a step that decides as given, and remember what else it decides."""
        with following(path) as made:
            loss = self.recorder.run(self.step, x, y)
        path = ()
        for decision, outcome in made:
            self.next[path] = decision
            path = *path, outcome
        return loss

    @contextmanager
    def watched(self) -> Iterator[Callable[[], bool]]:
        """Whether what happens within has waited for nothing, and drawn nothing on the host."""
        before = host_random()
        with self.recorder.waits() as waited:
            yield lambda: not waited and host_random() == before


def host_random() -> tuple[object, ...]:
    """The state of every generator of random numbers on the host."""
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().numpy().tobytes()


class Cuda:
    """Records steps as CUDA graphs, which share their memory: they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.batch: tuple[Tensor, Tensor] | None = None

    def run(self, step: Step, x: Tensor, y: Tensor) -> Tensor:
        """On the stream that records, since gradients are added up where they first were."""
        batch = self.placed(x, y)
        here = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            loss = step(*batch)
        here.wait_stream(self.stream)
        return loss

    def placed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The batch, in the memory from which all steps read theirs."""
        if self.batch is None:
            self.batch = x.clone(), y.clone()
        for there, given in zip(self.batch, (x, y), strict=True):
            there.copy_(given)
        return self.batch

    @contextmanager
    def waits(self) -> Iterator[list[str]]:
        waited: list[str] = []
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield waited
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        waited += [text for each in said if WAITED in (text := str(each.message))]

    def record(self, step: Step, x: Tensor, y: Tensor) -> Step:
        batch, graph = self.placed(x, y), torch.cuda.CUDAGraph()
        capture = torch.cuda.graph(  # other threads, such as one that pins memory, may go on
            graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
        )
        with torch.cuda.device(self.device), capture:
            loss = step(*batch)

        def repeat(x: Tensor, y: Tensor) -> Tensor:
            self.placed(x, y)
            graph.replay()
            return loss.clone()

        return repeat
