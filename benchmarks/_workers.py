"""Processes that take training steps, each with the package of another revision."""

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
REPOSITORY = HERE.parent


class Refused(Exception):
    """One line: which worker can't do what it was told, and why."""


class Unusable(click.ClickException):
    """What was asked for is not there."""

    exit_code = 2


class Worker:
    """A process with the package that lies in ``root``."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.pipe, theirs = Pipe()
        path = [str(root / ".pkg"), *(folder for folder in sys.path if folder != str(HERE))]
        self.process = subprocess.Popen(  # -S: no editable package is found that is not on the path
            [sys.executable, "-S", "-P", str(HERE / "_steps.py"), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        )
        theirs.close()

    def ask(self, question: str, *arguments: object) -> Any:
        """The answer to a question, a method of ``Steps``. Raises Refused."""
        try:
            self.pipe.send((question, arguments))
            done, answer = self.pipe.recv()
        except (EOFError, OSError):
            raise Refused(f"{self.name}: its process has died") from None
        if not done:
            raise Refused(f"{self.name}: {answer}")
        return answer

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


@contextmanager
def workers(
    folders: dict[str, Path], setting: str, data: Path, device: str, precision: str = "float32"
) -> Iterator[list[Worker]]:
    """A worker for each named folder, ready for the setting. Raises Unusable if there is no such."""
    with ExitStack() as stack:
        ready = []
        for name, folder in folders.items():
            ready.append(worker := Worker(name, folder))
            stack.callback(worker.end)
        for worker in ready:
            try:
                worker.ask("open", setting, str(data), device, precision)
            except Refused as refusal:
                raise Unusable(str(refusal)) from None
        yield ready


@contextmanager
def archived(revision: str) -> Iterator[Path]:
    """A folder with all files of a revision of this repository."""
    commit = f"{revision}^{{commit}}"
    if git("rev-parse", "--verify", "--quiet", "--end-of-options", commit).returncode:
        raise Unusable(f"this repository has no revision {revision!r}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(git("archive", revision).stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, check=False)
