"""Datasets that are read as they are used: the same for all, from any number of processes."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mixbench.bench.data import Dataset, Files, Streamed, _streamed
from mixbench.bench.data._streamed import (
    DIRECTIONS,
    VARIANCES,
    Batch,
    Keys,
    Reader,
    Unreadable,
    sent,
)
from mixbench.bench.spec import BadInput

COLOURS = torch.tensor([(250, 10, 10), (10, 250, 10), (10, 10, 250), (120, 120, 120)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of one colour each, of several sizes, whose left half is darker."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(23):
        pixels = np.empty((40 + i, 60 - i, 3), np.uint8)
        pixels[:] = COLOURS[i % 4].numpy()
        pixels[:, : (60 - i) // 2] //= 2
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture
def data(folder: Path) -> Streamed:
    paths = sorted(folder.iterdir())
    files = Files(np.array([os.fsencode(p) for p in paths]), torch.arange(len(paths)) % 4)
    return Streamed(
        Dataset(files, files, 4), batch=5, size=16, flip=True, jitter=0.0, lighting=0.0, seed=0
    )


@pytest.fixture
def damaged(data: Streamed, tmp_path: Path) -> Streamed:
    """The same, with two files that can't be read."""
    paths = data.dataset.train.paths.copy()  # type: ignore[union-attr]
    for i, content in ((3, b"no image"), (8, Path(os.fsdecode(paths[8])).read_bytes()[:60])):
        path = tmp_path / f"bad-{i}.png"
        path.write_bytes(content)
        paths = np.array([*paths[:i], os.fsencode(path), *paths[i + 1 :]])
    files = Files(paths, data.dataset.train.y)
    return replace(data, dataset=Dataset(files, files, 4), lost={})


def flat(batches: Iterator[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [t for batch in batches for t in batch]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(x.equal(y) for x, y in zip(a, b, strict=True))


def test_an_epoch_is_a_function_of_seed_and_epoch_alone(data: Streamed) -> None:
    data = replace(data, jitter=0.4, lighting=0.1)
    first = flat(data.epoch(3))
    torch.rand(7)  # what a method may draw in between
    assert same(first, flat(data.epoch(3)))
    assert not same(first, flat(data.epoch(4)))
    assert not same(first, flat(replace(data, seed=1).epoch(3)))


def test_the_number_of_workers_changes_nothing(data: Streamed) -> None:
    data = replace(data, jitter=0.4, lighting=0.1)
    assert same(flat(data.epoch(0)), flat(replace(data, workers=2).epoch(0)))
    assert same(flat(data.batches("test")), flat(replace(data, workers=2).batches("test")))


@pytest.mark.parametrize(("batch", "parts"), [(5, 1), (4, 2), (6, 3)])
def test_parts_of_an_epoch_from_any_batch_on_make_up_the_whole(
    data: Streamed, batch: int, parts: int
) -> None:
    data = replace(data, batch=batch, jitter=0.4, lighting=0.1)
    for start in range(data.steps + 1):
        each = [replace(data, part=k, parts=parts).epoch(2, start) for k in range(parts)]
        together = [
            torch.cat(tensors)
            for batches in zip(*each, strict=True)
            for tensors in zip(*batches, strict=True)
        ]
        assert same(together, flat(data.epoch(2))[2 * start :])


def test_only_a_part_is_read(data: Streamed) -> None:
    plain, read = Reader.__getitems__, list[int]()

    def noted(self: Reader, keys: Keys) -> Batch:
        read.append(len(keys))
        return plain(self, keys)

    with patch.object(Reader, "__getitems__", noted):
        list(replace(data, batch=4, part=1, parts=2).epoch(0, start=3))
        assert read == [2, 2]
        list(replace(data, part=1, parts=2).batches("test", 8))
        assert read == [2, 2, 8]
        assert list(replace(data, part=3, parts=4).batches("test", 8)) == []


def test_reading_draws_nothing_from_the_generators_of_others(data: Streamed) -> None:
    before = torch.get_rng_state()
    with (
        patch("torch.cuda._is_in_bad_fork", return_value=False),
        patch("torch.cuda.manual_seed_all") as gpus,
    ):
        flat(replace(data, jitter=0.4, lighting=0.1).epoch(0))
    assert torch.get_rng_state().equal(before)
    gpus.assert_not_called()


def test_batches_are_full_and_targets_belong_to_their_images(data: Streamed) -> None:
    seen = []
    for x, y in data.epoch(0):
        assert x.shape == (5, 3, 16, 16) and y.shape == (5, 4)
        assert x.min() >= 0 and x.max() <= 1
        hue = x.mean((2, 3))
        for colour, target in zip(hue, y, strict=True):
            greys = colour.max() - colour.min() < 0.02
            assert target.argmax() == (3 if greys else colour.argmax())
        seen.append(y)
    assert len(seen) == 4


def test_each_image_comes_once(data: Streamed, folder: Path) -> None:
    y = torch.arange(23)
    paths = data.dataset.train.paths  # type: ignore[union-attr]
    files = Files(paths, y)
    named = replace(data, dataset=Dataset(files, files, 23), batch=23)
    ((_, targets),) = named.epoch(5)
    assert targets.argmax(1).sort().values.equal(y)


def test_a_test_image_is_its_centre_in_order(data: Streamed) -> None:
    x = torch.cat([x for x, _ in data.batches("test", 7)])
    assert [len(x) for x, _ in data.batches("test", 7)] == [7, 7, 7, 2]
    assert torch.cat([y for _, y in data.batches("test")]).equal(torch.arange(23) % 4)
    right = (255 * x[:, :, 8, 12]).round().long()
    assert right.equal(COLOURS[torch.arange(23) % 4])
    left = (255 * x[:, :, 8, 3]).round().long()
    assert left.equal(COLOURS[torch.arange(23) % 4] // 2)


def test_half_of_the_images_are_mirrored(data: Streamed) -> None:
    crops = torch.cat([x for n in range(30) for x, _ in data.epoch(n)])
    left, right = crops[..., :3].mean((1, 2, 3)), crops[..., -3:].mean((1, 2, 3))
    both = (left - right).abs() > 0.02  # those that show both halves
    share = (left > right)[both].double().mean().item()
    assert abs(share - 0.5) < 4 * 0.5 / both.sum().item() ** 0.5
    never = torch.cat([x for n in range(3) for x, _ in replace(data, flip=False).epoch(n)])
    assert (never[..., :3].mean((1, 2, 3)) <= never[..., -3:].mean((1, 2, 3)) + 0.02).all()


def test_jitter_changes_colours_and_its_absence_does_not(data: Streamed) -> None:
    brightest = COLOURS.double().max(1).values / 255
    for x, y in data.epoch(0):
        assert (x.amax((1, 2, 3)) <= brightest[y.argmax(1)] + 1e-2).all()
    changed = torch.cat([x.amax((1, 2, 3)) for x, _ in replace(data, jitter=0.4).epoch(0)])
    assert len(changed.unique()) > 4


def test_lighting_moves_all_pixels_of_an_image_along_the_principal_directions(
    data: Streamed,
) -> None:
    alphas = []
    for (x, y), (plain, same_y) in zip(
        replace(data, lighting=0.1).epoch(0), data.epoch(0), strict=True
    ):
        assert y.equal(same_y)
        change = (x - plain).flatten(2)
        free = ((x > 0) & (x < 1)).flatten(2).all(1, keepdim=True)  # b 1 hw
        for each, where in zip(change, free, strict=True):
            (shift,) = each.masked_select(where).view(3, -1).T.unique(dim=0).mean(0, keepdim=True)
            torch.testing.assert_close(
                each.masked_select(where).view(3, -1),
                shift[:, None].expand(3, int(where.sum())),
                atol=1e-5,
                rtol=0,
            )
            alphas.append(np.linalg.solve(DIRECTIONS * VARIANCES, shift.double().numpy()))
    spread = float(np.std(alphas))
    assert abs(spread - 0.1) < 4 * 0.1 / (2 * 3 * len(alphas)) ** 0.5
    assert np.abs(DIRECTIONS.T @ DIRECTIONS - np.eye(3)).max() < 2e-3


def test_a_file_that_cant_be_read_is_named_and_the_next_one_takes_its_place(
    damaged: Streamed,
) -> None:
    with pytest.warns(Unreadable, match=r"bad-\d.png can't be read .*, and 1 other images"):
        ((x, y),) = replace(damaged, batch=23).epoch(0)
    seen = [i + (i in (3, 8)) for i in range(23)]
    assert len(x) == 23
    assert y.sum(0).tolist() == torch.bincount(torch.tensor(seen) % 4).tolist()


def test_it_is_told_once_and_counted(damaged: Streamed) -> None:
    with pytest.warns(Unreadable):
        list(damaged.batches("test"))
    assert damaged.unreadable == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(damaged.batches("test"))
    assert damaged.unreadable == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_test_does_without_files_that_cant_be_read(damaged: Streamed, workers: int) -> None:
    with pytest.warns(Unreadable):
        y = torch.cat([y for _, y in replace(damaged, workers=workers).batches("test", 1)])
    kept = [i % 4 for i in range(23) if i not in (3, 8)]
    assert y.tolist() == kept


@pytest.mark.parametrize("workers", [0, 2])
def test_a_strict_run_ends_at_a_file_that_cant_be_read(damaged: Streamed, workers: int) -> None:
    with pytest.raises(BadInput, match=r"bad-\d.png can't be read"):
        list(replace(damaged, strict=True, workers=workers).epoch(0))


def test_images_none_of_which_can_be_read_are_refused(data: Streamed, tmp_path: Path) -> None:
    (path := tmp_path / "bad.png").write_bytes(b"")
    bad = Files(np.array([os.fsencode(path)] * 3), torch.arange(3))
    train = data.dataset.train
    with pytest.raises(BadInput, match=r"no image can be read: .*bad.png"):
        list(replace(data, dataset=Dataset(bad, train, 3), batch=3, lost={}).epoch(0))
    with pytest.raises(BadInput, match=r"no image can be read: .*bad.png"):
        list(replace(data, dataset=Dataset(train, bad, 3), lost={}).batches("test"))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_images_of_all_modes_are_seen_in_colour(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.tiff"
    image = Image.radial_gradient("L").resize((16, 16)).convert("RGB").convert(mode)
    image.save(path)
    files = Files(np.array([os.fsencode(path)]), torch.zeros(1, dtype=torch.int64))
    x, _, lost = Reader(files, lambda x: x, replace=False).__getitems__(np.zeros((1, 2), np.int64))
    assert not lost
    assert (x[0].movedim(0, 2).numpy() == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("split", ["train", "test"])
def test_workers_end_when_nobody_wants_more(data: Streamed, split: str) -> None:
    data = replace(data, workers=2)
    before = {*active_children()}
    batches = data.epoch(0) if split == "train" else data.batches(split)
    next(batches)
    assert len({*active_children()} - before) == 2
    batches.close()  # type: ignore[attr-defined]
    assert {*active_children()} <= before


def test_a_fault_in_a_worker_reaches_who_waits_for_it(data: Streamed) -> None:
    def fault(*_: object) -> None:
        raise KeyError("what went wrong")

    with patch.object(Reader, "_seen", fault), pytest.raises(KeyError, match="what went wrong"):
        next(replace(data, workers=2).epoch(0))


def test_a_worker_that_is_killed_is_told_of(data: Streamed) -> None:
    with (
        patch.object(Reader, "_seen", lambda *_: os._exit(9)),
        pytest.raises(RuntimeError, match="exited unexpectedly"),
    ):
        next(replace(data, workers=2).epoch(0))


class Pretended:
    """A GPU of which nothing is there but an account of who waits for whom."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self.now, self.events = "main", 0
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: Queue("side", self))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Queue(self.now, self))
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "Event", lambda blocking: Event(self, blocking))

    @contextmanager
    def on(self, queue: "Queue") -> Iterator[None]:
        self.now, before = queue.name, self.now
        yield
        self.now = before


@dataclass
class Queue:
    name: str
    gpu: Pretended

    def wait_stream(self, other: "Queue") -> None:
        self.gpu.told.append(f"{self.name} waits for {other.name}")

    def record_event(self, event: "Event") -> "Event":
        self.gpu.told.append(f"{self.name} notes {event.number}")
        return event


class Event:
    def __init__(self, gpu: Pretended, blocking: bool) -> None:
        assert blocking  # else a core would be busy with waiting
        self.gpu, self.number = gpu, gpu.events
        gpu.events += 1

    def synchronize(self) -> None:
        self.gpu.told.append(f"host waits for {self.number}")


@dataclass
class Item:
    name: str
    gpu: Pretended

    def to(self, device: torch.device, non_blocking: bool) -> "Item":
        assert device.type == "cuda" and non_blocking
        self.gpu.told.append(f"{self.gpu.now} copies {self.name}")
        return self

    def record_stream(self, queue: Queue) -> None:
        self.gpu.told.append(f"{queue.name} uses {self.name}")


def test_batches_are_copied_to_a_gpu_beside_the_steps_and_not_too_far_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Pretended(monkeypatch)
    pairs: Any = ((Item(f"x{i}", gpu), Item(f"y{i}", gpu)) for i in range(4))
    for x, _ in sent(pairs, torch.device("cuda")):
        gpu.told.append(f"main steps with {x.name}")  # type: ignore[attr-defined]
    steps = [
        [
            f"side copies x{i}",
            f"side copies y{i}",
            "main waits for side",
            f"main uses x{i}",
            f"main uses y{i}",
            f"main steps with x{i}",
            f"main notes {i}",
            *([f"host waits for {i - 2}"] if i >= 2 else []),
        ]
        for i in range(4)
    ]
    assert gpu.told == [line for step in steps for line in step]


def test_pixels_are_pinned_for_a_gpu_alone(data: Streamed) -> None:
    read = Batch(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.zeros(1), {})
    kinds = []
    for kind in ("cpu", "cuda"):
        with (
            patch.object(_streamed, "DataLoader", return_value=[read]) as loader,
            patch.object(_streamed, "sent", lambda batches, device: batches),
        ):
            list(replace(data, device=torch.device(kind)).batches("test"))
        kinds.append(loader.call_args.kwargs["pin_memory"])
    assert kinds == [False, True]
