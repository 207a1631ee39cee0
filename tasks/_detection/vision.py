"""torchvision's detectors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.tasks._detection.backbone import ResNet, fill
from mixbench.tasks._detection.detector import Boxes, Detector

TRAINED = 3
"""Layers of Faster R-CNN's backbone, from the last: all but the stem and the first."""
ASPECTS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
STEPS = [8, 16, 32, 64, 100, 300]
"""SSD300's default boxes (arXiv 1512.02325), map by map."""
EXTRA = [(256, 512, 2), (128, 256, 2), (128, 256, 1), (128, 256, 1)]
"""SSD300's further maps: channels of both convolutions, and the stride."""
L2_SCALE = 20.0


def check() -> None:
    """Raises ValueError, which says what to install, if torchvision's operators do not load."""
    from mixbench.tasks._detection.compat import operators

    operators()


def ssd300(resnet: ResNet, classes: int, sides: Sequence[int]) -> Detector:
    """SSD for images of 300 x 300 pixels (arXiv 1512.02325), on layer2 and layer3; all is trained.

    sides: of the default boxes, in pixels: seven, for six maps.
    """
    from torchvision import models
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD

    model = getattr(models, f"resnet{resnet.depth}")()
    body = IntermediateLayerGetter(model, {"layer2": "layer2", "layer3": "layer3"})
    fill(body, resnet.weights)
    maps = SSDMaps(body, model.fc.in_features // 4, model.fc.in_features // 2)
    scales = [side / 300 for side in sides]
    ssd = SSD(
        maps, DefaultBoxGenerator(ASPECTS, scales=scales, steps=STEPS), (300, 300), 1 + classes
    )
    ssd.transform = normalised(resnet, divisor=1)
    return VisionDetector(ssd)


def faster_rcnn(resnet: ResNet, classes: int, rois: int) -> Detector:
    """Faster R-CNN on a feature pyramid (arXiv 1506.01497, 1612.03144).

    The stem, layer1 and all batch norm are frozen. ``rois`` regions of each image train its second
    stage.
    """
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    pyramid = resnet_fpn_backbone(
        backbone_name=f"resnet{resnet.depth}", weights=None, trainable_layers=TRAINED
    )
    fill(pyramid.body, resnet.weights)
    model = FasterRCNN(pyramid, 1 + classes, box_batch_size_per_image=rois)
    model.transform = normalised(resnet, divisor=32)
    return VisionDetector(model)


class VisionDetector(Detector):
    """A detector of torchvision, whose label 0 is the background."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def backbone(self) -> nn.Module:
        module: nn.Module = self.model.backbone.body
        return module

    def losses(self, images: Sequence[Tensor], truths: Sequence[Boxes]) -> Mapping[str, Tensor]:
        targets = [{"boxes": truth.at, "labels": 1 + truth.labels} for truth in truths]
        losses: dict[str, Tensor] = self.model(list(images), targets)
        return losses

    def found(self, images: Sequence[Tensor]) -> list[Boxes]:
        return [
            Boxes(found["boxes"], found["labels"] - 1, found["scores"])
            for found in self.model(list(images))
        ]


def normalised(resnet: ResNet, divisor: int) -> Any:
    """torchvision's normalisation of images, in a batch of sides that ``divisor`` divides."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    transform = GeneralizedRCNNTransform(1, 1, resnet.mean, resnet.std, size_divisible=divisor)
    transform.resize = unresized  # its own option to leave sizes holds in train mode only
    return transform


def unresized(image: Tensor, target: Any) -> tuple[Tensor, Any]:
    return image, target


class SSDMaps(nn.Module):
    """The six maps that SSD300 looks at, of side 38, 19, 10, 5, 3 and 1 for 300 pixels.

    body: has two, of strides 8 and 16 pixels and of d2 and d3 channels. The first is normalised
        over its channels, and scaled by learnt factors; convolutions make four more.
    """

    def __init__(self, body: nn.Module, d2: int, d3: int) -> None:
        super().__init__()
        self.body = body
        self.out_channels = [d2, d3, *(d_out for _, d_out, _ in EXTRA)]
        self.scale = nn.Parameter(torch.full((d2, 1, 1), L2_SCALE))
        self.extra = nn.ModuleList(
            smaller(d_in, *block) for d_in, block in zip(self.out_channels[1:], EXTRA, strict=False)
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first, last = self.body(x).values()
        maps = [self.scale * F.normalize(first), last]
        for block in self.extra:
            maps.append(block(maps[-1]))
        return {str(i): at for i, at in enumerate(maps)}


def smaller(d_in: int, d: int, d_out: int, stride: int) -> nn.Sequential:
    """Two convolutions, each with ReLU: a map of half the side, or without its border."""
    block = nn.Sequential(
        nn.Conv2d(d_in, d, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(d, d_out, 3, stride, padding=stride - 1),
        nn.ReLU(inplace=True),
    )
    for parameter in block.parameters():
        (nn.init.zeros_ if parameter.ndim == 1 else nn.init.xavier_uniform_)(parameter)
    return block
