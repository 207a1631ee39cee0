"""Scenes as a detector sees them: what a step sees, and that boxes are where their objects are."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from mixbench.tasks._detection import views as module
from mixbench.tasks._detection.detector import Boxes
from mixbench.tasks._detection.views import shorter, square, to_test, to_tune
from mixbench.tasks._scenes import Scene

Batches = Iterator[tuple[list[Tensor], list[Boxes]]]
Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

T = TypeVar("T")

WHITE, RED = (255, 255, 255), (255, 0, 0)
N, BATCH = 7, 3


def draw(path: Path, w: int, h: int, objects: Sequence[Box], colours: Sequence[Colour]) -> Scene:
    """Rectangles on black; their labels count them."""
    pixels = np.zeros((h, w, 3), np.uint8)
    for (left, top, right, bottom), colour in zip(objects, colours, strict=True):
        pixels[int(top) : int(bottom), int(left) : int(right)] = colour
    Image.fromarray(pixels).save(path)
    k = len(objects)
    boxes = torch.tensor(objects).float().view(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return Scene(path, boxes, torch.arange(k), torch.zeros(k, dtype=torch.bool), areas)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    """Portraits and landscapes with a white rectangle each, whose label is the scene's number."""
    folder = tmp_path_factory.mktemp("scenes")
    return [
        replace(
            draw(folder / f"{i}.png", 200 - 15 * i, 130 + 10 * i, [(20, 30, 70, 95)], [WHITE]),
            labels=torch.tensor([i]),
        )
        for i in range(N)
    ]


@pytest.fixture
def scene(tmp_path: Path) -> Callable[..., Scene]:
    """Draws one, of 200 x 150 pixels."""

    def scene(*objects: Box, colours: Sequence[Colour] = (), name: str = "scene.png") -> Scene:
        return draw(tmp_path / name, 200, 150, objects, colours or [WHITE] * len(objects))

    return scene


def floats(batches: Iterable[tuple[list[Tensor], T]]) -> Iterator[tuple[list[Tensor], T]]:
    """Images in [0, 1]."""
    return (([image / 255 for image in images], rest) for images, rest in batches)


def in_tuning(*args: Any, **settings: Any) -> Batches:
    return floats(to_tune(*args, **settings))


def in_test(*args: Any, **settings: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    return floats(to_test(*args, **settings))


def tune(
    scenes: Sequence[Scene],
    steps: range = range(6),
    augment: bool = True,
    batch: int = BATCH,
    workers: int = 0,
    seed: int = 5,
    fill: tuple[float, ...] = (0.0, 0.0, 0.0),
) -> Batches:
    return in_tuning(scenes, square(64), augment, batch, steps, workers, seed, fill)


def views(scene: Scene, n: int, augment: bool = True) -> Iterator[tuple[Tensor, Boxes]]:
    for images, truths in tune([scene], range(n), augment, batch=1):
        yield images[0], truths[0]


def flat(batches: Batches) -> list[list[Tensor]]:
    """The tensors of each step."""
    return [[*images, *(t for b in truths for t in vars(b).values())] for images, truths in batches]


def same(a: list[list[Tensor]], b: list[list[Tensor]]) -> bool:
    return len(a) == len(b) and all(
        len(p) == len(q) and all(s.equal(t) for s, t in zip(p, q, strict=True))
        for p, q in zip(a, b, strict=True)
    )


def seen(batches: Batches) -> list[int]:
    """The label of the first object of each view, in order."""
    return [int(b.labels[0]) for _, truths in batches for b in truths]


def extent(image: Tensor, level: float = 0.25) -> Tensor:
    """What is bright in an image: left, top, right, bottom."""
    y, x = (image.amax(0) > level).nonzero().unbind(1)
    return torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()


@pytest.fixture(scope="module")
def steps(scenes: list[Scene]) -> list[list[Tensor]]:
    return flat(tune(scenes, range(8)))


@settings(max_examples=12, deadline=None)
@given(start=st.integers(0, 8), draws=st.integers(0, 3))
def test_a_step_sees_the_same_wherever_one_starts(
    scenes: list[Scene], steps: list[list[Tensor]], start: int, draws: int
) -> None:
    torch.rand(draws)  # what training may draw in between
    assert same(flat(tune(scenes, range(start, 8))), steps[start:])


def test_another_seed_and_another_step_see_something_else(
    scenes: list[Scene], steps: list[list[Tensor]]
) -> None:
    assert not same(flat(tune(scenes, range(8), seed=6)), steps)
    assert seen(tune(scenes, range(8), seed=6)) != seen(tune(scenes, range(8)))
    alone = [image for images, _ in tune(scenes[:1], range(9)) for image in images]
    assert len({image.numpy().tobytes() for image in alone}) > 20


@pytest.mark.parametrize("augment", [True, False])
def test_the_number_of_workers_changes_nothing(scenes: list[Scene], augment: bool) -> None:
    here, there = (flat(tune(scenes, augment=augment, workers=n)) for n in (0, 2))
    assert same(here, there)


def test_workers_change_nothing_in_a_test(scenes: list[Scene]) -> None:
    here, there = (list(in_test(scenes, shorter(40, 50), 3, n)) for n in (0, 2))
    parts = [[[*images, *factors] for images, factors in batches] for batches in (here, there)]
    assert same(*parts)


@pytest.mark.parametrize("batch", [1, 3, 7, 16])
def test_each_pass_sees_each_scene_once_in_a_new_order(scenes: list[Scene], batch: int) -> None:
    batches = list(tune(scenes, range(-(-3 * N // batch)), augment=False, batch=batch))
    assert {len(images) for images, _ in batches} == {batch}
    order = seen(iter(batches))
    passes = [order[first : first + N] for first in range(0, 3 * N, N)]
    assert [sorted(each) for each in passes] == [list(range(N))] * 3
    assert len({tuple(each) for each in passes}) == 3


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    """13 small portraits and landscapes, and a square, whose labels number them."""
    folder = tmp_path_factory.mktemp("many")
    return [
        replace(
            draw(folder / f"{i}.png", *((9, 5), (5, 9))[i % 3 == 1], [(1, 1, 4, 4)], [WHITE]),
            labels=torch.tensor([i]),
        )
        for i in range(13)
    ] + [replace(draw(folder / "13.png", 7, 7, [(1, 1, 4, 4)], [WHITE]), labels=torch.tensor([13]))]


def grouped(scenes: Sequence[Scene], steps: range, batch: int, on: bool = True) -> Batches:
    keep = shorter(8, longest=20)
    return in_tuning(scenes, keep, False, batch, steps, 0, seed=5, grouped=on)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 14, 16])
def test_batches_are_of_one_shape_but_for_two_in_a_pass(many: list[Scene], batch: int) -> None:
    passes = 6
    batches = [*grouped(many, range(-(-passes * len(many) // batch)), batch)]
    assert {len(images) for images, _ in batches} == {batch}
    order = seen(iter(batches))
    for first in range(0, passes * len(many), len(many)):
        assert sorted(order[first : first + len(many)]) == [*range(len(many))]
    mixed = [
        len({image.shape[2] >= image.shape[1] for image in images}) > 1 for images, _ in batches
    ]
    assert sum(mixed) <= 2 * passes
    if batch <= 3:
        plain = grouped(many, range(len(batches)), batch, on=False)
        shapes = [{i.shape[2] >= i.shape[1] for i in images} for images, _ in plain]
        assert sum(mixed) < sum(len(each) > 1 for each in shapes) or batch == 1


@settings(max_examples=12, deadline=None)
@given(start=st.integers(0, 12), batch=st.integers(1, 6))
def test_a_step_of_groups_sees_the_same_wherever_one_starts(
    many: list[Scene], start: int, batch: int
) -> None:
    whole = flat(grouped(many, range(12), batch))
    assert same(flat(grouped(many, range(start, 12), batch)), whole[start:])


@pytest.mark.parametrize("batch", [1, 3, 4, 11])
@pytest.mark.parametrize("wide", [True, False])
def test_images_of_one_shape_come_in_the_order_without_groups(
    many: list[Scene], wide: bool, batch: int
) -> None:
    alike = [scene for i, scene in enumerate(many[:13]) if (i % 3 != 1) == wide]
    assert same(
        flat(grouped(alike, range(9), batch)), flat(grouped(alike, range(9), batch, on=False))
    )


def test_groups_take_a_file_that_can_not_be_read_and_name_it_later(
    many: list[Scene], tmp_path: Path
) -> None:
    lost = [*many[:5], replace(many[5], image=tmp_path / "no.png")]
    batches = grouped(lost, range(9), 2)
    with pytest.raises(ValueError, match=r"no\.png can't be used"):
        list(batches)


@pytest.mark.parametrize("pinned", [True, False])
def test_pixels_are_pinned_when_asked_for(scenes: list[Scene], pinned: bool) -> None:
    with patch.object(module, "DataLoader", return_value=[]) as loader:
        list(to_tune(scenes, square(9), False, 2, range(1), 0, 0, pinned=pinned))
        list(to_test(scenes, square(9), 2, 0, pinned=pinned))
    assert [call.kwargs["pin_memory"] for call in loader.call_args_list] == [pinned] * 2


def test_pinning_which_may_turn_tuples_into_lists_changes_nothing(
    scenes: list[Scene], steps: list[list[Tensor]]
) -> None:
    class Lists(list[Any]):
        """A loader whose batches are lists through and through, as torch once pinned them."""

        def __init__(self, *args: Any, **settings: Any) -> None:
            assert settings.pop("pin_memory")
            super().__init__(map(listed, DataLoader(*args, **settings)))

    with patch.object(module, "DataLoader", Lists):
        there = to_tune(scenes, square(64), True, BATCH, range(8), 0, 5, (0.0,) * 3, pinned=True)
        assert same(flat(floats(there)), steps)


def listed(batch: Any) -> Any:
    return [listed(part) for part in batch] if isinstance(batch, (tuple, list)) else batch


def test_a_late_start_does_not_read_what_came_before(scenes: list[Scene], tmp_path: Path) -> None:
    first, *rest = seen(tune(scenes, range(N), batch=1))
    lost = [
        replace(s, image=tmp_path / "no.png") if i == first else s for i, s in enumerate(scenes)
    ]
    assert seen(tune(lost, range(1, N), batch=1)) == rest
    with pytest.raises(ValueError, match=r"no\.png"):
        next(tune(lost, range(N), batch=1))


@pytest.mark.parametrize("augment", [True, False])
def test_boxes_are_where_their_objects_are(scenes: list[Scene], augment: bool) -> None:
    for images, truths in tune(scenes, range(50), augment):
        for image, truth in zip(images, truths, strict=True):
            assert (truth.at - extent(image)).abs().max() < 1


def test_without_augmentation_all_is_seen_and_half_of_it_mirrored(
    scene: Callable[..., Scene],
) -> None:
    truths = [truth.at for _, truth in views(scene((20, 30, 100, 120)), 200, augment=False)]
    plain, mirrored = torch.tensor([[6.4, 12.8, 32, 51.2], [32, 12.8, 57.6, 51.2]])
    kinds = [at.allclose(plain) - at.allclose(mirrored) for at in truths]
    assert set(kinds) == {1, -1}
    assert abs(sum(kinds)) < 4 * 200**0.5


def test_augmentation_makes_objects_smaller_and_larger_and_changes_colours(
    scene: Callable[..., Scene],
) -> None:
    small = 64 * 64 * (80 * 90) / (200 * 150)
    sizes, levels = [], []
    for image, truth in views(scene((20, 30, 100, 120), colours=[(150, 120, 90)]), 200):
        (left, top, right, bottom) = truth.at[0].tolist()
        sizes.append((right - left) * (bottom - top) / small)
        levels.append(image[:, int(top + bottom) // 2, int(left + right) // 2])
    assert min(sizes) < 1 / 8 and max(sizes) > 2
    colours = torch.stack(levels)
    assert colours.std(0).min() > 0.05
    assert colours.argmax(1).unique().tolist() == [0, 1, 2]  # channels change places


def test_what_is_around_is_filled_with_a_colour_that_is_not_changed(
    scene: Callable[..., Scene],
) -> None:
    everything = scene((0, 0, 200, 150))
    fill = torch.tensor([204, 102, 51]) / 255
    batches = tune([everything], range(60), batch=1, fill=tuple(fill.tolist()))
    corners = torch.cat([images[0][:, [0, 0, -1, -1], [0, -1, 0, -1]].T for images, _ in batches])
    coloured = corners[(corners.amax(1) - corners.amin(1)) > 0.01]
    assert len(coloured) > 20
    assert (coloured - fill).abs().amax(1).lt(1e-6).float().mean() > 0.9  # but for edges


def test_labels_stay_with_their_boxes(scene: Callable[..., Scene]) -> None:
    both = scene((10, 20, 80, 70), (120, 60, 180, 140), colours=[WHITE, RED])
    counts = []
    for image, truth in views(both, 150):
        counts.append(truth.labels.tolist())
        for (left, top, right, bottom), label in zip(truth.at.tolist(), truth.labels, strict=True):
            colour = image[:, int(top + bottom) // 2, int(left + right) // 2]
            assert (colour.max() - colour.min() > 0.1) == bool(label)
    assert {tuple(labels) for labels in counts} == {(0, 1), (0,), (1,)}


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_a_tiny_image_has_views(side: int, tmp_path: Path) -> None:
    tiny = draw(tmp_path / "tiny.png", side, side, [(0, 0, side, side)], [WHITE])
    assert all(len(truth.at) == 1 for _, truth in views(tiny, 60))


def test_every_view_has_an_object_however_small(scene: Callable[..., Scene]) -> None:
    dots = scene((0, 0, 1, 1), (199, 149, 200, 150), (60, 70, 61.2, 71))
    for _, truth in views(dots, 200):
        assert len(truth.at) == len(truth.labels) == len(truth.scores) > 0
        assert (truth.at[:, 2:] > truth.at[:, :2]).all()
        assert truth.at.min() >= 0 and truth.at.max() <= 64


def test_views_are_bytes_and_truths_are_sure(scenes: list[Scene]) -> None:
    for images, truths in to_tune(scenes, square(64), True, BATCH, range(6), 0, seed=5):
        for image, truth in zip(images, truths, strict=True):
            assert image.shape == (3, 64, 64) and image.dtype == torch.uint8
            assert type(image) is type(truth.at) is Tensor
            assert image.max() > 100
            assert truth.at.dtype == truth.scores.dtype == torch.float32
            assert truth.labels.dtype == torch.int64 and truth.scores.equal(torch.ones(1))


@pytest.mark.parametrize(
    ("h", "w", "resized"),
    [
        (480, 640, (800, 1067)),
        (640, 480, (1067, 800)),
        (500, 1000, (666, 1333)),
        (1000, 100, (1333, 133)),
        (4000, 1, (1333, 1)),
        (1600, 1600, (800, 800)),
    ],
)
def test_the_shorter_side_is_brought_to_800_the_longer_to_at_most_1333(
    h: int, w: int, resized: tuple[int, int]
) -> None:
    assert shorter(800, longest=1333)(h, w) == resized
    assert square(300)(h, w) == (300, 300)


@given(
    h=st.integers(100, 3000),
    w=st.integers(100, 3000),
    side=st.integers(30, 900),
    stretch=st.floats(1.1, 3),
)
def test_shorter_is_torchvisions_resize(h: int, w: int, side: int, stretch: float) -> None:
    from torchvision.transforms.v2 import Resize, functional

    longest = int(stretch * side)
    expected = functional.get_size(Resize(side, max_size=longest)(torch.empty(1, h, w)))
    resized = shorter(side, longest)(h, w)
    assert all(abs(a - b) <= 1 for a, b in zip(resized, expected, strict=True))


@pytest.mark.parametrize("size", [shorter(80, longest=100), shorter(120, 300), square(64)])
def test_factors_bring_boxes_back(
    scenes: list[Scene], size: Callable[[int, int], tuple[int, int]]
) -> None:
    found = [
        pair for batch in in_test(scenes, size, 3, workers=0) for pair in zip(*batch, strict=True)
    ]
    for (image, factors), scene in zip(found, scenes, strict=True):
        with Image.open(scene.image) as file:
            w, h = file.size
        assert image.shape[1:] == size(h, w)
        whole = torch.tensor([0, 0, image.shape[2], image.shape[1]])
        torch.testing.assert_close(whole * factors, torch.tensor([0.0, 0, w, h]))
        assert (extent(image, 0.5) - scene.boxes[0] / factors).abs().max() < 1
        assert (extent(image, 0.5) * factors - scene.boxes[0]).abs().div(factors).max() < 1


def test_training_views_have_their_own_sizes(scenes: list[Scene]) -> None:
    batches = in_tuning(scenes, shorter(80, 100), False, N, range(1), 0, seed=0)
    ((images, truths),) = batches
    shapes = {int(b.labels[0]): image.shape[1:] for image, b in zip(images, truths, strict=True)}
    for i, scene in enumerate(scenes):
        with Image.open(scene.image) as file:
            assert shapes[i] == shorter(80, 100)(file.height, file.width)


def test_a_test_sees_all_scenes_in_order(scenes: list[Scene], scene: Callable[..., Scene]) -> None:
    batches = list(in_test([*scenes, scene()], square(50), 3, workers=0))
    assert [len(images) for images, _ in batches] == [3, 3, 2]
    *images, empty = [image for images, _ in batches for image in images]
    assert empty.max() == 0
    places = torch.stack([extent(image, 0.5) for image in images])
    sizes = torch.tensor([(200 - 15 * i, 130 + 10 * i) for i in range(N)]).repeat(1, 2)
    assert (places - torch.tensor([20, 30, 70, 95]) * 50 / sizes).abs().max() < 1


def test_a_resized_image_is_smoothed(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[::3] = 240
    lines = draw(tmp_path / "lines.png", 64, 64, [(0, 0, 64, 64)], [WHITE])
    Image.fromarray(pixels).save(lines.image)
    ((tested, _),) = in_test([lines], square(8), 1, workers=0)
    ((trained, _),) = in_tuning([lines], square(8), False, 1, range(1), 0, seed=0)
    for image in (*tested, *trained):
        assert (image[:, 1:-1] - 80 / 255).abs().max() < 0.05


def test_ignored_and_empty_objects_are_not_trained_on(scene: Callable[..., Scene]) -> None:
    boxes = [(10, 10, 50, 50), (60, 60, 90, 90), (5, 5, 5.5, 30), (5, 5, 30, 5), (-9, 9, 0.5, 30)]
    some = replace(scene(*boxes), ignored=torch.tensor([False, True, False, False, False]))
    for _, truth in views(some, 5, augment=False):
        assert truth.labels.tolist() == [0]


def test_scenes_without_objects_are_not_trained_on(
    scenes: list[Scene], scene: Callable[..., Scene]
) -> None:
    empty = scene(name="empty.png")
    ignored = replace(scene((10, 10, 50, 50)), ignored=torch.tensor([True]))
    kept = replace(scenes[3], labels=torch.tensor([3]))
    assert set(seen(tune([empty, kept, ignored]))) == {3}
    with pytest.raises(ValueError, match="no scene has an object"):
        tune([empty, ignored])
    with pytest.raises(ValueError, match="no scene has an object"):
        tune([])


def test_boxes_end_where_the_file_does_whatever_was_annotated(
    scene: Callable[..., Scene],
) -> None:
    beyond = scene((-1, 75, 100, 151), (150, 20, 400, 60), (199.5, 0, 260, 50), (300, 0, 350, 50))
    for _, truth in views(beyond, 9, augment=False):
        assert truth.labels.tolist() == [0, 1]
        assert sorted([truth.at[0, 0].item(), 64 - truth.at[0, 2].item()]) == [0, 32]
        assert sorted([truth.at[1, 0].item(), 64 - truth.at[1, 2].item()]) == [0, 48]
        assert truth.at[0, 3] == 64


@pytest.mark.parametrize("workers", [0, 2])
def test_a_scene_whose_objects_are_not_in_its_image_is_named(
    scene: Callable[..., Scene], workers: int
) -> None:
    wrong = scene((300, 0, 350, 50))
    with pytest.raises(
        ValueError, match=r"can't be used \(.*none of its objects lies in its 200 x 150 pixels"
    ) as caught:
        list(tune([wrong], workers=workers))
    assert str(wrong.image) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("content", [None, b"no image", b"half"])
def test_a_file_that_can_not_be_read_is_named(
    scenes: list[Scene], tmp_path: Path, content: bytes | None, training: bool, workers: int
) -> None:
    path = tmp_path / "bad.png"
    if content == b"half":
        content = scenes[0].image.read_bytes()[:120]
    if content:
        path.write_bytes(content)
    among = [*scenes[:4], replace(scenes[4], image=path)]
    with pytest.raises(ValueError, match=r"bad\.png can't be used \(\w+") as caught:
        list(tune(among, workers=workers) if training else in_test(among, square(9), 2, workers))
    assert "\n" not in str(caught.value)


def states() -> list[str]:
    """Of the generators that anyone may draw from."""
    numpy = np.random.get_state(legacy=False)["state"]
    return [str(torch.get_rng_state().tolist()), str(random.getstate()), str(numpy["pos"])]


def test_drawing_takes_nothing_from_the_generators_of_others(scenes: list[Scene]) -> None:
    before = states()
    with (
        patch("torch.cuda._is_in_bad_fork", return_value=False),
        patch("torch.cuda.manual_seed_all") as gpus,
    ):
        for workers in (0, 2):
            list(tune(scenes, workers=workers))
            list(in_test(scenes, square(9), 2, workers))
    assert states() == before
    gpus.assert_not_called()


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "LA"])
def test_images_of_all_modes_become_rgb(
    scene: Callable[..., Scene], tmp_path: Path, mode: str
) -> None:
    original = scene((20, 30, 100, 120))
    path = tmp_path / ("other.tif" if mode == "CMYK" else "other.png")
    with Image.open(original.image) as image:
        image.convert(mode).save(path)
    other = replace(original, image=path)
    ((images, _),) = in_test([original, other], square(50), 2, workers=0)
    assert images[1].equal(images[0])


def test_an_image_is_not_turned_as_exif_says(scene: Callable[..., Scene], tmp_path: Path) -> None:
    original = scene((20, 30, 100, 120))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    with Image.open(original.image) as image:
        image.save(tmp_path / "turned.png", exif=exif)
    turned = replace(original, image=tmp_path / "turned.png")
    (((plain, same), _),) = in_test([original, turned], shorter(50, 80), 2, workers=0)
    assert same.equal(plain)
