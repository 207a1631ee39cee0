"""What a training step of each method costs, beside the baseline's, on one machine in one go."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from statistics import mean, median

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mixbench.bench.cells import method, setting
from mixbench.bench.data import Data
from mixbench.bench.runs import Lab, build, inapplicable, open_data, optimizer
from mixbench.bench.settings import Recipe
from mixbench.bench.tables import grid
from mixbench.tasks import measured, resident

BASELINE = "baseline"
HEADS = ["method", "median, ms", "of baseline", "mean, ms", "of baseline", "peak, MiB"]
HEADS += ["of baseline", "beyond one forward + backward"]


@dataclass
class Subject:
    """A method in training, and the seconds and bytes that each of its steps took."""

    name: str
    objective: torch.nn.Module
    optimizer: torch.optim.Optimizer
    passes: str
    seconds: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        before = resident(x.device)
        with measured(x.device) as measure:
            self.objective(x, y).backward()
            self.optimizer.step()
        self.seconds.append(measure.seconds)
        self.bytes.append(self.held() + measure.peak_memory_bytes - before)

    def held(self) -> int:
        """The bytes of weights and of the optimizer's state."""
        leaves = tree_leaves([self.objective.state_dict(), self.optimizer.state_dict()])
        return sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))

    def forget(self) -> None:
        self.seconds, self.bytes = [], []


def speed(name: str, methods: Sequence[str], lab: Lab, steps: int, warmup: int) -> str:
    """A Markdown table of what ``steps`` steps of each method cost in a setting, after ``warmup``.

    Methods take their steps in turn, so that what slows the machine down slows all of them.
    """
    chosen = setting(name)
    data = open_data(chosen.data, chosen.recipe, lab, seed=0)
    there = [m for m in dict.fromkeys([BASELINE, *methods]) if not inapplicable(name, m)]
    subjects = [subject(m, chosen.net, chosen.recipe, data, lab.device) for m in there]
    batches = cycle(list(islice(data.epoch(0), 8)))
    for count in (warmup, steps):
        for each in subjects:
            each.forget()
        for x, y in islice(batches, count):
            for each in subjects:
                each.step(x, y)
    reasons = {m: why for m in methods if (why := inapplicable(name, m))}
    return f"{grid([HEADS, *rows(subjects)])}\n{caption(name, lab, steps, warmup, reasons)}\n"


def subject(name: str, net_name: str, recipe: Recipe, data: Data, device: torch.device) -> Subject:
    """A method, with a network of its own, and, if it needs one, a teacher that is not trained."""
    chosen = method(name)
    torch.manual_seed(0)
    net, teacher = (build(net_name, data).to(device) for _ in range(2))
    objective = chosen.objective(net, teacher if chosen.teacher else None).train()
    return Subject(name, objective, optimizer(objective, recipe)[0], chosen.passes)


def rows(subjects: Sequence[Subject]) -> Iterator[list[str]]:
    """A row for each; the first is what the others are compared with."""
    first, *_ = subjects
    for each in subjects:
        row = [each.name]
        for typical in (median, mean):
            row += [f"{1e3 * typical(each.seconds):.2f}"]
            row += [f"{typical(each.seconds) / typical(first.seconds):.3f}"]
        peak = max(each.bytes)
        row += [f"{peak / 2**20:.0f}", f"{peak / max(first.bytes):.2f}", each.passes or "-"]
        yield row


def caption(name: str, lab: Lab, steps: int, warmup: int, reasons: dict[str, str]) -> str:
    where = (
        f"{torch.get_num_threads()} CPU threads" if lab.device.type == "cpu" else str(lab.device)
    )
    return (
        f"Setting: `{name}`, on {where}, torch {torch.__version__}. {steps} steps of each method, "
        f"in turn, after {warmup}. A step is forward, backward and update on a batch that lies on the "
        "device; its peak counts weights, optimizer and what the step adds. Teachers are untrained."
        + "".join(f" Not applicable: `{m}`, {why}." for m, why in reasons.items())
    )
