"""How well objects were found: the average precision of PASCAL VOC, and that of COCO."""

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mixbench.tasks._detection.detector import Boxes
from mixbench.tasks._scenes import Scene

IOU = 0.5  # that VOC asks of a hit


def voc(scenes: Sequence[Scene], found: Sequence[Boxes], classes: int) -> dict[str, float]:
    """VOC's average precision at an IoU of 0.5, in percent, the mean over classes.

    map11: the mean precision at a recall of 0, 0.1, ..., 1 (VOC 2007).
    map: the area under precision as a function of recall (since VOC 2010).

    Precision at a recall is the best that there is at that recall or a higher one. As in VOC's
    development kit, a detection is held against the one object of its class that it overlaps most.
    If it does so by 0.5 or more, it is a hit if it has the highest score of those that do, and
    does not count if the object is ignored. The kit's boxes are numbers of pixels, both ends
    included; ours span these pixels, so the overlaps are the same. A class without objects, but
    for ignored ones, is left out; raises ValueError if no class is left.
    """
    if not any((~scene.ignored).any() for scene in scenes):
        raise ValueError("the images have no object that could be found")
    ignored = torch.cat([scene.ignored for scene in scenes])
    objects = torch.cat([scene.labels for scene in scenes])[~ignored].bincount(minlength=classes)
    hits, labels = _hits(scenes, found, ignored)
    precisions = [
        _precisions(hits[labels == label], n) for label, n in enumerate(objects.tolist()) if n
    ]
    map11, area = 100 * np.mean(precisions, 0)
    return {"map11": float(map11), "map": float(area)}


def _hits(
    scenes: Sequence[Scene], found: Sequence[Boxes], ignored: Tensor
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether detections are hits, and their labels, in falling score; (n,) of those that count.

    ignored: (k,) bool, of the objects of all scenes.
    """
    first, chosen = 0, []
    for scene, boxes in zip(scenes, found, strict=True):
        chosen.append(_overlapped(scene, boxes, first))
        first += len(scene.labels)
    order = torch.cat([boxes.scores for boxes in found]).argsort(descending=True, stable=True)
    objects, labels = torch.cat(chosen)[order], torch.cat([boxes.labels for boxes in found])[order]
    counts = ~F.pad(ignored, (0, 1))[objects]  # what overlaps no object, -1, is not ignored
    objects, labels = objects[counts], labels[counts]
    hits = np.zeros(len(objects), bool)
    hits[np.unique(objects.numpy(), return_index=True)[1]] = True
    return hits & (objects >= 0).numpy(), labels.numpy()


def _overlapped(scene: Scene, boxes: Boxes, first: int) -> Tensor:
    """The object that each box overlaps most, (n,), counted from ``first``; -1 if by too little."""
    from torchvision.ops import box_iou

    overlaps = box_iou(boxes.at.double(), scene.boxes.double())  # n k
    same = boxes.labels[:, None] == scene.labels
    most, which = F.pad(overlaps * same, (1, 0)).max(1)  # there may be no objects
    return torch.where(most >= IOU, which - 1 + first, -1)


def _precisions(hits: NDArray[np.bool_], objects: int) -> tuple[float, float]:
    """Average precision of VOC 2007, and since VOC 2010, of a class that has objects.

    hits: (n,), of detections in falling score.
    """
    found = hits.cumsum()
    precision = found / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a higher one
    levels = np.searchsorted(10 * found, np.arange(11) * objects)  # exact, as whole numbers
    return float(np.append(best, 0)[levels].mean()), float(best[hits].sum() / objects)


def check_coco() -> None:
    """Raises ValueError, which says what to install, if ``coco`` can't work here."""
    try:
        import pycocotools.mask  # noqa: F401
    except Exception as error:  # compiled for another numpy, it can raise anything
        install = "pip install --force-reinstall --no-deps pycocotools"
        raise ValueError(f"COCO's precision is pycocotools': {install} ({error})") from None


def coco(scenes: Sequence[Scene], found: Sequence[Boxes], classes: int) -> dict[str, float | None]:
    """COCO's average precision, in percent, by its own code; None where there are no such objects.

    ap: the mean over IoUs of 0.5, 0.55, ..., 0.95; ap50, ap75: at one. Of a class in an image, the
    100 detections of the highest scores count. What is ignored is a crowd.
    ap_small, ap_medium, ap_large: of objects of up to 32 x 32 pixels, up to 96 x 96, and larger.
    """
    from pycocotools.cocoeval import COCOeval
    from torchvision.ops import box_area

    with redirect_stdout(StringIO()):
        truth = [
            (s.boxes, {"category_id": s.labels, "iscrowd": s.ignored, "area": s.areas})
            for s in scenes
        ]
        guess = [
            (b.at, {"category_id": b.labels, "score": b.scores, "area": box_area(b.at)})
            for b in found
        ]
        evaluation = COCOeval(_indexed(truth, classes), _indexed(guess, classes), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    shares = zip(names, evaluation.stats, strict=False)  # what follows is recall
    return {name: None if share < 0 else 100 * float(share) for name, share in shares}


def _indexed(images: Sequence[tuple[Tensor, Mapping[str, Tensor]]], classes: int) -> Any:
    """Boxes (k, 4) of each image, and what is known of each (k,), as pycocotools keeps them."""
    from pycocotools.coco import COCO
    from torchvision.ops import box_convert

    listed: list[dict[str, Any]] = []
    for image, (boxes, known) in enumerate(images):
        sides = box_convert(boxes.double(), "xyxy", "xywh").tolist()
        for box, *values in zip(sides, *(each.tolist() for each in known.values()), strict=True):
            number = len(listed) + 1  # 0 is none
            of = dict(zip(known, values, strict=True))
            listed.append({"id": number, "image_id": image, "bbox": box} | of)
    index = COCO()
    index.dataset = {
        "images": [{"id": image} for image in range(len(images))],
        "categories": [{"id": label} for label in range(classes)],
        "annotations": listed,
    }
    index.createIndex()
    return index
