"""GPUs that runs are pinned to, on a machine that only pretends to have them."""

import os
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixbench.bench.launch.gpus import MARGIN, SPARE, Gpus, free_memory, visible
from mixbench.bench.spec import BadInput

GIB = 2**30


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch sees four GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """An nvidia-smi that runs ``script``."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def plenty() -> dict[str, int]:
    return {str(i): 80 * GIB for i in range(8)}


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("device", "names"),
    [("auto", "0123"), ("cuda", "0123"), ("cuda:2", "2"), ("cpu", ""), ("mps", "")],
)
def test_a_device_stands_for_the_gpus_that_it_names(device: str, names: str) -> None:
    assert visible(device) == tuple(names)


@pytest.mark.usefixtures("four")
def test_only_gpus_that_this_process_sees_are_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa, 7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert visible("cuda") == ("GPU-aa", "7")
    assert visible("cuda:1") == ("7",)


def test_free_memory_is_known_by_number_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path, monkeypatch, "echo 0, GPU-aa, 100; echo 1, GPU-bb, 200")
    free = free_memory()
    assert free == {"0": 100 << 20, "GPU-aa": 100 << 20, "1": 200 << 20, "GPU-bb": 200 << 20}


@pytest.mark.parametrize("script", ["exit 9", "echo No devices were found"])
def test_what_can_not_be_asked_is_not_free(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path, monkeypatch, script)
    assert free_memory() == {}


def test_without_gpus_nobody_waits_for_one() -> None:
    gpus = Gpus((), each=2)
    gpus.check()
    assert [gpus.take(i, "a") for i in range(3)] == [(), (), ()]


def test_runs_are_spread_over_the_gpus_first() -> None:
    gpus = Gpus(("0", "1", "2"))
    assert {gpus.take(i, "a") for i in range(3)} == {("0",), ("1",), ("2",)}
    assert gpus.take(3, "a") is None
    gpus.give_back(1)
    assert gpus.take(4, "a") == ("1",)


def test_several_gpus_for_a_run_are_its_own() -> None:
    gpus = Gpus(("0", "1", "2", "3", "4"), each=2, free=plenty)
    first, second = gpus.take(1, "a"), gpus.take(2, "a")
    assert first and second and not set(first) & set(second)
    gpus.note(1, GIB)
    gpus.note(2, GIB)
    assert gpus.take(3, "a") is None


def test_more_gpus_than_there_are_is_one_line() -> None:
    with pytest.raises(BadInput, match="a run asks for 4 GPUs, and there are 2 to use here"):
        Gpus(("0", "1"), each=4).check()


def test_a_gpu_is_shared_once_it_is_known_that_memory_allows() -> None:
    free = {"0": 10 * GIB}
    gpus = Gpus(("0",), free=lambda: free)
    assert gpus.take("first", "a") == ("0",)
    assert gpus.take("second", "a") is None
    gpus.note("first", 4 * GIB)
    assert gpus.take("second", "b") is None  # nobody has seen what that setting needs
    free["0"] = int(MARGIN * 4 * GIB) + SPARE
    assert gpus.take("second", "a") is None
    free["0"] += 1
    assert gpus.take("second", "a") == ("0",)
    assert gpus.take("third", "a") is None  # the second has not said yet what it holds
    gpus.note("second", 2 * GIB)
    assert gpus.take("third", "a") == ("0",)


def test_a_share_of_a_gpu_is_the_users_word() -> None:
    gpus = Gpus(("0",), 0.5, free=dict)
    assert [gpus.take(i, "a") for i in range(3)] == [("0",), ("0",), None]


def test_a_gpu_of_unknown_memory_is_not_shared() -> None:
    gpus = Gpus(("0",), free=dict)
    gpus.take("first", "a")
    gpus.note("first", GIB)
    assert gpus.take("second", "a") is None


@given(st.integers(2, 4), st.sampled_from([0.25, 0.3, 0.5, 1.0, 2.0]), st.integers(1, 30))
def test_no_gpu_has_more_runs_than_its_share_allows(n: int, each: float, runs: int) -> None:
    gpus = Gpus(tuple(map(str, range(n))), each, free=plenty)
    for run in range(runs):
        if gpus.take(run, "a"):
            gpus.note(run, GIB)
    on = [[run for run, (pinned, *_) in gpus.held.items() if name in pinned] for name in gpus.names]
    if each < 1:
        assert max(map(len, on)) <= 1 / each
        assert len(gpus.held) == min(runs, n * int(1 / each))
    if each > 1:
        assert max(map(len, on)) <= 1
        assert len(gpus.held) == min(runs, n // 2)
