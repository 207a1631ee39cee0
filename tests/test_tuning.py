"""Fine-tuning: its schedule, and going on where it was cut short."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import pytest
import torch
from questions import Memory
from torch import Tensor, nn

from mixbench.tasks._detection import tuning
from mixbench.tasks._detection.detector import Boxes, Detector
from mixbench.tasks._detection.tuning import Batch, Schedule, Tuning

SCHEDULE = Schedule(20, 8, 0.1, 1e-4, drops=(0.5, 0.75))


class Guess(Detector):
    """Its loss is how far it is from the mean colour; it drops some of what it sees, and counts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.1))
        self.head = nn.Linear(8, 1)
        self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)

    @property
    def backbone(self) -> nn.Module:
        return self.body

    def losses(self, images: Sequence[Tensor], truths: Sequence[Boxes]) -> Mapping[str, Tensor]:
        x = torch.stack([image.mean((1, 2)) for image in images])
        off = self.head(self.body(x)).squeeze(1) - x.mean(1)
        return {"first": off.square().mean(), "second": off.abs().mean()}

    def found(self, images: Sequence[Tensor]) -> list[Boxes]:
        raise NotImplementedError


def batches(steps: range) -> Iterator[Batch]:
    """The same images in the same step."""
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        size = (3, 4, 4)
        yield [torch.randint(256, size, generator=draw, dtype=torch.uint8) for _ in range(8)], []


def tuned(steps: int = SCHEDULE.iterations, desk: Memory | None = None, seed: int = 0) -> Tuning:
    """A detector after some steps, the first ones perhaps before it was cut short."""
    tuned = Tuning(Guess(), SCHEDULE, seed)
    desk = desk or Memory()
    if kept := desk.kept():
        tuned.resume(kept)
    torch.rand(7)  # whatever else is drawn
    tuned.run(batches(range(len(tuned.losses), steps)), desk)
    return tuned


def weights(of: Tuning) -> list[Tensor]:
    return [*of.detector.state_dict().values()]


@pytest.mark.parametrize("cut", [1, 7, 15])
def test_a_tuning_that_was_cut_short_ends_the_same_to_the_bit(cut: int) -> None:
    desk = Memory()
    tuned(cut, desk)
    parts, whole = tuned(desk=desk), tuned()
    assert parts.losses == whole.losses and len(whole.losses) == SCHEDULE.iterations
    assert all(map(torch.equal, weights(parts), weights(whole)))


def test_what_is_drawn_depends_on_the_seed() -> None:
    assert tuned().losses != tuned(seed=1).losses


def test_the_loss_falls_and_what_is_frozen_stays() -> None:
    of = tuned()
    assert sum(of.losses[-5:]) < 0.7 * sum(of.losses[:5])
    assert of.detector.get_parameter("frozen") == 1


def test_the_learning_rate_rises_then_falls_to_a_tenth_twice() -> None:
    schedule = Schedule(1000, 2, 0.5, 0, drops=(0.6, 0.8))
    rates = [schedule.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.5e-3) and rates[50] == pytest.approx(0.25, rel=0.01)
    assert rates[:100] == sorted(rates[:100]) and rates[99] < 0.5
    assert set(rates[100:600]) == {0.5}
    assert rates[600:800] == pytest.approx([0.05] * 200)
    assert rates[800:] == pytest.approx([0.005] * 200)


def test_a_long_schedule_rises_for_five_hundred_steps() -> None:
    schedule = Schedule(90_000, 16, 0.02, 1e-4, drops=(2 / 3, 8 / 9))
    assert schedule.rate(499) < 0.02 == schedule.rate(500) == schedule.rate(59_999)
    assert schedule.rate(60_000) == schedule.rate(79_999) == pytest.approx(0.002)
    assert schedule.rate(80_000) == schedule.rate(89_999) == pytest.approx(0.0002)


def test_each_step_has_the_rate_of_the_schedule() -> None:
    of, seen = Tuning(Guess(), SCHEDULE, 0), []
    for images, truths in batches(range(20)):
        of.step(images, truths)
        seen.append(of.sgd.param_groups[0]["lr"])
    assert seen == [SCHEDULE.rate(step) for step in range(20)]


def test_a_step_is_one_of_sgd_with_momentum_and_weight_decay() -> None:
    of = Tuning(Guess(), SCHEDULE, 0)
    (group,) = of.sgd.param_groups
    assert (group["momentum"], group["weight_decay"]) == (0.9, 1e-4)
    assert len(group["params"]) == 6


def test_losses_are_read_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "READ_STEPS", 3)
    of, whole, read = Tuning(Guess(), SCHEDULE, 0), tuned(7), []
    for number, (images, truths) in enumerate(batches(range(7))):
        of.step(images, truths)
        read.append(len(of.losses))
        assert of.steps == number + 1
    assert read == [0, 0, 3, 3, 3, 6, 6]
    of.read()
    of.read()
    assert of.losses == whole.losses and of.steps == 7


def test_the_clock_starts_when_the_first_step_is_over() -> None:
    read, plain = list[int](), Tuning.read

    def noted(self: Tuning) -> None:
        read.append(self.steps)
        plain(self)

    with patch.object(Tuning, "read", noted):
        tuned(5)
    assert read[0] == 1


def test_it_is_kept_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Memory()
    tuned(4, desk)
    assert [len(state["losses"]) for state in desk.states] == [4]
    monkeypatch.setattr(tuning, "KEEP_SECONDS", 0.0)
    tuned(7, desk)
    assert [len(state["losses"]) for state in desk.states] == [4, 5, 6, 7, 7]


def test_it_says_how_far_it_is() -> None:
    desk = Memory()
    tuned(3, desk)
    assert desk.told == [("tuning a detector", step, 20) for step in range(3)]


def test_seconds_are_those_of_all_its_parts() -> None:
    desk = Memory()
    first = tuned(5, desk).seconds
    whole = tuned(9, desk)
    assert whole.seconds > first > 0
    assert whole.timed == 4 + 3  # but for the first of each part
    assert whole.images_per_second == whole.timed * 8 / whole.seconds


def test_a_single_step_has_no_speed() -> None:
    one = tuned(1)
    assert one.images_per_second is None and one.seconds == 0


def test_a_loss_that_is_not_finite_is_named_with_its_terms() -> None:
    of = Tuning(Guess(), SCHEDULE, 0)
    with pytest.raises(ArithmeticError, match=r"step 1: the loss is nan \(first nan, second nan\)"):
        of.run([([torch.full((3, 2, 2), torch.nan)] * 8, [])], Memory())


def broken(steps: range, at: int) -> Iterator[Batch]:
    """Images of which those of one step are no numbers."""
    for step, batch in zip(steps, batches(steps), strict=True):
        yield ([torch.full((3, 4, 4), torch.nan)] * 8, []) if step == at else batch


def test_the_first_loss_that_is_not_finite_is_named_though_it_is_read_later() -> None:
    of, desk = Tuning(Guess(), SCHEDULE, 0), Memory()
    with pytest.raises(ArithmeticError, match=r"step 6: the loss is nan \(first nan, second nan\)"):
        of.run(broken(range(10), at=5), desk)
    assert len(of.losses) == 5 and not desk.states


class Careful(Guess):
    """Fails when it has lost its weights."""

    def losses(self, images: Sequence[Tensor], truths: Sequence[Boxes]) -> Mapping[str, Tensor]:
        if not all(parameter.isfinite().all() for parameter in self.parameters()):
            raise IndexError("no boxes")
        return super().losses(images, truths)


def test_what_fails_after_a_loss_that_is_not_finite_is_told_as_that() -> None:
    with pytest.raises(ArithmeticError, match=r"step 4: the loss is nan .* try a lower lr"):
        Tuning(Careful(), SCHEDULE, 0).run(broken(range(10), at=3), Memory())


def test_what_fails_for_itself_is_told_as_it_is() -> None:
    of = Tuning(Careful(), SCHEDULE, 0)
    of.detector.get_parameter("frozen").fill_(torch.inf)
    with pytest.raises(IndexError, match="no boxes"):
        of.run(batches(range(3)), Memory())


def test_weights_that_are_not_finite_after_the_last_step_are_told_of() -> None:
    of = Tuning(Guess(), SCHEDULE)
    of.detector.get_parameter("frozen").fill_(torch.inf)
    with pytest.raises(ArithmeticError, match="not finite after the last step; try a lower lr"):
        of.run(batches(range(1)), Memory())


def test_a_state_of_another_origin_is_named_and_left() -> None:
    other = Tuning(Guess(), SCHEDULE, origin="other images")
    with pytest.warns(UserWarning, match="have changed since; it starts again"):
        other.resume(tuned(2).state())
    assert not other.losses


def test_a_state_of_another_detector_is_refused() -> None:
    state: dict[str, Any] = copy.deepcopy(tuned(2).state())
    del state["detector"]["head.weight"]
    with pytest.raises(RuntimeError, match=r"head\.weight"):
        Tuning(Guess(), SCHEDULE, 0).resume(state)
