"""StyleMix and StyleCutMix."""

import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import CLASSES, assert_even, assert_same, batch, cross_entropy, tiny, total
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binomtest, kstest, spearmanr
from torch import Tensor, nn
from torch.nn import functional as F
from twins import recorded

from mixbench.bench.spec import parse, spell
from mixbench.methods import GuidedObjective, Method, Net, beta
from mixbench.methods._adain import AdaIN, inverse_vgg, load, restyle, vgg
from mixbench.methods.baseline import Baseline
from mixbench.methods.stylemix import StyleMix, _blend

pytestmark = pytest.mark.usefixtures("float64")

# index: (channels in, channels out), as published; the rest of the encoder's file is not used
ENCODER = {
    2: (3, 64),
    5: (64, 64),
    9: (64, 128),
    12: (128, 128),
    16: (128, 256),
    19: (256, 256),
    22: (256, 256),
    25: (256, 256),
    29: (256, 512),
}
DECODER = {
    1: (512, 256),
    5: (256, 256),
    8: (256, 256),
    11: (256, 256),
    14: (256, 128),
    18: (128, 128),
    21: (128, 64),
    25: (64, 64),
    28: (64, 3),
}
DEEPER = (32, 35, 38, 42, 45, 48, 51)
FILES = {"encoder": "vgg_normalised.pth", "decoder": "decoder.pth"}
METHODS = {"stylemix": StyleMix(p=1.0, size=16), "stylecutmix": StyleMix(p=1.0, size=16, cut=True)}
State = dict[str, Tensor]
Loader = Callable[[StyleMix], object]

each_variant = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
each_part = pytest.mark.parametrize("part", FILES)
each_use: pytest.MarkDecorator = pytest.mark.parametrize(
    "use", [lambda method: method.check(tiny()), lambda method: method.objective(tiny())]
)


def random_state(layers: dict[int, tuple[int, int]]) -> State:
    torch.manual_seed(0)
    state = {}
    for index, (d_in, d_out) in layers.items():
        weight = torch.randn(d_out, d_in, 3, 3, dtype=torch.float32)
        state[f"{index}.weight"] = weight * (2 / (9 * d_in)) ** 0.5
        state[f"{index}.bias"] = torch.randn(d_out, dtype=torch.float32) / 10
    return state


def first_layer() -> State:
    torch.manual_seed(1)
    return {
        "0.weight": torch.randn(3, 3, 1, 1, dtype=torch.float32),
        "0.bias": torch.randn(3, dtype=torch.float32),
    }


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    """Random weights, laid out as published."""
    deeper = {f"{index}.{kind}": torch.zeros(1) for index in DEEPER for kind in ("weight", "bias")}
    return {
        "encoder": first_layer() | random_state(ENCODER) | deeper,
        "decoder": random_state(DECODER),
    }


@pytest.fixture(scope="module")
def home(states: dict[str, State], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for torch.hub, with both files."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for part, file in FILES.items():
        torch.save(states[part], folder / file)
    return home


@pytest.fixture
def networks(home: Path, monkeypatch: pytest.MonkeyPatch) -> AdaIN:
    """The networks of both files, which are where a method looks for them."""
    monkeypatch.setenv("TORCH_HOME", str(home))
    return load(*FILES.values()).to(torch.float64)


@pytest.fixture
def bare_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where a method looks for files."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def stub() -> AdaIN:
    """Networks that change nothing: an image is its own features."""
    return AdaIN(nn.Identity(), nn.Identity())


@contextmanager
def at(
    *ratios: float, gamma: float = 0.5, centre: Sequence[int] = (8, 8), partner: Sequence[int]
) -> Iterator[None]:
    """Let these be drawn: the ratios, in order; gamma is told from them by its parameter, 0.8."""
    rest = iter(ratios)

    def draw(alpha: float) -> Tensor:
        return torch.tensor(gamma if alpha == 0.8 else next(rest))

    with (
        patch("mixbench.methods.stylemix.beta", side_effect=draw),
        patch("mixbench.methods.stylemix.partners", return_value=torch.tensor(partner)),
        patch("torch.randint", return_value=torch.tensor(centre)),
    ):
        yield
    assert next(rest, None) is None


@contextmanager
def coinciding(u: float) -> Iterator[None]:
    """Let the two ratios coincide this much, from the least possible, 0, to the most, 1."""
    with patch("mixbench.methods.stylemix.torch.rand", return_value=torch.tensor(u)):
        yield


def transfer(content: Tensor, style: Tensor) -> Tensor:
    """AdaIN of features (b, d, h, w), channel by channel."""
    out = torch.empty_like(content)
    for i in range(content.shape[0]):
        for d in range(content.shape[1]):
            own, other = content[i, d].flatten(), style[i, d].flatten()
            n = len(own)
            deviations = []
            for values in (own, other):
                squares = ((values - values.sum() / n) ** 2).sum()
                deviations.append((squares / (n - 1) + 1e-5).sqrt())
            whitened = (content[i, d] - own.sum() / n) / deviations[0]
            out[i, d] = deviations[1] * whitened + other.sum() / n
    return out


def bilinear(size: int, out: int) -> Tensor:
    """The (out, size) matrix of bilinear interpolation between centres of pixels."""
    matrix = torch.zeros(out, size)
    for i in range(out):
        where = min(max((i + 0.5) * size / out - 0.5, 0), size - 1)
        left = min(int(where), size - 2)
        matrix[i, left] += 1 - (where - left)
        matrix[i, left + 1] += where - left
    return matrix


def resize(x: Tensor, height: int, width: int) -> Tensor:
    return bilinear(x.shape[-2], height) @ x @ bilinear(x.shape[-1], width).T


# The networks and their files


def test_the_layers_are_those_published(states: dict[str, State]) -> None:
    deeper = {f"{index}.{kind}" for index in DEEPER for kind in ("weight", "bias")}
    for part, network in (("encoder", vgg()), ("decoder", inverse_vgg())):
        expected = {key: value.shape for key, value in states[part].items() if key not in deeper}
        assert {key: value.shape for key, value in network.state_dict().items()} == expected


def conv(x: Tensor, state: State, index: int) -> Tensor:
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, state[f"{index}.weight"].double(), state[f"{index}.bias"].double())


@pytest.mark.parametrize(("height", "width"), [(16, 16), (18, 26)])
def test_the_encoder_is_a_vgg_up_to_relu4_1(
    networks: AdaIN, states: dict[str, State], height: int, width: int
) -> None:
    x, state = torch.rand(2, 3, height, width), states["encoder"]
    z = F.conv2d(x, state["0.weight"].double(), state["0.bias"].double())
    for index in ENCODER:
        if index in (9, 16, 29):
            z = F.max_pool2d(z, 2, ceil_mode=True)
        z = conv(z, state, index).clamp(min=0)
    assert z.shape == (2, 512, math.ceil(height / 8), math.ceil(width / 8))
    assert_same(networks.encode(x), z)


def test_the_decoder_mirrors_it_without_a_last_relu(
    networks: AdaIN, states: dict[str, State]
) -> None:
    features = torch.randn(2, 512, 2, 3)
    z = features
    for index in DECODER:
        z = conv(z, states["decoder"], index)
        if index != 28:
            z = z.clamp(min=0)
        if index in (1, 14, 21):
            z = z.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert z.shape == (2, 3, 16, 24)
    assert z.min() < 0
    assert_same(networks.decode(features), z)


def test_loading_draws_nothing_and_takes_the_weights_as_they_are(
    home: Path, states: dict[str, State], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(home))
    before = torch.get_rng_state()
    adain = load(*FILES.values())
    assert torch.get_rng_state().equal(before)
    for part, network in (("encoder", adain.encoder), ("decoder", adain.decoder)):
        for key, value in network.state_dict().items():
            assert value.equal(states[part][key])


@each_part
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_elsewhere_is_named_by_its_whole_path(
    part: str, zipped: bool, networks: AdaIN, states: dict[str, State], tmp_path: Path
) -> None:
    path = tmp_path / "elsewhere.pt"
    state = {key: value + 1 for key, value in states[part].items()}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    other = load(**FILES | {part: str(path)})
    for name, network in (("encoder", other.encoder), ("decoder", other.decoder)):
        for key, value in network.state_dict().items():
            assert value.equal(states[name][key] + (name == part))


def refusal(use: Loader, method: StyleMix, folder: Path) -> str:
    """The one line with which it is refused."""
    with pytest.raises(ValueError) as info:
        use(method)
    said = str(info.value)
    assert "\n" not in said
    assert "github.com/naoto0804/pytorch-AdaIN/releases" in said
    assert str(folder.parent) not in said
    return said


@each_use
@each_part
def test_a_file_that_is_not_there_is_asked_for(
    part: str, use: Loader, states: dict[str, State], bare_home: Path
) -> None:
    for other in FILES.keys() - {part}:
        torch.save(states[other], bare_home / FILES[other])
    said = refusal(use, StyleMix(), bare_home)
    assert f"there is no {FILES[part]}:" in said
    assert "torch.hub's checkpoints folder (TORCH_HOME)" in said
    assert f"{part}=" in said


def test_a_folder_is_not_a_file(bare_home: Path) -> None:
    (bare_home / "weights").mkdir()
    said = refusal(lambda method: method.check(tiny()), StyleMix(encoder="weights"), bare_home)
    assert "there is no weights:" in said


def damaged(state: State, other: State) -> dict[str, object]:
    """Things that a file may hold and that are not the weights."""
    first = next(iter(state))
    return {
        "list": [1, 2],
        "number": 3.0,
        "tensor": torch.zeros(3),
        "empty": {},
        "other": other,
        "nested": {"state_dict": state},
        "prefixed": {f"features.{key}": value for key, value in state.items()},
        "incomplete": {key: value for key, value in state.items() if key != first},
        "shape": state | {first: torch.zeros(1)},
        "kind": state | {first: "weights"},
        "module": nn.Linear(2, 2),
    }


@each_part
def test_a_foreign_file_is_refused(part: str, states: dict[str, State], bare_home: Path) -> None:
    for name, file in FILES.items():
        torch.save(states[name], bare_home / file)
    (other,) = FILES.keys() - {part}
    expected = f"{FILES[part]} can't be read as the weights of AdaIN's {part}:"
    for thing in damaged(states[part], states[other]).values():
        torch.save(thing, bare_home / FILES[part])
        said = refusal(lambda method: method.check(tiny()), StyleMix(), bare_home)
        assert said.startswith(expected)


@each_use
@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_refused(
    zipped: bool, use: Loader, states: dict[str, State], bare_home: Path
) -> None:
    torch.save(states["encoder"], bare_home / FILES["encoder"])
    path = bare_home / FILES["decoder"]
    torch.save(states["decoder"], path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    torn = [whole[:length] for length in (0, 1, 100, len(whole) // 2, len(whole) - 1)]
    for content in [*torn, b"<!DOCTYPE html>\n<html></html>\n", pickle.dumps(print, 2)]:
        path.write_bytes(content)
        said = refusal(use, StyleMix(), bare_home)
        assert said.startswith("decoder.pth can't be read as the weights of AdaIN's decoder:")


def test_a_file_runs_nothing(states: dict[str, State], bare_home: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (bare_home / "ran",)

    torch.save(states["encoder"] | {"more": Hostile()}, bare_home / FILES["encoder"])
    refusal(lambda method: method.check(tiny()), StyleMix(), bare_home)
    assert not (bare_home / "ran").exists()


# AdaIN


@given(seed=st.integers(0, 10**6), height=st.integers(2, 6), width=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_restyled_features_follow_the_formula(seed: int, height: int, width: int) -> None:
    torch.manual_seed(seed)
    content, style = torch.randn(2, 2, 3, height, width) * 3 + 1
    assert_same(restyle(content, style), transfer(content, style))
    assert_same(restyle(content, content), content)


def test_restyled_features_worked_out_by_hand() -> None:
    """The means are 1 and 8, the deviations differ by a factor of 3: 3 (f - 1) + 8."""
    content, style = (
        torch.tensor(values).view(1, 1, 2, 2)
        for values in ([2.0, 0.0, 0.0, 2.0], [5.0, 5.0, 11.0, 11.0])
    )
    expected = torch.tensor([11.0, 5.0, 5.0, 11.0]).view(1, 1, 2, 2)
    assert_same(restyle(content, style), expected, atol=1e-4)


def test_restyled_features_have_the_statistics_of_the_style() -> None:
    torch.manual_seed(0)
    content, style = torch.randn(4, 5, 7, 7) * 3 + 1, torch.randn(4, 5, 7, 7) / 2 - 3
    restyled = restyle(content, style)
    assert_same(restyled.mean((2, 3)), style.mean((2, 3)))
    assert_same(restyled.std((2, 3)), style.std((2, 3)), atol=1e-3)


def test_a_constant_channel_takes_the_mean_of_the_style() -> None:
    torch.manual_seed(0)
    content, style = torch.full((1, 2, 4, 4), 3.0), torch.randn(1, 2, 4, 4)
    expected = style.mean((2, 3), keepdim=True).expand_as(style)
    assert_same(restyle(content, style), expected)


# The mixture


def shares(c: float | Tensor, s: float) -> Tensor:
    """The weights of the first, the second, and of each with the style of the other, (4, ...)."""
    c = torch.as_tensor(c)
    unit = torch.eye(4).view(4, 4, *[1] * c.dim())
    return _blend(c, torch.tensor(s), *unit)


ratio = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))


@given(c=ratio, s=ratio, u=st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_shares_are_a_distribution_with_the_ratios_as_margins(c: float, s: float, u: float) -> None:
    with coinciding(u):
        own, other, content, style = shares(c, s).tolist()
    assert min(own, other, content, style) >= -5e-16  # four roundings of 1 - c - s + t
    assert own + other + content + style == pytest.approx(1, abs=1e-15)
    assert own + content == pytest.approx(c, abs=1e-15)
    assert own + style == pytest.approx(s, abs=1e-15)
    assert own == pytest.approx(max(0, c + s - 1) * (1 - u) + min(c, s) * u, abs=1e-15)


def test_shares_and_target_worked_out_by_hand() -> None:
    """t is in [0.25, 0.5]; of a target, 0.7 * 0.75 + 0.3 * 0.5 = 0.675 are the image's own."""
    with coinciding(0.5):
        assert shares(0.75, 0.5).tolist() == [0.375, 0.125, 0.375, 0.125]
    with at(0.75, 0.5, partner=[1, 0]):
        _, targets = StyleMix(size=16).mix(stub(), torch.rand(2, 3, 16, 16), torch.eye(2))
    assert_same(targets, torch.tensor([[0.675, 0.325], [0.325, 0.675]]), atol=1e-15)


def test_the_coincidence_is_uniform_over_what_is_possible() -> None:
    torch.manual_seed(0)
    own = torch.stack([shares(0.7, 0.6)[0] for _ in range(5000)])
    assert own.min() >= 0.3 - 1e-15
    assert own.max() <= 0.6
    assert_even(torch.histc(own, 10, 0.3, 0.6))


@given(s=ratio, seed=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_where_the_content_is_cut_the_coincidence_is_known(s: float, seed: int) -> None:
    torch.manual_seed(seed)
    inside = torch.rand(5, 6) < 0.5
    own, other, content, style = shares(inside.double(), s)
    expected = torch.where(inside, s, 0.0)
    assert_same(own, expected, atol=1e-15)
    assert_same(content, torch.where(inside, 1 - s, 0.0), atol=1e-15)
    assert_same(other, torch.where(inside, 0.0, 1 - s), atol=1e-15)
    assert_same(style, torch.where(inside, 0.0, s), atol=1e-15)


# StyleMix


@given(c=ratio, s=ratio, u=st.floats(0, 1), r=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_stylemix_follows_the_formula(c: float, s: float, u: float, r: float) -> None:
    torch.manual_seed(0)
    partner = [2, 0, 3, 1]
    x, y = torch.rand(4, 3, 16, 16), torch.randn(4, CLASSES).softmax(1)
    with at(c, s, partner=partner), coinciding(u):
        mixed, targets = StyleMix(size=16, r=r).mix(stub(), x, y)
    t = max(0, c + s - 1) + u * (min(c, s) - max(0, c + s - 1))
    for i, j in enumerate(partner):
        one, two = x[i : i + 1], x[j : j + 1]
        expected = t * one + (1 - c - s + t) * two
        expected = expected + (c - t) * transfer(one, two) + (s - t) * transfer(two, one)
        assert_same(mixed[i], expected[0])
        rho = r * c + (1 - r) * s
        assert_same(targets[i], rho * y[i] + (1 - rho) * y[j])


@pytest.mark.parametrize(
    ("c", "s", "features"),
    [
        (1.0, 1.0, lambda f, g: f),
        (0.0, 0.0, lambda f, g: g),
        (1.0, 0.0, transfer),
        (0.0, 1.0, lambda f, g: transfer(g, f)),
    ],
)
def test_stylemix_decodes_the_features_at_its_corners(
    networks: AdaIN, c: float, s: float, features: Callable[[Tensor, Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    x, y = batch(2, 16, 16)
    with at(c, s, partner=[1, 0]):
        mixed, _ = StyleMix(size=16).mix(networks, x, y)
    f = networks.encode(x)
    assert_same(mixed, networks.decode(features(f, f[[1, 0]])))


@each_variant
def test_who_is_its_own_partner_keeps_its_target(method: StyleMix, networks: AdaIN) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(1, 3, 16, 16), torch.randn(1, CLASSES).softmax(1)
    with patch("mixbench.methods.stylemix.beta", return_value=torch.tensor(0.4)):
        mixed, targets = method.mix(networks, x, y)
    assert_same(targets, y, atol=1e-15)
    if not method.cut:
        assert_same(mixed, networks.decode(networks.encode(x)))


# StyleCutMix


@given(
    area=ratio,
    s=ratio,
    gamma=ratio,
    r=st.floats(0, 1),
    centre=st.tuples(st.integers(0, 15), st.integers(0, 15)),
)
@settings(max_examples=25, deadline=None)
def test_stylecutmix_follows_the_formula(
    area: float, s: float, gamma: float, r: float, centre: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    partner = [2, 0, 3, 1]
    x, y = torch.rand(4, 3, 16, 16), torch.randn(4, CLASSES).softmax(1)
    method = StyleMix(cut=True, size=16, r=r)
    with at(area, s, gamma=gamma, centre=centre, partner=partner):
        mixed, targets = method.mix(AdaIN(nn.Identity(), Times(2)), x, y)
    inside = cut(area, centre)
    lam = inside.sum() / 256
    lam_s = gamma * lam + (1 - gamma) * s
    for i, j in enumerate(partner):
        one, two = x[i : i + 1], x[j : j + 1]
        g12 = gamma * one + (1 - gamma) * 2 * transfer(one, two)
        g21 = gamma * two + (1 - gamma) * 2 * transfer(two, one)
        within, without = s * one + (1 - s) * g12, (1 - s) * two + s * g21
        assert_same(mixed[i], (inside * within + (1 - inside) * without)[0])
        rho = r * lam + (1 - r) * lam_s
        assert_same(targets[i], rho * y[i] + (1 - rho) * y[j])


def cut(area: float, centre: tuple[int, int]) -> Tensor:
    """One in the box that CutMix would draw, at the ratio 1 - ``area``, and zero elsewhere."""
    half = int(16 * area**0.5) // 2
    inside = torch.zeros(16, 16)
    for row in range(max(0, centre[0] - half), min(16, centre[0] + half)):
        for column in range(max(0, centre[1] - half), min(16, centre[1] + half)):
            inside[row, column] = 1
    return inside


class Times(nn.Module):
    """A decoder that brightens."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


@given(area=ratio, s=ratio, centre=st.tuples(st.integers(0, 15), st.integers(0, 15)))
@settings(max_examples=30, deadline=None)
def test_if_nothing_is_restyled_it_is_cutmix_at_any_style_ratio(
    area: float, s: float, centre: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    partner = [1, 2, 0]
    x, y = torch.rand(3, 3, 16, 16), torch.randn(3, CLASSES).softmax(1)
    with at(area, s, gamma=1.0, centre=centre, partner=partner):
        mixed, targets = StyleMix(cut=True, size=16).mix(stub(), x, y)
    inside = cut(area, centre)
    lam = inside.mean()
    assert_same(mixed, torch.where(inside == 1, x, x[partner]))
    assert_same(targets, lam * y + (1 - lam) * y[partner])


def test_cifar_images_lose_nothing_by_being_resized() -> None:
    torch.manual_seed(0)
    x, y = batch(2, 32, 32)
    with at(0.25, 0.3, gamma=1.0, centre=(112, 112), partner=[1, 0]):
        mixed, targets = StyleMix(cut=True).mix(stub(), x, y)
    expected = x[[1, 0]].clone()
    expected[:, :, 8:24, 8:24] = x[:, :, 8:24, 8:24]
    assert_same(mixed, expected, atol=1e-14)
    assert_same(targets, 0.25 * y + 0.75 * y[[1, 0]], atol=1e-14)


# Both


def test_the_published_defaults() -> None:
    assert StyleMix() == StyleMix(
        cut=False, p=None, alpha=None, gamma=0.8, r=0.7, size=224, normalised=False, **FILES
    )


@pytest.mark.parametrize(
    ("method", "p", "alphas"),
    [
        (StyleMix(), 0.2, [0.5, 0.5]),
        (StyleMix(cut=True), 0.5, [0.8, 1.0, 1.0]),
        (StyleMix(p=0.0, alpha=2.0), 0.0, [2.0, 2.0]),
        (StyleMix(cut=True, p=1.0, alpha=0.3, gamma=3.0), 1.0, [0.3, 0.3, 3.0]),
    ],
)
def test_ratios_are_drawn_for_the_batch_as_published_or_given(
    method: StyleMix, p: float, alphas: list[float]
) -> None:
    net, (x, y) = tiny(), batch(2, 16, 16)
    with (
        patch("mixbench.methods.stylemix.beta", wraps=beta) as ratios,
        patch("mixbench.methods.stylemix.chance", return_value=True) as coin,
    ):
        method.guided_loss(net, stub(), x, y)
    coin.assert_called_once_with(p)
    assert sorted(call.args[0] for call in ratios.call_args_list) == alphas


@pytest.mark.parametrize(
    ("cut", "p", "alphas"), [(False, 0.2, [0.5, 0.5]), (True, 0.5, [1.0, 1.0, 0.8])]
)
def test_what_is_drawn_is_distributed_as_published(
    cut: bool, p: float, alphas: list[float]
) -> None:
    torch.manual_seed(0)
    method, net, (x, y) = StyleMix(cut=cut, size=16), Net(pixels=nn.Identity()), batch(3, 2, 2)
    with recorded() as draws, patch.object(net, "criterion"):
        for _ in range(2000):
            method.guided_loss(net, stub(), x, y)
    coins, ratios, partners, centres = (
        np.array([value for name, _, value in draws if name == kind])
        for kind in ("chance", "beta", "partners", "randint")
    )
    mixed = int(coins.sum())
    assert binomtest(mixed, 2000, p).pvalue > 1e-3
    drawn = ratios.reshape(mixed, len(alphas)).T  # those of content and of style, and gamma
    for values, alpha in zip(drawn, alphas, strict=True):
        assert kstest(values, "beta", args=(alpha, alpha)).pvalue > 1e-3
    assert spearmanr(drawn[0], drawn[1]).pvalue > 1e-3
    permutations, counts = np.unique(partners, axis=0, return_counts=True)
    assert len(permutations) == 6
    assert_even(torch.tensor(counts))
    assert len(centres) == cut * mixed
    if cut:
        assert_even(torch.tensor(centres).flatten().bincount(minlength=16))


@each_variant
def test_batches_that_are_not_mixed_get_the_plain_loss(method: StyleMix) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(4)
    with patch("mixbench.methods.stylemix.chance", return_value=False):
        loss = method.guided_loss(net, stub(), x, y)
    assert loss.equal(Baseline().loss(net, x, y))


@each_variant
def test_the_loss_weighs_both_labels_by_content_and_style(method: StyleMix) -> None:
    torch.manual_seed(0)
    net, (x, y), c, s = tiny().eval(), batch(3, 16, 16), 0.25, 0.6
    partner = [1, 2, 0]
    with at(c, s, gamma=0.5, partner=partner), coinciding(0.5):
        loss = method.guided_loss(net, stub(), x, y)
    with at(c, s, gamma=0.5, partner=partner), coinciding(0.5):
        mixed, _ = method.mix(stub(), x, y)
    if method.cut:  # the box has a quarter of the pixels
        s = 0.5 * c + 0.5 * s
    logits = net(mixed)
    losses = []
    for i, j in enumerate(partner):
        a, b = cross_entropy(logits[i], y[i]), cross_entropy(logits[i], y[j])
        losses.append(0.7 * (c * a + (1 - c) * b) + 0.3 * (s * a + (1 - s) * b))
    assert_same(loss, total(losses) / 3)


class Recorder(nn.Module):
    """Keeps what it was asked, and returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x


@each_variant
@pytest.mark.parametrize(("height", "width"), [(8, 8), (10, 24), (32, 32)])
def test_the_networks_see_squares_and_the_classifier_the_size_it_had(
    method: StyleMix, height: int, width: int
) -> None:
    torch.manual_seed(0)
    x, y = batch(2, height, width)
    encoder, decoder = Recorder(), Recorder()
    with at(0.0, 0.0, gamma=0.0, partner=[1, 0]):  # no content and no style of its own
        mixed, _ = method.mix(AdaIN(encoder, decoder), x, y)
    square = resize(x, 16, 16)
    assert_same(total(encoder.seen), square)
    assert len(decoder.seen) == (2 if method.cut else 1)
    assert_same(mixed, resize(square[[1, 0]], height, width))


@each_variant
@pytest.mark.parametrize("normalised", [False, True])
def test_the_networks_see_normalised_pixels_only_if_told_to(
    method: StyleMix, normalised: bool
) -> None:
    torch.manual_seed(0)
    net, (x, y), encoder = tiny().eval(), batch(3, 16, 16), Recorder()
    pixels, rest = net.split("pixels")
    method = StyleMix(cut=method.cut, p=1.0, size=16, normalised=normalised)
    seeds = torch.get_rng_state()
    loss = method.guided_loss(net, AdaIN(encoder, Times(0.5)), x, y)
    z = pixels(x) if normalised else x
    assert_same(encoder.seen, [z])
    torch.set_rng_state(seeds)
    torch.rand((), device="cpu")  # the coin
    mixed, targets = method.mix(AdaIN(nn.Identity(), Times(0.5)), z, y)
    assert_same(loss, F.cross_entropy((rest if normalised else net)(mixed), targets))


@each_variant
def test_neither_networks_nor_images_get_a_gradient(method: StyleMix, networks: AdaIN) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(4)
    objective = method.objective(net)
    assert isinstance(objective, GuidedObjective)
    objective(x, y).backward()
    assert x.grad is None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert not any(p.requires_grad for p in objective.guide.parameters())
    assert all(not module.training for module in objective.train().guide.modules())
    for old, new in zip(networks.parameters(), objective.guide.parameters(), strict=True):
        assert old.equal(new)


@each_variant
def test_the_batch_is_left_as_it_was(method: StyleMix) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(4, 3, 16, 16), torch.eye(CLASSES)[:4]
    before = x.clone(), y.clone()
    method.mix(stub(), x, y)
    assert x.equal(before[0])
    assert y.equal(before[1])
    assert x._version == y._version == 0


@each_variant
@pytest.mark.usefixtures("networks")
def test_the_networks_go_where_the_classifier_is(method: StyleMix) -> None:
    with torch.device("meta"):
        net, (x, y) = tiny(), batch(4)
    ratios = patch("mixbench.methods.stylemix.beta", lambda alpha: torch.full((), alpha))
    with ratios:  # torch can't draw them on meta; whatever read a value there would raise
        loss = method.objective(net)(x, y)
    loss.backward()
    assert loss.is_meta
    assert loss.shape == ()


@each_variant
@pytest.mark.usefixtures("networks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_they_take_its_type(method: StyleMix, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().to(dtype), batch(4)
    loss = method.objective(net)(x.to(dtype), y.to(dtype))
    assert loss.dtype == dtype
    assert loss.isfinite()


@each_variant
def test_statistics_and_targets_are_exact_under_autocast(method: StyleMix) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(4, 3, 16, 16), torch.randn(4, CLASSES).softmax(1)
    half = AdaIN(Rounding(), Rounding())
    torch.manual_seed(1)
    expected = method.mix(stub(), x, y)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, targets = method.mix(half, x, y)
    assert mixed.dtype == torch.float64
    assert_same(mixed, expected[0], atol=0.05)
    assert targets.equal(expected[1])


class Rounding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.bfloat16()


@pytest.mark.parametrize("size", [0, 8, 20])
def test_a_size_that_the_networks_would_not_give_back_is_refused(size: int) -> None:
    with pytest.raises(ValidationError):
        StyleMix(size=size)


def test_the_variants_are_spelled() -> None:
    assert parse("stylemix,cut=True", "mixbench.methods", Method) == StyleMix(cut=True)
    assert spell(StyleMix(cut=True, p=0.3), "stylemix") == "stylemix,cut=True,p=0.3"
