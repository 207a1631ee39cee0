"""Transfer to object detection: the papers' Table 5."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field, PositiveInt
from pydantic.dataclasses import dataclass

from mixbench.tasks import Answer, Data, Metric, Scene, Scenes, Task, Trained, Workplace, located
from mixbench.tasks._detection import precision, views
from mixbench.tasks._detection.backbone import ResNet, resnet
from mixbench.tasks._detection.detector import Boxes, Detector
from mixbench.tasks._detection.pictures import pictures
from mixbench.tasks._detection.tuning import Schedule, Tuning

SCHEDULES: Mapping[str, Schedule] = {
    "ssd300": Schedule(120_000, 32, 1e-3, 5e-4, drops=(2 / 3, 5 / 6)),
    "faster-rcnn": Schedule(90_000, 16, 0.02, 1e-4, drops=(2 / 3, 8 / 9)),
}
"""SSD's own (arXiv 1512.02325), and the 1x of Detectron; Table 5 does not say which it has."""

SETS = ("voc0712", "coco", "shapes-voc", "shapes-coco")
NAMES = {"ssd300": "SSD300", "faster-rcnn": "Faster R-CNN"}

SIDES: Mapping[str, Sequence[int]] = {
    "voc": (30, 60, 111, 162, 213, 264, 315),
    "coco": (21, 45, 99, 153, 207, 261, 315),
}
"""Of SSD300's default boxes, in pixels, as its authors have them for either."""

SSD_SIZE, SIZE, LONGEST, ROIS = 300, 800, 1333, 512
"""Pixels per side of what SSD sees; of Faster R-CNN the shorter and, at that, the longest side."""

VOC: Mapping[str, Metric] = {
    "map11": Metric("VOC mAP@0.5, 11 points, %", "higher"),
    "map": Metric("VOC mAP@0.5, area, %", "higher"),
}
COCO: Mapping[str, Metric] = {
    "ap": Metric("COCO mAP, %", "higher"),
    "ap50": Metric("COCO mAP@0.5, %", "higher"),
    "ap75": Metric("COCO mAP@0.75, %", "higher"),
    "ap_small": Metric("COCO mAP, small objects, %", "higher", main=False),
    "ap_medium": Metric("COCO mAP, medium objects, %", "higher", main=False),
    "ap_large": Metric("COCO mAP, large objects, %", "higher", main=False),
}
SPEED: Mapping[str, Metric] = {"speed": Metric("training images/s", "higher", ".1f")}

HOST = torch.device("cpu")
TEST_BATCH = 8
POINTS = 50
"""Of the curve of the loss."""


def _named(name: str) -> str:
    what = f"{', '.join(SETS)}, voc:PATH or coco:PATH"
    if name not in SETS and not name.startswith(("voc:", "coco:")):
        raise ValueError(f"Input should be {what}")
    return located(name, what)


@dataclass(frozen=True)
class Detection(Task):
    """Average precision of a detector that is fine-tuned from the network, a ResNet.

    data: "voc0712": VOC 2007 and 2012 trainval, tested on 2007 test; "coco": train2017, tested on
        val2017; "voc:PATH" or "coco:PATH", the user's own in their layouts; "shapes-voc" or
        "shapes-coco", drawn ones. VOC's have VOC's metric, COCO's COCO's.
    backend: where the detector comes from; numbers of two are not comparable.
    iterations, batch, lr: of the schedule; None for the published one, whose learning rate falls to
        a tenth at 2/3 and 5/6 (SSD) or 8/9 (Faster R-CNN) of the iterations.
    size: of Faster R-CNN: pixels of an image's shorter side, 800 if None. rois: of Faster R-CNN:
        regions of an image that its second stage is trained on, 512 if None.
    """

    data: Annotated[str, AfterValidator(_named)] = "voc0712"
    detector: Literal["ssd300", "faster-rcnn"] = "ssd300"
    backend: Literal["mmdet", "torchvision"] = "mmdet"
    iterations: PositiveInt | None = None
    batch: PositiveInt | None = None
    lr: Annotated[float, Field(gt=0, le=100)] | None = None
    size: Annotated[int, Field(ge=32, le=10_000)] | None = None
    rois: PositiveInt | None = None

    @property
    def version(self) -> int:  # type: ignore[override]
        """2 where the order of images is another one since they are grouped by shape.

        All that are drawn are of one.
        """
        return 2 if self._keeps_shapes and not self.data.startswith("shapes") else 1

    @property
    def metrics(self) -> dict[str, Metric]:
        name = NAMES[self.detector] + (" (torchvision)" if self.backend == "torchvision" else "")
        rules = {**(VOC if self._is_voc else COCO), **SPEED}
        return {key: replace(rule, title=f"{name}, {rule.title}") for key, rule in rules.items()}

    def check(self, data: Data) -> None:
        if self.detector == "ssd300" and (self.size or self.rois):
            raise ValueError("size and rois are Faster R-CNN's: add detector=faster-rcnn")
        self._library().check()
        if not self._is_voc:
            precision.check_coco()
        data.require(self.data)

    def evaluate(self, trained: Trained) -> Answer:
        backbone, device = resnet(trained.net), next(trained.net.parameters()).device
        scenes = trained.data.scenes(self.data)
        detector = self._detector(backbone, len(scenes.classes)).to(device)
        origin = _digest(detector, backbone, scenes)
        tuning = Tuning(detector, self.schedule, torch.initial_seed(), origin)
        self._tune(tuning, scenes, backbone.mean, trained.workplace)
        found = self._found(detector.eval(), scenes.test, trained.workplace)
        judge = precision.voc if self._is_voc else precision.coco
        return {
            **judge(scenes.test, found, len(scenes.classes)),
            "speed": tuning.images_per_second,
            "loss": _thinned(tuning.losses),
            "classes": list(scenes.classes),
            **pictures(scenes.test, found),
        }

    @property
    def schedule(self) -> Schedule:
        """The published one, with what the fields say otherwise."""
        usual = SCHEDULES[self.detector]
        return replace(
            usual,
            iterations=self.iterations or usual.iterations,
            batch=self.batch or usual.batch,
            lr=self.lr or usual.lr,
        )

    @property
    def _is_voc(self) -> bool:
        return self.data.startswith(("voc", "shapes-voc"))

    @property
    def _keeps_shapes(self) -> bool:
        return self.detector == "faster-rcnn"

    @property
    def _view(self) -> views.Size:
        if not self._keeps_shapes:
            return views.square(SSD_SIZE)
        size = self.size or SIZE
        return views.shorter(size, longest=round(size * LONGEST / SIZE))

    def _library(self) -> ModuleType:
        if self.backend == "mmdet":
            from mixbench.tasks._detection import mmdetection

            return mmdetection
        from mixbench.tasks._detection import vision

        return vision

    def _detector(self, backbone: ResNet, classes: int) -> Detector:
        library = self._library()
        detector: Detector = (
            library.ssd300(backbone, classes, SIDES["voc" if self._is_voc else "coco"])
            if self.detector == "ssd300"
            else library.faster_rcnn(backbone, classes, self.rois or ROIS)
        )
        return detector

    def _tune(
        self, tuning: Tuning, scenes: Scenes, fill: tuple[float, ...], workplace: Workplace
    ) -> None:
        if kept := workplace.kept():
            tuning.resume(kept)
        batches = views.to_tune(
            scenes.train,
            self._view,
            augment=self.detector == "ssd300",
            batch=tuning.schedule.batch,
            steps=range(len(tuning.losses), tuning.schedule.iterations),
            workers=workplace.workers,
            seed=tuning.seed,
            fill=fill,
            grouped=self._keeps_shapes,
            pinned=tuning.detector.on_gpu,
        )
        tuning.run(batches, workplace)

    @torch.no_grad()
    def _found(
        self, detector: Detector, scenes: Sequence[Scene], workplace: Workplace
    ) -> list[Boxes]:
        """What is found in each scene, in its pixels."""
        found: list[Boxes] = []
        batches = views.to_test(scenes, self._view, TEST_BATCH, workplace.workers, detector.on_gpu)
        for images, factors in batches:
            workplace.report("testing a detector", len(found), len(scenes))
            there = detector.found(detector.received(images))
            here = [boxes.to(HOST) for boxes in there]
            found += [replace(b, at=b.at * f) for b, f in zip(here, factors, strict=True)]
        return found


def _digest(detector: Detector, backbone: ResNet, scenes: Scenes) -> str:
    """What is tuned, what it starts from, and what it sees, in a few letters."""
    seen = (part for scene in scenes.train for part in (scene.boxes, scene.labels))
    parts = [*backbone.weights.values(), *seen]
    names = [*detector.state_dict(), *scenes.classes, *(str(s.image) for s in scenes.train)]
    digest = hashlib.sha256("\n".join(names).encode())
    for part in parts:
        digest.update(part.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _thinned(losses: Sequence[float]) -> list[float]:
    """The means of ``POINTS`` parts, or fewer if there are fewer."""
    parts = torch.tensor(losses).tensor_split(min(POINTS, len(losses)))
    return [part.mean().item() for part in parts]
