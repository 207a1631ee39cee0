"""Corrupted test sets: CIFAR-10-C and CIFAR-100-C, as published, and what is made as they were.

ROOT/CIFAR-10-C/ holds <corruption>.npy, five times all test images, in order of severity, and
labels.npy. Four corruptions that lie there too are not of the 15 (Hendrycks & Dietterich,
1903.12261), and are passed over. ROOT/generated-c/ keeps what was made, and can be removed.
"""

import hashlib
import inspect
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from mixbench.bench.data import _cached, _corruptions
from mixbench.bench.data._base import Images
from mixbench.bench.data._corruptions import CORRUPTIONS, SEVERITIES, check_known, corrupt
from mixbench.bench.data._layout import existing, remedy
from mixbench.bench.data._source import Archive, Source
from mixbench.bench.spec import BadInput, choose, one_line

GENERATED, KEPT = "generated", "generated-c"
PUBLISHED: Mapping[str, tuple[str, int]] = {
    "cifar10-c": ("CIFAR-10-C", 10),
    "cifar100-c": ("CIFAR-100-C", 100),
}
"""The folder of a set, and how many classes it has."""

IMAGES = 10_000


def named(name: str, root: Path, clean: Images) -> Images:
    """``corrupted`` of a name SET/CORRUPTION/SEVERITY, such as "cifar10-c/fog/3"."""
    kind, corruption, severity = _parsed(name)
    return corrupted(kind, root, clean, corruption, severity)


def require(name: str, root: Path) -> None:
    """Raises BadInput if there is no set SET/CORRUPTION/SEVERITY; its files are not opened."""
    kind, corruption, severity = _parsed(name)
    _check_known(kind, corruption, severity)
    if kind != GENERATED:
        for file in ("labels", corruption):
            existing(_path(kind, root, file), kind)


def corrupted(name: str, root: Path, clean: Images, corruption: str, severity: int) -> Images:
    """The clean test images, corrupted, with their labels, on the CPU.

    name: "cifar10-c" or "cifar100-c", which are read; or "generated", which is made of ``clean``.

    Raises BadInput if the corruption or severity is unknown, or a file is missing, damaged, of
    another shape, or of other labels than ``clean``.
    """
    _check_known(name, corruption, severity)
    if name == GENERATED:
        return Images(_generated(root, clean.x.cpu(), corruption, severity), clean.y.cpu())
    y = _labels(name, root)
    if not y.equal(clean.y.cpu()):
        folder = root / PUBLISHED[name][0]
        raise BadInput(f"{folder} has other labels than the clean test images that it is for")
    start = SEVERITIES.index(severity) * len(y)
    x = _pixels(name, root, corruption, len(y))[start : start + len(y)]
    return Images(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), y)


def check(name: str, root: Path) -> str:
    folder, classes = PUBLISHED[name]
    labels = _labels(name, root)
    if labels.bincount().tolist() != [IMAGES // classes] * classes:
        right = f"{IMAGES // classes:,} images of each of {classes} classes"
        raise BadInput(f"{root / folder / 'labels.npy'} should have {right}")
    for corruption in CORRUPTIONS:
        _pixels(name, root, corruption, len(labels))
    return f"{len(CORRUPTIONS)} corruptions, {len(SEVERITIES)} severities, {IMAGES:,} images"


def _parsed(name: str) -> tuple[str, str, int]:
    match name.split("/"):
        case kind, corruption, severity if severity.isdecimal():
            return kind, corruption, int(severity)
    raise BadInput(f"{name!r} should be SET/CORRUPTION/SEVERITY, such as cifar10-c/fog/3")


def _check_known(name: str, corruption: str, severity: int) -> None:
    choose(name, [*PUBLISHED, GENERATED], "corrupted test set")
    check_known(corruption, severity)


def _generated(root: Path, clean: torch.Tensor, corruption: str, severity: int) -> torch.Tensor:
    """Made once, and mapped copy on write after that; kept nowhere if it can't be written."""
    file = root / KEPT / _key(clean) / f"{corruption}-{severity}.npy"
    pixels = _cached.mapped(file)
    if not _like(pixels, (len(clean), 3, *clean.shape[2:])):
        pixels = corrupt(clean.expand(-1, 3, -1, -1), corruption, severity).numpy()
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            _cached.keep(pixels, file)
    return torch.from_numpy(pixels)


def _like(pixels: object, shape: tuple[int, ...]) -> TypeGuard[NDArray[np.uint8]]:
    """Whether it is an array of images, of that shape."""
    return isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape == shape


def _key(clean: torch.Tensor) -> str:
    """Stands for the clean images, and for the code that corrupts them."""
    digest = hashlib.sha256(f"{_code()} {list(clean.shape)}".encode())
    digest.update(clean.numpy().tobytes())
    return digest.hexdigest()[:16]


@cache
def _code() -> str:
    return inspect.getsource(_corruptions)


def _labels(name: str, root: Path) -> torch.Tensor:
    """The labels of one severity (n,). Raises BadInput if the others have others."""
    path = _path(name, root, "labels")
    y = _mapped(path, name)
    if y.dtype.kind not in "iu" or y.ndim != 1 or len(y) % len(SEVERITIES):
        times = len(SEVERITIES)
        raise BadInput(f"{path} is {y.dtype} {y.shape}, and should be integers ({times} n,)")
    each = y.reshape(len(SEVERITIES), -1)
    if (each != each[0]).any():
        raise BadInput(f"{path} should have the same labels at each severity")
    return torch.from_numpy(each[0].astype(np.int64))


def _pixels(name: str, root: Path, corruption: str, images: int) -> NDArray[np.uint8]:
    """Images (severities n, 32, 32, 3), mapped."""
    path = _path(name, root, corruption)
    x = _mapped(path, name)
    right = (len(SEVERITIES) * images, 32, 32, 3)
    if x.dtype != np.uint8 or x.shape != right:
        raise BadInput(f"{path} is {x.dtype} {x.shape}, and should be uint8 {right}")
    return x


def _path(name: str, root: Path, file: str) -> Path:
    return root / PUBLISHED[name][0] / f"{file}.npy"


def _mapped(path: Path, name: str) -> NDArray[Any]:
    existing(path, name)
    try:
        return open_memmap(path, mode="r")  # refuses what is pickled
    except Exception as error:  # what is damaged can raise anything
        raise BadInput(f"{path} is damaged ({one_line(error)}); {remedy(name)}") from None


def _source(name: str, record: int, md5: str) -> Source:
    folder, classes = PUBLISHED[name]
    url = f"https://zenodo.org/records/{record}/files/{folder}.tar"
    return Source(
        name,
        f"CIFAR-{classes}-C (Hendrycks & Dietterich, 1903.12261)",
        "corruption",
        partial(check, name),
        folder,
        (Archive(f"{folder}.tar", (url,), f"md5:{md5}"),),
    )


SOURCES = (
    _source("cifar10-c", 2535967, "56bf5dcef84df0e2308c6dcbcbbd8499"),
    _source("cifar100-c", 3555552, "11f0ed0f1191edbf9fa23466ae6021d3"),
)
