"""Images of no known class: which are read, how they are fitted, and what is drawn."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision import datasets

from mixbench.bench.data import digits, outside, sources
from mixbench.bench.data.outside import outside as images
from mixbench.bench.spec import BadInput

SCENES = Path(__file__).parents[2] / "shared" / "data" / "scenes-mini"
NESTED = {
    "lsun-crop": "odin/LSUN/test",
    "lsun-resize": "odin/LSUN_resize/LSUN_resize",
    "isun": "odin/iSUN/iSUN_patches",
    "tinyimagenet-crop": "odin/Imagenet/test",
    "tinyimagenet-resize": "odin/Imagenet_resize/Imagenet_resize",
    "textures": "dtd/images/dotted",
}
NOISE = ("uniform", "gaussian")

Pixels = NDArray[np.uint8]


def noise(n: int, *shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(256, size=(n, *shape), dtype=np.uint8)


def save(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def junk(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("no image")


def channels_first(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.moveaxis(pixels, -1, -3).copy())


@pytest.fixture
def svhn(tmp_path: Path) -> Path:
    (tmp_path / "svhn").mkdir()
    x = noise(7, 32, 32, 3).transpose(1, 2, 3, 0)
    savemat(tmp_path / outside.SVHN, {"X": x, "y": np.ones((7, 1), np.uint8)})
    return tmp_path


@pytest.mark.parametrize("name", NESTED)
def test_published_images_are_read_in_the_order_of_their_paths(tmp_path: Path, name: str) -> None:
    drawn = noise(4, 32, 32, 3)
    for i in (2, 0, 3, 1):
        save(tmp_path / NESTED[name] / f"{i}.png", drawn[i])
    junk(tmp_path / NESTED[name] / "._0.png")
    junk(tmp_path / NESTED[name] / ".thumbs" / "0.png")
    junk(tmp_path / NESTED[name] / "names.txt")
    x = images(name, tmp_path, 32)
    assert x.dtype == torch.uint8 and x.is_contiguous()
    assert x.equal(channels_first(drawn))


def test_svhns_test_images_are_read(svhn: Path) -> None:
    assert images("svhn", svhn, 32).equal(channels_first(noise(7, 32, 32, 3)))
    assert images("svhn", svhn, 48).shape == (7, 3, 48, 48)


@pytest.mark.parametrize("shape", [(64, 192, 3), (192, 64, 3)])
def test_the_centre_is_what_is_left_of_a_longer_side(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    pixels = np.zeros(shape, np.uint8)
    longer = int(np.argmax(shape))
    np.moveaxis(pixels, longer, 0)[62:130] = (200, 100, 50)
    save(tmp_path / "a.png", pixels)
    (x,) = images(f"folder:{tmp_path}", tmp_path, 32)
    assert (x.permute(1, 2, 0) == torch.tensor([200, 100, 50])).all()


@pytest.mark.parametrize(
    ("side", "resized", "corner"),
    [((80, 121), (32, 48), (0, 8)), ((47, 33), (45, 32), (6, 0)), ((20, 30), (32, 48), (0, 8))],
)
def test_images_are_resized_bilinearly(
    tmp_path: Path, side: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int]
) -> None:
    pixels = noise(1, *side, 3)[0]
    save(tmp_path / "a.png", pixels)
    small = Image.fromarray(pixels).resize(resized[::-1], Image.Resampling.BILINEAR)
    top, left = corner
    expected = np.asarray(small)[top : top + 32, left : left + 32]
    assert images(f"folder:{tmp_path}", tmp_path, 32)[0].equal(channels_first(expected))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_all_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("L", (32, 32), 255).convert(mode).save(tmp_path / "a.tiff")
    assert images(f"folder:{tmp_path}", tmp_path, 32).eq(255).all()


def test_published_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = noise(6, 40, 40, 3)
    for i, pixels in enumerate(drawn[:4]):
        save(tmp_path / NESTED["isun"] / f"{i}.png", pixels)
    plain = {size: images(f"folder:{tmp_path / 'odin/iSUN'}", tmp_path, size) for size in (16, 32)}
    for size, x in plain.items():
        assert images("isun", tmp_path, size).equal(x)
    with monkeypatch.context() as patch:
        patch.setattr(outside, "pixels", None)
        for size, x in plain.items():
            assert images("isun", tmp_path, size).equal(x)
    assert len([*(tmp_path / "odin").glob("*.npy")]) == 2
    save(tmp_path / NESTED["isun"] / "4.png", drawn[4])
    assert len(images("isun", tmp_path, 32)) == 5
    assert len([*(tmp_path / "odin").glob("*.npy")]) == 2


def test_neither_large_images_nor_ones_own_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "KEPT", 16)
    save(tmp_path / NESTED["isun"] / "0.png", noise(17, 17, 3))
    images("isun", tmp_path, 17)
    images(f"folder:{tmp_path / 'odin/iSUN'}", tmp_path, 16)
    assert not [*tmp_path.rglob("*.npy")]
    images("isun", tmp_path, 16)
    assert [*tmp_path.rglob("*.npy")]


def test_published_images_that_can_t_be_read_are_named_each_time(tmp_path: Path) -> None:
    save(tmp_path / NESTED["isun"] / "0.png", noise(32, 32, 3))
    junk(tmp_path / NESTED["isun"] / "1.png")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"^1 of 2 images in .* can't be used: .*1\.png"):
            assert len(images("isun", tmp_path, 32)) == 1


def test_unreadable_images_are_left_out_and_named(tmp_path: Path) -> None:
    drawn = noise(5, 32, 32, 3)
    for i, pixels in enumerate(drawn):
        save(tmp_path / f"{i}.png", pixels)
    junk(tmp_path / "1.png")
    cut = tmp_path / "3.png"
    cut.write_bytes(cut.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"^2 of 5 images in .* can't be used: .*1\.png") as said:
        x = images(f"folder:{tmp_path}", tmp_path, 32)
    assert "3.png" in str(said[0].message) and "\n" not in str(said[0].message)
    assert x.equal(channels_first(drawn[[0, 2, 4]]))


def no_folder(root: Path) -> None:
    shutil.rmtree(root / "odin" / "LSUN")


def no_images(root: Path) -> None:
    (root / "odin" / "LSUN" / "0.png").unlink()


def no_readable_image(root: Path) -> None:
    junk(root / "odin" / "LSUN" / "0.png")


@pytest.mark.parametrize(
    ("damage", "name", "why"),
    [
        (no_folder, "lsun-crop", "LSUN is missing; get it with: mixbench data get lsun-crop"),
        (no_folder, "folder:{}", "LSUN should be a folder of images, and there is none"),
        (no_folder, "folder-crop:{}", "LSUN should be a folder of images, and there is none"),
        (no_images, "lsun-crop", "LSUN has no images"),
        (no_images, "folder:{}", "LSUN has no images"),
        (no_readable_image, "folder:{}", "1 of 1 images in .*LSUN can't be used: .*0.png"),
        (no_images, "lsun-corp", "no set of images 'lsun-corp'; did you mean lsun-crop"),
        (no_images, "svhn", "test_32x32.mat is missing; get it with: mixbench data get svhn"),
    ],
)
def test_what_is_not_there_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], name: str, why: str
) -> None:
    save(tmp_path / "odin" / "LSUN" / "0.png", noise(1, 32, 32, 3)[0])
    damage(tmp_path)
    name = name.format(tmp_path / "odin" / "LSUN")
    with warnings.catch_warnings(), pytest.raises(BadInput, match=why):
        warnings.simplefilter("error")
        images(name, tmp_path, 32)
    if damage is not no_readable_image:
        with pytest.raises(BadInput, match=why) as said:
            outside.require(name, tmp_path)
        assert "\n" not in str(said.value)


def test_how_to_get_what_is_required_is_told(tmp_path: Path) -> None:
    (tmp_path / "odin" / "LSUN").mkdir(parents=True)
    for name in (*NESTED, "svhn"):
        with pytest.raises(BadInput, match=f"mixbench data get {name}"):
            outside.require(name, tmp_path)


def test_what_is_there_fulfils_requirements_unopened(svhn: Path) -> None:
    for name, folder in NESTED.items():
        junk(svhn / folder / "0.png")
        outside.require(name, svhn)
    junk(svhn / outside.SVHN)
    outside.require("svhn", svhn)
    for kind in ("folder", "folder-crop"):
        outside.require(f"{kind}:{svhn / 'odin'}", Path("nowhere"))


@pytest.mark.parametrize("name", [*NOISE, "photographs"])
def test_what_needs_no_files_is_always_there(name: str) -> None:
    outside.require(name, Path("nowhere"))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def without_x(path: Path) -> None:
    savemat(path, {"y": np.ones(3)})


def of_other_shape(path: Path) -> None:
    savemat(path, {"X": np.zeros((3, 32, 32, 7), np.uint8)})


def of_other_type(path: Path) -> None:
    savemat(path, {"X": np.zeros((32, 32, 3, 7))})


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (cut_short, r"test_32x32.mat is damaged \(.*\); get it with: mixbench data get svhn"),
        (junk, r"test_32x32.mat is damaged \("),
        (without_x, r"test_32x32.mat is damaged \(KeyError: 'X'\)"),
        (of_other_shape, r"is uint8 \(3, 32, 32, 7\), and should be uint8 \(32, 32, 3, n\)"),
        (of_other_type, r"is float64 \(32, 32, 3, 7\), and should be uint8"),
    ],
)
def test_a_damaged_svhn_is_refused(svhn: Path, damage: Callable[[Path], None], why: str) -> None:
    damage(svhn / outside.SVHN)
    for look in (lambda: images("svhn", svhn, 32), lambda: sources()["svhn"].check(svhn)):
        with pytest.raises(BadInput, match=why):
            look()


@pytest.mark.parametrize("name", NESTED)
def test_check_counts_what_was_published(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, (folder, published) = sources()[name].check, outside.FILES[name]
    with pytest.raises(BadInput, match=f"{folder} is missing; .*mixbench data get {name}"):
        check(tmp_path)
    for i in range(2):
        save(tmp_path / NESTED[name] / f"{i}.png", noise(1, 32, 32, 3)[0])
    junk(tmp_path / NESTED[name] / "._0.png")
    with pytest.raises(BadInput, match=f"has 2 images; as published it has {published:,}"):
        check(tmp_path)
    monkeypatch.setattr(outside, "FILES", {name: (folder, 2)})
    assert check(tmp_path) == "2 images"
    monkeypatch.setattr(outside, "FILES", {name: (folder, 1)})
    fix = f"remove {tmp_path / folder}, then get it with: mixbench data get {name}"
    with pytest.raises(BadInput, match=f"has 2 images; as published it has 1; {fix}"):
        check(tmp_path)


def test_check_opens_the_published_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = outside.FILES["isun"]
    save(tmp_path / folder / "0.png", noise(1, 32, 32, 3)[0])
    junk(tmp_path / folder / "1.png")
    monkeypatch.setattr(outside, "FILES", {"isun": (folder, 2)})
    with pytest.raises(BadInput, match=r"1 of 2 files can't be read: .*1\.png"):
        sources()["isun"].check(tmp_path)


def test_check_counts_svhns_images(svhn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"test_32x32.mat has 7 images; .* it has 26,032"):
        sources()["svhn"].check(svhn)
    monkeypatch.setattr(outside, "SVHN_IMAGES", 7)
    assert sources()["svhn"].check(svhn) == "7 images"


@pytest.mark.parametrize("name", NOISE)
def test_noise_is_drawn_by_seed_and_needs_no_files(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "DRAWN", 50)
    x = images(name, Path("nowhere"), 24, seed=3)
    assert x.shape == (50, 3, 24, 24) and x.dtype == torch.uint8
    assert x.equal(images(name, Path("nowhere"), 24, seed=3))
    assert not x.equal(images(name, Path("nowhere"), 24, seed=4))
    assert not x[0].equal(x[1]) and not x[:, 0].equal(x[:, 1])


def counts(name: str, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """How often each level occurs, of 921,600 values."""
    monkeypatch.setattr(outside, "DRAWN", 300)
    return images(name, Path(), 32).flatten().int().bincount(minlength=256).double()


def assert_shares(counts: Tensor, expected: Tensor) -> None:
    n = counts.sum()
    assert ((counts / n - expected).abs() < 5 * (expected / n).sqrt()).all()


def test_uniform_noise_has_all_levels_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_shares(counts("uniform", monkeypatch), torch.full((256,), 1 / 256).double())


def test_gaussian_noise_is_clipped_and_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = (torch.arange(255).double() + 0.5) / 255
    below = torch.distributions.Normal(0.5, 1.0).cdf(edges).double()
    zero, one = torch.zeros(1).double(), torch.ones(1).double()
    assert_shares(counts("gaussian", monkeypatch), torch.cat([zero, below, one]).diff())


@pytest.mark.parametrize("name", NOISE)
def test_there_are_ten_thousand_images_of_noise_and_grey_is_their_mean(name: str) -> None:
    x = images(name, Path(), 32)
    assert x.shape == (10_000, 3, 32, 32)
    error = x.double().std() / x.numel() ** 0.5
    assert abs(x.double().mean() - 127.5) < 4 * error


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """40 images of 6 x 5 pixels, that number their pixels in red and themselves in green."""
    for i in range(40):
        pixels = np.zeros((6, 5, 3), np.uint8)
        pixels[..., 0] = np.arange(30).reshape(6, 5)
        pixels[..., 1] = i
        save(tmp_path / "scenes" / f"{i % 2}" / f"{i:02}.png", pixels)
    return tmp_path / "scenes"


def windows(folder: Path, seed: int = 0, size: int = 4) -> dict[int, Tensor]:
    """Of each image, the numbers of the pixels that were cut out."""
    x = images(f"folder-crop:{folder}", Path("nowhere"), size, seed)
    return {int(image[1, 0, 0]): image[0] for image in x}


def test_random_windows_lie_anywhere_in_an_image(numbered: Path) -> None:
    corners = set()
    for seed in range(5):
        for window in windows(numbered, seed).values():
            top, left = divmod(int(window[0, 0]), 5)
            expected = torch.arange(30).view(6, 5)[top : top + 4, left : left + 4]
            assert window.equal(expected.to(torch.uint8))
            corners.add((top, left))
    assert corners == {(top, left) for top in range(3) for left in range(2)}


def test_a_random_window_depends_on_seed_and_path_alone(numbered: Path, tmp_path: Path) -> None:
    first = windows(numbered)
    assert sorted(first) == list(range(40))
    numbered.rename(tmp_path / "moved")
    (tmp_path / "moved" / "0" / "00.png").unlink()
    again = windows(tmp_path / "moved")
    assert sorted(again) == list(range(1, 40))
    assert all(window.equal(first[i]) for i, window in again.items())
    other = windows(tmp_path / "moved", seed=1)
    assert not all(window.equal(first[i]) for i, window in other.items())


def test_windows_of_the_size_of_an_image_are_the_image(tmp_path: Path) -> None:
    pixels = noise(1, 32, 32, 3)[0]
    save(tmp_path / "a.png", pixels)
    assert images(f"folder-crop:{tmp_path}", tmp_path, 32)[0].equal(channels_first(pixels))


def test_what_is_smaller_than_a_window_is_left_out(numbered: Path) -> None:
    with pytest.raises(BadInput, match=r"40 of 40 .*00.png \(5 x 6 pixels, less than 6 x 6\)"):
        windows(numbered, size=6)
    save(numbered / "large.png", noise(1, 9, 9, 3)[0])
    with pytest.warns(UserWarning, match="40 of 41 images .* they are left out"):
        assert len(windows(numbered, size=6)) == 1


def test_photographs_are_windows_of_scikit_learns() -> None:
    x = images("photographs", Path("nowhere"), 32)
    assert x.shape == (10_000, 3, 32, 32) and x.dtype == torch.uint8 and x.is_contiguous()
    wholes = [whole.tobytes() for whole in load_sample_images().images]
    rows = [[row.tobytes() for row in cut] for cut in x[:50].permute(0, 2, 3, 1).numpy()]
    seen = {next(n for n in (0, 1) if all(row in wholes[n] for row in cut)) for cut in rows}
    assert seen == {0, 1}


def test_photographs_are_decided_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "PHOTOGRAPHS", 50)
    x = images("photographs", Path(), 32, seed=3)
    assert x.equal(images("photographs", Path(), 32, seed=3))
    assert not x.equal(images("photographs", Path(), 32, seed=4))


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> Pixels:
    """Two photographs of 36 x 40 pixels, each of which tells where it is."""
    told: Pixels = np.moveaxis(np.indices((2, 36, 40)), 0, -1).astype(np.uint8)
    monkeypatch.setattr(outside, "_whole_photographs", lambda: told)
    return told


def corners(x: Tensor) -> set[tuple[int, int, int]]:
    """The places of windows that are as they were cut out."""
    return {tuple(window[:, 0, 0].tolist()) for window in x}


def test_no_window_is_cut_out_twice(maps: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images("photographs", Path(), 32)
    assert corners(x) == {(n, i, j) for n in range(2) for i in range(5) for j in range(9)}
    assert len(x) == 2 * 5 * 9
    for window in x:
        n, i, j = window[:, 0, 0].tolist()
        assert window.equal(channels_first(maps[n, i : i + 32, j : j + 32]))
    monkeypatch.setattr(outside, "PHOTOGRAPHS", 70)
    assert len(corners(images("photographs", Path(), 32))) == 70


def test_small_photographs_are_larger_windows_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "PHOTOGRAPHS", 50)
    small, large = (images("photographs", Path(), size).float() for size in (8, 32))
    assert small.shape == (50, 3, 8, 8)
    blocks = torch.nn.functional.avg_pool2d(large, 4)
    assert (small - blocks).abs().mean() < 0.1 * (small - small.flip(0)).abs().mean()


def test_photographs_fill_images_that_are_larger_than_they(maps: Pixels) -> None:
    x = images("photographs", Path(), 50)
    assert x.shape == (2 * 5, 3, 50, 50)
    assert (x[:, 1].amax((1, 2)) == 35).all() and (x[:, 1].amin((1, 2)) == 0).all()


def test_photographs_come_with_scikit_learn() -> None:
    source = sources()["photographs"]
    assert source.check(Path("nowhere")) == "2 photographs of 640 x 427 pixels"
    assert source.use == "out of distribution" and not source.where and not source.archives


@pytest.mark.parametrize(
    ("name", "dataset", "why"),
    [
        ("tinyimagenet-crop", "tinyimagenet", "test images"),
        ("tinyimagenet-resize", "imagenet", "among ImageNet's"),
        ("tinyimagenet-crop", "cifar100", "lions"),
        ("tinyimagenet-crop", "cifar10", "cats"),
        ("tinyimagenet-crop", "cub", "albatrosses"),
        ("lsun-crop", "imagenet", "churches"),
        ("lsun-resize", "cifar100", "bridges"),
        ("lsun-crop", "tinyimagenet", "bridges"),
        ("textures", "imagenet", "honeycombs"),
        ("textures", "tinyimagenet", "webs"),
        ("svhn", "digits", "ten digits"),
        ("lsun-crop", "cifar10", ""),
        ("isun", "cifar100", ""),
        ("svhn", "cifar10", ""),
        ("textures", "cifar100", ""),
        ("tinyimagenet-crop", "speechcommands", ""),
        ("tinyimagenet-crop", "digits", ""),
        ("uniform", "digits", ""),
        ("photographs", "imagenet", ""),
        ("folder:/a/b", "imagenet", ""),
        ("textures", "folder:/a/b", ""),
    ],
)
def test_known_overlaps_are_told(name: str, dataset: str, why: str) -> None:
    told = outside.overlap(name, dataset)
    assert why in told and bool(told) == bool(why)


def test_what_overlaps_are_sets_and_datasets() -> None:
    sets = {name.partition("-")[0] for name in (*outside.FILES, "svhn")}
    for name, dataset in outside.SHARED:
        assert name in sets and sources()[dataset].use == "classification"


@pytest.mark.parametrize("kind", ["folder", "folder-crop"])
@pytest.mark.parametrize(
    ("shown", "why"),
    [
        ("a", "same folder"),
        ("b/../a/", "same folder"),
        ("a/train/cat", "lies in the other"),
        (".", "lies in the other"),
        ("link", "same folder"),
        ("ab", ""),
        ("b", ""),
    ],
)
def test_a_folder_that_was_trained_on_overlaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, shown: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for path in (shown, tmp_path / shown):
        told = outside.overlap(f"{kind}:{path}", f"folder:{tmp_path / 'a'}")
        assert why in told and bool(told) == bool(why)


def test_images_that_were_trained_or_tested_on_are_counted() -> None:
    x, train, test = (torch.from_numpy(noise(n, 3, 8, 8, seed=n)) for n in (10, 30, 20))
    assert outside.shared_images(x, train, test) == 0
    assert outside.shared_images(x) == 0
    train[[4, 5]], test[7] = x[2], x[3]
    x[8] = x[3]  # both are there
    assert outside.shared_images(x, train) == 1
    assert outside.shared_images(x, train, test) == 3
    train[4, 0, 0, 0] ^= 1
    train[5, 0, 0, 0] ^= 1
    assert outside.shared_images(x, train, test) == 2


def test_images_of_one_channel_are_grey() -> None:
    train = torch.from_numpy(noise(5, 1, 8, 8))
    assert outside.shared_images(train.expand(-1, 3, -1, -1)[1:4], train) == 3


def test_memory_order_of_shared_images_does_not_matter() -> None:
    x = torch.from_numpy(noise(5, 3, 8, 8))
    assert outside.shared_images(x, x.contiguous(memory_format=torch.channels_last)) == 5


def test_what_is_always_there_shares_no_images_with_the_digits() -> None:
    dataset = digits.read(Path())
    inside = dataset.train.x, dataset.test.x  # type: ignore[union-attr]
    for name in (*NOISE, "photographs"):
        assert outside.shared_images(images(name, Path(), 8), *inside) == 0


def test_torchvisions_archives_are_those_that_it_knows() -> None:
    (dtd,), (svhn,) = sources()["textures"].archives, sources()["svhn"].archives
    assert (dtd.urls[0], dtd.digest) == (datasets.DTD._URL, f"md5:{datasets.DTD._MD5}")
    url, name, md5 = datasets.SVHN.split_list["test"]
    assert (svhn.urls[0], svhn.name, svhn.digest) == (url, name, f"md5:{md5}")
    assert f"{svhn.into}/{svhn.name}" == outside.SVHN


@pytest.mark.parametrize("name", [name for name in NESTED if name != "textures"])
def test_an_archive_is_named_as_the_folder_that_it_holds(name: str) -> None:
    (archive,) = sources()[name].archives
    assert f"{archive.into}/{archive.name}" == f"{outside.FILES[name][0]}.tar.gz"
    assert all(url.endswith(f"/{archive.name}?dl=1") for url in archive.urls)


@pytest.mark.skipif(not SCENES.exists(), reason="the photographs are not here")
def test_photographs_are_resized_and_cropped() -> None:
    resized, cropped = (
        images(f"{kind}:{SCENES}", Path(), 32) for kind in ("folder", "folder-crop")
    )
    assert resized.shape == cropped.shape == (450, 3, 32, 32)

    first = min(SCENES.rglob("*.jpg"))
    with Image.open(first) as image:
        pixels = np.asarray(image.convert("RGB"))
    square = images(f"folder:{SCENES}", Path(), min(pixels.shape[:2]))[0].float()
    assert (resized[0].float().mean((1, 2)) - square.mean((1, 2))).abs().max() < 2
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (32, 32), (0, 1))
    assert (windows == cropped[0].numpy()).all((2, 3, 4)).any()
