"""Large datasets in batches: image files, read and cropped by other processes as they are used."""

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_all_start_methods
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Indexed

from mixbench.bench.data._base import Dataset, Files, one_hot
from mixbench.bench.data._decode import pixels
from mixbench.bench.spec import BadInput, one_line

# of ImageNet's colours (Krizhevsky et al., NeurIPS 2012, section 4.1), as in fb.resnet.torch
VARIANCES = np.array([0.2175, 0.0188, 0.0045])
DIRECTIONS = np.array(  # a column each
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)

FORK = "fork" if "fork" in get_all_start_methods() else None
"""How workers start: at once, where they can, for each pass. They know nothing of a GPU."""

AHEAD = 2
"""Steps that a GPU may be behind when the next batch is sent to it."""

View = Callable[[Tensor], Tensor]
"""What is seen of an image: (3, h, w) uint8 to (3, size, size)."""

Pair = tuple[Tensor, Tensor]
"""The images of a batch and their labels."""

T = TypeVar("T", bound=np.generic)

Keys = NDArray[np.int64]
"""The images of a batch, and the seed of each one's view, (b, 2)."""


class Unreadable(UserWarning):
    """Image files that can't be read."""


class Batch(NamedTuple):
    """x (b, 3, size, size) uint8, y (b,), and the files that could not be read, each with why."""

    x: Tensor
    y: Tensor
    lost: dict[str, str]


@dataclass(frozen=True)
class Streamed:
    """A dataset in batches, as one run sees it: random crops to train on, centres to test on.

    size: pixels per side. A training image is a crop of 8 to 100 % of the area, resized; a test
        image is resized, and 7/8 of its shorter side are kept, about its centre.
    flip: left to right. jitter: strength of changes of brightness, contrast and saturation.
    lighting: standard deviation of colour changes along the principal directions of ImageNet's.
    smoothing: the share of each target that is spread evenly over all classes.
    strict: a file that can't be read ends the run. Else, in training, the next one of the dataset
        takes its place, and a test does without it.
    workers: processes that read; with none, this one does.
    part, parts: which of how many equal parts of each training batch is read, and of a split in
        order, which of how many batches.
    """

    dataset: Dataset
    batch: int
    size: int
    flip: bool
    jitter: float
    lighting: float
    seed: int
    smoothing: float = 0.0
    strict: bool = False
    workers: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    part: int = 0
    parts: int = 1
    lost: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def steps(self) -> int:
        """Training batches in an epoch."""
        return len(self.dataset.train) // self.batch

    @property
    def unreadable(self) -> int:
        """How many of the files that were asked for can't be read."""
        return len(self.lost)

    def batches(self, split: str, size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The images of a split, in order: (b, 3, size, size) in [0, 1], and labels (b,)."""
        files: Files = getattr(self.dataset, split)
        reader = Reader(files, self._centre(), replace=False)
        order, size = np.arange(len(files)), size or self.batch
        batches = np.array_split(np.stack([order, order], 1), range(size, len(order), size))
        for x, y in sent(self._read(reader, batches[self.part :: self.parts]), self.device):
            yield x / 255, y

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The training batches of an epoch from ``start``: (b, 3, size, size) in [0, 1], targets (b, c).

        Shuffled, cropped and coloured as a function of seed and epoch alone, and not of the number
        of workers, so that all methods see the same; all batches are full.
        """
        train, classes = cast(Files, self.dataset.train), self.dataset.classes
        draw = np.random.default_rng((self.seed, epoch))
        order, seeds = draw.permutation(len(train)), draw.integers(2**63, size=len(train))
        keys = self._mine(np.stack([order, seeds], 1)[: self.steps * self.batch], start)
        alpha = draw.normal(0, self.lighting, (self.steps * self.batch, 3))
        light = self._mine(alpha * VARIANCES @ DIRECTIONS.T, start)
        batches = sent(self._read(Reader(train, self._crop(), replace=True), [*keys]), self.device)
        for (x, y), change in zip(
            batches, torch.from_numpy(light).float().to(self.device), strict=True
        ):
            x = x / 255
            if self.lighting:
                x = (x + change[:, :, None, None]).clamp(0, 1)
            yield x, one_hot(y, classes, self.smoothing)

    def _mine(self, drawn: NDArray[T], start: int) -> NDArray[T]:
        """Of what was drawn for the images of an epoch (n, d), this part's, (steps, b, d)."""
        return drawn.reshape(self.steps, self.parts, -1, drawn.shape[1])[start:, self.part]

    def _centre(self) -> View:
        from torchvision.transforms import v2  # takes seconds

        view: View = v2.Compose([v2.Resize(round(self.size * 8 / 7)), v2.CenterCrop(self.size)])
        return view

    def _crop(self) -> View:
        from torchvision.transforms import v2

        flip, jitter = v2.RandomHorizontalFlip(0.5 * self.flip), v2.ColorJitter(*[self.jitter] * 3)
        view: View = v2.Compose([v2.RandomResizedCrop(self.size), flip, jitter])
        return view

    def _read(self, reader: "Reader", batches: list[Keys]) -> Iterator[Pair]:
        """Batches on the host; when all are through, the lost files are told of."""
        seen, before = 0, self.unreadable
        loader = DataLoader(
            reader,
            batch_sampler=cast(Any, batches),
            collate_fn=Batch._make,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            multiprocessing_context=FORK if self.workers else None,
            generator=torch.Generator(),  # else a number would be drawn from the global one
        )
        for x, y, lost in loader:
            self._note(lost)
            seen += len(x)
            if not seen and reader.replace:
                break
            if len(x):
                yield x, y
        if batches and not seen:
            raise BadInput(f"no image can be read: {self._told()}")
        if self.unreadable > before:
            warnings.warn(f"{self._told()}; they are left out", Unreadable, stacklevel=2)

    def _note(self, lost: dict[str, str]) -> None:
        self.lost.update(lost)
        if self.strict and self.lost:
            raise BadInput(self._told())

    def _told(self) -> str:
        (path, why), n = next(iter(self.lost.items())), self.unreadable
        return f"{path} can't be read ({why})" + (f", and {n - 1} other images" if n > 1 else "")


def sent(batches: Iterable[Pair], device: torch.device) -> Iterator[Pair]:
    """Batches on the device. To a GPU they are copied while it is at work on those before."""
    return _beside(batches, device) if device.type == "cuda" else _moved(batches, device)


def _moved(batches: Iterable[Pair], device: torch.device) -> Iterator[Pair]:
    return ((x.to(device), y.to(device)) for x, y in batches)


def _beside(batches: Iterable[Pair], device: torch.device) -> Iterator[Pair]:
    """Copied from pinned memory on a stream of their own, for which the current one waits.

    The host waits for the step that is ``AHEAD`` before, or batches would pile up on the device.
    """
    side, ends = torch.cuda.Stream(device), deque[torch.cuda.Event]()
    for x, y in batches:
        here = torch.cuda.current_stream(device)
        with torch.cuda.stream(side):
            there = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        here.wait_stream(side)
        for copy in there:
            copy.record_stream(here)  # else the next copy could take its memory before it is used
        yield there
        ends.append(here.record_event(torch.cuda.Event(blocking=True)))
        if len(ends) > AHEAD:
            ends.popleft().synchronize()


class Reader(Indexed[Batch]):
    """Reads a batch at a time. ``replace``: another file takes the place of one that is lost."""

    def __init__(self, files: Files, view: View, replace: bool) -> None:
        self.files, self.view, self.replace = files, view, replace

    def __getitems__(self, keys: Keys) -> Batch:
        lost: dict[str, str] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow says of files that it can read
            found = [each for i, seed in keys.tolist() for each in self._seen(i, seed, lost)]
        x = torch.stack([x for x, _ in found]) if found else torch.empty(0)
        return Batch(x, self.files.y[[i for _, i in found]], lost)

    def _seen(self, i: int, seed: int, lost: dict[str, str]) -> Iterator[tuple[Tensor, int]]:
        """What is seen of one image, and which it is; nothing if it is lost and not replaced."""
        n = len(self.files)
        for j in range(i, i + n if self.replace else i + 1):
            path = os.fsdecode(self.files.paths[j % n])
            try:
                image = torch.from_numpy(pixels(os.fsencode(path))).movedim(2, 0)
            except Exception as error:  # a damaged file can raise anything
                lost[path] = one_line(error)
                continue
            with torch.random.fork_rng([]):
                torch.default_generator.manual_seed(seed)  # and not those of GPUs
                yield self.view(image), j % n
            return
