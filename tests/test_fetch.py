"""Downloads: every way that a mirror, an archive, a disk or a kill can spoil one."""

import errno
import hashlib
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from mixbench.bench.data import _fetch, sources
from mixbench.bench.data._fetch import get
from mixbench.bench.data._source import Archive, Source
from mixbench.bench.spec import BadInput

CONTENT = {"set/a.bin": random.Random(0).randbytes(200_000), "set/deep/b.txt": b"b" * 5000}
Usage = namedtuple("Usage", "total used free")


class Mirror(ThreadingHTTPServer):
    """Serves ``files`` as /HOW/NAME; HOW says how it misbehaves. ``seen``: HOW and the headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.closing = threading.Event()

    def url(self, how: str, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{how}/{name}"

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.seen]


class Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        _, how, name = self.path.split("/")
        self.server.seen.append((how, dict(self.headers)))
        if how.isdigit():
            return self.send_error(int(how))
        if how == "hang":
            self.server.closing.wait(20)
            return None
        if place := {"redirect": "/good/", "loop": "/loop/", "astray": "http://[bad/"}.get(how):
            self.send_response(302)
            self.send_header("Location", f"{place}{name}")
            return self.end_headers()
        return self.serve(how, self.server.files[name])

    def serve(self, how: str, content: bytes) -> None:
        if how == "corrupt":
            content = content[:-1] + bytes([content[-1] ^ 1])
        start, end = self.start(how), len(content)
        if start >= end:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{end}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        if how != "unmeasured":
            self.send_header("Content-Length", str(end - start))
        self.end_headers()
        rest = content[start:]
        if how == "slow":
            return self.trickle(rest)
        self.wfile.write(rest[: len(rest) // 2] if how == "truncate" else rest)

    def start(self, how: str) -> int:
        asked = self.headers["Range"]
        if not asked or how == "norange":
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def trickle(self, rest: bytes) -> None:
        for start in range(0, len(rest), 5000):
            self.wfile.write(rest[start : start + 5000])
            if self.server.closing.wait(0.1):
                return

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "*")
    with Mirror() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()


def check(root: Path) -> str:
    for name, content in CONTENT.items():
        if not (root / name).exists():
            raise BadInput(f"{name} is missing")
        if (root / name).read_bytes() != content:
            raise BadInput(f"{name} is damaged")
    return "2 files"


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


def packed(name: str, content: dict[str, bytes] = CONTENT) -> bytes:
    """An archive of the kind that its name says."""
    file = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(file, "w") as pack:
            for path, data in content.items():
                pack.writestr(path, data)
        return file.getvalue()
    with tarfile.open(fileobj=file, mode="w" if name.endswith(".tar") else "w:gz") as tar:
        for path, data in content.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def offer(mirror: Mirror, *hows: str, name: str = "set.tgz") -> Source:
    """A dataset of one archive, which the mirror gives in each of these ways."""
    content = mirror.files.setdefault(name, packed(name))
    urls = tuple(mirror.url(how, name) for how in hows)
    return Source("set", "A set", "detection", check, "", (Archive(name, urls, md5(content)),))


def put_part(root: Path, content: bytes) -> None:
    """Leave an archive in part, as an earlier call would have."""
    (root / "set.part").mkdir(parents=True)
    (root / "set.part" / "set.tgz.part").write_bytes(content)


def left(root: Path) -> list[str]:
    """The files that are not the dataset's."""
    paths = sorted(path.relative_to(root) for path in root.rglob("*"))
    return [str(path) for path in paths if path.parts[0] != "set" and path.suffix != ".lock"]


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, size))


@pytest.mark.parametrize("name", ["set.tar", "set.tar.gz", "set.tgz", "set.zip"])
def test_an_archive_is_downloaded_unpacked_and_gone(
    name: str, mirror: Mirror, tmp_path: Path
) -> None:
    assert get(offer(mirror, "good", name=name), tmp_path / "new" / "root") == "2 files"
    assert left(tmp_path / "new" / "root") == []
    ((_, headers),) = mirror.seen
    assert headers["User-Agent"] == "mixbench" and "Range" not in headers


def test_a_file_that_is_no_archive_is_put_into_its_folder(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files = {"a.bin": CONTENT["set/a.bin"], "b.txt": CONTENT["set/deep/b.txt"]}
    archives = tuple(
        Archive(name, (mirror.url("good", name),), md5(mirror.files[name]), into)
        for name, into in (("a.bin", "set"), ("b.txt", "set/deep"))
    )
    assert get(Source("set", "A set", "detection", check, "", archives), tmp_path) == "2 files"
    assert left(tmp_path) == []


def test_archives_can_share_a_folder(mirror: Mirror, tmp_path: Path) -> None:
    archives = []
    for number, (path, data) in enumerate(CONTENT.items()):
        name = f"{number}.tar"
        mirror.files[name] = packed(name, {path.removeprefix("set/"): data})
        url, digest = mirror.url("good", name), hashlib.sha256(mirror.files[name]).hexdigest()
        archives.append(Archive(name, (url,), f"sha256:{digest}", "set"))
    source = Source("set", "A set", "detection", check, "", tuple(archives))
    (tmp_path / "set" / "deep").mkdir(parents=True)
    (tmp_path / "set" / "a.bin").write_text("damaged")
    assert get(source, tmp_path) == "2 files"


def test_nothing_is_done_if_it_is_there(mirror: Mirror, tmp_path: Path) -> None:
    source = offer(mirror, "good")
    get(source, tmp_path)
    mirror.seen.clear()
    (tmp_path / ".set.lock").unlink(missing_ok=True)
    assert get(source, tmp_path) == "2 files"
    assert mirror.seen == [] and sorted(os.listdir(tmp_path)) == ["set"]


def test_what_nobody_may_download_is_asked_for(tmp_path: Path) -> None:
    source = Source("set", "A set", "detection", check, by_hand="ask its authors")
    with pytest.raises(BadInput, match=r"^ask its authors$"):
        get(source, tmp_path / "root")
    with pytest.raises(BadInput, match=r"^set/a.bin is missing$"):
        get(Source("set", "A set", "detection", check), tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_mirrors_are_tried_in_turn(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fetch, "SILENCE", 0.2)
    hows = ("404", "500", "hang", "corrupt", "truncate", "redirect", "truncate")
    assert get(offer(mirror, *hows), tmp_path) == "2 files"
    assert [how for how, _ in mirror.seen] == [*hows[:-1], "good"]
    half = len(mirror.files["set.tgz"]) // 2
    assert mirror.ranges() == [None] * 5 + [f"bytes={half}-"] * 2
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("404", "127.0.0.1: HTTP 404 Not Found"),
        ("503", "127.0.0.1: HTTP 503 Service Unavailable"),
        ("hang", "127.0.0.1: timed out"),
        ("corrupt", "127.0.0.1: its md5 is"),
        ("loop", "127.0.0.1: HTTP 302 The HTTP server returned a redirect error"),
        ("astray", "127.0.0.1: Invalid IPv6 URL"),
    ],
)
def test_each_mirror_is_named_with_what_was_wrong(
    how: str, why: str, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fetch, "SILENCE", 0.2)
    with pytest.raises(BadInput) as error:
        get(offer(mirror, how, "404"), tmp_path)
    line = str(error.value)
    assert line.startswith(f"set.tgz can't be had: {why}") and "kept" not in line
    assert line.endswith("; 127.0.0.1: HTTP 404 Not Found") and len(line.splitlines()) == 1
    assert left(tmp_path) == []


def test_a_mirror_that_is_not_there_is_named(mirror: Mirror, tmp_path: Path) -> None:
    with Mirror() as other:
        mirror.server_port = other.server_port
    source = offer(mirror, "good")
    with pytest.raises(BadInput, match=r"127\.0\.0\.1: Connection refused$"):
        get(source, tmp_path)


def test_what_is_there_in_part_is_kept_and_only_the_rest_is_asked_for(
    mirror: Mirror, tmp_path: Path
) -> None:
    source = offer(mirror, "truncate")
    whole = len(mirror.files["set.tgz"])
    half = whole // 2
    with pytest.raises(BadInput, match=f"it ended after {half} of {whole} bytes; the part .* kept"):
        get(source, tmp_path)
    assert (tmp_path / "set.part" / "set.tgz.part").stat().st_size == half
    reports: list[tuple[str, int, int | None]] = []
    assert get(offer(mirror, "good"), tmp_path, lambda *at: reports.append(at)) == "2 files"
    assert mirror.ranges() == [None, f"bytes={half}-"]
    assert reports[0] == ("set.tgz", half, whole) and reports[-1] == ("set.tgz", whole, whole)


@pytest.mark.parametrize("missing", [1, 1000, 0])
def test_the_rest_may_be_short_or_nothing(missing: int, mirror: Mirror, tmp_path: Path) -> None:
    source = offer(mirror, "good")
    whole = mirror.files["set.tgz"]
    put_part(tmp_path, whole[: len(whole) - missing])
    assert get(source, tmp_path) == "2 files"
    assert mirror.ranges() == [f"bytes={len(whole) - missing}-"]


@pytest.mark.parametrize("part", [b"another file's", b"x" * 300_000])
def test_a_part_that_does_not_fit_is_given_up(part: bytes, mirror: Mirror, tmp_path: Path) -> None:
    source = offer(mirror, "good")
    put_part(tmp_path, part)
    assert get(source, tmp_path) == "2 files"
    assert mirror.ranges() == [f"bytes={len(part)}-", None]


def test_a_mirror_that_knows_no_ranges_sends_all(mirror: Mirror, tmp_path: Path) -> None:
    source = offer(mirror, "norange")
    put_part(tmp_path, mirror.files["set.tgz"][:1000])
    assert get(source, tmp_path) == "2 files"
    assert mirror.ranges() == ["bytes=1000-"]


def test_a_mirror_need_not_say_how_much_it_sends(mirror: Mirror, tmp_path: Path) -> None:
    reports: list[int | None] = []
    get(offer(mirror, "unmeasured"), tmp_path, lambda name, done, total: reports.append(total))
    assert set(reports) == {None}


@pytest.mark.parametrize("name", ["set.tar", "set.tgz", "set.zip"])
@pytest.mark.parametrize("damage", ["half", "page", "flip"])
def test_an_archive_that_was_damaged_before_its_digest_was_taken_is_not_kept(
    name: str, damage: str, mirror: Mirror, tmp_path: Path
) -> None:
    good = packed(name)
    flipped = good[:9000] + bytes(byte ^ 255 for byte in good[9000:9999]) + good[9999:]
    broken = {"half": good[: len(good) // 2], "page": b"<html>", "flip": flipped}
    mirror.files[name] = broken[damage]
    with pytest.raises(BadInput, match=f"{name} is damaged: |set/a.bin is damaged"):
        get(offer(mirror, "good", name=name), tmp_path)
    assert left(tmp_path) == []
    mirror.files[name] = good
    assert get(offer(mirror, "good", name=name), tmp_path) == "2 files"


@pytest.mark.parametrize(
    "archive",
    [archive for source in sources().values() for archive in source.archives],
    ids=lambda archive: archive.name,
)
def test_every_archive_that_is_offered_has_a_digest(archive: Archive) -> None:
    assert re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", archive.digest)


def hostile_tar(name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for path, data in CONTENT.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "set/a.bin"
        tar.addfile(info)
    return file.getvalue()


def hostile_zip(name: str, mode: int = 0) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as pack:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        pack.writestr(info, "/etc/passwd")
    return file.getvalue()


@pytest.mark.parametrize(
    ("archive", "name", "why"),
    [
        (hostile_tar("../evil"), "../evil", "outside"),
        (hostile_tar("set/../../evil"), "set/../../evil", "outside"),
        (hostile_tar("/evil"), "/evil", "outside"),
        (hostile_tar("..\\evil"), r"..\\evil", "outside"),
        (hostile_tar("C:evil"), "C:evil", "outside"),
        (hostile_tar("../evil", tarfile.DIRTYPE), "../evil", "outside"),
        (hostile_tar("set/link", tarfile.SYMTYPE), "set/link", "link or a device"),
        (hostile_tar("set/link", tarfile.LNKTYPE), "set/link", "link or a device"),
        (hostile_tar("set/pipe", tarfile.FIFOTYPE), "set/pipe", "link or a device"),
        (hostile_tar("set/null", tarfile.CHRTYPE), "set/null", "link or a device"),
        (hostile_zip("../evil"), "../evil", "outside"),
        (hostile_zip("/evil"), "/evil", "outside"),
        (hostile_zip("C:\\evil"), "C:", "outside"),
        (hostile_zip("set/link", 0o120777), "set/link", "link or a device"),
    ],
)
def test_what_no_dataset_should_hold_is_refused_by_name(
    archive: bytes, name: str, why: str, mirror: Mirror, tmp_path: Path
) -> None:
    pack = "set.zip" if archive.startswith(b"PK") else "set.tar"
    mirror.files[pack] = archive
    with pytest.raises(BadInput) as error:
        get(offer(mirror, "good", name=pack), tmp_path / "root")
    assert f"{pack} is refused: it holds '{name}" in str(error.value) and why in str(error.value)
    assert os.listdir(tmp_path) == ["root"]
    assert [path for path in tmp_path.rglob("*") if path.suffix != ".lock"] == [tmp_path / "root"]


@pytest.mark.parametrize("name", ["set.tgz", "set.zip"])
def test_an_archive_that_unpacks_to_more_than_is_free_is_refused(
    name: str, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr("set/a.bin", bytes(5_000_000))
    bomb = file.getvalue() if name == "set.zip" else packed(name, {"set/a.bin": bytes(5_000_000)})
    mirror.files[name] = bomb
    free(monkeypatch, 1_000_000)
    with pytest.raises(BadInput, match=r"^what set.* takes 5.0 MB, 1.0 MB are free, 4.0 MB more"):
        get(offer(mirror, "good", name=name), tmp_path)
    assert left(tmp_path) == ["set.part", f"set.part/{name}"]


def test_what_does_not_fit_is_not_begun(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = offer(mirror, "good")
    free(monkeypatch, 1000)
    with pytest.raises(BadInput, match=r"^set.tgz finds no room: it takes .* kB, 1.0 kB are free"):
        get(source, tmp_path)
    assert left(tmp_path) == []
    put_part(tmp_path, mirror.files["set.tgz"][:-500])
    free(monkeypatch, 499)
    with pytest.raises(BadInput, match=r"it takes 500 bytes, 499 bytes are free, 1 byte more"):
        get(source, tmp_path)
    free(monkeypatch, 500_000)
    assert get(source, tmp_path) == "2 files"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_while_downloading_keeps_nothing(
    number: int, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(response: object) -> Iterator[bytes]:
        yield b"x" * 1000
        raise OSError(number, os.strerror(number))

    source = offer(mirror, "good", "good")
    monkeypatch.setattr(_fetch, "_chunks", full)
    more = f"{os.strerror(number)}, .* more is needed"
    with pytest.raises(BadInput, match=f"^set.tgz finds no room: {more}$"):
        get(source, tmp_path)
    assert left(tmp_path) == [] and len(mirror.seen) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is full")
def test_a_write_that_fails_keeps_nothing(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "set.part").mkdir()
    (tmp_path / "set.part" / "set.tgz.part").symlink_to("/dev/full")
    with pytest.raises(BadInput, match=r"^set.tgz finds no room: No space left"):
        get(offer(mirror, "good"), tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize("name", ["set.tgz", "set.zip"])
def test_a_disk_that_is_full_while_unpacking_keeps_the_archive_alone(
    name: str, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(content: object, file: io.BufferedWriter) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    source = offer(mirror, "good", name=name)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(BadInput, match=r"No space left on device; the archive is kept$"):
            get(source, tmp_path)
    assert left(tmp_path) == ["set.part", f"set.part/{name}"] and not (tmp_path / "set").exists()
    assert get(source, tmp_path) == "2 files"
    assert len(mirror.seen) == 1


def test_a_disk_that_fails_is_not_taken_for_a_damaged_archive(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(content: object, file: io.BufferedWriter) -> None:
        raise OSError(errno.EIO, "Input/output error", file.name)

    monkeypatch.setattr(shutil, "copyfileobj", fail)
    with pytest.raises(BadInput, match=r"unpacked/set/a.bin: Input/output error$"):
        get(offer(mirror, "good"), tmp_path)
    assert left(tmp_path) == ["set.part", "set.part/set.tgz"]


def test_an_interrupt_keeps_the_part(mirror: Mirror, tmp_path: Path) -> None:
    def interrupt(name: str, done: int, total: int | None) -> None:
        if done > 1000:
            raise KeyboardInterrupt

    source = offer(mirror, "slow", "good")
    with pytest.raises(KeyboardInterrupt):
        get(source, tmp_path, interrupt)
    size = (tmp_path / "set.part" / "set.tgz.part").stat().st_size
    assert size > 1000
    assert get(offer(mirror, "good"), tmp_path) == "2 files"
    assert mirror.ranges() == [None, f"bytes={size}-"]


def test_a_killed_download_goes_on_where_it_was(mirror: Mirror, tmp_path: Path) -> None:
    source = offer(mirror, "slow")
    script = (
        "from pathlib import Path; from mixbench.bench.data._fetch import get, Source, Archive\n"
        "from mixbench.bench.spec import BadInput\n"
        "def check(root): raise BadInput('missing')\n"
        f"get(Source('set', '', 'detection', check, '', ({source.archives[0]!r},)), Path('.'))"
    )
    child = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    part = tmp_path / "set.part" / "set.tgz.part"
    until(lambda: part.exists() and part.stat().st_size > 20_000)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    size = part.stat().st_size
    assert 20_000 < size < len(mirror.files["set.tgz"])
    assert get(offer(mirror, "good"), tmp_path) == "2 files"
    assert mirror.ranges() == [None, f"bytes={size}-"]
    assert left(tmp_path) == []


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.mark.parametrize("moment", ["unpack", "_move"])
def test_what_was_downloaded_before_a_kill_is_not_downloaded_again(
    moment: str, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = offer(mirror, "good")
    with monkeypatch.context() as patch:
        patch.setattr(_fetch, moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            get(source, tmp_path)
    aside = tmp_path / "set.part" / "unpacked"
    aside.mkdir()
    (aside / "half").write_text("of a file")
    assert get(source, tmp_path) == "2 files"
    assert len(mirror.seen) == 1 and left(tmp_path) == []
    assert sorted(os.listdir(tmp_path / "set")) == ["a.bin", "deep"]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_archive_that_is_in_place_is_not_downloaded_again(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["0.tar", "1.tar"]
    for name, item in zip(names, CONTENT.items(), strict=True):
        mirror.files[name] = packed(name, dict([item]))
    archives = tuple(Archive(n, (mirror.url("good", n),), md5(mirror.files[n])) for n in names)
    source = Source("set", "A set", "detection", check, "", archives)

    def interrupt(name: str, done: int, total: int | None) -> None:
        if name == "1.tar":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(source, tmp_path, interrupt)
    assert (tmp_path / "set" / "a.bin").exists()
    assert not (tmp_path / "set.part" / "0.tar").exists()
    assert get(source, tmp_path) == "2 files"
    assert len(mirror.seen) == 3 and left(tmp_path) == []


def test_what_a_kill_left_of_a_dataset_that_is_there_is_removed(
    mirror: Mirror, tmp_path: Path
) -> None:
    source = offer(mirror, "good")
    get(source, tmp_path)
    put_part(tmp_path, b"what was killed")
    assert get(source, tmp_path) == "2 files"
    assert left(tmp_path) == [] and len(mirror.seen) == 1


def test_what_was_had_is_checked(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["set.tgz"] = packed("set.tgz", {"set/a.bin": CONTENT["set/a.bin"]})
    source = offer(mirror, "good")
    for asked in (1, 2):
        with pytest.raises(BadInput, match=r"^set/deep/b.txt is missing$"):
            get(source, tmp_path)
        assert left(tmp_path) == [] and len(mirror.seen) == asked


def test_one_process_at_a_time_gets_a_dataset(mirror: Mirror, tmp_path: Path) -> None:
    source = offer(mirror, "good")
    with (
        FileLock(tmp_path / ".set.lock"),
        pytest.raises(BadInput, match=r"^another process is getting it"),
    ):
        get(source, tmp_path)
    assert mirror.seen == []
    assert get(source, tmp_path) == "2 files"


def test_a_folder_that_cannot_be_written_is_one_line(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"file/data can't be written \(.*\); name another"):
        get(offer(mirror, "good"), tmp_path / "file" / "data")


def test_a_folder_where_a_file_belongs_is_one_line(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "set" / "a.bin").mkdir(parents=True)
    archive = offer(mirror, "good").archives
    source = Source("set", "A set", "detection", missing, "", archive)
    with pytest.raises(BadInput, match=r"a.bin.*: Is a directory"):
        get(source, tmp_path)


def missing(root: Path) -> str:
    raise BadInput("it is missing")


def test_lines_of_progress_are_few(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    with _fetch.progress() as report:
        for second in range(50):
            clock += 1
            report("a.tar", second * 1000, 100_000)
            report("b.tar", second, None)
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "a.tar: 0 bytes of 100.0 kB",
        "b.tar: 0 bytes",
        "a.tar: 30.0 kB of 100.0 kB",
        "b.tar: 30 bytes",
    ]
    assert printed.out == ""


def test_a_terminal_shows_a_bar_for_each_archive() -> None:
    shown = _fetch.bars(Console(file=io.StringIO(), force_terminal=True, width=100))
    with shown:
        for done in (50, 75):
            _fetch.advance(shown, "a[red].tar", done, 100)
        _fetch.advance(shown, "b.tar", 0, None)
    assert [(bar.description, bar.completed, bar.total) for bar in shown.tasks] == [
        ("a[red].tar", 75, 100),
        ("b.tar", 0, None),
    ]
