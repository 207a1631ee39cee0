"""SaliencyMix, and the saliency that it takes from OpenCV."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import sqrt
from unittest.mock import Mock, patch
from zlib import crc32

import numpy as np
import pytest
import torch
from helpers import assert_even, assert_same, batch, cross_entropy, tiny, total, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from papers.saliencymix import detected, peak
from scipy.stats import binomtest, kstest
from torch import Tensor, nn
from twins import recorded

from mixbench.bench.nets.preactresnet import Pixels
from mixbench.methods import Net, beta
from mixbench.methods._finegrained import fine_grained
from mixbench.methods.baseline import Baseline
from mixbench.methods.saliencymix import SaliencyMix

pytestmark = pytest.mark.usefixtures("float64")

each_version = pytest.mark.parametrize("official", [False, True])


def pattern(kind: str, height: int, width: int) -> Tensor:
    """An image (3, h, w) by formula: uint8, but for the one that is called "float"."""
    c, i, j = torch.meshgrid(*map(torch.arange, (3, height, width)), indexing="ij")
    rough = (31 * i * i + 17 * j * j + 7 * i * j + 53 * c) % 256
    if kind == "float":
        return (rough / 64 - 2).float()
    away = torch.maximum((i - height // 2).abs(), (j - width // 2).abs())
    made = {
        "rough": rough,
        "bright": 255 - rough % 14,
        "hole": torch.where(away < 2, 180, torch.where(away < 30, 0, 200)),
        "hill": (9 * i * (height - 1 - i) + 5 * j + 20 * c).clamp(max=255),
        "spot": torch.where((i - 2) ** 2 + (j - 5) ** 2 < 4, 200 + 20 * c, 15 * c),
    }
    return made[kind].to(torch.uint8)


def levels(images: Tensor) -> Tensor:
    """The 8-bit maps, (b, h, w), of images (b, 3, h, w)."""
    return (255 * fine_grained(images)).round().to(torch.uint8)


@pytest.mark.parametrize(
    ("kind", "rows"),
    [  # printed by the detectors of opencv-contrib-python-headless 4.5.5.64 and 5.0.0.93
        (
            "rough",
            """ad7f516d64056aa0 6451515b2d114764 09122d1b17171b36 361b00052300a3ff
            7f360b0505249ae3 641b170509000005 24002317052f82ab 12052923174dbdff""",
        ),
        (
            "hill",
            """fff1d5ac896744220600 ac9e82603e1b001e3c42 2214062442617f9db6c2 121e3c5b7997b6d4ecff
            2214062442617f9db6c2 ac9e82603e1b001e3c42 fff1d5ac896744220600""",
        ),
        (
            "spot",
            """ffffbf086fa07f5e ffffb11a92cfa67f ffffaa2bb7ffcfa0 ffffb81281b7926f
            ffffdb6a122b1a08 fffff0dbb8aab1bf ffffffffffffffff ffffffffffffffff""",
        ),
        (
            "float",
            """1cbbb8cce8988ccc be1e54cca2ba34cc 17ba43cb23bc8bcb 0be605ccbb4caccb
            1e608cccff8401cc 66f557cc7d9dbccb 3a93d8cbba4caaca 66f58bcb19ba293e""",
        ),
    ],
)
def test_the_map_is_the_one_that_opencv_printed(kind: str, rows: str) -> None:
    expected = torch.tensor([list(bytes.fromhex(row)) for row in rows.split()], dtype=torch.uint8)
    assert levels(pattern(kind, *expected.shape)[None])[0].equal(expected)


@pytest.mark.parametrize(
    ("kind", "height", "width", "checksum"),
    [  # of the 8-bit maps of the same two detectors
        ("rough", 32, 32, 0xA12B9C94),
        ("rough", 33, 47, 0x32CBCFC4),
        ("bright", 64, 64, 0xCACA23AB),
        ("bright", 256, 256, 0x06CAE4BE),  # sums of pixels are rounded
        ("hole", 224, 224, 0xA9FE8DD9),  # a pixel overflows
        ("hill", 64, 40, 0x59860B48),
        ("spot", 32, 32, 0x31BD29F9),
        ("float", 32, 32, 0x3D0D8F1E),
        ("float", 64, 48, 0x512D2D61),
        ("float", 224, 224, 0x9866E12C),
    ],
)
def test_larger_maps_have_the_checksums_of_those_of_opencv(
    kind: str, height: int, width: int, checksum: int
) -> None:
    mapped = levels(pattern(kind, height, width)[None])
    assert crc32(mapped.numpy().tobytes()) == checksum


def random_images(seed: int, b: int, height: int, width: int) -> Tensor:
    """Random uint8 images: noise, noise of few levels, a blot on a plain ground, in turn."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randint(256, (b, 3, height, width), generator=draw)
    few = noise % torch.randint(1, 20, (b, 1, 1, 1), generator=draw)
    offset, ground, ink = torch.randint(200, (3, b, 3, 1, 1), generator=draw)
    rows, columns = torch.rand(2, b, 1, 4, generator=draw).sort().values.unbind(0)
    row, column = torch.arange(height) / height, torch.arange(width) / width
    inside = _between(row, rows)[..., None] & _between(column, columns)[:, :, None]
    blot = torch.where(inside, ink, ground)
    kinds = torch.stack([noise, few + offset, blot])
    return kinds[torch.arange(b) % 3, torch.arange(b)].to(torch.uint8)


def _between(places: Tensor, ends: Tensor) -> Tensor:
    return (places >= ends[..., :1]) & (places < ends[..., 2:3])


def by_loops(images: Tensor) -> Tensor:
    """The 8-bit maps, (b, h, w), by loops over pixels."""
    return torch.from_numpy(np.stack([detected(image) for image in images.numpy()]))


@given(seed=st.integers(0, 10**6), height=st.integers(2, 26), width=st.integers(2, 26))
@settings(max_examples=20, deadline=None)
def test_the_map_is_that_of_loops_over_pixels(seed: int, height: int, width: int) -> None:
    made = random_images(seed, 3, height, width)
    assert levels(made).equal(by_loops(made))


@pytest.mark.parametrize("size", [(2, 2), (5, 3), (8, 8), (9, 16), (14, 30)])
def test_so_is_that_of_floats_of_which_bytes_are_read(size: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    made = torch.randn(3, 3, *size, generator=draw, dtype=torch.float32)
    assert levels(made).equal(by_loops(made))


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (64, 64), (33, 47), (224, 224)])
def test_the_map_is_that_of_opencv_where_it_is_installed(size: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "saliency"):
        pytest.skip("this OpenCV is without its contributed modules")
    detector = cv2.saliency.StaticSaliencyFineGrained_create()
    made = random_images(0, 9 if size[0] > 99 else 99, *size)
    rows_of_colours = made.permute(0, 2, 3, 1).contiguous().numpy()
    theirs = [detector.computeSaliency(image)[1] for image in rows_of_colours]
    assert fine_grained(made).equal(torch.from_numpy(np.stack(theirs)))


@pytest.mark.parametrize("value", [0, 1, 77, 128, 255])
def test_the_map_of_a_constant_image_is_zero(value: int) -> None:
    constant = torch.full((1, 3, 40, 50), value, dtype=torch.uint8)
    assert not fine_grained(constant).any()


def test_the_map_is_in_single_precision_whatever_the_default() -> None:
    made = random_images(0, 6, 20, 30)
    double = fine_grained(made)
    torch.set_default_dtype(torch.float32)
    assert double.dtype == torch.float32
    assert double.equal(fine_grained(made))
    assert double.min() >= 0
    assert double.amax((1, 2)).le(1).all()


def test_the_order_of_the_channels_matters() -> None:
    made = random_images(0, 9, 16, 16)
    assert not levels(made).equal(levels(made.flip(1)))


def test_a_bright_square_is_found_more_often_than_by_chance() -> None:
    torch.manual_seed(0)
    n, side, size = 400, 8, 32
    row, column = torch.randint(1, size - side, (2, n))
    place = torch.arange(size)
    rows = (place >= row[:, None]) & (place < row[:, None] + side)
    columns = (place >= column[:, None]) & (place < column[:, None] + side)
    made = torch.where(rows[:, None, :, None] & columns[:, None, None], 200, 0)
    index = levels(made.to(torch.uint8).expand(n, 3, size, size)).flatten(1).argmax(1)
    i, j = index // size, index % size
    found = (i >= row - 1) & (i <= row + side) & (j >= column - 1) & (j <= column + side)
    chance = ((side + 2) / size) ** 2
    assert found.double().mean() > chance + 4 * sqrt(chance * (1 - chance) / n)


@contextmanager
def drawing(lam: float, partner: Sequence[int]) -> Iterator[None]:
    """Let SaliencyMix draw this ratio and these partners."""
    with (
        patch("mixbench.methods.saliencymix.beta", return_value=torch.tensor(lam)),
        patch("mixbench.methods.saliencymix.partners", return_value=torch.tensor(partner)),
    ):
        yield


@contextmanager
def seeing(maps: Tensor) -> Iterator[None]:
    """Let these be the saliency maps."""
    with patch("mixbench.methods.saliencymix.fine_grained", return_value=maps):
        yield


@contextmanager
def watching() -> Iterator[Mock]:
    """The detector, which keeps what it is given."""
    with patch("mixbench.methods.saliencymix.fine_grained", wraps=fine_grained) as detector:
        yield detector


def mixed(method: SaliencyMix, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The images and the targets of which the loss is taken."""
    unchanged = Net(pixels=nn.Identity())
    with patch.object(unchanged, "criterion") as loss:
        method.mixed_loss(unchanged, x, y)
    images, targets = loss.call_args.args
    return images, targets


def pasted(height: int, width: int, lam: float, peaks: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes around ``peaks`` (b, 2): the pixels, (b, height, width), and the kept weight, (b,)."""
    b = len(peaks)
    maps = torch.zeros(b, height, width)
    maps[torch.arange(b), peaks[:, 0], peaks[:, 1]] = 1
    x = torch.arange(b).view(b, 1, 1, 1).expand(b, 3, height, width) / b
    with drawing(lam, [*range(1, b), 0]), seeing(maps):
        images, targets = mixed(SaliencyMix(), x, torch.eye(b))
    return images[:, 0] != x[:, 0], targets.diagonal()


def test_the_boxes_are_those_worked_out_by_hand() -> None:
    cases = {  # where the peak is: the rows and the columns of the box, 4 x 6 before it is clipped
        (4, 6): (range(2, 6), range(3, 9)),
        (0, 0): (range(2), range(3)),
        (7, 11): (range(5, 8), range(8, 12)),
        (4, 11): (range(2, 6), range(8, 12)),
        (1, 5): (range(3), range(2, 8)),
    }
    expected = torch.zeros(len(cases), 8, 12, dtype=torch.bool)
    for box, (rows, columns) in zip(expected, cases.values(), strict=True):
        box[rows.start : rows.stop, columns.start : columns.stop] = True
    boxes, kept = pasted(8, 12, 0.75, torch.tensor(list(cases)))
    assert boxes.equal(expected)
    assert_same(kept, 1 - expected.sum((1, 2)) / 96, atol=1e-15)


@given(
    lam=st.floats(0, 1),
    height=st.integers(2, 20),
    width=st.integers(2, 20),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_a_box_is_around_its_peak_if_its_sides_are_two_or_more(
    lam: float, height: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    peaks = torch.stack([torch.randint(height, (5,)), torch.randint(width, (5,))], 1)
    boxes, kept = pasted(height, width, lam, peaks)
    has_sides = min(int(height * sqrt(1 - lam)), int(width * sqrt(1 - lam))) >= 2
    assert boxes[torch.arange(5), peaks[:, 0], peaks[:, 1]].eq(has_sides).all()
    assert boxes.any().item() is has_sides
    assert_same(kept, 1 - boxes.double().mean((1, 2)), atol=1e-12)


def test_of_equal_peaks_the_first_in_reading_order_counts() -> None:
    maps = torch.zeros(2, 8, 8)
    maps[0, 2, 5] = maps[0, 2, 6] = maps[0, 3, 0] = 0.5
    x, y = torch.zeros(2, 3, 8, 8), torch.eye(2)
    x[1] = 1
    with drawing(1 - 1 / 16, [1, 0]), seeing(maps):
        images, _ = mixed(SaliencyMix(), x, y)
    assert images[0, 0].nonzero().tolist() == [[1, 4], [1, 5], [2, 4], [2, 5]]
    assert images[1, 0].sum() == 63  # no peak: the box is around the first pixel, a quarter is left


@each_version
@pytest.mark.parametrize("seed", range(5))
def test_every_pixel_is_that_of_one_source_at_the_same_place(official: bool, seed: int) -> None:
    torch.manual_seed(seed)
    b, pixels = 5, 3 * 9 * 10
    x = torch.arange(b * pixels).view(b, 3, 9, 10)[torch.randperm(b)] / (b * pixels)
    x = torch.where(torch.rand(b, 1, 9, 10) < 0.1, 1 - x, x)  # so that peaks differ
    partner, own = torch.tensor([1, 2, 3, 4, 0]), torch.arange(b)
    with drawing(0.6, partner.tolist()):
        images, targets = mixed(SaliencyMix(official=official), x, torch.eye(b))
    there = (images == x[partner]).all(1)
    assert (images == x)[~there[:, None].expand_as(x)].all()
    area = there.double().mean((1, 2))
    assert area.min() > 0
    assert_same(targets[own, own], 1 - area, atol=1e-12)
    assert_same(targets[own, partner], area, atol=1e-12)
    assert_same(targets.sum(1), torch.ones(b), atol=1e-12)


def norm() -> Pixels:
    return Pixels((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


@each_version
@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_that_of_both_labels_by_the_area(official: bool, seed: int) -> None:
    torch.manual_seed(seed)
    net, (x, y), lam = tiny(), batch(4, 12, 16), 0.2 + 0.15 * seed
    partner = [2, 0, 3, 1]
    with drawing(lam, partner):
        loss = SaliencyMix(p=1.0, official=official).loss(net, x, y)
    found = peaks(x.detach(), partner, official)
    images, kept = [], []
    for i, (row, column) in enumerate(found):
        top, bottom = interval(12, lam, row)
        left, right = interval(16, lam, column)
        image = x[i].clone()
        image[:, top:bottom, left:right] = x[partner[i], :, top:bottom, left:right]
        images.append(image)
        kept.append(1 - (bottom - top) * (right - left) / 192)
    logits = net(torch.stack(images))
    terms = [
        kept[i] * cross_entropy(logits[i], y[i])
        + (1 - kept[i]) * cross_entropy(logits[i], y[partner[i]])
        for i in range(4)
    ]
    expected = total(terms) / 4
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))
    assert len(set(found)) == (1 if official else 4)


def peaks(x: Tensor, partner: Sequence[int], official: bool) -> list[tuple[int, int]]:
    """Where the box of each image is, by loops over pixels."""
    if official:
        source = norm()(x[partner[:1]])[0].float()
        return [peak(detected(source.numpy()))] * len(partner)
    colours = (255 * x).round().to(torch.uint8).numpy()
    return [peak(detected(colours[j, [2, 1, 0]])) for j in partner]


def interval(size: int, lam: float, centre: int) -> tuple[int, int]:
    half = int(size * sqrt(1 - lam)) // 2
    return max(centre - half, 0), min(centre + half, size)


@each_version
def test_nothing_is_drawn_but_ratio_and_partners(official: bool) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(4)
    with drawing(0.4, [1, 2, 3, 0]):
        state = torch.get_rng_state()
        SaliencyMix(official=official).mixed_loss(net, x, y)
        assert torch.get_rng_state().equal(state)


@each_version
@pytest.mark.parametrize(("lam", "p"), [(1.0, 1.0), (0.2, 0.0)])
def test_nothing_is_mixed_at_ratio_one_or_without_a_chance(
    official: bool, lam: float, p: float
) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(4)
    with drawing(lam, [1, 2, 3, 0]):
        loss = SaliencyMix(p=p, official=official).loss(net, x, y)
    assert loss.equal(Baseline().loss(net, x, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_detector_sees_the_partners_in_eight_bits_blue_first(dtype: torch.dtype) -> None:
    colours = torch.arange(256).repeat(9).view(3, 3, 16, 16)  # red, green, blue
    with watching() as detector, drawing(0.5, [2, 0, 1]):
        mixed(SaliencyMix(), (colours / 255).to(dtype), torch.eye(3))
    (seen,) = detector.call_args.args
    assert seen.dtype == torch.uint8
    assert seen.equal(colours[[2, 0, 1]][:, [2, 1, 0]].to(torch.uint8))


def test_officially_it_sees_the_first_partner_normalised_red_first() -> None:
    torch.manual_seed(0)
    x, y = batch(3)
    with watching() as detector, drawing(0.5, [2, 0, 1]):
        SaliencyMix(official=True).mixed_loss(tiny(), x, y)
    (seen,) = detector.call_args.args
    assert seen.dtype == torch.float32
    assert not seen.requires_grad
    assert seen.equal(norm()(x[2:]).float())


@each_version
def test_no_value_is_read_back_from_the_device(official: bool) -> None:
    with torch.device("meta"):
        net, (x, y) = tiny(), batch(4)
    with patch("mixbench.methods.saliencymix.beta", lambda _: torch.rand(())):
        assert SaliencyMix(p=1.0, official=official).loss(net, x, y).is_meta


def test_half_of_the_batches_are_mixed_at_any_ratio_with_any_partners() -> None:
    torch.manual_seed(0)
    net, (x, y) = Net(pixels=nn.Identity()), batch(3, 2, 2)
    with recorded() as draws, seeing(torch.zeros(3, 2, 2)), patch.object(net, "criterion"):
        for _ in range(2000):
            SaliencyMix().loss(net, x, y)
    coins, ratios, partners = (
        [value for name, _, value in draws if name == kind]
        for kind in ("chance", "beta", "partners")
    )
    assert len(coins) == 2000
    assert len(ratios) == len(partners) == sum(coins)
    assert binomtest(sum(coins), 2000, 0.5).pvalue > 1e-3
    assert kstest(ratios, "uniform").pvalue > 1e-3
    permutations = Counter(tuple(partner.tolist()) for partner in partners)
    assert len(permutations) == 6
    assert_even(torch.tensor([*permutations.values()]))


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_one_ratio_is_drawn_for_the_whole_batch_from_alpha(alpha: float) -> None:
    with patch("mixbench.methods.saliencymix.beta", wraps=beta) as draws:
        SaliencyMix(alpha=alpha).mixed_loss(tiny(), *batch(4))
    draws.assert_called_once_with(alpha)


def test_the_defaults_are_those_of_the_paper_for_cifar() -> None:
    assert SaliencyMix() == SaliencyMix(p=0.5, alpha=1.0, official=False)
