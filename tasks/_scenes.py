"""Images with objects in boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class Scene:
    """An image, and the k objects in it.

    boxes: (k, 4) float, in pixels: left, top, right, bottom. The first pixel spans 0 to 1, so that
        (0, 0, width, height) is the whole image. They are as annotated: COCO has some of no area.
    labels: (k,) int64.
    ignored: (k,) bool: difficult ones (VOC) and crowds (COCO), which are neither hit nor missed.
    areas: (k,) float, in pixels: of the outlines, where they are annotated (COCO), else of the boxes.
    """

    image: Path
    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    areas: Tensor


@dataclass(frozen=True)
class Scenes:
    """A dataset of them: what a detector is tuned on, what it is tested on, the classes' names."""

    train: Sequence[Scene]
    test: Sequence[Scene]
    classes: tuple[str, ...]
