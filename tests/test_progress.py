"""Progress: bars on a terminal, plain lines elsewhere."""

import io
import time

import pytest
from rich.console import Console

from mixbench.bench.launch.progress import LiveProgress, Progress


def test_plain_lines_are_few(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    show = Progress(2)
    for epoch in range(90):
        clock += 1
        show.at("a/b/0", "training", epoch, 90)
    show.end("a/b/0", "done")
    assert capsys.readouterr().out.splitlines() == [
        "a/b/0: training, 0 of 90 done",
        "a/b/0: training, 30 of 90 done",
        "a/b/0: training, 60 of 90 done",
        "[1/2] a/b/0: done",
    ]


def test_a_terminal_shows_one_bar_for_all_and_one_for_each_run_at_work() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    show = LiveProgress(3, screen)
    with show.bars:
        for epoch in range(5):
            show.at("a/b/0", "training", epoch, 5)
            show.at("a/b,x=[red]/1", "training", epoch, 5)
        assert [bar.description for bar in show.bars.tasks] == [
            "runs",
            "a/b/0: training",
            "a/b,x=[red]/1: training",
        ]
        show.end("a/b/0", "done")
        assert [bar.completed for bar in show.bars.tasks] == [1, 4]
    assert isinstance(screen.file, io.StringIO)
    assert "[1/3] a/b/0: done" in screen.file.getvalue()
