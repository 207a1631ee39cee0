"""Where runs happen, and what they are made of there."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from mixbench.bench import nets, team
from mixbench.bench.cells import Store
from mixbench.bench.data import Data, Dataset, Files, Held, Streamed, held, read
from mixbench.bench.settings import Recipe, Setting
from mixbench.bench.spec import BadInput
from mixbench.methods import Net, bce_on_softmax


class Report(Protocol):
    """Called with what a run is at, and how much of how much of it is done, such as epochs.

    images: how many go by while one more of it is done; 0 if that is not known.
    """

    def __call__(self, doing: str, done: float, total: int, images: int = 0, /) -> None: ...


def silent(doing: str, done: float, total: int, images: int = 0) -> None:
    """A report that says nothing."""


@dataclass(frozen=True)
class Lab:
    """Where runs happen: the results they are stored in, the folder of datasets, the device.

    workers: processes that read image files, for each run.
    processes: that train a run together, each on a GPU of its own, from the lab's device on.
    eager: steps are not compiled, nor recorded as CUDA graphs; on a CPU they never are.
    deterministic: algorithms that give the same bits again, on GPUs too.
    command: what the user typed, for the record.
    """

    store: Store
    data: Path = Path("data")
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers: int = 0
    processes: int = 1
    eager: bool = False
    deterministic: bool = False
    command: str = ""


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; a CPU does, slowly."""
    if device.type != "cuda":
        return True
    return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)


def pick_device(text: str) -> torch.device:
    """The device that ``text`` names; "auto" is a GPU if there is one. Raises BadInput."""
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
        if device.type == "cuda":
            torch.cuda.get_device_properties(device)  # leaves no context there, unlike a tensor
        else:
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"device {text!r} can't be used here: {reason}") from None
    return device


def open_data(chosen: Setting, lab: Lab, seed: int) -> Data:
    """The dataset of a setting, in batches on the lab's device. Raises BadInput if it does not fit."""
    dataset, recipe = read(chosen.data, lab.data), chosen.recipe
    try:
        dataset = dataset.hold_out(recipe.holdout)
        dataset.check(recipe.batch)
        return _in_batches(dataset, recipe, lab, seed)
    except BadInput as error:
        raise BadInput(f"{chosen.data}: {error}") from None


def _in_batches(dataset: Dataset, recipe: Recipe, lab: Lab, seed: int) -> Data:
    if isinstance(dataset.train, Files):
        if recipe.size is None or recipe.crop:
            raise BadInput("images are read from files: give size=224, or another, and crop=0")
        return Streamed(
            dataset,
            batch=recipe.batch,
            size=recipe.size,
            flip=recipe.flip,
            jitter=recipe.jitter,
            lighting=recipe.lighting,
            seed=seed,
            smoothing=recipe.smoothing,
            strict=recipe.strict,
            workers=lab.workers,
            device=lab.device,
            part=team.rank(),
            parts=team.size(),
        )
    if recipe.size or recipe.jitter or recipe.lighting:
        raise BadInput("size, jitter and lighting are for images that are read from files")
    return Held(
        held(dataset, lab.device),
        batch=recipe.batch,
        crop=recipe.crop,
        flip=recipe.flip,
        seed=seed,
        smoothing=recipe.smoothing,
        part=team.rank(),
        parts=team.size(),
    )


def build(chosen: Setting, data: Data) -> Net:
    """A new network of a setting, for the classes and pixels of its dataset."""
    dataset = data.dataset
    net = nets.build(chosen.net, dataset.classes, data.size, dataset.mean, dataset.std)
    net.dtype = getattr(torch, chosen.recipe.precision)
    if chosen.recipe.loss == "bce":
        net.criterion = bce_on_softmax
    return net.to(memory_format=torch.channels_last)


@contextmanager
def reproducible(seed: int, device: torch.device, deterministic: bool = False) -> Iterator[None]:
    """Seed torch's generators, and compute on one CPU thread; both are restored afterwards.

    With more threads, numbers would depend on how many runs share the machine. deterministic: the
    same numbers again on a GPU, too; an operation that has no such way there is an error.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), ExitStack() as ways:
            if deterministic:
                ways.enter_context(_deterministic())
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def tuned(lab: Lab) -> Iterator[None]:
    """Let cuDNN try its algorithms on the first batch of a shape, and keep to the fastest of them.

    In a lab that is deterministic it does not; in one that is eager, nothing is compiled, not even
    parts of a method. What was allowed is restored afterwards.
    """
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, lab.device.type == "cuda" and not lab.deterministic
    try:
        with torch.compiler.set_stance("force_eager") if lab.eager else nullcontext():
            yield
    finally:
        cudnn.benchmark = before


@contextmanager
def _deterministic() -> Iterator[None]:
    """Only algorithms that give the same bits again; what was allowed is restored afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
    torch.use_deterministic_algorithms(True)
    try:
        with cudnn.flags(
            cudnn.enabled, deterministic=True, benchmark=False, allow_tf32=cudnn.allow_tf32
        ):
            yield
    finally:
        torch.use_deterministic_algorithms(before)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
