"""Unpacking what came from elsewhere: no file outside of its folder, no links, no devices."""

import errno
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

from rich.filesize import decimal

from mixbench.bench.spec import BadInput, one_line

PACKED = (".tar", ".tar.gz", ".tgz", ".zip")
FULL = (errno.ENOSPC, errno.EDQUOT)


class _Unfit(Exception):
    """Why an archive is not unpacked, in a few words."""


@dataclass(frozen=True)
class _Member:
    """What an archive holds under a name; ``kind``: a file, a folder, or else, which is refused."""

    name: str
    size: int
    kind: str
    open: Callable[[], Any]

    def check(self) -> None:
        """Raises _Unfit if it does not belong in a folder of data, on any system."""
        path = PureWindowsPath(self.name)  # takes / and \ for separators, and knows drives
        if path.anchor or ".." in path.parts:
            raise _Unfit(f"refused: it holds {self.name!r}, which lies outside of its folder")
        if self.kind not in ("file", "folder"):
            raise _Unfit(f"refused: it holds {self.name!r}, which is a link or a device")

    def write(self, folder: Path) -> None:
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.open() as content, path.open("wb") as file:
            shutil.copyfileobj(content, file)


def unpack(archive: Path, aside: Path) -> None:
    """Unpack into an empty folder. Raises BadInput if there is no room, and the archive is kept.

    Raises it, too, if the archive is damaged or is not to be trusted; then it is deleted.
    """
    try:
        with _opened(archive) as members:
            _write(members, f"what {archive.name} holds", aside)
    except _Unfit as error:
        archive.unlink()
        raise BadInput(f"{archive.name} is {error}") from None


def _write(members: list[_Member], what: str, aside: Path) -> None:
    for member in members:
        member.check()
    files = [member for member in members if member.kind == "file"]
    check_room(what, sum(file.size for file in files), aside)
    try:
        for file in files:
            file.write(aside)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise BadInput(f"{what} finds no room: {error.strerror}; the archive is kept") from None


@contextmanager
def _opened(archive: Path) -> Iterator[list[_Member]]:
    """The members of an archive. Raises _Unfit if it is damaged, whenever that turns out."""
    try:
        with (_zip if archive.suffix == ".zip" else _tar)(archive) as members:
            yield members
    except (BadInput, _Unfit):
        raise
    except Exception as error:  # what is damaged can raise anything
        if isinstance(error, OSError) and error.errno:  # it is the system's
            raise
        raise _Unfit(f"damaged: {one_line(error)}") from None


@contextmanager
def _tar(archive: Path) -> Iterator[list[_Member]]:
    with tarfile.open(archive) as pack:
        yield [
            _Member(
                info.name,
                info.size,
                "file" if info.isreg() else "folder" if info.isdir() else "else",
                partial(pack.extractfile, info),
            )
            for info in pack
        ]


@contextmanager
def _zip(archive: Path) -> Iterator[list[_Member]]:
    with zipfile.ZipFile(archive) as pack:
        yield [
            _Member(info.filename, info.file_size, _kind(info), partial(pack.open, info))
            for info in pack.infolist()
        ]


def _kind(info: zipfile.ZipInfo) -> str:
    if info.is_dir():
        return "folder"
    unix = stat.S_IFMT(info.external_attr >> 16)
    return "file" if unix in (0, stat.S_IFREG) else "else"


def check_room(name: str, size: int, folder: Path) -> None:
    """Raises BadInput if so many bytes don't fit."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise BadInput(
            f"{name} finds no room: it takes {decimal(size)}, {decimal(free)} are free, "
            f"{decimal(size - free)} more is needed"
        )
