"""What is heard of a run that somebody works on."""

import json
import time
from dataclasses import asdict

import pytest
import torch

from mixbench.bench.cells import Run
from mixbench.bench.lab import Lab
from mixbench.bench.launch import heartbeat
from mixbench.bench.launch.heartbeat import Beat, Heartbeat

RUN = Run("digits/small", "mixup", 0)
WHOLE = asdict(Beat("training", 1, 2, "host", 1, None, None, 0))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_pace_is_that_of_this_process(lab: Lab, clock: list[float]) -> None:
    heard: list[Beat] = []
    beat = Heartbeat(heartbeat.path(lab.store, RUN), heard.append)
    beat("training", 100, 200, 5000)
    clock[0] += 20
    beat("training", 102.5, 200, 5000)
    first, second = heard
    assert first.images_per_second is None and first.seconds_left is None
    assert second.images_per_second == pytest.approx(2.5 * 5000 / 20)
    assert second.seconds_left == pytest.approx(97.5 * 20 / 2.5)
    assert heartbeat.read(lab.store, RUN) == second
    beat.end()
    assert heartbeat.read(lab.store, RUN) is None


def test_it_is_heard_now_and_then_and_at_once_of_what_is_new(lab: Lab, clock: list[float]) -> None:
    heard: list[Beat] = []
    beat = Heartbeat(heartbeat.path(lab.store, RUN), heard.append)
    for step in range(100):
        clock[0] += heartbeat.SECONDS / 20
        beat("training", step / 100, 1, 1000)
    beat("calibration", 1, 1)
    assert len(heard) == 6
    assert [each.doing for each in heard[-2:]] == ["training", "calibration"]
    assert heard[-1].seconds_left is None


def test_memory_is_known_after_a_step(
    lab: Lab, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 7)
    heard: list[Beat] = []
    beat = Heartbeat(heartbeat.path(lab.store, RUN), heard.append)
    for done in (3, 3.5):
        beat("training", done, 15)
        clock[0] += heartbeat.SECONDS
    beat("calibration", 15, 15)
    assert [each.memory for each in heard] == [0, 7, 7]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"doing": "training"}', "\0", json.dumps(WHOLE | {"done": "y"})]
)
def test_what_is_no_beat_is_not_heard(content: str, lab: Lab) -> None:
    path = heartbeat.path(lab.store, RUN)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert heartbeat.read(lab.store, RUN) is None
