"""What made a record: versions, commit, machine, command, time."""

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve()  # it may be imported through a link

LIBRARIES = (
    "torchvision",
    "timm",
    "numpy",
    "torchattacks",
    "mmdet",
    "mmengine",
    "mmcv-lite",
    "umap-learn",
)
"""What numbers depend on, beside torch; some need not be installed."""


def provenance(device: torch.device, command: str = "") -> dict[str, Any]:
    """What makes a record on the device; ``command`` is what the user typed, if that is known."""
    made = {
        "mixbench": version("mixbench"),
        "commit": commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "versions": dict(versions()),
        "device": device_name(device),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if device.type == "cuda":
        made |= {"cuda": torch.version.cuda, "driver": driver()}
    if command:
        made |= {"command": command}
    return made


@cache
def versions() -> dict[str, str]:
    """Those of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def driver() -> str | None:
    """The version of the GPUs' driver; None if it can't be asked."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = _output(query)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.partition("\n")[0] or None


@cache
def commit() -> str | None:
    """The commit that the code is from, with "-dirty" if files were changed; None outside git."""
    try:
        _git("ls-files", "--error-unmatch", str(HERE))
        return _git("describe", "--always", "--dirty")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    return _output(["git", "-C", str(HERE.parent), *arguments])


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}"
