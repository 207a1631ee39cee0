"""TransMix, and the class token's attention."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import (
    CLASSES,
    assert_even,
    assert_same,
    batch,
    cross_entropy,
    tiny,
    total,
    with_gradients,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest, kstest
from timm.data.mixup import Mixup as TimmMixup
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.bench.nets.vit import smallvit, staged
from mixbench.methods import Net
from mixbench.methods._attention import attend, grid, token_grid
from mixbench.methods._reversed import ReversedMixup
from mixbench.methods.baseline import Baseline
from mixbench.methods.cutmix import CutMix
from mixbench.methods.transmix import TransMix

pytestmark = pytest.mark.usefixtures("float64")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
METHOD = TransMix(p=1.0)


def vit(**settings: Any) -> Net:
    """A vision transformer, of 4 x 4 tokens, whose attention is far from uniform."""
    from timm.models.vision_transformer import VisionTransformer

    small = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 3, "num_heads": 2}
    model = VisionTransformer(num_classes=CLASSES, **(small | settings))
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.5)
    return staged(model, MEAN, STD)


class Gazing(nn.Module):
    """Attends as it is told: ``given`` (b, heads, 1 + n, 1 + n)."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(()))
        self.attn_drop, self.fused_attn = nn.Identity(), True
        self.given = given

    def forward(self, x: Tensor) -> Tensor:
        if not self.fused_attn:
            self.attn_drop(self.given)
        return x + self.cls_token


def gazing(a: Tensor) -> Net:
    """A network whose class token attends to patches as ``a`` (b, n) says."""
    b, n = a.shape
    given = torch.rand(b, 1, 1 + n, 1 + n, dtype=a.dtype)
    given[:, 0, 0, 1:] = a
    return Net(
        pixels=nn.Identity(),
        block1=Gazing(given),
        pool=nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        head=nn.Linear(12, CLASSES),
    )


def rectangle(rows: slice, columns: slice, size: int = 8) -> Tensor:
    box = torch.zeros(size, size, dtype=torch.bool)
    box[rows, columns] = True
    return box


@contextmanager
def boxed(box: Tensor) -> Iterator[None]:
    with patch.object(TransMix, "draw", lambda *_: box):
        yield


def targets(method: TransMix, net: Net, x: Tensor, y: Tensor) -> Tensor:
    """The targets (b, c) that the loss compares logits with."""
    with patch.object(net, "criterion", wraps=F.cross_entropy) as criterion:
        method.loss(net, x, y)
    target: Tensor = criterion.call_args.args[1]
    return target


def shares(method: TransMix, box: Tensor, a: Tensor) -> Tensor:
    """The target's weights of the partners, (b,), where no two images have the same class."""
    b = len(a)
    net = gazing(a)
    net.head = nn.Linear(12, b)
    with boxed(box):
        y = targets(method, net, torch.rand(b, 3, *box.shape), torch.eye(b))
    return y.flip(1).diagonal()


TOKENS = [(slice(2, 6), slice(4, 8)), (slice(0, 2), slice(0, 8)), (slice(0, 8), slice(0, 8))]


@pytest.mark.parametrize(("rows", "columns"), TOKENS)
def test_uniform_attention_to_a_box_of_tokens_gives_the_loss_of_cutmix(
    rows: slice, columns: slice
) -> None:
    torch.manual_seed(0)
    inside = rectangle(rows, columns)
    net, (x, y) = gazing(torch.full((4, 16), 0.03)), batch(4)
    with boxed(inside):
        loss = TransMix(p=1.0, smoothing=0.0).loss(net, x, y)
    with (
        patch("mixbench.methods.cutmix.box", return_value=inside[None]),
        patch("mixbench.methods.cutmix.partners", return_value=torch.tensor([3, 2, 1, 0])),
    ):
        expected = CutMix(p=1.0).loss(net, x, y)
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


def test_uniform_attention_gives_the_share_of_tokens() -> None:
    box = rectangle(slice(1, 5), slice(3, 8))  # of the corners of tokens, 2 x 2 lie within
    a = torch.full((2, 16), 0.05)
    assert_same(shares(TransMix(p=1.0, smoothing=0, area=0), box, a), torch.full((2,), 4 / 16))
    half = (4 / 16 + 20 / 64) / 2
    assert_same(shares(TransMix(p=1.0, smoothing=0), box, a), torch.full((2,), half))


def test_attention_within_or_without_the_box_gives_the_bounds() -> None:
    box = rectangle(slice(2, 6), slice(0, 4))  # a quarter
    inside = torch.zeros(4, 4)
    inside[1:3, 0:2] = torch.tensor([[0.1, 0.2], [0.0, 0.3]])
    outside = torch.zeros(4, 4)
    outside[0, 0], outside[3, 3] = 0.6, 0.1
    a = torch.stack([inside.flatten(), outside.flatten()])
    method = TransMix(p=1.0, smoothing=0)
    assert_same(shares(method, box, a), torch.tensor([(1 + 0.25) / 2, 0.25 / 2]))


@given(
    seed=st.integers(0, 10**6),
    corner=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    sides=st.tuples(st.integers(0, 8), st.integers(0, 8)),
)
@settings(max_examples=40, deadline=None)
def test_the_share_is_the_formula_and_within_its_bounds(
    seed: int, corner: tuple[int, int], sides: tuple[int, int]
) -> None:
    torch.manual_seed(seed)
    (top, left), (height, width) = corner, sides
    box = rectangle(slice(top, top + height), slice(left, left + width))
    a = torch.rand(4, 16) ** 4
    got = shares(TransMix(p=1.0, smoothing=0), box, a)
    area = box.sum().item() / 64
    for i in range(4):
        inside = outside = 0.0
        for token in range(16):
            row, column = 2 * (token // 4), 2 * (token % 4)
            if box[row, column]:
                inside += a[i, token].item()
            else:
                outside += a[i, token].item()
        assert got[i].item() == pytest.approx((area + inside / (inside + outside)) / 2, abs=1e-10)
        assert area / 2 - 1e-12 <= got[i] <= (1 + area) / 2 + 1e-12
    for method, expected in [
        (TransMix(p=1.0, smoothing=0, area=1), torch.full((4,), area)),
        (TransMix(p=1.0, smoothing=0, area=0), 2 * got - area),
    ]:
        assert_same(shares(method, box, a), expected)


def test_targets_by_hand() -> None:
    """Of four tokens of 4 x 4 pixels, one begins within the box, which has 24 of 64 pixels.

    a = (.2, .3, .1, 0) gives it 3/6, so the partner's share is (3/8 + 1/2) / 2 = 7/16; (.3, .1, 0, 0)
    gives it 1/4, so that is 5/16. Smoothed by .2, a label has .84 of five classes, the others .04.
    """
    net = gazing(torch.tensor([[0.2, 0.3, 0.1, 0.0], [0.3, 0.1, 0.0, 0.0]]))
    with boxed(rectangle(slice(0, 4), slice(2, 8))):
        got = targets(TransMix(p=1.0, smoothing=0.2), net, *labelled(0, 1))
    assert_same(got, torch.tensor([[0.49, 0.39, *[0.04] * 3], [0.29, 0.59, *[0.04] * 3]]))


def labelled(*classes: int) -> tuple[Tensor, Tensor]:
    return torch.rand(len(classes), 3, 8, 8), torch.eye(CLASSES)[list(classes)]


def test_the_shares_differ_over_the_batch_and_not_with_the_scale_of_attention() -> None:
    torch.manual_seed(0)
    a, box = torch.rand(6, 16), rectangle(slice(0, 4), slice(2, 8))
    share = shares(METHOD, box, a)
    assert len({round(value, 6) for value in share.tolist()}) == 6
    assert_same(shares(METHOD, box, a * torch.rand(6, 1)), share)


def test_autocast_does_not_round_the_shares() -> None:
    torch.manual_seed(0)
    a, box = torch.rand(6, 16), rectangle(slice(0, 4), slice(2, 8))
    share = shares(METHOD, box, a)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(shares(METHOD, box, a.float()), share, atol=1e-6)


def test_no_attention_to_patches_at_all_gives_a_finite_target() -> None:
    share = shares(TransMix(p=1.0, smoothing=0), rectangle(slice(4), slice(4)), torch.zeros(2, 16))
    assert_same(share, torch.full((2,), 0.125))


@pytest.mark.parametrize("b", [1, 4, 5])
def test_the_loss_is_the_formula(b: int) -> None:
    torch.manual_seed(0)
    net, (x, y), box = vit(), batch(b), rectangle(slice(1, 5), slice(2, 8))
    if b == 4:
        y = torch.rand(b, CLASSES).softmax(1)  # labels may be soft
    with boxed(box):
        loss = METHOD.loss(net, x, y)
    mixed = x.clone()
    for i in range(b):
        mixed[i, :, 1:5, 2:8] = x[b - 1 - i, :, 1:5, 2:8]
    logits, a = net(mixed), class_attention(net, mixed)
    terms = []
    for i in range(b):
        inside = a[i].view(4, 4)[1:3, 1:4].sum()  # the tokens whose first pixel is in the box
        share = (24 / 64 + inside / a[i].sum()) / 2
        own, other = (0.9 * y[j] + 0.1 / CLASSES for j in (i, b - 1 - i))
        terms.append(cross_entropy(logits[i], (1 - share) * own + share * other))
    expected = total(terms) / b
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


def class_attention(net: Net, x: Tensor) -> Tensor:
    """The attention of the class token in block3, (b, 16), from the layer's definition."""
    below, _ = net.split("block2")
    block: Any = net.get_submodule("block3")
    queries, keys, _ = block.attn.qkv(block.norm1(below(x))).chunk(3, -1)
    heads = []
    for part in (slice(0, 8), slice(8, 16)):
        scores = queries[:, 0, part, None] * keys[..., part].transpose(1, 2)
        heads.append((scores.sum(1) / 8**0.5).softmax(1)[:, 1:])
    attention: Tensor = (heads[0] + heads[1]) / 2
    return attention.detach()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_are_distributions(smoothing: float) -> None:
    torch.manual_seed(0)
    method, (x, y) = TransMix(p=1.0, smoothing=smoothing), batch(6)
    with boxed(rectangle(slice(4), slice(6))):
        target = targets(method, vit(), x, y)
    assert target.min() >= smoothing / CLASSES
    assert_same(target.sum(1), torch.ones(6))


def test_an_empty_box_gives_the_loss_of_the_smoothed_labels() -> None:
    torch.manual_seed(0)
    net, (x, y) = vit(), batch(4)
    with patch("mixbench.methods.transmix.beta", return_value=torch.tensor(1.0)):
        loss = METHOD.loss(net, x, y)
    assert_same(loss, F.cross_entropy(net(x), y, label_smoothing=0.1))


def test_partners_are_those_of_the_reversed_batch_and_swap_the_box() -> None:
    torch.manual_seed(0)
    net, (x, y), box = vit(), batch(5), rectangle(slice(2, 6), slice(2, 4))
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with boxed(box):
        METHOD.loss(net, x, y)
    (mixed,) = seen  # one forward pass
    for i in range(5):
        assert mixed[i][:, box].equal(x[4 - i][:, box])
        assert mixed[i][:, ~box].equal(x[i][:, ~box])
    assert mixed[2].equal(x[2])


@pytest.mark.parametrize("seed", range(20))
def test_the_box_is_that_of_cutmix(seed: int) -> None:
    z = torch.stack([torch.zeros(1, 8, 12), torch.ones(1, 8, 12)])
    torch.manual_seed(seed)
    with patch("mixbench.methods.cutmix.partners", return_value=torch.tensor([1, 0])):
        mixed, _ = CutMix(alpha=0.7).mix(z, torch.eye(2))
    torch.manual_seed(seed)
    assert TransMix(alpha=0.7).draw(8, 12).equal(mixed[0, 0] == 1)


def test_the_ratio_of_the_box_is_of_beta_and_its_centre_any_pixel() -> None:
    torch.manual_seed(0)
    with patch("mixbench.methods.transmix.box") as box:
        for _ in range(2000):
            TransMix(alpha=0.7).draw(6, 10)
    _, _, sides, rows, columns = zip(*(call.args for call in box.call_args_list), strict=True)
    assert kstest(1 - torch.stack(sides) ** 2, beta(0.7, 0.7).cdf).pvalue > 1e-3
    places = 10 * torch.stack(rows) + torch.stack(columns)
    assert_even(places.bincount(minlength=60))


def test_p_is_the_share_of_batches_with_a_box() -> None:
    torch.manual_seed(0)
    net, (x, y) = vit(), batch(2)
    with (
        patch.object(TransMix, "mixed_loss") as mixed,
        patch.object(ReversedMixup, "mixed_loss") as otherwise,
    ):
        for _ in range(2000):
            TransMix(p=0.3).loss(net, x, y)
    assert mixed.call_count + otherwise.call_count == 2000
    assert binomtest(mixed.call_count, 2000, 0.3).pvalue > 1e-3


def test_the_ratio_of_the_other_batches_is_of_beta() -> None:
    torch.manual_seed(0)
    mixup, ends = TransMix(input_alpha=0.4).otherwise(), torch.tensor([0.0, 1.0])
    assert isinstance(mixup, ReversedMixup)
    drawn = [mixup.mix(ends, torch.eye(2))[0][1] for _ in range(2000)]
    assert kstest(torch.stack(drawn), beta(0.4, 0.4).cdf).pvalue > 1e-3


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_other_batches_are_those_of_timms_mixup(lam: float) -> None:
    torch.manual_seed(0)
    net, (x, y) = vit(), batch(6)
    timm: Any = TimmMixup(  # type: ignore[no-untyped-call]
        mixup_alpha=0.8, label_smoothing=0.1, num_classes=CLASSES
    )
    with patch.object(timm, "_params_per_batch", return_value=(lam, False)):
        mixed, expected = timm(x.detach().clone(), y.argmax(1))
    with patch("mixbench.methods._reversed.beta", return_value=torch.tensor(lam)) as draw:
        got = ReversedMixup(alpha=0.8, smoothing=0.1).mix(x, y)
        loss = TransMix(p=0.0).loss(net, x, y)
    assert_same(got, (mixed, expected))
    assert_same(loss, F.cross_entropy(net(mixed), expected))
    draw.assert_called_with(0.8)


def test_in_an_odd_batch_the_other_method_leaves_the_middle_image() -> None:
    torch.manual_seed(0)
    x, y = batch(5)
    mixed, target = ReversedMixup(alpha=0.8, smoothing=0.0).mix(x, y)
    assert_same((mixed[2], target[2]), (x[2], y[2]))


@pytest.mark.parametrize("mixed", [True, False])
def test_a_coin_of_p_decides(mixed: bool) -> None:
    torch.manual_seed(0)
    net, (x, y) = vit(), batch(4)
    drawing = "transmix" if mixed else "_reversed"
    with (
        patch("mixbench.methods._base.chance", side_effect=[mixed, True]) as coin,
        patch(f"mixbench.methods.{drawing}.beta", return_value=torch.tensor(0.5)) as draw,
    ):
        TransMix(alpha=1.5, input_alpha=0.7).loss(net, x, y)
    assert coin.call_args_list[0].args == (0.5,)
    draw.assert_called_once_with(1.5 if mixed else 0.7)


def test_the_defaults_are_those_of_the_official_run() -> None:
    expected = TransMix(p=0.5, alpha=1.0, input_alpha=0.8, smoothing=0.1, area=0.5)
    assert TransMix() == expected


@pytest.mark.parametrize("train", [True, False])
def test_attending_gives_the_logits_and_the_attention_of_the_last_block(train: bool) -> None:
    torch.manual_seed(0)
    net, x = vit().train(train), torch.rand(4, 3, 8, 8, requires_grad=True)
    logits, a = attend(net, x)
    assert_same(with_gradients(logits.sum(), net, x), with_gradients(net(x).sum(), net, x))
    assert not a.requires_grad
    assert_same(a, class_attention(net, x))
    assert (a.sum(1) < 1).all()
    assert a.std() > 0.01


def test_the_attention_is_that_before_dropout() -> None:
    torch.manual_seed(0)
    net, x = vit(attn_drop_rate=0.5), torch.rand(4, 3, 8, 8)
    for block in ("block1", "block2"):
        net.get_submodule(block).eval()
    _, a = attend(net, x)
    _, expected = attend(net.eval(), x)
    assert_same(a, expected)


def test_the_layer_is_left_as_it_was_even_by_an_error() -> None:
    net = vit()
    layers: list[Any] = [net.get_submodule(f"block{i}.attn") for i in (1, 2, 3)]
    before = [layer.fused_attn for layer in layers]
    assert before == [True, True, True]
    attend(net, torch.rand(1, 3, 8, 8))
    with pytest.raises(AssertionError, match="height"):
        attend(net, torch.rand(1, 3, 9, 9))
    assert [layer.fused_attn for layer in layers] == before
    assert not any(layer.attn_drop._forward_pre_hooks for layer in layers)


def test_the_attention_is_at_least_in_single_precision() -> None:
    net = vit().bfloat16()
    _, a = attend(net, torch.rand(2, 3, 8, 8, dtype=torch.bfloat16))
    assert a.dtype == torch.float32


def test_the_loss_works_under_autocast() -> None:
    torch.manual_seed(0)
    net, (x, y), box = vit().float(), batch(6), rectangle(slice(4), slice(6))
    with boxed(box):
        exact = METHOD.loss(net, x.float(), y.float())
        with torch.autocast("cpu", torch.bfloat16):
            loss = METHOD.loss(net, x.float(), y.float())
            target = targets(METHOD, net, x.float(), y.float())
    assert target.dtype == loss.dtype == torch.float32
    assert_same(target.sum(1), torch.ones(6, dtype=torch.float32), atol=1e-6)
    assert abs(loss - exact) < 0.1 * exact


SIZES = [(16, 8, 8, 4, 4), (196, 224, 224, 14, 14), (8, 32, 64, 2, 4), (84, 30, 50, 7, 12)]


@pytest.mark.parametrize(("n", "height", "width", "rows", "columns"), SIZES)
def test_the_grid_follows_from_the_number_of_tokens(
    n: int, height: int, width: int, rows: int, columns: int
) -> None:
    assert grid(n, height, width) == (rows, columns)


@pytest.mark.parametrize("n", [0, 12, 15, 17, 197, 200])
def test_tokens_that_are_no_grid_are_refused(n: int) -> None:
    if n:
        with pytest.raises(ValueError, match=f"{n} tokens are no grid of square patches"):
            grid(n, 224, 224)


def test_the_grid_of_a_network_is_asked_of_its_stem() -> None:
    assert token_grid(smallvit(CLASSES, 8, MEAN, STD), torch.rand(3, 3, 8, 8)) == (4, 4)
    assert token_grid(vit(img_size=(4, 12)), torch.rand(3, 3, 4, 12)) == (2, 6)


def test_a_network_without_that_attention_is_refused_with_the_reason() -> None:
    TransMix().check(vit())
    with pytest.raises(ValueError, match=r"class token's attention .* has no class token"):
        TransMix().check(tiny())
    net = vit()
    blind = Net({name: net.get_submodule(name) for name in ("pixels", "stem", "pool", "head")})
    with pytest.raises(ValueError, match=r"class token's attention .* no attention layer"):
        TransMix().check(blind)


def test_the_objective_works_on_the_device_of_the_images() -> None:
    with torch.device("meta"):
        net, (x, y) = smallvit(CLASSES, 8, MEAN, STD), batch(6)
    for p in (0.0, 1.0):
        with (
            patch("mixbench.methods.transmix.beta", lambda _: torch.rand(())),
            patch("mixbench.methods._reversed.beta", lambda _: torch.rand(())),
        ):
            loss = TransMix(p=p).objective(net)(x, y)
        assert loss.is_meta
        assert loss.shape == ()


def test_nothing_mixed_nothing_smoothed_is_the_baseline() -> None:
    torch.manual_seed(0)
    net, (x, y) = vit(), batch(4)
    with boxed(rectangle(slice(0), slice(0))):
        loss = TransMix(p=1.0, smoothing=0).loss(net, x, y)
    assert_same(loss, Baseline().loss(net, x, y))
