"""What a figure of found boxes is drawn from."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mixbench.tasks import Scene
from mixbench.tasks._detection import views
from mixbench.tasks._detection.detector import Boxes

COUNT, LONGEST, SURE = 4, 300, 0.3
"""How many scenes are shown, pixels of their longer side, the least score of the boxes in them."""


def pictures(scenes: Sequence[Scene], found: Sequence[Boxes]) -> dict[str, Tensor]:
    """The first k scenes, what is in them, and what was found: the likely, or else the likeliest.

    figure_images (k, 3, s, s) uint8: made smaller, white to the right and below. figure_sizes
    (k, 2): heights and widths. figure_found (n, 7): scene, label, score, left, top, right, bottom;
    figure_truth (m, 6): the same without a score.
    """
    scenes = scenes[:COUNT]
    ((images, factors),) = views.to_test(scenes, _smaller, len(scenes), workers=0)
    shown = [_likely(boxes) for boxes in found[:COUNT]]
    return {
        "figure_images": torch.stack([_square(image) for image in images]),
        "figure_sizes": torch.tensor([image.shape[1:] for image in images]),
        "figure_found": _rows(
            [b.labels, b.scores, *(b.at / f).T] for b, f in zip(shown, factors, strict=True)
        ),
        "figure_truth": _rows(
            [s.labels, *(s.boxes / f).T] for s, f in zip(scenes, factors, strict=True)
        ),
    }


def _smaller(height: int, width: int) -> tuple[int, int]:
    share = min(1, LONGEST / max(height, width))
    return max(1, round(share * height)), max(1, round(share * width))


def _square(image: Tensor) -> Tensor:
    """(3, h, w) in the corner of (3, s, s)."""
    _, h, w = image.shape
    return F.pad(image, (0, LONGEST - w, 0, LONGEST - h), value=255)


def _likely(boxes: Boxes) -> Boxes:
    """Those that are likely enough, or else the first, which is the likeliest."""
    keep = max(1, int((boxes.scores >= SURE).sum()))
    return Boxes(boxes.at[:keep], boxes.labels[:keep], boxes.scores[:keep])


def _rows(columns: Iterable[Sequence[Tensor]]) -> Tensor:
    """One row for each box: the scene that it is in, and what is said of it."""
    return torch.cat(
        [torch.stack([torch.full_like(of[0], i), *of], 1).float() for i, of in enumerate(columns)]
    )
