"""Opening many files on a few threads; decoders let other threads run while they are at work."""

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixbench.bench.data._base import Dataset, Files
from mixbench.bench.data._layout import some
from mixbench.bench.spec import BadInput, one_line

Paths = NDArray[np.bytes_]
CHUNK, THREADS = 512, 8


def pixels(path: bytes) -> NDArray[np.uint8]:
    """The image of a file, (h, w, 3). Raises what Pillow raises if it can't be read."""
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def decoded(
    paths: Paths,
    shape: tuple[int, ...],
    read: Callable[[bytes], NDArray[Any]],
    finish: Callable[[NDArray[Any]], NDArray[np.uint8]] = np.asarray,
) -> NDArray[np.uint8]:
    """What ``read`` makes of each file, in batches that ``finish`` turns into (b, *shape).

    Raises BadInput, as ``check_files`` does.
    """
    out, bad = np.empty((len(paths), *shape), np.uint8), list[str]()
    for start, good, complaints in tried(paths, read):
        bad += complaints
        if not bad:
            out[start : start + len(good)] = finish(np.stack(good))
    _refuse(bad, len(paths))
    return out


def check(dataset: Dataset, read: Callable[[bytes], object] = pixels) -> None:
    """Opens all files of both splits. Raises BadInput, as ``check_files`` does."""
    splits = [split.paths for split in (dataset.train, dataset.test) if isinstance(split, Files)]
    check_files(np.concatenate(splits), read)


def check_files(paths: Paths, read: Callable[[bytes], object] = pixels) -> None:
    """Raises BadInput if ``read`` fails for some: how many, and the first of them, with reasons."""
    chunks = tried(paths, partial(_dropped, read))
    _refuse([line for _, _, bad in chunks for line in bad], len(paths))


def _dropped(read: Callable[[bytes], object], path: bytes) -> None:
    """Read a file, and keep nothing of it: a chunk of large images may not fit in memory."""
    read(path)


def tried(paths: Paths, read: Callable[[bytes], Any]) -> Iterator[tuple[int, list[Any], list[str]]]:
    """Of each chunk: where it starts, what was read, and a line on each file that can't be.

    Warnings of files that can be read are dropped. Not in ``read``: threads share the filters of
    warnings, and would restore each other's.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), CHUNK):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tried = list(pool.map(partial(_try, read), paths[start : start + CHUNK].tolist()))
            yield start, [good for good, bad in tried if not bad], [bad for _, bad in tried if bad]


def _try(read: Callable[[bytes], Any], path: bytes) -> tuple[Any, str]:
    try:
        return read(path), ""
    except Exception as error:  # decoders raise errors of many kinds
        return None, f"{os.fsdecode(path)} ({one_line(error)})"


def _refuse(bad: list[str], among: int) -> None:
    if bad:
        raise BadInput(f"{len(bad):,} of {among:,} files can't be read: {some(bad)}")
