"""Detectors of mmdetection (arXiv 1906.07155), in its standard configurations."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from torch import Tensor, nn

from mixbench.tasks._detection.backbone import ResNet, fill
from mixbench.tasks._detection.compat import prepare
from mixbench.tasks._detection.detector import Boxes, Detector


def check() -> None:
    """Raises ValueError, which says what to install, if mmdetection can't work here."""
    prepare()


def ssd300(resnet: ResNet, classes: int, sides: Sequence[int]) -> Detector:
    """SSD (arXiv 1512.02325) for images of 300 x 300, on the first three layers; all is trained.

    sides: of the default boxes, in pixels: seven, for six maps.
    """
    config = _config("ssd300.py")
    channels = (*_channels(resnet.depth)[1:3], *config.neck.out_channels[2:])
    config.backbone = {
        "type": "ResNet",
        "depth": resnet.depth,
        "num_stages": 3,
        "strides": (1, 2, 2),
        "dilations": (1, 1, 1),
        "out_indices": (1, 2),
        "norm_eval": False,
    }
    config.neck.update(in_channels=channels[:2], out_channels=channels)
    config.bbox_head.update(in_channels=channels, num_classes=classes)
    config.bbox_head.anchor_generator.update(min_sizes=sides[:-1], max_sizes=sides[1:])
    return _built(config, resnet)


def faster_rcnn(resnet: ResNet, classes: int, rois: int) -> Detector:
    """Faster R-CNN with a feature pyramid (arXiv 1506.01497, 1612.03144), trained on ``rois`` regions.

    Stem, layer1 and the statistics of batch norm are frozen.
    """
    config = _config("faster-rcnn_r50_fpn.py")
    config.backbone.update(depth=resnet.depth, init_cfg=None)
    config.neck.in_channels = _channels(resnet.depth)
    config.roi_head.bbox_head.num_classes = classes
    config.train_cfg.rcnn.sampler.num = rois
    return _built(config, resnet)


def _config(name: str) -> Any:
    """A model of mmdetection's, as it ships it."""
    prepare()
    from mmengine.config import Config

    return Config.fromfile(str(files("mmdet") / ".mim/configs/_base_/models" / name)).model


def _channels(depth: int) -> list[int]:
    """Of what leaves the four layers of a ResNet."""
    expansion = 1 if depth < 50 else 4
    return [width * expansion for width in (64, 128, 256, 512)]


def _built(config: Any, resnet: ResNet) -> Detector:
    from mmdet.registry import MODELS
    from mmengine.registry import DefaultScope

    config.data_preprocessor.update(mean=resnet.mean, std=resnet.std, bgr_to_rgb=False)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config)
        model.init_weights()
    fill(model.backbone, resnet.weights)
    return Mmdetector(model)


class Mmdetector(Detector):
    """A detector of mmdetection's, ``model``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def backbone(self) -> nn.Module:
        module: nn.Module = self.model.backbone
        return module

    def losses(self, images: Sequence[Tensor], truths: Sequence[Boxes]) -> Mapping[str, Tensor]:
        samples = [_sample(*pair) for pair in zip(images, truths, strict=True)]
        _, terms = self.model.parse_losses(self.model.loss(*self._batch(images, samples)))
        return {name: term for name, term in terms.items() if name.startswith("loss_")}

    def found(self, images: Sequence[Tensor]) -> list[Boxes]:
        samples = [_sample(image) for image in images]
        answers = self.model.predict(*self._batch(images, samples), rescale=False)
        instances = (answer.pred_instances for answer in answers)
        return [Boxes(each.bboxes, each.labels, each.scores) for each in instances]

    def _batch(self, images: Sequence[Tensor], samples: list[Any]) -> tuple[Tensor, list[Any]]:
        """Normalised and padded images (b, 3, h, w), and what is known of each."""
        # Its device is not that of the model, which is a part of this module: only ``to`` sets it.
        preprocess = self.model.data_preprocessor.to(images[0].device)
        batch = preprocess({"inputs": [*images], "data_samples": samples})
        return batch["inputs"], batch["data_samples"]


def _sample(image: Tensor, truth: Boxes | None = None) -> Any:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    sample = DetDataSample(metainfo={"img_shape": tuple(image.shape[-2:])})
    if truth is not None:
        sample.gt_instances = InstanceData(bboxes=truth.at, labels=truth.labels)
    return sample
