"""Making a dataset be there: its archives are downloaded, verified, unpacked and put into place.

ROOT/NAME.part/ holds what is on its way: an archive that is there in part (ARCHIVE.part) or whole
(ARCHIVE), its files while they are unpacked (unpacked/), and a mark for each that has been put into
place (ARCHIVE.done). So what is killed goes on later.
"""

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout
from rich import progress as rich_progress
from rich.console import Console
from rich.filesize import decimal

from mixbench.bench.data._source import Archive, Source
from mixbench.bench.data._unpack import FULL, PACKED, check_room, unpack
from mixbench.bench.spec import BadInput

Report = Callable[[str, int, int | None], None]
"""Called with an archive's name, how many of its bytes are there, and of how many, if known."""

SILENCE = 30.0  # seconds after which a mirror is given up
QUIET = 30.0  # seconds between lines of progress
CHUNK = 1 << 18


class _Lost(Exception):
    """Why a mirror did not give an archive, in a few words."""


def _nothing(name: str, done: int, total: int | None) -> None:
    """Report to nobody."""


def get(source: Source, root: Path, report: Report = _nothing) -> str:
    """Make the dataset be there; what its check says of it. If it is there, nothing is done.

    Raises BadInput if it can't be had. What was downloaded is kept, and the next call goes on; but
    a part that fills the disk is deleted, as others may need the room.
    """
    if not source.archives:
        return _put_by_hand(source, root)
    work = root / f"{source.name}.part"
    if (summary := _there(source, root)) and not work.exists():
        return summary
    with _alone(source.name, root):
        try:
            if not _there(source, root):
                work.mkdir(exist_ok=True)
                for archive in source.archives:
                    _bring(archive, work, root, report)
            shutil.rmtree(work, ignore_errors=True)
        except OSError as error:
            raise BadInput(f"{error.filename or root}: {error.strerror or error}") from None
        finally:
            with suppress(OSError):
                work.rmdir()  # if nothing is worth keeping
    return source.check(root)


def _put_by_hand(source: Source, root: Path) -> str:
    try:
        return source.check(root)
    except BadInput as error:
        raise BadInput(source.by_hand or str(error)) from None


def _there(source: Source, root: Path) -> str:
    """What there is of the dataset; '' if it is not whole."""
    with suppress(BadInput):
        return source.check(root)
    return ""


@contextmanager
def _alone(name: str, root: Path) -> Iterator[None]:
    """A block that one process at a time is in. Raises BadInput if another is."""
    lock = FileLock(root / f".{name}.lock")
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(f"another process is getting it into {root}; wait for that one") from None
    except OSError as error:
        raise BadInput(
            f"folder of datasets {root} can't be written ({error.strerror}); "
            "name another with --data"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _bring(archive: Archive, work: Path, root: Path, report: Report) -> None:
    """Put what an archive holds into place, unless an earlier call did."""
    whole, done, aside = (
        work / name for name in (archive.name, f"{archive.name}.done", "unpacked")
    )
    if done.exists():
        return
    if not whole.exists():
        _download(archive, whole, report)
    shutil.rmtree(aside, ignore_errors=True)  # what a kill left
    try:
        aside.mkdir()
        if archive.name.endswith(PACKED):
            unpack(whole, aside)
        else:
            whole.replace(aside / archive.name)
        _move(aside, root / archive.into)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    done.touch()
    whole.unlink(missing_ok=True)


def _move(aside: Path, into: Path) -> None:
    """Move all files, each at once, to the same place below another folder."""
    for folder, _, files in os.walk(aside):
        place = into / Path(folder).relative_to(aside)
        place.mkdir(parents=True, exist_ok=True)
        for name in files:
            Path(folder, name).replace(place / name)


def _download(archive: Archive, whole: Path, report: Report) -> None:
    """Fetch an archive from the first mirror that gives it, and go on with what is there in part.

    Raises BadInput, which names each mirror and what was wrong.
    """
    part, why = whole.with_name(f"{whole.name}.part"), []
    for url in archive.urls:
        try:
            _fetch(archive, url, part, report)
        except _Lost as error:
            why.append(f"{urlsplit(url).hostname}: {error}")
        else:
            part.replace(whole)
            return
    kept = "; the part that is there is kept, run it again to go on" if _size(part) else ""
    raise BadInput(f"{archive.name} can't be had: {'; '.join(why)}{kept}")


def _fetch(archive: Archive, url: str, part: Path, report: Report) -> None:
    """Fetch an archive from one mirror, and verify it. Raises _Lost.

    A part that does not fit what the mirror has may be another mirror's: it is tried without.
    """
    continued = _stream(archive, url, part, report)
    if wrong := _mismatch(archive, part):
        part.unlink()
        if not continued:
            raise _Lost(wrong)
        _fetch(archive, url, part, report)


def _stream(archive: Archive, url: str, part: Path, report: Report) -> bool:
    """Write what a mirror sends to the part; whether it went on where that ended. Raises _Lost."""
    asked = {"Range": f"bytes={size}-"} if (size := _size(part)) else {}
    try:
        request = Request(url, headers={"User-Agent": "mixbench", **asked})
        response: Any = urlopen(request, timeout=SILENCE)
    except HTTPError as error:
        error.close()
        if asked and error.code == 416:  # there is nothing after the part
            return True
        raise _Lost(" ".join(f"HTTP {error.code} {error.reason}".split())) from None
    except (OSError, HTTPException, ValueError) as error:  # the last one, of an address
        raise _Lost(_said(error)) from None
    with response:
        continued = bool(asked) and response.status == 206
        done = size if continued else 0
        total = None if response.length is None else done + response.length
        check_room(archive.name, (total or 0) - size, part.parent)
        try:
            with part.open("ab" if continued else "wb") as file:
                report(archive.name, done, total)
                for chunk in _chunks(response):
                    file.write(chunk)
                    done += len(chunk)
                    report(archive.name, done, total)
        except OSError as error:
            if error.errno not in FULL:
                raise
            part.unlink(missing_ok=True)
            more = "" if total is None else f", {decimal(total - done)} more is needed"
            raise BadInput(f"{archive.name} finds no room: {error.strerror}{more}") from None
    if total is not None and done != total:
        raise _Lost(f"it ended after {done} of {total} bytes")
    return continued


def _chunks(response: Any) -> Iterator[bytes]:
    """What comes, as it comes. Raises _Lost."""
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _Lost(_said(error)) from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mismatch(archive: Archive, part: Path) -> str:
    """How the file differs from what its digest stands for; '' if it does not."""
    kind, _, right = archive.digest.partition(":")
    with part.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    return "" if found == right else f"its {kind} is {found}, should be {right}"


def _said(error: Exception) -> str:
    """What an error of the network's says, on a line."""
    cause = getattr(error, "reason", error)
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return " ".join(text.split())


@contextmanager
def progress() -> Iterator[Report]:
    """What suits standard error: a bar for each archive on a terminal, else a line now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lines()
        return
    shown = bars(console)
    with shown:
        yield partial(advance, shown)


def lines() -> Report:
    """A line when an archive begins, and twice a minute."""
    spoke: dict[str, float] = {}

    def report(name: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - spoke.get(name, -QUIET) >= QUIET:
            spoke[name] = now
            of = "" if total is None else f" of {decimal(total)}"
            print(f"{name}: {decimal(done)}{of}", file=sys.stderr, flush=True)

    return report


def bars(console: Console) -> rich_progress.Progress:
    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.DownloadColumn(),
        rich_progress.TransferSpeedColumn(),
        rich_progress.TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def advance(shown: rich_progress.Progress, name: str, done: int, total: int | None) -> None:
    """Move the bar of that name, which may be new."""
    known = {task.description: task.id for task in shown.tasks}
    bar = known[name] if name in known else shown.add_task(name, total=total, completed=done)
    shown.update(bar, completed=done, total=total)
