"""Scenes, and what was found in them, for the tests of average precision."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from hypothesis import strategies as st
from torch import Tensor

from mixbench.tasks._detection.detector import Boxes
from mixbench.tasks._scenes import Scene

Box = tuple[float, float, float, float]
Case = tuple[list[Scene], list[Boxes]]

CLASSES = 3
FAR: Box = (900, 900, 950, 950)  # where nothing is drawn


def scene(*objects: tuple[Box, int], ignored: Sequence[int] = ()) -> Scene:
    """Boxes with labels, some of which, by their number, are ignored."""
    boxes, labels = _tensors(objects)
    skipped = torch.tensor([number in ignored for number in range(len(objects))], dtype=torch.bool)
    return Scene(Path("image.jpg"), boxes, labels, skipped, areas(boxes))


def areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def found(*objects: tuple[Box, int], scores: Sequence[float] | None = None) -> Boxes:
    """Boxes with labels, and scores, which fall if they are not given."""
    falling = [1 - number / 100 for number in range(len(objects))]
    return Boxes(*_tensors(objects), torch.tensor(scores or falling))


def _tensors(objects: Sequence[tuple[Box, int]]) -> tuple[Tensor, Tensor]:
    boxes = torch.tensor([box for box, _ in objects]).float().view(-1, 4)
    return boxes, torch.tensor([label for _, label in objects], dtype=torch.int64)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A few images whose objects and detections often overlap, and often by the same.

    Boxes lie on a coarse grid, objects are of all of COCO's sizes, and no two scores are equal.
    """
    sides = st.tuples(st.integers(0, 4), st.integers(1, 6))
    box = st.tuples(sides, sides).map(
        lambda s: (25.0 * s[0][0], 25.0 * s[1][0], 25.0 * sum(s[0]), 25.0 * sum(s[1]))
    )
    objects = st.lists(st.tuples(box, st.integers(0, CLASSES - 1)), max_size=5)
    images = range(draw(st.integers(1, 3)))
    scenes = []
    for annotated in [draw(objects) for _ in images]:
        ignored = draw(st.lists(st.sampled_from(range(len(annotated))))) if annotated else []
        scenes.append(scene(*annotated, ignored=ignored))
    guesses = [draw(objects) for _ in images]
    ranks = iter(draw(st.permutations(range(1, 1 + sum(map(len, guesses))))))
    return scenes, [found(*each, scores=[next(ranks) / 20 for _ in each]) for each in guesses]


def counted(case: Case) -> bool:
    """Whether there is an object that is not ignored."""
    return any((~each.ignored).any() for each in case[0])


def shuffled(case: Case, seed: int) -> Case:
    """The same in another order of images, and of detections in each."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(case[0]), generator=draw).tolist()
    return [case[0][i] for i in order], [_shuffled(case[1][i], draw) for i in order]


def _shuffled(boxes: Boxes, draw: torch.Generator) -> Boxes:
    order = torch.randperm(len(boxes.scores), generator=draw)
    return Boxes(boxes.at[order], boxes.labels[order], boxes.scores[order])


def rescored(case: Case, change: Callable[[Tensor], Tensor]) -> Case:
    return case[0], [replace(boxes, scores=change(boxes.scores)) for boxes in case[1]]


def with_detection(case: Case, box: Box, label: int, score: float) -> Case:
    """One more, in the first image."""
    first, *others = case[1]
    return case[0], [_joined(first, found((box, label), scores=[score])), *others]


def with_ignored(case: Case, box: Box, label: int) -> Case:
    """One more object, which is ignored, in the first image."""
    (old, *others), new = case[0], scene((box, label), ignored=[0])
    joined = Scene(
        old.image,
        torch.cat([old.boxes, new.boxes]),
        torch.cat([old.labels, new.labels]),
        torch.cat([old.ignored, new.ignored]),
        torch.cat([old.areas, new.areas]),
    )
    return [joined, *others], case[1]


def with_duplicates(case: Case) -> Case:
    """Everything is found a second time, with a score that is a little lower."""
    again = [replace(boxes, scores=boxes.scores - 0.01) for boxes in case[1]]
    return case[0], [_joined(*both) for both in zip(case[1], again, strict=True)]


def _joined(a: Boxes, b: Boxes) -> Boxes:
    pairs = zip(vars(a).values(), vars(b).values(), strict=True)
    return Boxes(*(torch.cat(pair) for pair in pairs))
