"""What a record says of what made it."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from mixbench.bench import provenance as module
from mixbench.bench.provenance import driver, provenance

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    driver.cache_clear()
    yield
    driver.cache_clear()


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """An nvidia-smi that is found before all others."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_record_names_versions_of_what_is_installed() -> None:
    made = provenance(CPU)
    assert (
        made["versions"].items()
        >= {n: version(n) for n in ("torchvision", "timm", "numpy")}.items()
    )
    assert made["torch"] == torch.__version__ and made["mixbench"] == version("mixbench")


def test_what_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIBRARIES", ("numpy", "no-such-library"))
    module.versions.cache_clear()
    assert provenance(CPU)["versions"] == {"numpy": version("numpy")}
    module.versions.cache_clear()


def test_changing_a_record_changes_no_other() -> None:
    provenance(CPU)["versions"].clear()
    assert provenance(CPU)["versions"]


def test_the_command_is_named_where_it_is_known() -> None:
    assert provenance(CPU, "mixbench run quickstart")["command"] == "mixbench run quickstart"
    assert "command" not in provenance(CPU)


def test_a_record_of_a_gpu_names_cuda_and_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU, {device}")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    pretend(tmp_path, monkeypatch, 'echo "$@" > "$0.asked"; echo 580.65.06; echo 580.65.06')
    made = provenance(GPU)
    assert (made["device"], made["cuda"], made["driver"]) == ("a GPU, cuda:0", "13.2", "580.65.06")
    asked = (tmp_path / "nvidia-smi.asked").read_text()
    assert asked == "--query-gpu=driver_version --format=csv,noheader\n"
    assert not {"cuda", "driver"} & provenance(CPU).keys()


def test_the_driver_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, 'echo asked >> "$0.asked"; echo 580.65.06')
    assert driver() == driver() == "580.65.06"
    assert (tmp_path / "nvidia-smi.asked").read_text() == "asked\n"


@pytest.mark.parametrize("script", ["exit 9", "exit 0"])
def test_a_driver_that_does_not_answer_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    pretend(tmp_path, monkeypatch, script)
    assert driver() is None


def test_without_the_tool_the_driver_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert driver() is None
