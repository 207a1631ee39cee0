"""Tiny datasets in the formats of the published ones, each written below a root."""

import hashlib
import pickle
import wave
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

TINY, BIRDS, SPEECH = "tiny-imagenet-200", "CUB_200_2011", "speech_commands_v0.02"
WNIDS = ["n03", "n01", "n02"]  # not sorted, as a subset's list may be
VAL = {0: "n02", 1: "n01", 2: "n03", 10: "n01", 11: "n02", 12: "n03"}
TIME = np.arange(16_000) / 16_000


def cifar(root: Path, kind: "type[CIFAR10]", classes: int, train: int, test: int) -> None:
    """CIFAR-10 or CIFAR-100, whose labels go round ``classes``; all images are one gradient."""
    folder, key = root / kind.base_folder, kind.meta["key"]
    folder.mkdir()
    for listed, count in ((kind.train_list, train), (kind.test_list, test)):
        parts = np.array_split(np.arange(count), len(listed))
        for (file, _), part in zip(listed, parts, strict=True):
            data = np.tile(np.arange(3072).astype(np.uint8), (len(part), 1))
            labels = {key.replace("label_names", "labels"): (part % classes).tolist()}
            (folder / file).write_bytes(pickle.dumps({"data": data} | labels))
    names = {key: [f"class {i}" for i in range(classes)]}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(names))


def trust(root: Path, kind: "type[CIFAR10]", monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell torchvision the checksums of the files that are there."""

    def known(file: str) -> list[str]:
        return [file, hashlib.md5((root / kind.base_folder / file).read_bytes()).hexdigest()]

    for listed in ("train_list", "test_list"):
        monkeypatch.setattr(kind, listed, [known(file) for file, _ in getattr(kind, listed)])
    filename, md5 = known(kind.meta["filename"])
    monkeypatch.setattr(kind, "meta", kind.meta | {"filename": filename, "md5": md5})


def level(wnid: str) -> int:
    return 60 * sorted(WNIDS).index(wnid)


def tinyimagenet(root: Path) -> None:
    """Three classes; an image's grey is 60 times its label. Some have other modes."""
    top = root / TINY
    for wnid in WNIDS:
        for i, mode in enumerate(("RGB", "L", "CMYK")):
            draw(top / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", level(wnid), mode)
        (top / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t9\t9\n")
    (top / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    for i, wnid in VAL.items():
        draw(top / "val" / "images" / f"val_{i}.JPEG", level(wnid))
    annotations = "".join(f"val_{i}.JPEG\t{wnid}\t0\t0\t9\t9\n" for i, wnid in VAL.items())
    (top / "val" / "val_annotations.txt").write_text(annotations)


def imagenet(root: Path, classes: int) -> None:
    """ImageNet's folders; of each class an image to train and one to test."""
    for i in range(classes):
        wnid, grey = f"n{i:08d}", 255 * i // classes
        draw(root / "imagenet" / "train" / wnid / f"{wnid}_{i}.JPEG", grey, size=16)
        draw(root / "imagenet" / "val" / wnid / f"ILSVRC2012_val_{i + 1:08d}.JPEG", grey, size=16)


def cub(root: Path, classes: int) -> None:
    """Birds; of each class an image to test and one to train, in turns."""
    lists: dict[str, list[str]] = {
        name: [] for name in ("images", "image_class_labels", "train_test_split", "classes")
    }
    for i in range(2 * classes):
        name = f"{i // 2 + 1:03d}.Bird/{i}.jpg"
        draw(root / BIRDS / "images" / name, 255 * (i // 2) // classes, size=16)
        lists["images"].append(f"{i + 1} {name}")
        lists["image_class_labels"].append(f"{i + 1} {i // 2 + 1}")
        lists["train_test_split"].append(f"{i + 1} {i % 2}")
    lists["classes"] = [f"{i} {i:03d}.Bird" for i in range(1, classes + 1)]
    for list_name, lines in lists.items():
        (root / BIRDS / f"{list_name}.txt").write_text("\n".join(lines) + "\n")


def speechcommands(root: Path, words: int) -> None:
    """Words; of each a recording to train, one to validate, one to test; noise beside them.

    Word i is a tone of 200 (i + 1) hertz; those to train, validate and test differ in loudness.
    """
    top, lists = root / SPEECH, {"validation": "", "testing": ""}
    for i in range(words):
        word = f"word{i:02d}"
        for name, loud in (("a", 1000), ("b", 3000), ("c", 9000)):
            record(top / word / f"{name}_nohash_0.wav", tone(200 * (i + 1), loud))
        lists["validation"] += f"{word}/b_nohash_0.wav\n"
        lists["testing"] += f"{word}/c_nohash_0.wav\n"
    for name, lines in lists.items():
        (top / f"{name}_list.txt").write_text(lines)
    record(top / "_background_noise_" / "hum.wav", np.zeros(40_000, np.int16))
    (top / "LICENSE").write_text("")


def draw(path: Path, level: int = 0, mode: str = "RGB", size: int = 64) -> Path:
    """A JPEG of one grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size, size), level).convert(mode).save(path, "JPEG", quality=95)
    return path


def tone(hertz: float, amplitude: float) -> NDArray[np.int16]:
    """A second of it, (16000,)."""
    return (amplitude * np.sin(2 * np.pi * hertz * TIME)).round().astype(np.int16)


def record(path: Path, samples: NDArray[np.int16], rate: int = 16_000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
