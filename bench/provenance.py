"""What made a record: versions, commit, machine, time."""

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve()  # it may be imported through a link


def provenance(device: torch.device) -> dict[str, Any]:
    return {
        "mixbench": version("mixbench"),
        "commit": commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": device_name(device),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def commit() -> str | None:
    """The commit that the code is from, with "-dirty" if files were changed; None outside git."""
    try:
        _git("ls-files", "--error-unmatch", str(HERE))
        return _git("describe", "--always", "--dirty")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(HERE.parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}"
