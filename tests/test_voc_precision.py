"""VOC's average precision: as its protocol is written, literally, and worked out by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import prod
from statistics import fmean

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
    with_duplicates,
    with_ignored,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixbench.tasks._detection.precision import voc

A: Box = (0, 0, 10, 10)
B: Box = (20, 0, 30, 10)
C: Box = (40, 0, 50, 10)

Curve = list[tuple[Fraction, Fraction]]

many = settings(max_examples=300, deadline=None)
few = settings(max_examples=60, deadline=None)


def precision(case: Case) -> dict[str, float]:
    return voc(*case, CLASSES)


def of_one_class(objects: list[Box], guesses: list[Box]) -> tuple[float, ...]:
    """map11 and map of an image; guesses in falling score."""
    image, boxes = scene(*((box, 0) for box in objects)), found(*((box, 0) for box in guesses))
    return tuple(voc([image], [boxes], 1).values())


def whole(*shares: float) -> object:
    """Percents, up to rounding."""
    return pytest.approx(tuple(100 * share for share in shares))


def test_all_is_found() -> None:
    assert of_one_class([A, B], [B, A]) == whole(1, 1)
    assert voc([scene((A, 0))] * 2, [found((A, 0))] * 2, 1) == {"map11": 100, "map": 100}


def test_nothing_is_found() -> None:
    assert of_one_class([A, B], []) == whole(0, 0)


def test_a_half_is_found() -> None:
    assert of_one_class([A, B], [A]) == whole(6 / 11, 1 / 2)


def test_what_is_found_after_a_mistake_has_half_the_precision() -> None:
    assert of_one_class([A], [FAR, A]) == whole(1 / 2, 1 / 2)


def test_a_mistake_between_two_hits() -> None:
    assert of_one_class([A, B], [A, FAR, B]) == whole((6 + 5 * 2 / 3) / 11, (1 + 2 / 3) / 2)


def test_precision_at_a_recall_is_the_best_at_that_or_a_higher_one() -> None:
    assert of_one_class([A, B], [FAR, A, B]) == whole(2 / 3, 2 / 3)


@pytest.mark.parametrize("hits", range(11))
def test_a_level_of_recall_is_reached_exactly(hits: int) -> None:
    objects = [(20.0 * n, 0.0, 20.0 * n + 10, 10.0) for n in range(10)]
    expected = whole((hits + 1) / 11 if hits else 0, hits / 10)
    assert of_one_class(objects, objects[:hits]) == expected


def test_an_overlap_of_a_half_is_a_hit() -> None:
    assert of_one_class([A], [(0, 0, 10, 5)]) == whole(1, 1)
    assert of_one_class([A], [(0, 0, 10, 4.99)]) == whole(0, 0)


def test_an_object_is_hit_once() -> None:
    assert of_one_class([A, B], [A, A, B]) == whole((6 + 5 * 2 / 3) / 11, (1 + 2 / 3) / 2)


def test_what_overlaps_a_hit_object_most_is_not_held_against_another() -> None:
    beside: Box = (2, 0, 12, 10)
    assert of_one_class([A, beside], [A, (0.5, 0, 10.5, 10)]) == whole(6 / 11, 1 / 2)


def test_boxes_without_area_overlap_nothing() -> None:
    point: Box = (5, 5, 5, 5)
    assert of_one_class([point, A], [A, point]) == whole(6 / 11, 1 / 2)


def test_an_object_of_another_image_or_class_is_not_hit() -> None:
    scenes = [scene((A, 0)), scene((B, 1))]
    assert voc(scenes, [found((B, 0)), found((A, 0))], 2) == {"map11": 0, "map": 0}
    assert voc(scenes, [found((A, 1)), found((B, 0))], 2) == {"map11": 0, "map": 0}


def test_the_mean_is_over_classes_that_have_objects_which_are_not_ignored() -> None:
    scenes = [scene((A, 0), (B, 2), (C, 3), ignored=[2])]
    answer = voc(scenes, [found((A, 0), (FAR, 1), (FAR, 3))], 5)
    assert answer == {"map11": 50, "map": 50}


def test_an_ignored_object_is_neither_hit_nor_missed() -> None:
    scenes = [scene((A, 0), (B, 0), ignored=[0])]
    perfect = {"map11": 100, "map": 100}
    assert voc(scenes, [found((B, 0))], 1) == perfect
    assert voc(scenes, [found((A, 0), (A, 0), (B, 0))], 1) == perfect


def test_images_without_any_object_that_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="no object"):
        voc([scene(), scene((A, 0), ignored=[0])], [found((A, 0)), found()], 1)


def test_each_scene_has_an_answer() -> None:
    with pytest.raises(ValueError, match="shorter"):
        voc([scene((A, 0))] * 2, [found((A, 0))], 1)


def pixels(box: list[float]) -> list[int]:
    """The first and last column and row, counted from 1, as VOC numbers them."""
    left, top, right, bottom = map(int, box)
    return [left + 1, top + 1, right, bottom]


def overlap(a: list[int], b: list[int]) -> Fraction:
    """Of boxes of pixels."""

    def span(first: int, last: int) -> int:
        return max(0, last - first + 1)

    shared = [span(max(a[side], b[side]), min(a[side + 2], b[side + 2])) for side in (0, 1)]
    areas = [span(box[0], box[2]) * span(box[1], box[3]) for box in (a, b)]
    return Fraction(prod(shared), sum(areas) - prod(shared))


@dataclass
class Object:
    at: list[int]
    difficult: bool
    detected: bool = False


def objects_of(case: Case, label: int) -> list[list[Object]]:
    """Those of a class in each image."""
    parts = [(image.boxes, image.labels, image.ignored) for image in case[0]]
    return [
        [
            Object(pixels(at), difficult)
            for at, kind, difficult in zip(*(part.tolist() for part in image), strict=True)
            if kind == label
        ]
        for image in parts
    ]


def detections_of(case: Case, label: int) -> list[tuple[int, list[int]]]:
    """The image and the box of all of a class, in falling score."""
    guesses = [
        (score, image, pixels(at))
        for image, boxes in enumerate(case[1])
        for at, kind, score in zip(*(part.tolist() for part in vars(boxes).values()), strict=True)
        if kind == label
    ]
    return [guess[1:] for guess in sorted(guesses, reverse=True)]


def total(objects: list[list[Object]]) -> int:
    return sum(not each.difficult for image in objects for each in image)


def curve(objects: list[list[Object]], detections: list[tuple[int, list[int]]]) -> Curve:
    """Recall and precision after each detection that counts."""
    hits, mistakes, points = 0, 0, []
    for image, box in detections:
        nearest, most = None, Fraction(0)
        for each in objects[image]:
            if overlap(box, each.at) > most:
                nearest, most = each, overlap(box, each.at)
        if nearest is None or most < Fraction(1, 2):
            mistakes += 1
        elif nearest.difficult:
            continue
        elif nearest.detected:
            mistakes += 1
        else:
            nearest.detected, hits = True, hits + 1
        points.append((Fraction(hits, total(objects)), Fraction(hits, hits + mistakes)))
    return points


def curves(case: Case) -> list[Curve]:
    """Of the classes that have objects."""
    objects = [objects_of(case, label) for label in range(CLASSES)]
    return [
        curve(each, detections_of(case, label)) for label, each in enumerate(objects) if total(each)
    ]


def best(points: Curve, level: Fraction) -> Fraction:
    return max((precision for recall, precision in points if recall >= level), default=Fraction(0))


def eleven_points(points: Curve) -> Fraction:
    return sum((best(points, Fraction(tenth, 10)) for tenth in range(11)), Fraction(0)) / 11


def area(points: Curve) -> Fraction:
    recalls = sorted({Fraction(0)} | {recall for recall, _ in points})
    return sum(((b - a) * best(points, b) for a, b in pairwise(recalls)), Fraction(0))


@many
@given(cases())
def test_it_is_that_of_the_protocol(case: Case) -> None:
    assume(counted(case))
    expected = {
        "map11": float(100 * fmean(map(eleven_points, curves(case)))),
        "map": float(100 * fmean(map(area, curves(case)))),
    }
    assert precision(case) == pytest.approx(expected)


@few
@given(cases(), st.integers(0, 99))
def test_the_order_of_images_and_detections_does_not_matter(case: Case, seed: int) -> None:
    assume(counted(case))
    assert precision(shuffled(case, seed)) == pytest.approx(precision(case))


@few
@given(cases(), st.sampled_from([torch.sqrt, torch.square, torch.logit]))
def test_only_the_order_of_scores_matters(case: Case, change: Callable[[Tensor], Tensor]) -> None:
    assume(counted(case))
    assert precision(rescored(case, lambda scores: change(scores / 2))) == precision(case)


@few
@given(cases(), st.integers(0, CLASSES - 1))
def test_a_mistake_costs_most_at_the_highest_score_and_nothing_at_the_lowest(
    case: Case, label: int
) -> None:
    assume(counted(case))
    before = precision(case)
    assert precision(with_detection(case, FAR, label, score=0)) == before
    after = precision(with_detection(case, FAR, label, score=2))
    assert all(after[name] <= before[name] for name in before)


@few
@given(cases(), st.integers(0, CLASSES - 1), st.sampled_from([0, 2]))
def test_what_is_ignored_changes_nothing(case: Case, label: int, score: float) -> None:
    assume(counted(case))
    more = with_detection(with_ignored(case, FAR, label), FAR, label, score)
    assert precision(with_ignored(case, FAR, label)) == precision(case)
    assert precision(more) == precision(case)


@few
@given(cases())
def test_to_find_all_twice_helps_nothing(case: Case) -> None:
    assume(counted(case))
    before, after = precision(case), precision(with_duplicates(case))
    assert all(after[name] <= before[name] for name in before)
