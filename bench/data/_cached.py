"""Decoded splits, kept beside the data, so that the next run need not decode, and shares pages."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixbench.bench.data._decode import Paths


def cached(stem: Path, paths: Paths, decode: Callable[[Paths], NDArray[np.uint8]]) -> Tensor:
    """``decode(paths)``, from STEM-KEY.npy if that is there, mapped copy on write.

    The key stands for the files' names, sizes and times; a file of another key is removed. Where
    it can't be written, nothing is kept.
    """
    file = stem.with_name(f"{stem.name}-{_key(stem.parent, paths)}.npy")
    pixels = mapped(file)
    if pixels is None:
        pixels = decode(paths)
        with suppress(OSError):
            keep(pixels, file)
            for old in stem.parent.glob(f"{stem.name}-*.npy"):
                if old != file:
                    old.unlink()
            kept = mapped(file)
            pixels = pixels if kept is None else kept
    return torch.from_numpy(pixels)


def _key(folder: Path, paths: Paths) -> str:
    digest, above = hashlib.sha256(), os.fsencode(folder / "_")[:-1]
    for path in paths.tolist():
        stat = os.stat(path)
        digest.update(b"%b %d %d\n" % (path.removeprefix(above), stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()[:16]


def mapped(file: Path) -> NDArray[np.uint8] | None:
    with suppress(OSError, ValueError, EOFError):  # not there, or cut short
        pixels: NDArray[np.uint8] = np.load(file, mmap_mode="c")
        return pixels
    return None


def keep(pixels: NDArray[np.uint8], file: Path) -> None:
    aside = file.with_name(f".{file.name}.{uuid4()}.aside")  # other machines may write here
    try:
        with aside.open("xb") as out:
            np.save(out, pixels)
            os.fsync(out.fileno())
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
