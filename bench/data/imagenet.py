"""ImageNet-1k (ILSVRC 2012): ROOT/imagenet/{train,val}/<wnid>/."""

from pathlib import Path

from mixbench.bench.data import _imagefolder
from mixbench.bench.data._base import Dataset
from mixbench.bench.data._layout import existing, published
from mixbench.bench.data._source import Source
from mixbench.bench.spec import BadInput

CLASSES = 1000
UNPACK = 'python -c "from torchvision.datasets import ImageNet; ImageNet({folder!r}, {split!r})"'


def read(root: Path) -> Dataset:
    """All images that are there. Raises BadInput if they are not those of 1000 classes."""
    folder = existing(root / "imagenet", "imagenet")
    train, val = (existing(folder / split, "imagenet") for split in ("train", "val"))
    for split in (train, val):
        _check_unpacked(split)
    return _imagefolder.read(train, val)


def check(root: Path) -> str:
    """Opens no image: all 1.3 million of them would take an hour or so."""
    folder = root / "imagenet"
    return published(folder, read(root), 1_281_167, 50_000, CLASSES, _own(folder))


def _check_unpacked(split: Path) -> None:
    classes = len(_imagefolder.subfolders(split))
    if not classes and any(_imagefolder.files(split)):
        unpack = UNPACK.format(folder=str(split.parent), split=split.name)
        raise BadInput(
            f"{split} should have a folder per class; remove it, and with ILSVRC2012's tar files "
            f"and its devkit_t12 in {split.parent}, run: {unpack}"
        )
    if classes != CLASSES:
        raise BadInput(f"{split} has {classes:,} of {CLASSES:,} classes; {_own(split.parent)}")


def _own(folder: Path) -> str:
    return f"data that has others is named folder:{folder}"


SOURCE = Source(
    "imagenet",
    "ImageNet-1k (Russakovsky et al., 1409.0575)",
    "classification",
    check,
    "imagenet",
    by_hand="Its terms are to be agreed to at https://image-net.org/download-images. Put "
    "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz in "
    "ROOT/imagenet, and run: "
    + " and ".join(UNPACK.format(folder="ROOT/imagenet", split=s) for s in ("train", "val")),
)
