"""Images that are of no class that a network was trained on: from files, or drawn.

Those of ODIN (Liang et al., 1706.02690) are as its authors published them, of 32 x 32 pixels: random
crops, and images made smaller, of LSUN and of Tiny-ImageNet, and iSUN made smaller. What stands in
for them is named by its own path: folder:PATH makes images smaller, folder-crop:PATH crops them.
Two photographs that come with scikit-learn, and noise, are there without any files.
"""

import math
import os
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from mixbench.bench.data import _imagefolder
from mixbench.bench.data._cached import cached
from mixbench.bench.data._decode import Paths, check_files, decoded, pixels, tried
from mixbench.bench.data._layout import anew, existing, remedy, some
from mixbench.bench.data._source import Archive, Source
from mixbench.bench.spec import FOLDER, BadInput, choose, one_line

Pixels = NDArray[np.uint8]

CROPS = "folder-crop:"
"""Before the path of images that are cropped, not made smaller."""

FILES: Mapping[str, tuple[str, int]] = {
    "lsun-crop": ("odin/LSUN", 10_000),
    "lsun-resize": ("odin/LSUN_resize", 10_000),
    "isun": ("odin/iSUN", 8_925),
    "tinyimagenet-crop": ("odin/Imagenet", 10_000),
    "tinyimagenet-resize": ("odin/Imagenet_resize", 10_000),
    "textures": ("dtd/images", 5_640),
}
"""Where the images of a set lie, at any depth, and how many were published."""

SVHN, SVHN_IMAGES = "svhn/test_32x32.mat", 26_032
DRAWN = 10_000
"""How many images of noise there are."""

KEPT = 64
"""The most pixels per side of published images that are kept decoded; of 10,000, 120 MB."""

PHOTOGRAPHS, WINDOW = 10_000, 32
"""How many windows of the photographs there are, and how many pixels per side they have at least."""

SHARED: Mapping[tuple[str, str], str] = {
    ("tinyimagenet", "tinyimagenet"): "they are its test images",
    ("tinyimagenet", "imagenet"): "Tiny-ImageNet's classes are among ImageNet's",
    ("tinyimagenet", "cifar100"): "both have lions, chimpanzees, mushrooms and more",
    ("tinyimagenet", "tinycifar100"): "both have bears, bees, bottles and more",
    ("tinyimagenet", "cifar10"): "both have cats, dogs and frogs",
    ("tinyimagenet", "cub"): "both have albatrosses",
    ("lsun", "tinyimagenet"): "both have bridges",
    ("lsun", "imagenet"): "both have bridges, churches and restaurants",
    ("lsun", "cifar100"): "both have bridges",
    ("lsun", "tinycifar100"): "both have bridges",
    ("textures", "tinyimagenet"): "both have spiders' webs",
    ("textures", "imagenet"): "both have spiders' webs and honeycombs",
    ("svhn", "digits"): "both have the ten digits",
}
"""What a set, named up to its hyphen, shares with a dataset, by the names of their classes."""


def outside(name: str, root: Path, size: int, seed: int = 0) -> Tensor:
    """Images (n, 3, size, size) uint8, always in the same order: that of their paths.

    name: of a set in ``FILES``; "svhn"; "uniform", U[0, 1] for each value; "gaussian", N(0.5, 1),
        clipped; "photographs", windows of scikit-learn's two photographs; folder:PATH or
        folder-crop:PATH, images at any depth of a folder.
    size: what is of another is resized, so that its shorter side fits, and its centre is cut out;
        so are the sets of 32 x 32 pixels where a network is trained on larger images. As
        torchvision does it, bilinear, so that others' evaluations on textures saw the same. Only
        folder-crop:PATH cuts a random window out of each image as it is. Windows of photographs
        have ``size`` pixels, but ``WINDOW`` at least, as less shows hardly more than a colour, and
        no more than fit; all differ in place.
    seed: of noise and of random windows.

    Images that can't be read are left out with a warning, which counts them and names some. Of those
    in ``FILES``, small ones that can all be read are decoded once, and kept beside their folder.
    Raises BadInput if none is left, or the set is unknown or not there.
    """
    files = _location(name, root)
    if not files:
        draw = np.random.default_rng(seed)
        return _resized(torch.from_numpy(NO_FILES[name](size, draw)), size)
    if name == "svhn":
        return _stacked([_fit(image, size) for image in _svhn(root)])
    if name.startswith(CROPS):
        return _decoded(files, partial(_window, folder=files, size=size, seed=seed))
    read = partial(_fitted, size=size)
    if name in FILES and size <= KEPT:
        with suppress(BadInput):  # one can't be read: what is left is not kept, so that it is said
            return _kept(files, read, size)
    return _decoded(files, read)


def require(name: str, root: Path) -> None:
    """Raises BadInput if the set is unknown, or has no images; none is opened."""
    files = _location(name, root)
    if files and files.is_dir() and not any(_imagefolder.files(files)):
        raise BadInput(f"{files} has no images" + (f"; {remedy(name)}" if name in FILES else ""))


def _location(name: str, root: Path) -> Path | None:
    """Where the images of a set lie, if it needs any. Raises BadInput if there is nothing."""
    for prefix in (FOLDER, CROPS):
        if name.startswith(prefix):
            return _own(name, prefix)
    places = {known: folder for known, (folder, _) in FILES.items()} | {"svhn": SVHN}
    choose(name, [*places, *NO_FILES], "set of images")
    return existing(root / places[name], name) if name in places else None


def overlap(name: str, dataset: str) -> str:
    """Why a set has classes of the dataset that was trained on; "" if none are known.

    Both are named as where they are read; of paths, one should not lie in the other.
    """
    shown, trained = _path(name), _path(dataset)
    if shown and trained:
        return _nested(shown, trained)
    return SHARED.get((name.partition("-")[0], dataset), "")


def _path(name: str) -> Path | None:
    """Of images of the user's own."""
    _, colon, path = name.partition(":")
    return Path(path).resolve() if colon else None


def _nested(one: Path, other: Path) -> str:
    if one == other:
        return "they are the same folder"
    lie = one.is_relative_to(other) or other.is_relative_to(one)
    return "one of the folders lies in the other" if lie else ""


def shared_images(outside: Tensor, *inside: Tensor) -> int:
    """How many images (n, 3, h, w) are, to the byte, among others (m, 3 or 1, h, w); all uint8."""
    left = Counter(_bytes(outside))
    return sum(left.pop(image, 0) for images in inside for image in _bytes(images))


def _bytes(images: Tensor) -> Iterator[bytes]:
    return (image.tobytes() for image in images.cpu().expand(-1, 3, -1, -1).numpy())


def check(name: str, root: Path) -> str:
    """Opens all images."""
    folder, published = FILES[name]
    paths = np.array([*_imagefolder.files(existing(root / folder, name))])
    summary = _counted(name, root / folder, len(paths), published)
    check_files(paths)
    return summary


def check_svhn(root: Path) -> str:
    return _counted("svhn", root / SVHN, len(_svhn(root)), SVHN_IMAGES)


def check_photographs(root: Path) -> str:
    """Nothing is read from ``root``."""
    n, h, w, _ = _whole_photographs().shape
    return f"{n} photographs of {w} x {h} pixels"


def _counted(name: str, path: Path, found: int, published: int) -> str:
    if found != published:
        fix = anew(path, name)
        raise BadInput(f"{path} has {found:,} images; as published it has {published:,}; {fix}")
    return f"{found:,} images"


def _uniform(size: int, draw: Generator) -> Pixels:
    return draw.integers(256, size=(DRAWN, 3, size, size), dtype=np.uint8)


def _gaussian(size: int, draw: Generator) -> Pixels:
    out = np.empty((DRAWN, 3, size, size), np.uint8)
    for image in out:  # one by one, as numbers before rounding take eight times as much
        image[:] = (255 * draw.normal(0.5, 1, image.shape).clip(0, 1)).round()
    return out


def _photographs(size: int, draw: Generator) -> Pixels:
    """Windows of random places; all there are, if those are fewer than ``PHOTOGRAPHS``."""
    whole = _whole_photographs()
    side = min(max(size, WINDOW), *whole.shape[1:3])
    windows = np.lib.stride_tricks.sliding_window_view(whole, (side, side), (1, 2))  # n i j 3 h w
    places = math.prod(windows.shape[:3])
    chosen = draw.choice(places, min(PHOTOGRAPHS, places), replace=False)
    picked: Pixels = windows[np.unravel_index(chosen, windows.shape[:3])]
    return picked


def _whole_photographs() -> Pixels:
    """(n, h, w, 3)"""
    from sklearn.datasets import load_sample_images

    return np.stack(load_sample_images().images)


NO_FILES: Mapping[str, Callable[[int, Generator], Pixels]] = {
    "uniform": _uniform,
    "gaussian": _gaussian,
    "photographs": _photographs,
}


def _own(name: str, prefix: str) -> Path:
    folder = Path(name.removeprefix(prefix))
    if not folder.is_dir():
        raise BadInput(f"{folder} should be a folder of images, and there is none")
    return folder


def _kept(folder: Path, read: Callable[[bytes], Pixels], size: int) -> Tensor:
    def decode(paths: Paths) -> Pixels:
        return decoded(paths, (3, size, size), read, lambda images: images.transpose(0, 3, 1, 2))

    return cached(folder.with_name(f"{folder.name}-{size}"), _paths(folder), decode)


def _decoded(folder: Path, read: Callable[[bytes], Pixels]) -> Tensor:
    paths, good, bad = _paths(folder), list[Pixels](), list[str]()
    for _, images, complaints in tried(paths, read):
        good += images
        bad += complaints
    if bad:
        said = f"{len(bad):,} of {len(paths):,} images in {folder} can't be used: {some(bad)}"
        if not good:
            raise BadInput(said)
        warnings.warn(f"{said}; they are left out", stacklevel=3)
    return _stacked(good)


def _paths(folder: Path) -> Paths:
    """Sorted. Raises BadInput if there are none."""
    paths = np.array(sorted(_imagefolder.files(folder)))
    if not len(paths):
        raise BadInput(f"{folder} has no images")
    return paths


def _resized(x: Tensor, size: int) -> Tensor:
    from torchvision.transforms.functional import resize

    small: Tensor = resize(x, [size, size]).contiguous()
    return small


def _stacked(images: list[Pixels]) -> Tensor:
    """From (h, w, 3) each to (n, 3, h, w)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def _fitted(path: bytes, size: int) -> Pixels:
    return _fit(pixels(path), size)


def _fit(image: Pixels, size: int) -> Pixels:
    from PIL import Image
    from torchvision.transforms.functional import center_crop, resize

    return np.asarray(center_crop(resize(Image.fromarray(image), [size]), [size]))


def _window(path: bytes, folder: Path, size: int, seed: int) -> Pixels:
    """A random window; which one depends on the file's path in the folder, not on other files."""
    image = pixels(path)
    h, w, _ = image.shape
    if min(h, w) < size:
        raise BadInput(f"{w} x {h} pixels, less than {size} x {size}")
    inner = os.path.relpath(path, os.fsencode(folder))
    draw = np.random.default_rng((seed, zlib.crc32(inner)))
    top, left = draw.integers((h - size + 1, w - size + 1))
    return image[top : top + size, left : left + size].copy()


def _svhn(root: Path) -> Pixels:
    """The test images (n, 32, 32, 3)."""
    from scipy.io import loadmat

    path = existing(root / SVHN, "svhn")
    try:
        x: NDArray[Any] = loadmat(path)["X"]
    except Exception as error:  # what is damaged can raise anything
        raise BadInput(f"{path} is damaged ({one_line(error)}); {remedy('svhn')}") from None
    if x.dtype != np.uint8 or x.shape[:-1] != (32, 32, 3):
        raise BadInput(f"X in {path} is {x.dtype} {x.shape}, and should be uint8 (32, 32, 3, n)")
    return x.transpose(3, 0, 1, 2)


def _odin(name: str, title: str, link: str, md5: str) -> Source:
    where = FILES[name][0]
    into, _, folder = where.rpartition("/")
    url = f"https://www.dropbox.com/s/{link}/{folder}.tar.gz?dl=1"
    archive = Archive(f"{folder}.tar.gz", (url,), f"md5:{md5}", into)
    return Source(name, title, "out of distribution", partial(check, name), where, (archive,))


SOURCES = (
    _odin(
        "lsun-crop",
        "LSUN (Yu et al., 1506.03365), crops by Liang et al. (1706.02690)",
        "fhtsw1m3qxlwj6h",
        "458a0a0ab8e5f1cb4516d7400568e460",
    ),
    _odin(
        "lsun-resize",
        "LSUN (Yu et al., 1506.03365), resized by Liang et al. (1706.02690)",
        "moqh2wh8696c3yl",
        "278b7b31c8cb7e804a1465a8ce03a2dc",
    ),
    _odin(
        "isun",
        "iSUN (Xu et al., 1504.06755), resized by Liang et al. (1706.02690)",
        "ssz7qxfqae0cca5",
        "be77b0f2c26fda898afac5f99645ee70",
    ),
    _odin(
        "tinyimagenet-crop",
        "Tiny-ImageNet (Le and Yang, 2015), crops by Liang et al. (1706.02690)",
        "avgm2u562itwpkl",
        "7c0827e4246c3718a5ee076e999e52e5",
    ),
    _odin(
        "tinyimagenet-resize",
        "Tiny-ImageNet (Le and Yang, 2015), resized by Liang et al. (1706.02690)",
        "kp3my3412u5k9rl",
        "0f9ff11d45babf2eff5fe12281d1ac31",
    ),
    Source(
        "textures",
        "Describable Textures Dataset (Cimpoi et al., 1311.3618)",
        "out of distribution",
        partial(check, "textures"),
        FILES["textures"][0],
        (
            Archive(
                "dtd-r1.0.1.tar.gz",
                ("https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",),
                "md5:fff73e5086ae6bdbea199a49dfb8a4c1",
            ),
        ),
    ),
    Source(
        "svhn",
        "SVHN (Netzer et al., Reading Digits in Natural Images, 2011), its test images",
        "out of distribution",
        check_svhn,
        SVHN,
        (
            Archive(
                "test_32x32.mat",
                ("http://ufldl.stanford.edu/housenumbers/test_32x32.mat",),
                "md5:eb5a983be6a315427106f1b164d9cef3",
                "svhn",
            ),
        ),
    ),
    Source(
        "photographs",
        "scikit-learn's two sample photographs, windows of them",
        "out of distribution",
        check_photographs,
    ),
)
