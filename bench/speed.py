"""What a training step of each method costs, beside the baseline's, on one machine in one go."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from statistics import mean, median
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mixbench.bench.catalogue import inapplicable
from mixbench.bench.cells import method, setting
from mixbench.bench.data import Data
from mixbench.bench.formats.markdown import grid
from mixbench.bench.lab import Lab, build, open_data
from mixbench.bench.optimizers import optimizer
from mixbench.bench.settings import Setting
from mixbench.tasks import measured

BASELINE = "baseline"
MEMORY_STEPS = 4  # of which a method that draws one of two branches takes both, more often than not
HEADS = ["method", "median, ms", "of baseline", "mean, ms", "of baseline", "peak, MiB"]
HEADS += ["of baseline", "beyond one forward + backward"]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors, those given and those made within, that are alive at once."""

    def __init__(self, there: object) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: set[int] = set()
        self.add(there)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.add(out)
        return out

    def add(self, made: object) -> None:
        for leaf in tree_leaves(made):
            if (
                isinstance(leaf, Tensor)
                and (key := leaf.untyped_storage()._cdata) not in self.known
            ):
                self.known.add(key)
                self.now += leaf.untyped_storage().nbytes()
                self.peak = max(self.peak, self.now)
                finalize(leaf.untyped_storage(), self.drop, key, leaf.untyped_storage().nbytes())

    def drop(self, key: int, size: int) -> None:
        self.known.remove(key)
        self.now -= size


@dataclass
class Subject:
    """A method in training, and the seconds that each of its steps took."""

    name: str
    objective: torch.nn.Module
    optimizer: torch.optim.Optimizer
    passes: str
    seconds: list[float] = field(default_factory=list)

    def timed_step(self, x: Tensor, y: Tensor) -> None:
        with measured(x.device) as measure:
            self.step(x, y)
        self.seconds.append(measure.seconds)

    def step(self, x: Tensor, y: Tensor) -> None:
        loss = self.objective(x, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def peak(self, batches: Iterable[tuple[Tensor, Tensor]]) -> int:
        """The most bytes of weights, optimizer and all else that a step has at once."""
        peaks: list[int] = []
        for x, y in batches:
            state = [self.objective.state_dict(), self.optimizer.state_dict()]
            gradients = [parameter.grad for parameter in self.objective.parameters()]
            with LiveBytes([state, gradients, x, y]) as live:
                self.step(x, y)
            peaks.append(live.peak)
        return max(peaks)


def speed(name: str, methods: Sequence[str], lab: Lab, steps: int, warmup: int) -> str:
    """A Markdown table of what ``steps`` steps of each method cost in a setting, after ``warmup``.

    Methods take their steps in turn, so that what slows the machine down slows all of them.
    """
    chosen = setting(name)
    data = open_data(chosen, lab, seed=0)
    there = [m for m in dict.fromkeys([BASELINE, *methods]) if not inapplicable(name, m)]
    subjects = [subject(m, chosen, data, lab.device) for m in there]
    few = list(islice(data.epoch(0), 8))
    for x, y in islice(cycle(few), warmup + steps):
        for each in subjects:
            each.timed_step(x, y)
    for each in subjects:
        del each.seconds[:warmup]
    reasons = {m: why for m in methods if (why := inapplicable(name, m))}
    return f"{grid([HEADS, *rows(subjects, few[:MEMORY_STEPS])])}\n{caption(name, lab, steps, warmup, reasons)}\n"


def subject(name: str, where: Setting, data: Data, device: torch.device) -> Subject:
    """A method, with a network of its own, and, if it needs one, a teacher that is not trained."""
    chosen = method(name)
    torch.manual_seed(0)
    net, teacher = (build(where, data).to(device) for _ in range(2))
    objective = chosen.objective(net, teacher if chosen.teacher else None).train()
    return Subject(name, objective, optimizer(objective, where.recipe)[0], chosen.passes)


def rows(
    subjects: Sequence[Subject], batches: Sequence[tuple[Tensor, Tensor]]
) -> Iterator[list[str]]:
    """A row for each; the first is what the others are compared with."""
    first, *_ = subjects
    least = first.peak(batches)
    for each in subjects:
        row = [each.name]
        for typical in (median, mean):
            row += [f"{1e3 * typical(each.seconds):.2f}"]
            row += [f"{typical(each.seconds) / typical(first.seconds):.3f}"]
        peak = each.peak(batches)
        yield [*row, f"{peak / 2**20:.0f}", f"{peak / least:.2f}", each.passes or "-"]


def caption(name: str, lab: Lab, steps: int, warmup: int, reasons: dict[str, str]) -> str:
    where = (
        f"{torch.get_num_threads()} CPU threads" if lab.device.type == "cpu" else str(lab.device)
    )
    return (
        f"Setting: `{name}`, on {where}, torch {torch.__version__}. {steps} steps of each method, "
        f"in turn, after {warmup}. A step is forward, backward and update on a batch that lies on the "
        f"device. The peak is that of all tensors at once, of {MEMORY_STEPS} more steps. Teachers are "
        "untrained." + "".join(f" Not applicable: `{m}`, {why}." for m, why in reasons.items())
    )
