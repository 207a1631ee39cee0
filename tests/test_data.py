"""Datasets in batches: the same for all methods, whole, and refused where they don't fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mixbench.bench.data import Dataset, Held, Images, _held, digits, held
from mixbench.bench.data._held import _cropped
from mixbench.bench.spec import BadInput


def numbered(n: int = 20, size: int = 6) -> Images:
    """Images whose first channel numbers their pixels, and whose second is their own number."""
    x = torch.zeros(n, 3, size, size, dtype=torch.uint8)
    x[:, 0] = torch.arange(1, size * size + 1).view(size, size)
    x[:, 1] = torch.arange(n)[:, None, None]
    return Images(x, torch.arange(n) % 4)


def ramp(n: int = 20, size: int = 6) -> Dataset:
    images = numbered(n, size)
    return Dataset(images, images, 4, (0.5,) * 3, (0.5,) * 3)


def epoch(number: int, seed: int = 0, crop: int = 1, flip: bool = True) -> list[Tensor]:
    data = Held(ramp(), batch=6, crop=crop, flip=flip, seed=seed)
    return [t for batch in data.epoch(number) for t in batch]


def test_an_epoch_is_a_function_of_seed_and_epoch_alone() -> None:
    first = epoch(3, seed=1)
    torch.rand(7)  # what a method may draw in between
    assert all(a.equal(b) for a, b in zip(first, epoch(3, seed=1), strict=True))
    assert not all(a.equal(b) for a, b in zip(first, epoch(4, seed=1), strict=True))
    assert not all(a.equal(b) for a, b in zip(first, epoch(3, seed=2), strict=True))


@given(
    together=st.integers(1, 40),
    batch=st.integers(1, 20),
    start=st.integers(0, 20),
    grey=st.booleans(),
    augmented=st.booleans(),
)
def test_how_many_images_are_cropped_together_changes_nothing(
    together: int, batch: int, start: int, grey: bool, augmented: bool
) -> None:
    images = Images(numbered().x[:, : 1 if grey else 3], numbered().y)
    data = Held(Dataset(images, images, 4), batch, crop=int(augmented), flip=augmented, seed=0)
    with patch.object(_held, "AT_ONCE", 1):
        expected = [*data.epoch(1)][start:]
    with patch.object(_held, "AT_ONCE", together):
        found = [*data.epoch(1, start)]
    for (x, y), (same_x, same_y) in zip(found, expected, strict=True):
        assert x.equal(same_x) and y.equal(same_y)


class Calls(TorchDispatchMode):
    """Counts what is called of torch, but for views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def test_a_batch_takes_few_kernels() -> None:
    data = Held(ramp(1024), batch=128, crop=1, flip=True, seed=0, smoothing=0.1)
    with Calls() as calls:
        batches = [*data.epoch(0)]
    assert 0 < calls.count < 6 * len(batches)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_epoch_reads_nothing_back_from_its_device(smoothing: float) -> None:
    there = held(ramp(), torch.device("meta"))  # whose tensors have no values that could be read
    batches = [*Held(there, batch=6, crop=1, flip=True, seed=0, smoothing=smoothing).epoch(0)]
    assert [(x.shape, y.shape) for x, y in batches] == [((6, 3, 6, 6), (6, 4))] * 3
    assert {t.device.type for batch in batches for t in batch} == {"meta"}


def test_batches_are_full_and_each_image_comes_once() -> None:
    batches = epoch(0, crop=0, flip=False)
    assert [len(x) for x in batches[::2]] == [6, 6, 6]
    numbers = torch.cat([255 * x[:, 1, 0, 0] for x in batches[::2]]).round().int().tolist()
    assert len(set(numbers)) == 18


@given(start=st.integers(0, 3), parts=st.sampled_from([1, 2, 3]), number=st.integers(0, 5))
def test_parts_of_an_epoch_from_any_batch_on_make_up_the_whole(
    start: int, parts: int, number: int
) -> None:
    whole = Held(ramp(), batch=6, crop=1, flip=True, seed=0)
    assert whole.steps == 3
    each = [replace(whole, part=k, parts=parts).epoch(number, start) for k in range(parts)]
    expected = [*whole.epoch(number)][start:]
    for batches, batch in zip(zip(*each, strict=True), expected, strict=True):
        for together, tensor in zip(map(torch.cat, zip(*batches, strict=True)), batch, strict=True):
            assert together.equal(tensor)


def test_parts_of_a_split_are_its_batches_in_turn() -> None:
    whole = Held(ramp(), batch=6, crop=1, flip=True, seed=0)
    first, second = ([*replace(whole, part=k, parts=2).batches("test", 8)] for k in range(2))
    expected = [x for x, _ in whole.batches("test", 8)]
    assert [len(x) for x, _ in first] == [8, 4]
    for (x, _), same in zip([first[0], *second, first[1]], expected, strict=True):
        assert x.equal(same)


def test_targets_are_one_hot_and_belong_to_their_images() -> None:
    x, y = epoch(0, crop=0)[:2]
    assert y.sum(1).eq(1).all() and y.dtype == torch.float32
    assert y.argmax(1).equal((255 * x[:, 1, 0, 0]).round().long() % 4)


def test_a_crop_is_a_window_of_the_padded_image() -> None:
    x = numbered(9, 6).x
    corner = torch.tensor([(i, j) for i in range(3) for j in range(3)])
    out = _cropped(x, 1, corner, torch.zeros(9, dtype=torch.bool))
    padded = torch.nn.functional.pad(x, [1] * 4)
    for image, (i, j) in enumerate(corner.tolist()):
        assert out[image].equal(padded[image, :, i : i + 6, j : j + 6])


def test_a_mirrored_crop_is_the_crop_mirrored() -> None:
    x, corner = numbered(9, 6).x, torch.randint(0, 3, (9, 2))
    plain = _cropped(x, 1, corner, torch.zeros(9, dtype=torch.bool))
    assert _cropped(x, 1, corner, torch.ones(9, dtype=torch.bool)).equal(plain.flip(-1))


@given(
    shape=st.tuples(st.integers(1, 4), st.sampled_from([1, 3]), *[st.integers(1, 7)] * 2),
    pad=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_crops_of_any_shape_are_those_of_slices(
    shape: tuple[int, ...], pad: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    b, _, h, w = shape
    x = torch.randint(256, shape, generator=draw, dtype=torch.uint8)
    corner = torch.randint(2 * pad + 1, (b, 2), generator=draw)
    mirror = torch.randint(2, (b,), generator=draw).bool()
    padded = torch.nn.functional.pad(x, [pad] * 4)
    expected = torch.stack(
        [
            each[:, i : i + h, j : j + w].flip(-1) if turned else each[:, i : i + h, j : j + w]
            for each, (i, j), turned in zip(padded, corner.tolist(), mirror, strict=True)
        ]
    )
    assert _cropped(x, pad, corner, mirror).equal(expected)


def test_grey_images_get_three_channels() -> None:
    grey = Images(numbered().x[:, :1], numbered().y)
    data = Held(Dataset(grey, grey, 4), batch=6, crop=1, flip=True, seed=0)
    for x, _ in [*data.epoch(0), *data.batches("test")]:
        assert x.shape[1:] == (3, 6, 6)
        assert x[:, 0].equal(x[:, 1]) and x[:, 0].equal(x[:, 2])


def test_smoothing_spreads_a_share_of_each_target_over_all_classes() -> None:
    data = Held(ramp(), batch=6, crop=1, flip=False, seed=0, smoothing=0.2)
    plain = Held(ramp(), batch=6, crop=1, flip=False, seed=0)
    for (x, y), (same_x, sharp) in zip(data.epoch(1), plain.epoch(1), strict=True):
        torch.testing.assert_close(y, 0.8 * sharp + 0.2 / 4)
        assert x.equal(same_x)


def test_half_of_the_images_are_mirrored_and_every_corner_is_drawn() -> None:
    data = Held(ramp(200, 6), batch=200, crop=1, flip=True, seed=0)
    seen = [(255 * x[:, 0]).round().int() for number in range(20) for x, _ in data.epoch(number)]
    images = torch.cat(seen)
    mirrored = (images[:, 2, 3] < images[:, 2, 2]).double().mean().item()
    assert abs(mirrored - 0.5) < 4 * 0.5 / len(images) ** 0.5
    assert len(images[:, 2, 2].unique()) >= 9


def test_evaluation_sees_all_images_in_order_unchanged() -> None:
    data = Held(ramp(), batch=6, crop=1, flip=True, seed=0)
    x = torch.cat([x for x, _ in data.batches("test")])
    assert (255 * x).round().to(torch.uint8).equal(numbered().x)
    assert [len(x) for x, _ in data.batches("test", size=8)] == [8, 8, 4]


def test_the_digits_are_all_there_and_split_by_class() -> None:
    dataset = digits.read(Path("nowhere"))
    assert (len(dataset.train), len(dataset.test)) == (1297, 500)
    assert isinstance(dataset.train, Images)
    assert dataset.train.x.shape[1:] == (3, 8, 8)
    assert dataset.train.x.max() == 255
    assert dataset.test.y.bincount().min() >= 48
    dataset.check(64)


def test_what_is_held_out_is_a_share_of_each_class_and_not_trained_on() -> None:
    dataset = digits.read(Path("nowhere"))
    parted, again = (dataset.hold_out(0.2) for _ in range(2))
    train, rest = parted.train, parted.held_out
    assert isinstance(train, Images) and isinstance(rest, Images) and again.held_out
    assert (len(train), len(rest)) == (1037, 260)
    assert rest.y.equal(again.held_out.y)
    assert (rest.y.bincount() / dataset.train.y.bincount() - 0.2).abs().max() < 0.01
    together = torch.cat([train.x, rest.x]).flatten(1)
    everything = dataset.train.x.flatten(1)  # type: ignore[union-attr]
    assert sorted(together.tolist()) == sorted(everything.tolist())
    assert parted.test is dataset.test
    assert dataset.hold_out(0) is dataset


def test_a_class_of_one_image_can_not_be_parted() -> None:
    alone = Images(numbered().x, torch.tensor([0] * 19 + [1]))
    with pytest.raises(BadInput, match=r"holdout=0.5 of the training images: .* least"):
        Dataset(alone, alone, 2).hold_out(0.5)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_what_is_held_out_leaves_no_class_out(share: float) -> None:
    few = Images(numbered().x, torch.tensor([0] * 18 + [1] * 2))
    with pytest.raises(BadInput, match=f"holdout={share} leaves a class without training images"):
        Dataset(few, few, 2).hold_out(share)


def test_one_class_is_none() -> None:
    alone = Images(numbered().x, torch.zeros(20, dtype=torch.int64))
    with pytest.raises(BadInput, match="there should be 2 classes or more, not 1"):
        Dataset(alone, alone, 1).check(6)


@pytest.mark.parametrize(
    ("batch", "classes", "why"),
    [
        (21, 4, "20 training images can't fill a batch of 21"),
        (6, 5, "of 5 classes, the training images have 4, from 0 to 3"),
    ],
)
def test_what_does_not_fit_is_refused(batch: int, classes: int, why: str) -> None:
    dataset = Dataset(numbered(), numbered(), classes)
    with pytest.raises(BadInput, match=why):
        dataset.check(batch)
