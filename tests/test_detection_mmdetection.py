"""Detectors of mmdetection: what they start from, what they train, and that they find."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.tasks._detection import mmdetection
from mixbench.tasks._detection.backbone import ResNet
from mixbench.tasks._detection.detector import Boxes, Detector
from mixbench.tasks.detection import SIDES

pytest.importorskip("mmengine")

CLASSES = 3
MEAN, STD = (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)
NOTHING = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0))


@dataclass(frozen=True)
class Kind:
    """make: a detector of a backbone and so many classes. sizes: of images that it is given."""

    make: Callable[[ResNet, int], Detector]
    sizes: tuple[tuple[int, int], ...]

    def images(self) -> list[Tensor]:
        return [torch.rand(3, *size) for size in self.sizes]


BOX_SIDES = (30, 60, 111, 162, 213, 264, 315)
KINDS = {
    "ssd300": Kind(partial(mmdetection.ssd300, sides=BOX_SIDES), ((300, 300),)),
    "faster_rcnn": Kind(
        lambda resnet, classes: mmdetection.faster_rcnn(resnet, classes, 16), ((64, 96), (80, 56))
    ),
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
depths = pytest.mark.parametrize("depth", [18, 50])


def random_resnet(depth: int) -> ResNet:
    """Its batch norm knows the statistics of images, or maps would grow from layer to layer."""
    from torchvision import models

    torch.manual_seed(0)
    net = getattr(models, f"resnet{depth}")()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.0)
    with torch.no_grad():
        net(torch.randn(4, 3, 64, 64))
    weights = {k: w for k, w in net.state_dict().items() if not k.startswith("fc.")}
    return ResNet(depth, weights, MEAN, STD)


@pytest.fixture(scope="module")
def resnet() -> ResNet:
    return random_resnet(18)


def scene(size: tuple[int, int], label: int) -> tuple[Tensor, Boxes]:
    """Noise with one object, in the colour of its class."""
    h, w = size
    left, top, right, bottom = w // 4, h // 5, 3 * w // 4, 2 * h // 3
    image = 0.3 * torch.rand(3, h, w)
    image[label, top:bottom, left:right] = 0.9
    at = torch.tensor([[left, top, right, bottom]]).float()
    return image, Boxes(at, torch.tensor([label]), torch.ones(1))


def scenes(kind: Kind) -> tuple[list[Tensor], list[Boxes]]:
    images, truths = zip(*(scene(size, 2 * i) for i, size in enumerate(kind.sizes)), strict=True)
    return [*images], [*truths]


@kinds
def test_an_object_that_it_is_tuned_on_is_found(kind: Kind, resnet: ResNet) -> None:
    from torchvision.ops import box_iou

    torch.manual_seed(0)
    detector, (images, truths) = kind.make(resnet, CLASSES), scenes(kind)
    optimizer = torch.optim.AdamW([p for p in detector.parameters() if p.requires_grad], 3e-4)
    losses = []
    for _ in range(24):
        loss = torch.stack([*detector.train().losses(images, truths).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        found = detector.eval().found(images)
    for best, truth in zip(found, truths, strict=True):
        assert box_iou(best.at[:1], truth.at) > 0.5
        assert best.labels[0] == truth.labels[0] and best.scores[0] > 0.5


@kinds
def test_plain_descent_lowers_the_loss(kind: Kind, resnet: ResNet) -> None:
    torch.manual_seed(0)
    detector, (images, truths) = kind.make(resnet, CLASSES), scenes(kind)
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], 1e-3)
    losses = []
    for _ in range(4):
        terms = detector.train().losses(images, truths)
        losses.append(sum(terms.values(), torch.zeros(())))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


@kinds
def test_losses_are_scalars_without_what_is_only_watched(kind: Kind, resnet: ResNet) -> None:
    terms = kind.make(resnet, CLASSES).losses(*scenes(kind))
    heads = {"loss_cls", "loss_bbox"}
    proposals = {"loss_rpn_cls", "loss_rpn_bbox"} if len(terms) > 2 else set()
    assert set(terms) == heads | proposals
    assert all(term.shape == () and term.requires_grad for term in terms.values())


@kinds
def test_it_is_decided_by_torchs_generator(kind: Kind, resnet: ResNet) -> None:
    images, truths = scenes(kind)

    def losses(seed: int, others: int) -> Tensor:
        torch.manual_seed(seed)
        random.seed(others)
        np.random.seed(others)
        return torch.stack([*kind.make(resnet, CLASSES).losses(images, truths).values()])

    assert losses(0, 0).equal(losses(0, 1))
    assert not losses(0, 0).equal(losses(1, 0))


def test_regions_are_drawn(resnet: ResNet) -> None:
    images, truths = scenes(KINDS["faster_rcnn"])
    detector = mmdetection.faster_rcnn(resnet, CLASSES, 4)

    def losses(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.stack([*detector.losses(images, truths).values()])

    assert losses(0).equal(losses(0))
    assert not losses(0).equal(losses(1))


@pytest.mark.parametrize("rois", [4, 32])
def test_the_second_stage_is_trained_on_so_many_regions(rois: int, resnet: ResNet) -> None:
    detector, seen = mmdetection.faster_rcnn(resnet, CLASSES, rois), []
    detector.get_submodule("model.roi_head.bbox_head").register_forward_pre_hook(
        lambda _, inputs: seen.append(len(inputs[0]))
    )
    images, truths = scenes(KINDS["faster_rcnn"])
    detector.losses(images, truths)
    assert seen == [rois * len(images)]


@depths
@kinds
def test_every_tensor_of_the_backbone_arrived(kind: Kind, depth: int) -> None:
    resnet = random_resnet(depth)
    own = kind.make(resnet, CLASSES).backbone.state_dict()
    left = "layer4." if kind is KINDS["ssd300"] else "none"
    assert set(own) == {name for name in resnet.weights if not name.startswith(left)}
    assert all(w.equal(resnet.weights[name]) for name, w in own.items())


@pytest.mark.parametrize(("layout", "share"), [("voc", 0.2), ("coco", 0.15)])
def test_default_boxes_are_those_of_mmdetections_own_configuration(
    layout: str, share: float, resnet: ResNet
) -> None:
    detector: Any = mmdetection.ssd300(resnet, CLASSES, SIDES[layout])
    generator = detector.model.bbox_head.prior_generator
    settings = mmdetection._config("ssd300.py").bbox_head.anchor_generator
    own = type(generator)(
        **{k: v for k, v in settings.items() if k != "type"}
        | {"basesize_ratio_range": (share, 0.9)}
    )
    for mine, theirs in zip(generator.base_anchors, own.base_anchors, strict=True):
        torch.testing.assert_close(mine, theirs)


@depths
def test_ssd_has_its_8732_default_boxes(depth: int) -> None:
    detector = mmdetection.ssd300(random_resnet(depth), CLASSES, BOX_SIDES).eval()
    model: Any = detector.model
    with torch.no_grad():
        classes, boxes = model.bbox_head(model.neck(detector.backbone(torch.rand(1, 3, 300, 300))))
    assert [c.shape[-1] for c in classes] == [38, 19, 10, 5, 3, 1]
    assert sum(c.numel() for c in classes) == 8732 * (CLASSES + 1)
    assert sum(b.numel() for b in boxes) == 8732 * 4


@kinds
def test_images_are_normalised_then_padded(kind: Kind, resnet: ResNet) -> None:
    detector, seen = kind.make(resnet, CLASSES).eval(), []
    detector.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = kind.images()
    with torch.no_grad():
        detector.found(images)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (MEAN, STD))
    h, w = (300, 300) if kind is KINDS["ssd300"] else (96, 96)
    padded = [F.pad(((x - mean) / std), (0, w - x.shape[2], 0, h - x.shape[1])) for x in images]
    torch.testing.assert_close(seen[0], torch.stack(padded))


def trained(detector: Detector) -> set[str]:
    return {name for name, p in detector.backbone.named_parameters() if p.requires_grad}


def moving(detector: Detector, kind: Kind) -> set[str]:
    """The buffers of the backbone that a step changes."""
    before = {name: b.clone() for name, b in detector.backbone.named_buffers()}
    detector.losses(*scenes(kind))
    return {name for name, b in detector.backbone.named_buffers() if not b.equal(before[name])}


def test_all_of_ssd_is_trained(resnet: ResNet) -> None:
    detector = mmdetection.ssd300(resnet, CLASSES, BOX_SIDES).eval().train()
    assert all(p.requires_grad for p in detector.parameters())
    assert moving(detector, KINDS["ssd300"]) == {n for n, _ in detector.backbone.named_buffers()}


def test_faster_rcnn_freezes_stem_layer1_and_statistics(resnet: ResNet) -> None:
    detector = mmdetection.faster_rcnn(resnet, CLASSES, 8).eval().train()
    names = {name for name, _ in detector.backbone.named_parameters()}
    frozen = {name for name in names if name.startswith(("conv1.", "bn1.", "layer1."))}
    assert trained(detector) == names - frozen
    assert all(p.requires_grad for name, p in detector.named_parameters() if "backbone" not in name)
    assert not moving(detector, KINDS["faster_rcnn"])


@kinds
def test_what_is_found_lies_in_the_image_by_falling_score(kind: Kind, resnet: ResNet) -> None:
    torch.manual_seed(0)
    images = kind.images()
    with torch.no_grad():
        found = kind.make(resnet, CLASSES).eval().found(images)
    assert len(found) == len(images)
    for image, boxes in zip(images, found, strict=True):
        h, w = image.shape[1:]
        assert len(boxes.at) == len(boxes.labels) == len(boxes.scores) > 1
        assert (boxes.at >= 0).all() and (boxes.at <= torch.tensor([w, h, w, h])).all()
        assert (boxes.at[:, 2:] >= boxes.at[:, :2]).all()
        assert boxes.scores.diff().le(0).all() and boxes.scores[0] <= 1 and boxes.scores[-1] >= 0
        assert boxes.labels.dtype == torch.int64 and set(boxes.labels.tolist()) <= {0, 1, 2}


@kinds
def test_what_is_sure_of_nothing_finds_nothing(kind: Kind, resnet: ResNet) -> None:
    detector = kind.make(resnet, 100).eval()
    for name, parameter in detector.named_parameters():
        if "backbone" not in name:
            nn.init.zeros_(parameter)
    with torch.no_grad():
        found = detector.found(kind.images())
    for boxes in found:
        assert (boxes.at.shape, boxes.labels.shape, boxes.scores.shape) == ((0, 4), (0,), (0,))
        assert boxes.labels.dtype == torch.int64


@kinds
def test_an_image_may_have_no_objects(kind: Kind, resnet: ResNet) -> None:
    images, truths = scenes(kind)
    detector = kind.make(resnet, CLASSES)
    for some in ([NOTHING, *truths[1:]], [NOTHING] * len(truths)):
        loss = torch.stack([*detector.losses(images, some).values()]).sum()
        loss.backward()
        assert loss.isfinite()


@kinds
def test_its_state_can_be_saved_and_loaded(kind: Kind, resnet: ResNet) -> None:
    images, file = kind.images(), BytesIO()
    torch.manual_seed(0)
    first = kind.make(resnet, CLASSES).eval()
    blank = replace(resnet, weights={k: torch.ones_like(w) for k, w in resnet.weights.items()})
    second = kind.make(blank, CLASSES).eval()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        pairs = zip(first.found(images), second.found(images), strict=True)
    for one, other in pairs:
        assert len(one.at) and one.at.equal(other.at) and one.scores.equal(other.scores)


@kinds
def test_a_batch_is_made_where_its_images_are(kind: Kind, resnet: ResNet) -> None:
    detector: Any = kind.make(resnet, CLASSES).to("meta")
    images = [image.to("meta") for image in kind.images()]
    batch, _ = detector._batch(images, [mmdetection._sample(image) for image in images])
    assert batch.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@kinds
def test_it_works_on_a_gpu(kind: Kind, resnet: ResNet) -> None:
    gpu = torch.device("cuda")
    images, truths = scenes(kind)
    detector = kind.make(resnet, CLASSES).to(gpu)
    there = [image.to(gpu) for image in images], [truth.to(gpu) for truth in truths]
    assert all(term.device.type == "cuda" for term in detector.losses(*there).values())
    with torch.no_grad():
        found = detector.eval().found(there[0])
    assert all(boxes.at.device.type == "cuda" for boxes in found)
