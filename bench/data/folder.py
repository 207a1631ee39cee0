"""Images of the user's own: PATH/train and PATH/val, or PATH/test, with a folder per class."""

from pathlib import Path

from mixbench.bench.data import _decode, _imagefolder
from mixbench.bench.data._base import Dataset
from mixbench.bench.data._layout import contents
from mixbench.bench.data._source import Source
from mixbench.bench.spec import BadInput


def read(path: Path) -> Dataset:
    """Opens no image. Raises BadInput if a split or a class is missing, or has no images."""
    return _imagefolder.read(*_splits(path))


def check(path: Path) -> str:
    """Opens every image. Raises BadInput that counts those which can't be read, and names some."""
    dataset = read(path)
    _decode.check(dataset)
    return contents(len(dataset.train), len(dataset.test), dataset.classes)


def source(path: Path) -> Source:
    name = f"folder:{path}"
    return Source(name, f"Images in {path}", "classification", lambda _: check(path))


def _splits(path: Path) -> tuple[Path, Path]:
    if not path.exists():
        raise BadInput(f"{path} is missing; it should hold train and val, each with its classes")
    tests = [path / name for name in ("val", "test") if (path / name).is_dir()]
    if not (path / "train").is_dir() or len(tests) != 1:
        held = ", ".join(_imagefolder.subfolders(path)) or "no folders"
        raise BadInput(f"{path} should hold train, and one of val and test; it holds {held}")
    return path / "train", tests[0]
