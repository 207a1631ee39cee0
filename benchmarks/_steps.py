"""A worker: takes training steps with the package that is on its path, when told through a pipe.

It uses only what 839d275 has, under the same names. It computes on one thread, as a training does.
"""

import sys
from collections.abc import Sequence
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mixbench.bench.cells import Store, method, setting
from mixbench.bench.lab import Lab, build, open_data
from mixbench.bench.optimizers import optimizer
from mixbench.bench.spec import BadInput, one_line
from mixbench.bench.speed import LiveBytes
from mixbench.methods import Objective
from mixbench.tasks import measured

BATCHES = 8
WAITS = {"_local_scalar_dense", "equal", "masked_select", "nonzero", "_unique2", "lift_fresh"}
"""Operations after which a GPU and its host have waited for each other; the last copies a list."""
READS = {"cpu", "numpy", "tolist", "__array__"}
"""Methods of tensors that do so, of which nothing is seen below where the device is a CPU."""


class Below(TorchDispatchMode):
    """Counts operations: those that compute, and those that make host and device wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels = self.waits = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        waits = name in WAITS or (name.startswith("index") and masked(args))
        self.waits += waits
        self.kernels += not (waits or func.is_view or "empty" in name or name == "_unsafe_view")
        return func(*args, **(kwargs or {}))


def masked(arguments: Sequence[Any]) -> bool:
    """Whether a tensor is indexed by truth values, of which the host must know the number."""
    indices = tree_leaves(arguments[1:2])
    return any(isinstance(each, Tensor) and each.dtype == torch.bool for each in indices)


class Above(TorchFunctionMode):
    """Counts calls of ``READS``."""

    waits = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        self.waits += getattr(func, "__name__", "") in READS
        return func(*args, **(kwargs or {}))


class Steps:
    """A method in training, on the first few batches of a setting; batch ``i`` has seed ``i``."""

    def __init__(self, name: str, data: str, device: str, precision: str) -> None:
        self.where, self.device = setting(name), torch.device(device)
        self.dtype = getattr(torch, precision)
        lab = Lab(Store(Path()), Path(data), self.device)
        self.data = open_data(self.where, lab, seed=0)
        first = islice(self.data.epoch(0), BATCHES)
        self.batches = [(x.to(self.dtype), y.to(self.dtype)) for x, y in first]
        torch.set_default_dtype(self.dtype)

    def prepare(self, name: str) -> None:
        """Begin to train a method. Raises ValueError if it can't be applied."""
        torch.manual_seed(0)
        chosen = method(name)
        net, teacher = (build(self.where, self.data).to(self.device, self.dtype) for _ in range(2))
        try:
            chosen.check(net)
        except ValueError as error:
            raise BadInput(error) from None
        self.objective = chosen.objective(net, teacher if chosen.teacher else None).train()
        self.optimizer = optimizer(self.objective, self.where.recipe)[0]
        self.take = as_trained(self.objective, self.optimizer)

    def batch(self, i: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(i)
        return self.batches[i % len(self.batches)]

    def loss(self, i: int) -> float:
        """The loss, with the weights that are there."""
        return float(self.objective(*self.batch(i)).detach())

    def gradients(self, i: int) -> tuple[float, NDArray[np.floating[Any]]]:
        """The same, and all of its gradients in one vector."""
        loss = self.objective(*self.batch(i))
        weights = [weight for weight in self.objective.parameters() if weight.requires_grad]
        found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        return float(loss.detach()), torch.cat([each.flatten() for each in found]).cpu().numpy()

    def step(self, i: int) -> float:
        """The seconds that a step takes: the process's own on a CPU, of the clock on a GPU."""
        x, y = self.batch(i)
        if self.device.type == "cpu":
            start = process_time()
            self.take(x, y)
            return process_time() - start
        with measured(self.device) as measure:
            self.take(x, y)
        return measure.seconds

    def peak(self, i: int) -> int:
        """The most bytes of tensors that there are at once in a step."""
        x, y = self.batch(i)
        state = [self.objective.state_dict(), self.optimizer.state_dict()]
        with measured(self.device) as measure, LiveBytes([state, x, y]) as live:
            self.take(x, y)
        return live.peak if self.device.type == "cpu" else measure.peak_memory_bytes

    def launches(self, i: int) -> tuple[int, int]:
        """The kernels of a forward and backward pass, and the times that host and device wait."""
        x, y = self.batch(i)
        with Below() as below, Above() as above:
            self.objective(x, y).backward()
        self.optimizer.zero_grad()
        return below.kernels, below.waits + above.waits


def as_trained(objective: Objective, optimizer: torch.optim.Optimizer) -> Any:
    """How a training takes a step of this revision."""
    try:
        from mixbench.bench.stepping import stepper
    except ImportError:
        pass
    else:
        return stepper(objective, optimizer)

    def take(x: Tensor, y: Tensor) -> None:
        loss = objective(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return take


def main() -> None:
    """Answer questions, which are names of methods of ``Steps``, until there are no more."""
    torch.set_num_threads(1)
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    steps: Steps
    while True:
        try:
            question, arguments = pipe.recv()
        except EOFError:
            return
        try:
            if question == "open":
                steps, answer = Steps(*arguments), None
            else:
                answer = getattr(steps, question)(*arguments)
        except Exception as error:  # what a method raises can be anything
            pipe.send((False, one_line(error)))
        else:
            pipe.send((True, answer))


if __name__ == "__main__":
    main()
