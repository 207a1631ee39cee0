"""Scenes as a detector sees them: read, augmented and resized, in batches."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, count, islice
from math import inf, prod
from multiprocessing import get_all_start_methods
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixbench.tasks._detection.detector import Boxes
from mixbench.tasks._scenes import Scene

Size = Callable[[int, int], tuple[int, int]]
"""What an image is resized to: height and width, of height and width."""

GREY = (0.5, 0.5, 0.5)
LEAST = 4
"""Pixels of a side of which a crop can be taken."""
THREADS = 8
"""That look how large images are."""
FORK = "fork" if "fork" in get_all_start_methods() else None

Key = tuple[int, ...]
"""Which scene, and in training the seed of its view."""

View = tuple[Tensor, *tuple[Tensor, ...]]
"""An image (3, h, w) uint8, and what is known of it."""

Packed = tuple[Tensor, list[tuple[torch.Size, *tuple[NDArray[Any], ...]]]]
"""Views on their way between processes: all pixels, the shape of each image and what is known of it.

A tensor is shared, which takes a file descriptor; an array is sent through a pipe.
"""


def square(side: int) -> Size:
    """Whatever its shape was (SSD, arXiv 1512.02325)."""
    return partial(_square, side)


def shorter(side: int, longest: int) -> Size:
    """Of the same shape, with ``side`` pixels in the shorter side, or ``longest`` in the longer.

    The one that is reached first (Faster R-CNN, arXiv 1506.01497).
    """
    return partial(_shorter, side, longest)


def _square(side: int, h: int, w: int) -> tuple[int, int]:
    return side, side


def _shorter(side: int, longest: int, h: int, w: int) -> tuple[int, int]:
    factor = min(side / min(h, w), longest / max(h, w))
    return max(1, round(factor * h)), max(1, round(factor * w))


def to_tune(
    scenes: Sequence[Scene],
    size: Size,
    augment: bool,
    batch: int,
    steps: range,
    workers: int,
    seed: int,
    fill: tuple[float, ...] = GREY,
    grouped: bool = False,
    pinned: bool = False,
) -> Iterator[tuple[list[Tensor], list[Boxes]]]:
    """The batches of ``steps``, one after the other: images (3, h, w) uint8, and their objects.

    What a step sees is a function of the seed and its number alone. Each pass over the scenes sees
    each once, shuffled anew, and the next one starts in the middle of a batch if need be. Images
    are mirrored with probability 1/2, and if ``augment``, changed as for SSD, with ``fill`` around
    those that are made smaller. Objects that are ignored or, in the image, less than a pixel wide
    or high are left out, and so are scenes without others: each view has an object.

    If ``grouped``, images that are at least as wide as high are with each other in a batch, and so
    are the others, so that little is padded; but for one batch or two, in which a pass ends.
    If ``pinned``, images are where a GPU can copy them from while the host goes on.

    Raises ValueError if no scene is left; later, if a file can't be read, or if no object of a
    scene lies in its image, which is named.
    """
    scenes = [scene for scene in scenes if len(_objects(scene)[1])]
    if not scenes:
        raise ValueError("no scene has an object to be trained on: all are ignored, or of no area")
    view = partial(_training_view, size, _augmentation(fill) if augment else None)
    wide = _wide(scenes) if grouped else [True] * len(scenes)
    keys = _keys(wide, seed, steps.start, batch)
    batches = (list(islice(keys, batch)) for _ in steps)
    return _tuned(_loaded(scenes, view, batches, workers, pinned))


def to_test(
    scenes: Sequence[Scene], size: Size, batch: int, workers: int, pinned: bool = False
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """The images of all scenes, in order: (3, h, w) uint8; and for each, factors (4,).

    They bring boxes in the pixels of the view to those of the file, by multiplication. ``pinned``
    is as in ``to_tune``. Raises ValueError if a file can't be read.
    """
    keys: list[Key] = [(i,) for i in range(len(scenes))]
    batches = (keys[first : first + batch] for first in range(0, len(keys), batch))
    for images, known in _loaded(scenes, partial(_test_view, size), batches, workers, pinned):
        yield images, [factors for (factors,) in known]


def _tuned(
    batches: Iterable[tuple[list[Tensor], list[list[Tensor]]]],
) -> Iterator[tuple[list[Tensor], list[Boxes]]]:
    for images, known in batches:
        yield images, [Boxes(at, labels, torch.ones(len(at))) for at, labels in known]


def _wide(scenes: Sequence[Scene]) -> list[bool]:
    """Whether each image is at least as wide as it is high."""
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(THREADS) as pool:
        return [*pool.map(_is_wide, scenes)]


def _is_wide(scene: Scene) -> bool:
    """By the start of the file. One that can't be read is told of when it is to be seen."""
    from PIL import Image

    try:
        with Image.open(scene.image) as image:
            return image.width >= image.height
    except Exception:  # a damaged file can raise anything
        return True


def _keys(wide: Sequence[bool], seed: int, step: int, batch: int) -> Iterator[Key]:
    """The scenes of the batches from a step on, each with the seed of its view."""
    skipped, first = divmod(step * batch, len(wide))
    passes = (_pass(wide, seed, number, batch) for number in count(skipped))
    return islice(chain.from_iterable(passes), first, None)


def _pass(wide: Sequence[bool], seed: int, number: int, batch: int) -> Iterator[Key]:
    """All scenes once; those that complete the batch in which the pass before ends come first."""
    n, draw = len(wide), np.random.default_rng((seed, number))
    order, seeds = draw.permutation(n), draw.integers(2**63, size=n)
    keys = list(zip(order.tolist(), seeds.tolist(), strict=True))
    begun = -number * n % batch
    return chain(keys[:begun], _grouped(keys[begun:], wide, batch))


def _grouped(keys: Iterable[Key], wide: Sequence[bool], batch: int) -> Iterator[Key]:
    """The same, as soon as there is a batch of one group (arXiv 1906.07155); the rest comes last."""
    groups: dict[bool, list[Key]] = {False: [], True: []}
    for key in keys:
        group = groups[wide[key[0]]]
        group.append(key)
        if len(group) == batch:
            yield from group
            group.clear()
    yield from chain.from_iterable(groups.values())


def _loaded(
    scenes: Sequence[Scene],
    view: Callable[..., View],
    batches: Iterable[list[Key]],
    workers: int,
    pinned: bool,
) -> Iterator[tuple[list[Tensor], list[list[Tensor]]]]:
    """The images of each batch, and what is known of each. Nothing is drawn globally."""
    loader = DataLoader(
        _Views(scenes, view),
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pinned,
        multiprocessing_context=FORK if workers else None,
        generator=torch.Generator(),
    )
    for packed in loader:
        match packed:
            case str():
                raise ValueError(packed)
            case _:
                yield _unpacked(packed)


class _Views(Dataset[Packed]):
    """Makes a batch of views at a time.

    What is wrong with a scene is returned: raised in another process, it would arrive as many lines.
    """

    def __init__(self, scenes: Sequence[Scene], view: Callable[..., View]) -> None:
        self.scenes, self.view = scenes, view

    def __getitems__(self, keys: list[Key]) -> Packed | str:
        views = []
        for i, *seed in keys:
            try:
                views.append(self.view(self.scenes[i], *seed))
            except Exception as error:  # a damaged file can raise anything
                why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                return f"{self.scenes[i].image} can't be used ({why})"
        return _packed(views)


def _as_it_is(packed: Any) -> Any:
    return packed


def _packed(views: Sequence[View]) -> Packed:
    pixels = torch.cat([image.flatten() for image, *_ in views])
    return pixels, [(image.shape, *(part.numpy() for part in known)) for image, *known in views]


def _unpacked(packed: Packed) -> tuple[list[Tensor], list[list[Tensor]]]:
    pixels, rest = packed
    parts = pixels.split([prod(shape) for shape, *_ in rest])
    images = [part.view(shape) for part, (shape, *_) in zip(parts, rest, strict=True)]
    return images, [[torch.from_numpy(part) for part in known] for _, *known in rest]


def _test_view(size: Size, scene: Scene) -> View:
    from torchvision.transforms.v2 import functional

    image = _pixels(scene.image)
    (h, w), (high, wide) = image.shape[1:], size(*image.shape[1:])
    return functional.resize(image, [high, wide]), torch.tensor([w / wide, h / high]).repeat(2)


def _training_view(size: Size, augmentation: Any, scene: Scene, seed: int) -> View:
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    image = _pixels(scene.image)
    h, w = image.shape[1:]
    at, labels = _objects(scene, h, w)
    if not len(labels):
        raise ValueError(f"none of its objects lies in its {w} x {h} pixels")
    seen = tv_tensors.Image(image), tv_tensors.BoundingBoxes(at, format="XYXY", canvas_size=(h, w))
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)  # and not those of GPUs
        if augmentation and min(h, w) >= LEAST:
            seen = augmentation(*seen)
        resize = v2.Resize(size(*seen[0].shape[1:]))
        image, at = v2.Compose([resize, v2.RandomHorizontalFlip()])(*seen)
    # not v2.SanitizeBoundingBoxes: it would take those that became smaller than a pixel, maybe all
    there = (at[:, 2:] > at[:, :2]).all(1)  # crops leave no area to boxes that they lose
    return image.as_subclass(Tensor), at.as_subclass(Tensor)[there], labels[there]


def _augmentation(fill: tuple[float, ...]) -> Any:
    """SSD's (arXiv 1512.02325, sections 2.2 and 3.6). Crops keep an object, by its centre."""
    from torchvision.transforms import v2

    zoom = v2.RandomZoomOut(fill=[round(255 * level) for level in fill])
    return v2.Compose([v2.RandomPhotometricDistort(), zoom, v2.RandomIoUCrop()])


def _objects(scene: Scene, h: float = inf, w: float = inf) -> tuple[Tensor, Tensor]:
    """Boxes (k, 4) in an image of h x w pixels, and labels (k,), of what is trained on."""
    at = scene.boxes.clamp(torch.zeros(4), torch.tensor([w, h, w, h]))
    kept = ~scene.ignored & (at[:, 2:] - at[:, :2] >= 1).all(1)
    return at[kept], scene.labels[kept]


def _pixels(path: Path) -> Tensor:
    """The image of a file, (3, h, w) uint8, as it is stored: boxes know nothing of EXIF's turns."""
    from PIL import Image

    # what Pillow says of files that it can read is passed over
    with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).movedim(2, 0).contiguous()
