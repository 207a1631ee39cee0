"""Speech Commands v0.02, as published: ROOT/speech_commands_v0.02/<word>/*.wav, as images.

Tested on the recordings of testing_list.txt; those of validation_list.txt are left out, and the
others are trained on. An image is a spectrogram of the first second, silence added at its end.
"""

import os
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixbench.bench.data import _decode, _imagefolder, _mel
from mixbench.bench.data._base import Dataset, Files, Images
from mixbench.bench.data._cached import cached
from mixbench.bench.data._decode import Paths, decoded
from mixbench.bench.data._layout import anew, existing, published, rows, some
from mixbench.bench.data._source import Archive, Source
from mixbench.bench.spec import BadInput

FOLDER, WORDS = "speech_commands_v0.02", 35


def read(root: Path) -> Dataset:
    """All recordings as images of one channel, normalised by the training images' pixels.

    Raises BadInput if one can't be read, or if folders and lists disagree.
    """
    stem = root / f"{FOLDER}-mel{_mel.VERSION}"
    train, test = (
        Images(cached(stem.with_name(f"{stem.name}-{name}"), split.paths, _decoded), split.y)
        for name, split in zip(("train", "test"), _listed(root / FOLDER), strict=True)
    )
    return Dataset(train, test, WORDS, *_moments(train))


def check(root: Path) -> str:
    """Reads all recordings to train and to test, which takes a minute or so."""
    folder = root / FOLDER
    found = Dataset(*_listed(folder), WORDS)
    summary = published(folder, found, 84_843, 11_005, WORDS, anew(folder, "speechcommands"))
    _decode.check(found, _second)
    return summary


def _listed(folder: Path) -> tuple[Files, Files]:
    """The recordings to train and to test."""
    there = _imagefolder.subfolders(existing(folder, "speechcommands"))
    words = [name for name in there if not name.startswith("_")]  # not _background_noise_
    if len(words) != WORDS:
        raise BadInput(f"{folder} has folders of {len(words)} words, and should have {WORDS}")
    files = _imagefolder.split(folder, words, (b".wav",))
    test, held_out = (
        _named(folder / f"{name}_list.txt", files.paths) for name in ("testing", "validation")
    )
    if (test & held_out).any():
        first = os.fsdecode(files.paths[test & held_out][0])
        raise BadInput(f"{first} is in testing_list.txt and in validation_list.txt")
    train = ~(test | held_out)
    return Files(files.paths[train], files.y[train]), Files(files.paths[test], files.y[test])


def _named(listing: Path, paths: Paths) -> NDArray[np.bool_]:
    """Which recordings a list has. Raises BadInput if it has others."""
    listed = rows(listing, "speechcommands", 1)
    names = {os.fsencode(listing.parent / name) for (name,) in listed}
    if lost := sorted(names.difference(paths.tolist())):
        absent = some(os.fsdecode(path) for path in lost)
        raise BadInput(f"{listing} names recordings that are not there: {absent}")
    return np.array([path in names for path in paths.tolist()])


def _decoded(paths: Paths) -> NDArray[np.uint8]:
    return decoded(paths, (1, _mel.BANDS, _mel.FRAMES), _second, _mel.images)


def _second(path: bytes) -> NDArray[np.int16]:
    """The first second of a recording, (16000,)."""
    with open(path, "rb") as file, wave.open(file) as sound:
        form = sound.getframerate(), 8 * sound.getsampwidth(), sound.getnchannels()
        length, data = sound.getnframes(), sound.readframes(_mel.RATE)
    if form != (_mel.RATE, 16, 1):
        raise BadInput("it has {} Hz, {} bits, {} channels, not 16000, 16, 1".format(*form))
    samples = np.frombuffer(data, "<i2")
    if not 0 < min(length, _mel.RATE) == len(samples):
        raise BadInput(f"it ends after {len(samples)} of {length} samples")
    return np.pad(samples, (0, _mel.RATE - len(samples)))


def _moments(split: Images) -> tuple[tuple[float], tuple[float]]:
    """Mean and standard deviation of the pixels, in [0, 1]."""
    count = split.x.flatten().bincount(minlength=256).numpy()
    level = np.arange(256) / 255
    mean = np.average(level, weights=count)
    return (float(mean),), (float(np.average((level - mean) ** 2, weights=count) ** 0.5),)


SOURCE = Source(
    "speechcommands",
    "Speech Commands v0.02 (Warden, 1804.03209), as mel spectrograms",
    "classification",
    check,
    FOLDER,
    (
        Archive(
            f"{FOLDER}.tar.gz",
            (
                f"https://storage.googleapis.com/download.tensorflow.org/data/{FOLDER}.tar.gz",
                f"http://download.tensorflow.org/data/{FOLDER}.tar.gz",
            ),
            "sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
            into=FOLDER,
        ),
    ),
)
