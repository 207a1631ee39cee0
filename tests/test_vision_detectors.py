"""torchvision's detectors: what they start from, what is frozen, and that they learn."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import assert_same
from torch import Tensor, nn
from torch.optim import SGD
from torchvision.ops import box_iou

from mixbench.bench.nets import build
from mixbench.tasks._detection import compat, vision
from mixbench.tasks._detection.backbone import ResNet, resnet
from mixbench.tasks._detection.detector import Boxes, Detector

MEAN, STD = (0.25, 0.5, 0.75), (0.125, 0.25, 0.5)
CLASSES, ROIS = 3, 32
SIDES = {"ssd300": 300, "faster_rcnn": 96}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
BOX_SIDES = (30, 60, 111, 162, 213, 264, 315)
each = pytest.mark.parametrize("name", SIDES)


@cache
def backbone(name: str = "resnet18") -> ResNet:
    """Of a new network whose batch norm has seen an image."""
    torch.manual_seed(0)
    net = build(name, 7, 64, MEAN, STD)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # or it would forget but a tenth of what it starts with
    net(torch.rand(4, 3, 64, 64))
    return resnet(net.eval())


def detector(name: str, rois: int = ROIS, seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    if name == "ssd300":
        return vision.ssd300(backbone(), CLASSES, BOX_SIDES)
    return vision.faster_rcnn(backbone(), CLASSES, rois)


def boxes(*at: Sequence[float], label: int = 1) -> Boxes:
    corners = torch.tensor(at, dtype=torch.float32).reshape(-1, 4)
    return Boxes(corners, torch.full((len(at),), label), torch.ones(len(at)))


def scene(side: int, label: int = 1) -> tuple[Tensor, Boxes]:
    """A bright rectangle in the dark."""
    image = 0.3 * torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    left, top, right, bottom = (round(share * side) for share in (0.2, 0.3, 0.7, 0.8))
    image[:, top:bottom, left:right] += 0.6
    return image, boxes((left, top, right, bottom), label=label)


def step(of: Detector, images: Sequence[Tensor], truths: Sequence[Boxes], sgd: SGD) -> float:
    loss = torch.stack([*of.train().losses(images, truths).values()]).sum()
    sgd.zero_grad()
    loss.backward()
    sgd.step()
    return loss.item()


def learned(of: Detector, images: Sequence[Tensor], truths: Sequence[Boxes], n: int) -> list[float]:
    """The losses of n steps."""
    sgd = SGD([p for p in of.parameters() if p.requires_grad], 0.002, momentum=0.9)
    return [step(of, images, truths, sgd) for _ in range(n)]


@contextmanager
def seeing(module: nn.Module) -> Iterator[list[tuple[Any, Any]]]:
    """What goes into a module, and what leaves it."""
    seen: list[tuple[Any, Any]] = []
    hook = module.register_forward_hook(lambda _, given, made: seen.append((given[0], made)))
    yield seen
    hook.remove()


@each
def test_every_tensor_of_the_backbone_arrives(name: str) -> None:
    filled = detector(name).backbone.state_dict()
    assert all(torch.equal(w, backbone().weights[key]) for key, w in filled.items())
    left = backbone().weights.keys() - filled.keys()
    if name == "ssd300":
        assert left == {key for key in backbone().weights if key.startswith("layer4.")}
    else:
        assert left == {key for key in backbone().weights if key.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    "make",
    [
        partial(vision.ssd300, sides=BOX_SIDES),
        lambda of, classes: vision.faster_rcnn(of, classes, ROIS),
    ],
)
def test_a_deeper_backbone_fits(make: Callable[[ResNet, int], Detector]) -> None:
    made = make(backbone("resnet50"), CLASSES).eval()
    filled = made.backbone.state_dict()
    assert all(torch.equal(w, backbone("resnet50").weights[key]) for key, w in filled.items())
    with torch.no_grad():
        assert len(made.found([torch.rand(3, 300, 300)])) == 1


@each
def test_an_image_can_be_learned(name: str) -> None:
    image, truth = scene(SIDES[name], label=0 if name == "ssd300" else CLASSES - 1)
    losses = learned(learner := detector(name), [image], [truth], 40)
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        (found,) = learner.eval().found([image])
    assert box_iou(found.at[:1], truth.at) > 0.5
    assert found.labels[0] == truth.labels[0] and found.scores[0] > 0.5


@each
def test_what_is_found_lies_in_the_images_the_likeliest_first(name: str) -> None:
    shapes = [(300, 300)] * 2 if name == "ssd300" else [(96, 70), (64, 130)]
    with torch.no_grad():
        found = detector(name).eval().found([torch.rand(3, *shape) for shape in shapes])
    for (h, w), these in zip(shapes, found, strict=True):
        assert len(these.at) == len(these.labels) == len(these.scores) > 1
        assert these.at.min() >= 0 and (these.at[:, 2:] <= torch.tensor([w, h])).all()
        assert (these.at[:, 2:] >= these.at[:, :2]).all()
        assert set(these.labels.tolist()) <= set(range(CLASSES))
        assert (these.scores.diff() <= 0).all()
        assert these.scores.min() >= 0 and these.scores.max() <= 1


@each
def test_what_is_learned_is_decided_by_the_seed_of_torch(name: str) -> None:
    image, truth = scene(SIDES[name])
    first, again, other = (
        learned(detector(name, rois=8, seed=seed), [image], [truth], 2) for seed in (1, 1, 2)
    )
    assert first == again != other


@each
def test_other_generators_are_not_drawn_from(name: str) -> None:
    before = repr((random.getstate(), np.random.get_state()))
    image, truth = scene(SIDES[name])
    learned(detector(name), [image], [truth], 1)
    assert repr((random.getstate(), np.random.get_state())) == before


@each
def test_another_detector_goes_on_from_the_state(name: str) -> None:
    image, truth = scene(SIDES[name])
    learned(first := detector(name), [image], [truth], 1)
    second = detector(name, seed=1)
    second.load_state_dict(first.state_dict())
    losses = []
    for each_one in (first, second):
        torch.manual_seed(2)
        losses.append(each_one.train().losses([image], [truth]))
    assert_same(losses[0], losses[1], atol=0)


def unchanged(of: Detector, side: int) -> set[str]:
    """The names of tensors of the backbone that two steps do not change."""
    image, truth = scene(side)
    before = deepcopy(of.backbone.state_dict())
    learned(of, [image], [truth], 2)
    after = of.backbone.state_dict()
    return {name for name in after if torch.equal(after[name], before[name])}


def test_all_of_the_backbone_of_ssd_is_trained() -> None:
    learner = detector("ssd300")
    assert all(p.requires_grad for p in learner.parameters())
    assert unchanged(learner, 300) == set()


def test_stem_and_layer1_and_batch_norm_of_faster_rcnn_are_frozen() -> None:
    learner = detector("faster_rcnn")
    names = learner.backbone.state_dict().keys()
    norm = {name for name in names if "bn" in name or "downsample.1." in name}
    start = {name for name in names if name.startswith(("conv1.", "layer1."))}
    assert len(norm) == 20 * len(BATCH_NORM)
    assert unchanged(learner, 96) == norm | start


@each
def test_to_find_changes_nothing(name: str) -> None:
    before = deepcopy((finder := detector(name)).state_dict())
    with torch.no_grad():
        finder.eval().found([scene(SIDES[name])[0]])
    assert_same(finder.state_dict(), before, atol=0)


@each
def test_images_without_objects_have_a_loss(name: str) -> None:
    image, truth = scene(SIDES[name])
    for truths in ([boxes()], [truth, boxes()]):
        losses = learned(detector(name), [image] * len(truths), truths, 2)
        assert np.isfinite(losses).all()


@each
def test_truths_are_left_as_they_are(name: str) -> None:
    image, truth = scene(SIDES[name])
    before = deepcopy((image, vars(truth)))
    detector(name).train().losses([image], [truth])
    assert_same((image, vars(truth)), before, atol=0)


class Recorder(nn.Module):
    """In place of a model: keeps what it is asked, and answers with the labels 1 and 3."""

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        if targets is not None:
            self.labels = [target["labels"].tolist() for target in targets]
            return {}
        found = {"boxes": torch.zeros(2, 4), "labels": torch.tensor([1, 3])}
        return [{**found, "scores": torch.ones(2)}]


def test_label_0_of_torchvision_is_the_background() -> None:
    asked = vision.VisionDetector(model := Recorder())
    asked.losses([torch.zeros(3, 8, 8)] * 2, [boxes((0, 0, 1, 1), label=0), boxes()])
    assert model.labels == [[1], []]
    (found,) = asked.found([torch.zeros(3, 8, 8)])
    assert found.labels.tolist() == [0, 2]


@each
@pytest.mark.parametrize("train", [True, False])
def test_images_are_normalised_and_padded_but_not_resized(name: str, train: bool) -> None:
    shapes = [(300, 300)] * 2 if name == "ssd300" else [(96, 70), (64, 130)]
    images = [torch.rand(3, *shape) for shape in shapes]
    of = detector(name).train(train)
    with seeing(of.backbone) as seen, torch.no_grad():
        of.losses(images, [boxes(), boxes()]) if train else of.found(images)
    ((given, _),) = seen
    assert given.shape == ((2, 3, 300, 300) if name == "ssd300" else (2, 3, 96, 160))
    mean, std = (torch.tensor(level).view(3, 1, 1) for level in (MEAN, STD))
    for image, (h, w), padded in zip(images, shapes, given, strict=True):
        assert_same(padded[:, :h, :w], (image - mean) / std, atol=1e-6)
        assert not padded[:, h:].any() and not padded[:, :, w:].any()


def test_ssd_looks_at_six_maps() -> None:
    of: Any = detector("ssd300").eval()
    with seeing(of.model.backbone) as seen, seeing(of.model.head) as heads, torch.no_grad():
        of.found([torch.rand(3, 300, 300)])
    ((_, maps),), ((_, outputs),) = seen, heads
    sides = [38, 19, 10, 5, 3, 1]
    channels = [128, 256, 512, 256, 256, 256]
    assert [tuple(at.shape) for at in maps.values()] == [
        (1, d, side, side) for d, side in zip(channels, sides, strict=True)
    ]
    assert outputs["cls_logits"].shape == (1, 8732, 1 + CLASSES)
    assert_same(maps["0"].norm(dim=1), torch.full((1, 38, 38), 20.0), atol=1e-3)


def test_default_boxes_are_those_of_ssd300() -> None:
    generator: Any = detector("ssd300").get_submodule("model.anchor_generator")
    assert generator.aspect_ratios == [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    assert generator.steps == [8, 16, 32, 64, 100, 300]
    sides = [300 * scale for scale in generator.scales]
    assert_same(sides, [float(side) for side in BOX_SIDES], atol=1e-4)


@pytest.mark.parametrize("rois", [4, 8])
def test_rois_are_what_the_second_stage_is_trained_on(rois: int) -> None:
    image, truth = scene(96)
    of = detector("faster_rcnn", rois).train()
    with seeing(of.get_submodule("model.roi_heads.box_head")) as seen:
        of.losses([image] * 2, [truth, boxes()])
    ((given, _),) = seen
    assert len(given) == 2 * rois


def test_torchvision_without_operators_is_refused() -> None:
    vision.check()
    with (
        patch.object(compat, "operators", side_effect=ValueError("reinstall torchvision")),
        pytest.raises(ValueError, match="reinstall torchvision"),
    ):
        vision.check()


def test_torchvision_is_imported_when_it_is_needed() -> None:
    script = "import sys, mixbench.tasks._detection.vision; print('torchvision' in sys.modules)"
    python = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert python.stdout.split() == [b"False"]


def test_further_maps_start_as_those_of_ssd() -> None:
    for name, parameter in (
        detector("ssd300").get_submodule("model.backbone.extra").named_parameters()
    ):
        if name.endswith("bias"):
            assert not parameter.any()
        else:  # Xavier's: uniform, of variance 2 / (inputs + outputs)
            fans = (parameter.shape[0] + parameter.shape[1]) * parameter[0, 0].numel()
            assert parameter.var().item() == pytest.approx(2 / fans, rel=0.05)
