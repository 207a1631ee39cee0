"""Corruptions: what each does to images of which the answer is known, and what all have in common."""

import colorsys
from functools import cache
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import zoom
from sklearn.datasets import load_sample_images
from torch import Tensor

from mixbench.bench.data._corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    Pixels,
    _bytes,
    _magnifying,
    _moved,
    _plasma,
    corrupt,
    defocus_blur,
    elastic_transform,
    fog,
    frost,
    glass_blur,
    motion_blur,
    pixelate,
    snow,
    zoom_blur,
)
from mixbench.bench.spec import BadInput

WITHOUT_CHANCE = {
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
}
NOT_MONOTONE = {
    "glass_blur",  # less blur with more rounds, and more blur with as many
    "motion_blur",  # severity 4 has the width of 3; only the angles differ
    "frost",  # severity 4 has the ice of 3 and less of the image
    "elastic_transform",  # the affine map, which moves most, gets weaker
}
all_of_them = pytest.mark.parametrize("name", CORRUPTIONS)
each_severity = pytest.mark.parametrize("severity", SEVERITIES)


def at_each_severity(name: str, *values: float) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("severity", name), [*zip(SEVERITIES, values, strict=True)])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@cache
def photographs() -> Tensor:
    """Windows of 32 x 32 pixels of two photographs, (30, 3, 32, 32)."""
    photos = [Image.fromarray(photo).resize((160, 96)) for photo in load_sample_images().images]
    pixels = torch.from_numpy(np.stack([np.asarray(photo) for photo in photos]))
    windows: Tensor = pixels.unflatten(2, (5, 32)).unflatten(1, (3, 32))  # photo i h j w c
    return windows.permute(0, 1, 3, 5, 2, 4).flatten(0, 2)


def grey(value: int, side: int = 32, n: int = 1) -> Tensor:
    return torch.full((n, 3, side, side), value, dtype=torch.uint8)


def spike(side: int = 41) -> Pixels:
    """Black but for the pixel in the middle."""
    x = np.zeros((side, side, 3))
    x[side // 2, side // 2] = 1
    return x


def places(h: int, w: int) -> Pixels:
    """The first two channels of a pixel tell its row and column, as parts of 255."""
    rows, columns = np.mgrid[:h, :w]
    return np.stack([rows, columns, 0 * rows], 2) / 255


def test_the_names_are_the_published_ones_in_their_order() -> None:
    expected = """
        gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur
        snow frost fog brightness contrast elastic_transform pixelate jpeg_compression
    """
    assert [*CORRUPTIONS] == expected.split()
    assert all(len(constants) == 5 for _, constants in CORRUPTIONS.values())


@all_of_them
@each_severity
def test_an_image_becomes_the_same_in_any_batch(name: str, severity: int) -> None:
    x = photographs()[:4]
    clean, state = x.clone(), str(np.random.get_state())
    out = corrupt(x, name, severity)
    assert out.shape == x.shape and out.dtype == torch.uint8 and out.is_contiguous()
    assert x.equal(clean) and str(np.random.get_state()) == state
    assert corrupt(x[[3, 1]], name, severity).equal(out[[3, 1]])


@all_of_them
def test_another_seed_draws_anew_where_there_is_chance(name: str) -> None:
    x = photographs()[:3]
    for severity in SEVERITIES:
        same = corrupt(x, name, severity, 1) == corrupt(x, name, severity, 2)
        assert all(image.all() == (name in WITHOUT_CHANCE) for image in same)


def test_severities_and_images_don_t_share_their_noise() -> None:
    x = torch.cat([grey(127), grey(128)])
    noise = [corrupt(x, "gaussian_noise", severity).double() - 128 for severity in (1, 2)]
    several = torch.stack([each.flatten() for pair in noise for each in pair])
    assert (several.corrcoef() - torch.eye(4)).abs().max() < 0.1


@all_of_them
def test_what_is_more_severe_is_further_from_the_clean_image(name: str) -> None:
    x = photographs()
    distances = [
        (corrupt(x, name, severity).double() - x).square().mean().item() for severity in SEVERITIES
    ]
    assert min(distances) > 1
    assert distances == sorted(distances) or name in NOT_MONOTONE
    assert distances[4] > 1.3 * distances[0] or name == "elastic_transform"


@all_of_them
@pytest.mark.parametrize("size", [(3, 3), (3, 5), (8, 8), (33, 20)])
def test_images_of_any_size_keep_it(name: str, size: tuple[int, int]) -> None:
    x = torch.from_numpy(rng().integers(0, 256, (2, 3, *size), dtype=np.uint8))
    for severity in SEVERITIES:
        out = corrupt(x, name, severity)
        assert out.shape == x.shape
        assert corrupt(x[:0], name, severity).shape == (0, 3, *size)


@pytest.mark.parametrize(
    "name",
    [
        "defocus_blur",
        "glass_blur",
        "motion_blur",
        "zoom_blur",
        "contrast",
        "elastic_transform",
        "pixelate",
    ],
)
@given(value=st.integers(0, 255), severity=st.sampled_from(SEVERITIES))
def test_an_image_of_one_grey_stays(name: str, value: int, severity: int) -> None:
    x = grey(value, 16)
    assert corrupt(x, name, severity).equal(x)


@at_each_severity("std", 0.04, 0.06, 0.08, 0.09, 0.1)
def test_gaussian_noise_has_its_std_and_is_rounded_down(severity: int, std: float) -> None:
    x = corrupt(grey(128, 300), "gaussian_noise", severity).double()
    assert abs(x.std().item() / 255 / std - 1) < 0.01
    assert abs(x.mean().item() - 127.5) < 5 * 255 * std / x.numel() ** 0.5
    assert x.view(3, -1).corrcoef().triu(1).abs().max() < 0.02  # channels apart


@at_each_severity("photons", 500, 250, 100, 75, 50)
def test_shot_noise_has_the_variance_of_so_many_photons(severity: int, photons: int) -> None:
    for value in (40, 120):
        x = corrupt(grey(value, 300), "shot_noise", severity).double() / 255
        assert abs(x.mean().item() * 255 - value + 0.5) < 0.5
        assert abs(x.var().item() / (value / 255 / photons) - 1) < 0.03


@at_each_severity("amount", 0.01, 0.02, 0.03, 0.05, 0.07)
def test_impulse_noise_is_salt_and_pepper_alike(severity: int, amount: float) -> None:
    x = corrupt(grey(128, 300), "impulse_noise", severity)
    for value, part in ((0, amount / 2), (255, amount / 2), (128, 1 - amount)):
        error = 5 * (part * (1 - part) / x.numel()) ** 0.5
        assert abs((x == value).double().mean().item() - part) < error
    assert x.double().view(3, -1).corrcoef().triu(1).abs().max() < 0.02  # channels apart


def test_defocus_spreads_a_point_over_a_soft_disk() -> None:
    def spread(severity: int) -> Pixels:
        c = CORRUPTIONS["defocus_blur"][1][severity - 1]
        return defocus_blur(spike(7), c, rng())[1:-1, 1:-1, 0]

    square, cross = np.zeros((5, 5)), np.zeros((5, 5))
    square[1:4, 1:4] = 1 / 9
    cross[2, 1:4] = cross[1:4, 2] = 1 / 5
    assert_allclose(spread(5), square, atol=1e-5)
    assert_allclose(spread(4), cross, atol=1e-5)
    for severity, std in ((1, 0.4), (2, 0.5), (3, 0.6)):
        row = np.exp(-np.array([np.inf, 1, 0, 1, np.inf]) / (2 * std**2))
        assert_allclose(spread(severity), np.outer(row, row) / row.sum() ** 2, atol=1e-9)


def test_glass_takes_one_of_four_pixels_alike() -> None:
    x = places(200, 200)
    moved = (255 * (x - glass_blur(x, (0.05, 1), rng()))).round()[..., :2]
    assert not moved[:2].any() and not moved[:, :2].any()
    steps, counts = np.unique(moved[2:, 2:].reshape(-1, 2), axis=0, return_counts=True)
    assert steps.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert_allclose(counts / counts.sum(), 1 / 4, atol=0.012)


def test_glass_moves_further_in_two_rounds_and_blurs() -> None:
    x = places(100, 100)
    moved = (255 * (x - glass_blur(x, (0.05, 2), rng()))).round()[..., :2]
    assert moved.min() == 0 and moved.max() == 2
    point = np.zeros((7, 7, 3))
    point[1, 3] = 1  # in a row that stays
    weight = np.exp(-1 / (2 * 0.25**2)) / (1 + 2 * np.exp(-1 / (2 * 0.25**2)))
    beside = glass_blur(point, (0.25, 1), rng())[0, 1]
    assert_allclose(beside, 0, atol=1e-12)
    assert_allclose(glass_blur(point, (0.25, 1), rng())[0, 3], weight, rtol=0.01)


@pytest.mark.parametrize(
    ("angle", "down", "right"),
    [(0, 0, 1), (90, 1, 0), (45, 0.7071, 0.7071), (-50, -0.766, 0.6428), (180, 0, -1)],
)
def test_motion_draws_a_point_out_into_half_a_gaussian(
    angle: float, down: float, right: float
) -> None:
    expected = np.zeros((41, 41))
    weights = np.exp(-(np.arange(13) ** 2) / (2 * 2.5**2))
    for step, weight in enumerate(weights / weights.sum()):
        expected[20 - round(step * down), 20 - round(step * right)] += weight
    out = _moved(spike(), 6, 2.5, angle)
    assert_allclose(out[..., 0], expected, atol=0.51 / 255)
    assert_allclose(255 * out, (255 * out).round(), atol=1e-9)


def test_motion_repeats_the_edge() -> None:
    x = np.zeros((5, 9, 3))
    x[:, -1] = 1
    assert (_moved(x, 6, 2.5, 0)[:, -1] == 1).all()
    assert (_moved(x, 6, 2.5, 180)[:, 0] == 0).all()


def test_motion_goes_right_within_45_degrees() -> None:
    angles = []
    for seed in range(60):
        rows, columns = np.nonzero(motion_blur(spike(), (9, 2.5), rng(seed))[..., 0])
        angles.append(np.rad2deg(np.arctan2(20 - rows.mean(), 20 - columns.mean())))
    assert -46 < min(angles) < -35 and 35 < max(angles) < 46


@pytest.mark.parametrize("side", [3, 8, 32, 33])
@pytest.mark.parametrize("factor", [1, 1.01, 1.1, 1.25, 1.75, 2.25])
def test_magnifying_is_scipy_s_zoom_of_the_middle(side: int, factor: float) -> None:
    row = rng().random(side)
    cut = int(np.ceil(side / factor))
    start = (side - cut) // 2
    larger = zoom(row[start : start + cut], factor, order=1)
    trim = (len(larger) - side) // 2
    assert_allclose(_magnifying(side, factor) @ row, larger[trim : trim + side], atol=1e-12)


def test_zoom_averages_the_image_and_its_magnifications() -> None:
    x = rng().random((12, 9, 3))
    factors = (1, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06)  # 1.06 too, as in floating point
    larger = [_magnifying(12, f) @ x[..., 1] @ _magnifying(9, f).T for f in factors]
    assert_allclose(zoom_blur(x, 1.06, rng())[..., 1], (x[..., 1] + sum(larger)) / 8)


@each_severity
def test_snow_only_brightens_and_falls(severity: int) -> None:
    x = photographs()
    assert (corrupt(x, "snow", severity) >= x.int() - 1).all()
    flakes = corrupt(grey(0, 64, n=1), "snow", severity).double()[0, 0]
    assert flakes.flip(0, 1).equal(flakes)
    along, across = flakes.diff(dim=0).abs().mean(), flakes.diff(dim=1).abs().mean()
    assert along < across


def test_snow_pales_what_is_without_flakes() -> None:
    x = rng().random((8, 8, 3))
    grey = 0.299 * x[..., :1] + 0.587 * x[..., 1:2] + 0.114 * x[..., 2:]
    out = snow(x, (0, 0, 1, 0.5, 8, 3, 0.7), rng())
    assert_allclose(out, 0.7 * x + 0.3 * np.maximum(x, 1.5 * grey + 0.5))


@pytest.mark.parametrize(
    ("severity", "kept", "ice"),
    [(1, 1, 0.2), (2, 1, 0.3), (3, 0.9, 0.4), (4, 0.85, 0.4), (5, 0.75, 0.45)],
)
def test_frost_darkens_the_image_and_adds_half_its_ice(
    severity: int, kept: float, ice: float
) -> None:
    black, half = np.zeros((64, 64, 3)), np.full((64, 64, 3), 0.5)
    c = CORRUPTIONS["frost"][1][severity - 1]
    layer = frost(black, c, rng())
    assert_allclose(frost(half, c, rng()), kept / 2 + layer)
    assert 0.4 * ice < layer.mean() < 0.6 * ice
    assert layer.min() >= 0 and layer.max() <= ice
    assert layer.std() > 0.1 * ice
    assert (layer[..., 2] >= layer[..., 1]).all() and (layer[..., 1] >= layer[..., 0]).all()


@at_each_severity("amount", 0.2, 0.5, 0.75, 1, 1.5)
def test_fog_is_scaled_to_the_brightest_value(severity: int, amount: float) -> None:
    x = np.full((32, 32, 3), 0.5)
    out = fog(x, CORRUPTIONS["fog"][1][severity - 1], rng())
    assert_allclose([out.min(), out.max()], [0.25 / (0.5 + amount), 0.5])
    assert (np.ptp(out, axis=2) == 0).all()
    assert not fog(np.zeros((8, 8, 3)), (amount, 3), rng()).any()


@given(st.integers(2, 40), st.floats(1.5, 3), st.integers(0, 99))
def test_a_plasma_covers_its_range_on_a_power_of_two(side: int, decay: float, seed: int) -> None:
    cloud = _plasma(side, decay, rng(seed))
    assert cloud.shape == (len(cloud), len(cloud)) and len(cloud) // 2 < side <= len(cloud)
    assert len(cloud) & (len(cloud) - 1) == 0
    assert (cloud.min(), cloud.max()) == (0, 1)


def test_a_plasma_moves_its_points_by_less_at_each_doubling() -> None:
    for decay in (1.5, 3):
        cloud = _plasma(256, decay, rng())

        def off(step: int, cloud: Pixels = cloud) -> float:
            grid = cloud[::step, ::step]
            around = sum(
                np.roll(grid, (i, j), (0, 1))[1::2, 1::2] for i in (1, -1) for j in (1, -1)
            )
            return float(np.std(grid[1::2, 1::2] - around / 4))

        assert abs(off(2) / off(1) / decay**2 - 1) < 0.1


def test_a_plasma_moves_each_new_point_by_itself_and_as_far() -> None:
    cloud = _plasma(256, 3, rng())
    old, top, left, middle = (cloud[i::2, j::2] for i in (0, 1) for j in (0, 1))
    moves = [
        middle - sum(np.roll(old, (-i, -j), (0, 1)) for i in (0, 1) for j in (0, 1)) / 4,
        top - (old + np.roll(old, -1, 1) + middle + np.roll(middle, 1, 0)) / 4,
        left - (old + np.roll(old, -1, 0) + middle + np.roll(middle, 1, 1)) / 4,
    ]
    flat = np.stack([move.ravel() for move in moves])
    assert_allclose(flat.std(1), flat[0].std(), rtol=0.03)
    assert_allclose(np.corrcoef(flat), np.eye(3), atol=0.05)


def test_a_plasma_has_no_seam() -> None:
    cloud = _plasma(128, 3, rng())
    inside = abs(np.diff(cloud, axis=0)).mean()
    assert abs(cloud[0] - cloud[-1]).mean() < 2 * inside


@at_each_severity("more", 0.05, 0.1, 0.15, 0.2, 0.3)
def test_brightness_raises_the_value_of_hsv_alone(severity: int, more: float) -> None:
    for value in (0, 100, 250):
        expected = min(int(value + 255 * more + 1e-6), 255)
        assert corrupt(grey(value, 3), "brightness", severity).eq(expected).all()
    x = torch.from_numpy(rng().integers(0, 256, (1, 3, 8, 8), dtype=np.uint8))
    out = corrupt(x, "brightness", severity)
    pairs = zip(x[0].flatten(1).T.tolist(), out[0].flatten(1).T.tolist(), strict=True)
    for before, after in pairs:
        hue, saturation, v = colorsys.rgb_to_hsv(*(part / 255 for part in before))
        expected_rgb = colorsys.hsv_to_rgb(hue, saturation, min(v + more, 1))
        assert_allclose(after, np.floor(255 * np.array(expected_rgb) + 1e-6), atol=1)


@at_each_severity("kept", 0.75, 0.5, 0.4, 0.3, 0.15)
def test_contrast_shrinks_about_the_mean_of_each_channel(severity: int, kept: float) -> None:
    x = photographs()
    mean = x.double().mean((2, 3), keepdim=True)
    expected = mean + kept * (x - mean)
    assert (corrupt(x, "contrast", severity) - expected + 0.5).abs().max() < 0.501


def test_elastic_without_strength_is_the_identity() -> None:
    x = rng().random((9, 14, 3))
    assert_allclose(elastic_transform(x, (0, 0, 0), rng()), x, atol=1e-12)
    assert_allclose(elastic_transform(x, (0, 0.1, 0), rng()), x, atol=1e-12)


def test_elastic_moves_three_corners_of_a_square() -> None:
    """Places that are mapped by an affine map remain an affine function, but near the edge."""
    x = 255 * places(32, 40)[..., :2]
    out = elastic_transform(x, (0, 0, 0.08), rng())[8:-8, 8:-8].reshape(-1, 2)
    rows, columns = np.mgrid[8:24, 8:32].reshape(2, -1)
    plane = np.linalg.lstsq(np.c_[rows, columns, np.ones(len(rows))], out)[0]
    corners = np.array([[26, 30], [6, 30], [6, 10]])
    moved = corners + rng().uniform(-0.08 * 32, 0.08 * 32, (3, 2))
    assert_allclose(np.c_[moved, np.ones(3)] @ plane, corners, atol=1e-9)


def test_elastic_displacements_are_smooth_noise_of_known_std() -> None:
    """Uniform noise of variance 1/3, filtered by a Gaussian of s: 1/3 / (4 pi s^2)."""
    side = 150
    x = 255 * places(side, side)[..., :2]
    field = (elastic_transform(x, (0.02, 0.01, 0), rng()) - x)[8:-8, 8:-8]
    std = 0.02 * side * (1 / 3 / (4 * np.pi)) ** 0.5 / (0.01 * side)
    assert_allclose(field.std((0, 1)), std, rtol=0.1)
    assert abs((field / std).prod(2).mean()) < 0.1


def test_pixelate_averages_blocks() -> None:
    x = rng().integers(0, 256, (6, 10, 3)) / 255
    blocks = x.reshape(3, 2, 5, 2, 3).mean((1, 3)).repeat(2, 0).repeat(2, 1)
    assert_allclose(pixelate(x, 0.5, rng()), blocks, atol=1.01 / 255)  # rounded twice


@at_each_severity("left", 30, 28, 27, 24, 20)
def test_pixelate_leaves_so_many_pixels(severity: int, left: int) -> None:
    x = torch.from_numpy(rng().integers(0, 256, (1, 3, 32, 32), dtype=np.uint8))
    rows = corrupt(x, "pixelate", severity)[0].permute(1, 2, 0).flatten(1)
    assert len(rows.unique_consecutive(dim=0)) == left


@at_each_severity("quality", 80, 65, 58, 50, 40)
def test_jpeg_is_pillow_s_at_its_quality(severity: int, quality: int) -> None:
    x = photographs()[:3]
    for image, out in zip(x, corrupt(x, "jpeg_compression", severity), strict=True):
        file = BytesIO()
        pixels: NDArray[np.uint8] = image.permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        assert (np.asarray(Image.open(file)) == out.permute(1, 2, 0).numpy()).all()


def test_whole_values_survive_rounding_down() -> None:
    values = np.arange(256)
    assert (_bytes(values / 255) == values).all()
    assert (_bytes((values / 255 * 0.3) / 0.3) == values).all()
    assert _bytes(np.array([-0.1, 1.1, 0.9999])).tolist() == [0, 255, 254]


def test_an_unknown_corruption_or_severity_is_refused() -> None:
    with pytest.raises(
        BadInput, match="no corruption 'gausian_noise'; did you mean gaussian_noise"
    ):
        corrupt(grey(0), "gausian_noise", 1)
    for severity in (0, 6):
        with pytest.raises(BadInput, match=f"no severity {severity}; there are: 1, 2, 3, 4, 5"):
            corrupt(grey(0), "fog", severity)
