"""Average precision, beside mmdetection's of VOC and torchmetrics' of COCO, and by hand."""

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing.dummy import Pool  # of threads
from unittest.mock import patch

import numpy as np
import pytest
import torch
from detections import (
    CLASSES,
    FAR,
    Box,
    Case,
    cases,
    counted,
    found,
    rescored,
    scene,
    shuffled,
    with_detection,
    with_ignored,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from mixbench.tasks._detection import compat
from mixbench.tasks._detection.detector import Boxes
from mixbench.tasks._detection.precision import check_coco, coco, voc
from mixbench.tasks._scenes import Scene

A: Box = (0, 0, 20, 20)
B: Box = (100, 0, 150, 50)
C: Box = (200, 0, 300, 100)
SIZES = {"ap_small": A, "ap_medium": B, "ap_large": C}
NONE = dict.fromkeys(("ap", "ap50", "ap75", *SIZES))

many = settings(max_examples=60, deadline=None)
few = settings(max_examples=30, deadline=None)


def ignored_last(image: Scene) -> Scene:
    """As mmdetection orders objects: of two that overlap a box the same, it takes the first."""
    order = image.ignored.int().argsort(stable=True)
    _, *parts = vars(image).values()
    return Scene(image.image, *(part[order] for part in parts))


def annotated(image: Scene) -> dict[str, NDArray[np.generic]]:
    plain, skipped = ~image.ignored, image.ignored
    return {
        "bboxes": image.boxes[plain].numpy(),
        "labels": image.labels[plain].numpy(),
        "bboxes_ignore": image.boxes[skipped].numpy(),
        "labels_ignore": image.labels[skipped].numpy(),
    }


def by_class(boxes: Boxes) -> list[NDArray[np.generic]]:
    scored = torch.cat([boxes.at, boxes.scores[:, None]], 1)
    return [scored[boxes.labels == label].numpy() for label in range(CLASSES)]


def of_mmdetection(case: Case, mode: str) -> float:
    """It computes in float32."""
    compat.prepare()
    from mmdet.evaluation.functional import mean_ap

    with patch.object(mean_ap, "Pool", Pool):
        share, _ = mean_ap.eval_map(
            [by_class(boxes) for boxes in case[1]],
            [annotated(image) for image in case[0]],
            logger="silent",
            nproc=1,
            eval_mode=mode,
        )
    return 100 * float(share)


def objects(case: Case) -> Tensor:
    """How many there are of each class."""
    return torch.cat([s.labels[~s.ignored] for s in case[0]]).bincount(minlength=CLASSES)


@pytest.mark.skipif(not find_spec("mmdet"), reason="mmdetection is not here")
@many
@given(cases())
def test_vocs_is_that_of_mmdetection(case: Case) -> None:
    assume(counted(case))
    case = [ignored_last(image) for image in case[0]], case[1]
    answer = voc(*case, CLASSES)
    assert answer["map"] == pytest.approx(of_mmdetection(case, "area"), abs=1e-4)
    # with 5 objects, its levels of recall, such as 0.6000000000000001, are missed by 3 / 5
    if (objects(case) % 5 != 0).logical_or(objects(case) == 0).all():
        assert answer["map11"] == pytest.approx(of_mmdetection(case, "11points"), abs=1e-4)


def of_torchmetrics(case: Case) -> dict[str, object]:
    from torchmetrics.detection import MeanAveragePrecision

    overlaps, recalls = np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101)  # its own are float32
    metric = MeanAveragePrecision(iou_thresholds=overlaps.tolist(), rec_thresholds=recalls.tolist())
    metric.update(
        [{"boxes": b.at, "labels": b.labels, "scores": b.scores} for b in case[1]],
        [
            {"boxes": s.boxes, "labels": s.labels, "iscrowd": s.ignored.int(), "area": s.areas}
            for s in case[0]
        ],
    )
    names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
    computed = metric.compute()
    shares = [computed[name].item() for name in names]
    return {
        name: None if share == -1 else pytest.approx(100 * share)
        for name, share in zip(NONE, shares, strict=True)
    }


@many
@given(cases())
def test_cocos_is_that_of_torchmetrics(case: Case) -> None:
    assert coco(*case, CLASSES) == of_torchmetrics(case)


def of_one_class(objects: list[Box], guesses: list[Box]) -> dict[str, float | None]:
    """Of an image; guesses in falling score."""
    image, boxes = scene(*((box, 0) for box in objects)), found(*((box, 0) for box in guesses))
    return coco([image], [boxes], 1)


def test_all_is_found() -> None:
    assert of_one_class([A, B, C], [C, A, B]) == dict.fromkeys(NONE, pytest.approx(100))


def test_nothing_is_found() -> None:
    assert of_one_class([A, B, C], []) == dict.fromkeys(NONE, 0)


def test_there_is_nothing_to_be_found() -> None:
    assert of_one_class([], []) == NONE
    assert of_one_class([], [A]) == NONE
    assert coco([scene((A, 0), ignored=[0])], [found((A, 0))], 1) == NONE


@pytest.mark.parametrize("size", SIZES)
def test_an_object_is_of_the_size_of_its_box(size: str) -> None:
    perfect = dict.fromkeys(("ap", "ap50", "ap75", size), pytest.approx(100))
    assert of_one_class([SIZES[size]], [SIZES[size]]) == NONE | perfect


def test_an_object_is_of_the_size_of_its_outline() -> None:
    thin = replace(scene((C, 0)), areas=torch.tensor([200.0]))
    answer = coco([thin], [found((C, 0))], 1)
    assert answer["ap_small"] == pytest.approx(100) and answer["ap_large"] is None


def test_an_overlap_counts_at_the_thresholds_that_it_reaches() -> None:
    answer = of_one_class([(50, 90, 150, 190)], [(50, 90, 150, 166)])
    assert answer["ap"] == pytest.approx(60)
    assert answer["ap50"] == answer["ap75"] == pytest.approx(100)
    answer = of_one_class([(50, 90, 150, 190)], [(50, 90, 150, 140)])
    assert answer["ap"] == pytest.approx(10)
    assert answer["ap50"] == pytest.approx(100) and answer["ap75"] == 0


def test_precision_is_read_at_101_levels_of_recall() -> None:
    assert of_one_class([A, B], [A])["ap50"] == pytest.approx(100 * 51 / 101)
    expected = (51 + 50 * 2 / 3) / 101
    assert of_one_class([A, B], [A, FAR, B])["ap50"] == pytest.approx(100 * expected)


def test_an_object_is_hit_once_be_it_the_first_or_by_the_first() -> None:
    expected = pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert of_one_class([A, B], [A, A, B])["ap50"] == expected
    assert of_one_class([B, A], [A, A, B])["ap50"] == expected


def test_the_hundred_best_of_a_class_in_an_image_count() -> None:
    nowhere = [FAR] * 99
    assert of_one_class([A], [*nowhere, A])["ap50"] == pytest.approx(1)
    assert of_one_class([A], [*nowhere, FAR, A])["ap50"] == 0


def test_a_crowd_is_neither_hit_nor_missed_however_much_of_it_is_found() -> None:
    scenes, part = [scene((A, 0), (C, 0), ignored=[1])], (210, 10, 220, 20)
    assert coco(scenes, [found((part, 0), (C, 0), (A, 0))], 1)["ap"] == pytest.approx(100)


def test_an_object_of_another_image_or_class_is_not_hit() -> None:
    scenes = [scene((A, 0)), scene((B, 1))]
    assert coco(scenes, [found((B, 0)), found((A, 0))], 2)["ap"] == 0
    assert coco(scenes, [found((A, 1)), found((B, 0))], 2)["ap"] == 0


def test_the_mean_is_over_classes_that_have_objects() -> None:
    scenes = [scene((A, 0), (B, 2)), scene()]
    assert coco(scenes, [found((A, 0)), found()], 4)["ap"] == pytest.approx(50)


def test_a_mistake_in_an_image_without_objects_counts() -> None:
    guesses = [found((A, 0), scores=[0.5]), found((A, 0), scores=[0.6])]
    assert coco([scene((A, 0)), scene()], guesses, 1)["ap"] == pytest.approx(50)


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    of_one_class([A], [A])
    assert capsys.readouterr().out == ""


def test_pycocotools_is_asked_for_if_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    check_coco()
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ValueError, match=r"pip install .*pycocotools"):
        check_coco()


def precision(case: Case) -> dict[str, float | None]:
    return coco(*case, CLASSES)


@few
@given(cases(), st.integers(0, 99))
def test_the_order_of_images_and_detections_does_not_matter(case: Case, seed: int) -> None:
    assert precision(shuffled(case, seed)) == pytest.approx(precision(case))


@few
@given(cases(), st.sampled_from([torch.sqrt, torch.square, torch.logit]))
def test_only_the_order_of_scores_matters(case: Case, change: Callable[[Tensor], Tensor]) -> None:
    assert precision(rescored(case, lambda scores: change(scores / 2))) == precision(case)


@few
@given(cases(), st.integers(0, CLASSES - 1))
def test_a_mistake_costs_most_at_the_highest_score_and_nothing_at_the_lowest(
    case: Case, label: int
) -> None:
    before = precision(case)
    assert precision(with_detection(case, FAR, label, score=0)) == before
    after = precision(with_detection(case, FAR, label, score=2))
    assert all((after[name] or 0) <= (before[name] or 0) for name in NONE)


@few
@given(cases(), st.integers(0, CLASSES - 1), st.sampled_from([0, 2]))
def test_what_is_ignored_changes_nothing(case: Case, label: int, score: float) -> None:
    more = with_detection(with_ignored(case, FAR, label), FAR, label, score)
    assert precision(with_ignored(case, FAR, label)) == precision(case)
    assert precision(more) == precision(case)
