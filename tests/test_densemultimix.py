"""Dense MultiMix. Weights are (r, n, b) here, r matrices (b, n) Lambda^j in the paper."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from math import log
from typing import Any, Literal
from unittest.mock import patch

import pytest
import torch
from helpers import (
    CLASSES,
    assert_even,
    assert_same,
    bare,
    batch,
    comparing,
    cross_entropy,
    cut,
    drawing,
    heads,
    tiny,
    tiny_vit,
    total,
    with_gradients,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, kstest
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mixbench.bench.nets import outline
from mixbench.bench.nets.vit import staged
from mixbench.bench.speed.memory import LiveBytes
from mixbench.methods import Criterion, Net, bce_on_softmax
from mixbench.methods._criterion import Reduction as Reductions
from mixbench.methods._parts import summed
from mixbench.methods._simplex import simplex
from mixbench.methods.baseline import Baseline
from mixbench.methods.densemultimix import DenseMultiMix
from mixbench.methods.mixup import Mixup
from mixbench.methods.multimix import MultiMix

pytestmark = pytest.mark.usefixtures("float64")

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10**6)
dense = DenseMultiMix(p=1.0)
uniform = replace(dense, attention="uniform")
Attention = Literal["gap", "cam", "uniform"]
Squash = Literal["relu", "softmax"]
Reduction = Literal["mean", "sum", "global"]
Terms = dict[tuple[int, int], Tensor]
"""One number, or one vector, of each position and mixture."""

ATTENTIONS: list[Attention] = ["gap", "cam", "uniform"]
SQUASHES: list[Squash] = ["relu", "softmax"]
REDUCTIONS: list[Reduction] = ["mean", "sum", "global"]
VARIANTS = [
    replace(dense, attention=attention, squash=squash, detach=detach, reduction=reduction)
    for attention, squash, detach, reduction in product(
        ATTENTIONS, SQUASHES, [True, False], REDUCTIONS
    )
]


def brier(logits: Tensor, target: Tensor, reduction: Reductions = "mean") -> Tensor:
    """A criterion that nobody knows but a user: squared distances, of logits from targets."""
    loss = (logits - target).square().sum(1)
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def literal(method: DenseMultiMix, net: Net, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Steps 1 to 8 of the sheet, with plain loops over positions, mixtures and examples.

    Of maps that are mixed at an earlier stage, a position of the last map has the targets and the
    attention of those that it covers.
    """
    trunk, _ = cut(net, "layer4")
    at = list(dict(net.named_children())).index(method.at[0]) + 1
    maps = trunk[:at](x)
    mixed, targets, s = mixtures(method, net, maps, y, weights)
    last = trunk[at:](mixed)
    n, (height, width), (h, w) = len(last), maps.shape[2:], last.shape[2:]
    losses: Terms = {}
    masses: Terms = {}
    for p, q, k in product(range(h), range(w), range(n)):
        rows = range(p * height // h, (p + 1) * height // h)
        columns = range(q * width // w, (q + 1) * width // w)
        covered = [i * width + j for i in rows for j in columns]
        mass = total(s[j, k] for j in covered)
        target = total(s[j, k] * targets[j, k] for j in covered) / mass.clamp(min=1e-12)
        losses[p * w + q, k] = cross_entropy(net.head(last[k, :, p, q]), target)
        masses[p * w + q, k] = mass / len(covered)
    return reduced(method.reduction, losses, masses, h * w, n)


def mixtures(
    method: DenseMultiMix, net: Net, maps: Tensor, y: Tensor, weights: Tensor
) -> tuple[Tensor, Terms, Terms]:
    """Steps 2 to 5: mixed maps, and for each position and mixture its target and the mass s."""
    (b, d, height, width), (r, n, _) = maps.shape, weights.shape
    z = maps.reshape(b, d, r)
    a = [attention(method, net, z[i], y[i]) for i in range(b)]
    features: Terms = {}
    targets: Terms = {}
    s: Terms = {}
    for j, k in product(range(r), range(n)):
        column = [a[i][j] * weights[j, k, i] for i in range(b)]
        s[j, k] = total(column)
        column = [each / s[j, k].clamp(min=1e-12) for each in column]
        features[j, k] = total(column[i] * z[i, :, j] for i in range(b))
        targets[j, k] = total(column[i] * y[i] for i in range(b))
    mixed = [torch.stack([features[j, k] for j in range(r)], 1) for k in range(n)]
    return torch.stack(mixed).reshape(n, d, height, width), targets, s


def attention(method: DenseMultiMix, net: Net, z: Tensor, y: Tensor) -> Tensor:
    """The attention of one image, (r,), from its features (d, r) and its label (c,)."""
    r = z.shape[1]
    flat = torch.full((r,), 1 / r)
    if method.attention == "uniform":
        return flat
    u = z.sum(1) / r if method.attention == "gap" else y @ net.get_parameter("head.weight")
    scores = torch.stack([z[:, j] @ u for j in range(r)])
    if method.squash == "softmax":
        a = scores.exp() / scores.exp().sum()
    else:
        positive = torch.where(scores > 0, scores, 0)
        a = positive / positive.sum() if positive.sum() > 1e-12 else flat
    return a.detach() if method.detach else a


def reduced(reduction: Reduction, losses: Terms, s: Terms, r: int, n: int) -> Tensor:
    """Steps 7 and 8: from the losses and masses of all positions and mixtures to one number."""
    if reduction == "global":
        return total(s[key] * losses[key] for key in losses) / total(s.values()).clamp(min=1e-12)
    each = []
    for j in range(r):
        mass = total(s[j, k] for k in range(n)).clamp(min=1e-12)
        each.append(total(s[j, k] * losses[j, k] for k in range(n)) / mass)
    return total(each) if reduction == "sum" else total(each) / r


def loss_of(method: DenseMultiMix, weights: Tensor, net: Net, x: Tensor, y: Tensor) -> Tensor:
    """The loss of the method, had it drawn these weights (r, n, b)."""
    with drawing(weights):
        return method.loss(net, x, y)


def assert_literal(
    method: DenseMultiMix,
    net: Net,
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    transcription: Callable[[DenseMultiMix, Net, Tensor, Tensor, Tensor], Tensor] = literal,
) -> None:
    """Loss and gradients are those of the transcription."""
    loss = loss_of(method, weights, net, x, y)
    expected = transcription(method, net, x, y, weights)
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


def literal_of_patches(
    method: DenseMultiMix, net: Net, x: Tensor, y: Tensor, weights: Tensor
) -> Tensor:
    """Steps 1 to 8 for tokens: positions are patches after the norm; the class token is left out."""
    trunk, _ = cut(net, method.at[0])
    tokens = trunk(x)
    maps = torch.stack([normed(net, tokens[:, 1 + j]) for j in range(16)], 2)[..., None]
    mixed, targets, s = mixtures(method, net, maps, y, weights)
    losses = {(j, k): cross_entropy(net.head(mixed[k, :, j, 0]), targets[j, k]) for j, k in targets}
    return reduced(method.reduction, losses, s, 16, weights.shape[1])


def normed(net: Net, z: Tensor) -> Tensor:
    """What the last norm makes of features (b, d)."""
    weight, bias = (net.get_parameter(f"pool.1.{name}") for name in ("weight", "bias"))
    centred = z - z.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt() * weight + bias


def scattered_vit(head: str = "linear") -> Net:
    """A vision transformer whose norms are not those at the start, which would do nothing."""
    net = tiny_vit()
    net.head = heads(64)[head]
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0.05, 0.2)
    return net


def draw(b: int, r: int, n: int = 4, m: int | None = None) -> Tensor:
    return DenseMultiMix(n=n, m=m).draw(b, r)


def features(b: int, d: int, height: int = 2, width: int = 3) -> tuple[Tensor, Tensor]:
    """Last maps of both signs, and one-hot targets."""
    _, y = batch(b)
    return torch.randn(b, d, height, width, requires_grad=True), y


def name(method: DenseMultiMix) -> str:
    detach = "detached" if method.detach else "attached"
    return f"{method.attention}-{method.squash}-{detach}-{method.reduction}"


FIRST = 4 / 9 * log(5 / 2) + 5 / 9 * log(9 / 8)
SECOND = 2 / 5 * (log(3) - log(2) / 2) + 3 / 5 * log(3)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("mean", (FIRST + SECOND) / 2),
        ("sum", FIRST + SECOND),
        ("global", (27 / 20 * FIRST + 5 / 6 * SECOND) / (27 / 20 + 5 / 6)),
    ],
)
def test_two_mixtures_at_two_positions_worked_out_by_hand(
    reduction: Reduction, expected: float
) -> None:
    """Features are (3, 1) and (1, 1), their means 2 and 1, so a = (3/4, 1/4) and (1/2, 1/2).

    The odds of the first class are two to the power of a feature.

    ======== ========== ============ ==== ========== ======= ==========================
    position lambda     M            s    M-hat      feature loss
    ======== ========== ============ ==== ========== ======= ==========================
    first    (2/5, 3/5) (3/10, 3/10) 3/5  (1/2, 1/2) 2       -ln(4/5)/2 - ln(1/5)/2
    first    (1, 0)     (3/4, 0)     3/4  (1, 0)     3       -ln(8/9)
    second   (2/3, 1/3) (1/6, 1/6)   1/3  (1/2, 1/2) 1       -ln(2/3)/2 - ln(1/3)/2
    second   (0, 1)     (0, 1/2)     1/2  (0, 1)     1       -ln(1/3)
    ======== ========== ============ ==== ========== ======= ==========================

    Of the weights of the first position, 3/5 and 3/4 of 27/20 are 4/9 and 5/9; of the second, 1/3
    and 1/2 of 5/6 are 2/5 and 3/5.
    """
    net, x = bare(1, nn.Linear(1, 2)), torch.tensor([[[[3.0, 1.0]]], [[[1.0, 1.0]]]])
    with torch.no_grad():
        net.get_parameter("head.weight").copy_(torch.tensor([[log(2)], [0]]))
        net.get_parameter("head.bias").zero_()
    weights = torch.tensor([[[2 / 5, 3 / 5], [1, 0]], [[2 / 3, 1 / 3], [0, 1]]])
    loss = loss_of(replace(dense, reduction=reduction), weights, net, x, torch.eye(2))
    assert loss.item() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("m", [None, 2])
@pytest.mark.parametrize("method", VARIANTS, ids=name)
def test_loss_and_gradients_are_those_of_mixed_features(
    method: DenseMultiMix, m: int | None
) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(4)
    assert_literal(method, net, x, y, draw(4, 4, m=m))


@pytest.mark.parametrize("method", VARIANTS, ids=name)
def test_so_they_are_for_images_without_attention_to_anything(method: DenseMultiMix) -> None:
    torch.manual_seed(0)
    net, (x, y) = bare(3), features(4, 3)
    with torch.no_grad():
        x[0] = 0
        x[1] = -(y @ net.get_parameter("head.weight"))[1, :, None, None]
    assert_literal(method, net, x, y, draw(4, 6))


@pytest.mark.parametrize("method", VARIANTS, ids=name)
def test_so_they_are_for_a_position_without_attention(method: DenseMultiMix) -> None:
    torch.manual_seed(0)
    net = bare(3)
    x, y = unattended(net, b=4)
    a = method.attend(x.flatten(2), y, net.head)
    assert a[:, 0].any() == (method.attention == "uniform" or method.squash == "softmax")
    assert_literal(method, net, x, y, draw(4, 6))


def unattended(net: Net, b: int) -> tuple[Tensor, Tensor]:
    """Features (b, 3, 2, 3) and targets of which the first position has no positive score."""
    x, y = features(b, 3)
    with torch.no_grad():
        x[..., 0, 0] = -(y @ net.get_parameter("head.weight"))  # against the class
        x[..., 1, 2] = -100 * x[..., 0, 0]  # and against the mean
    return x, y


@pytest.mark.parametrize("method", VARIANTS, ids=name)
def test_a_head_that_does_not_commute_gets_mixed_features(method: DenseMultiMix) -> None:
    torch.manual_seed(0)
    net, (x, y) = bare(3, heads(3)["cosine"]), features(4, 3)
    assert_literal(method, net, x, y, draw(4, 6))


@pytest.mark.parametrize("method", [v for v in VARIANTS if v.attention != "cam"], ids=name)
def test_so_does_one_that_is_not_linear_at_all(method: DenseMultiMix) -> None:
    torch.manual_seed(0)
    net, (x, y) = bare(3, heads(3)["tanh"]), features(4, 3)
    assert_literal(method, net, x, y, draw(4, 6))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_layers_of_the_pool_see_mixed_features_too(reduction: Reduction) -> None:
    torch.manual_seed(0)
    norm, head, (x, y) = nn.LayerNorm(3), nn.Linear(3, CLASSES), features(4, 3)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm)
    net = Net(pixels=nn.Identity(), layer4=nn.Identity(), pool=pool, head=head)
    method = replace(dense, reduction=reduction)
    w = draw(4, 6)
    assert_same(
        loss_of(method, w, net, x, y), literal(method, bare(3, nn.Sequential(norm, head)), x, y, w)
    )
    with pytest.raises(ValueError, match="attention=cam needs the map that the head sees"):
        replace(dense, attention="cam").check(net)


@pytest.mark.parametrize("m", [None, 2])
@pytest.mark.parametrize("method", VARIANTS, ids=name)
def test_patches_of_a_vision_transformer_are_mixed_after_the_norm(
    method: DenseMultiMix, m: int | None
) -> None:
    torch.manual_seed(0)
    net, (x, y), method = scattered_vit(), batch(3), replace(method, at=("block4",))
    replace(method, p=0.5).check(net)
    assert_literal(method, net, x, y, draw(3, 16, m=m), literal_of_patches)


@pytest.mark.parametrize("head", ["tanh", "cosine"])
def test_so_they_are_before_another_head(head: str) -> None:
    torch.manual_seed(0)
    net, (x, y) = scattered_vit(head), batch(3)
    method = replace(dense, at=("block4",))
    assert_literal(method, net, x, y, draw(3, 16), literal_of_patches)


def test_the_class_token_has_no_part() -> None:
    torch.manual_seed(0)
    net, (x, y), weights = scattered_vit(), batch(3), draw(3, 16)
    method = replace(dense, at=("block4",))
    loss = loss_of(method, weights, net, x, y)
    net.get_submodule("block4").register_forward_hook(lambda module, args, z: without_class(z))
    assert loss_of(method, weights, net, x, y).equal(loss)


def without_class(tokens: Tensor) -> Tensor:
    """The tokens (b, 1 + r, d) with another class token."""
    return torch.cat([torch.rand_like(tokens[:, :1]), tokens[:, 1:]], 1)


def test_of_one_patch_it_is_multimix_of_that_patch() -> None:
    torch.manual_seed(0)
    net, (x, y), weights = wide_vit((8, 8), 8), batch(4), draw(4, 1)
    loss = loss_of(replace(dense, at=("block2",)), weights, net, x, y)
    net.get_submodule("block2").register_forward_hook(lambda module, args, z: z.flip(1))
    with drawing(weights):
        expected = MultiMix(p=1.0).loss(net, x, y)
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


def wide_vit(size: tuple[int, int], patch: int) -> Net:
    """A vision transformer of two blocks for images of this height and width."""
    model = VisionTransformer(
        size, patch, num_classes=CLASSES, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2
    )
    return staged(model, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def test_attention_over_patches_lies_where_they_do() -> None:
    torch.manual_seed(0)
    net, (x, y) = wide_vit((8, 12), 4), batch(3, 8, 12)
    z = normed(net, net.trunk(x)[:, 1:].flatten(0, 1)).unflatten(0, (3, 6)).transpose(1, 2)
    ((said, maps),) = replace(dense, at=("block2",)).maps(net, x, y).items()
    assert said == "attention over block2"
    expected = torch.stack([attention(dense, net, z[i], y[i]) for i in range(3)])
    assert_same(maps, expected.view(3, 2, 3), atol=1e-14)


@pytest.mark.parametrize("at", [("pixels",), ("stem",), ("block3",), ("block4", "block2")])
def test_tokens_that_have_blocks_before_them_are_refused(at: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=rf"leave the last block, block4, not at={at[-1]}$"):
        DenseMultiMix(at=at).check(tiny_vit())


def test_a_class_token_that_nothing_would_train_is_refused() -> None:
    method = DenseMultiMix(at=("block12",))
    method.check(outline("vit-small"))
    with pytest.raises(ValueError, match="the class token, which classifies, needs p below 1"):
        replace(method, p=1.0).check(outline("vit-small"))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("squash", SQUASHES)
@pytest.mark.parametrize("stage", ["layer3", "layer2"])
def test_maps_may_be_mixed_at_an_earlier_stage(
    stage: str, squash: Squash, reduction: Reduction
) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(3, 8, 16)
    method = replace(dense, at=(stage,), squash=squash, reduction=reduction, detach=False)
    r = {"layer3": 8, "layer2": 32}[stage]
    assert_literal(method, net, x, y, draw(3, r, n=3))


@pytest.mark.parametrize("head", ["tanh", "cosine"])
def test_maps_may_be_mixed_at_an_earlier_stage_before_another_head(head: str) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(3, 8, 16)
    net.head = heads(64)[head]
    assert_literal(replace(dense, at=("layer2",)), net, x, y, draw(3, 32, n=3))


def test_images_may_be_mixed() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(3, 4, 8)
    assert_literal(replace(dense, at=("pixels",)), net, x, y, draw(3, 32, n=3))


def test_maps_need_not_be_square() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(4, 8, 16)
    assert_literal(dense, net, x, y, draw(4, 8))


def test_targets_may_be_soft() -> None:
    torch.manual_seed(0)
    net, (x, _), y = tiny(), batch(4), torch.randn(4, CLASSES).softmax(1)
    assert_literal(dense, net, x, y, draw(4, 4))


def test_single_precision_is_as_good() -> None:
    torch.manual_seed(0)
    net, (x, y), weights = bare(3), features(4, 3), draw(4, 6)
    expected = with_gradients(loss_of(dense, weights, net, x, y), net, x)
    x = x.detach().float().requires_grad_()
    single = with_gradients(loss_of(dense, weights, net.float(), x, y.float()), net, x)
    assert_same([each.double() for each in single], expected, atol=1e-5)


def test_in_half_precision_patches_are_as_good() -> None:
    torch.manual_seed(0)
    net, (x, y), weights = tiny_vit().float(), batch(4), draw(4, 16, n=50)
    x, y, method = x.float(), y.float(), replace(dense, at=("block4",))
    expected = loss_of(method, weights, net, x, y)
    net.dtype = torch.bfloat16
    loss = loss_of(method, weights, net, x, y)
    assert loss.dtype == torch.float32
    assert not loss.equal(expected)
    assert_same(loss, expected, atol=0.01)


@pytest.mark.parametrize(("head", "rows"), [("linear", 4), ("tanh", 7), ("cosine", 7)])
def test_only_a_linear_head_sees_the_batch_instead_of_the_mixtures(head: str, rows: int) -> None:
    torch.manual_seed(0)
    net, (x, y) = bare(3, heads(3)[head]), features(4, 3)
    seen = []
    net.head.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    replace(dense, n=7).loss(net, x, y)
    assert seen == [(6 * rows, 3)]


def held(method: DenseMultiMix, net: Net, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """The loss, with all mixed features, logits and targets at once."""
    z, head = net.trunk(x).flatten(2), net.head
    a = method.attend(z, y, head)
    w = torch.einsum("rnb,br->rnb", weights, a)
    s = w.sum(2)
    w = w / s.clamp(min=1e-12)[..., None]
    mixed, targets = torch.einsum("rnb,bdr->rnd", w, z), torch.einsum("rnb,bc->rnc", w, y)
    loss = net.criterion(head(mixed).flatten(0, 1), targets.flatten(0, 1), reduction="none")
    each = s * loss.view_as(s)
    if method.reduction == "global":
        return each.sum() / s.sum().clamp(min=1e-12)
    of_positions = each.sum(1) / s.sum(1).clamp(min=1e-12)
    return of_positions.mean() if method.reduction == "mean" else of_positions.sum()


def assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    """Each is within ``tolerance`` of the other, relative to its norm."""
    for one, other in zip(actual, expected, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("criterion", [F.cross_entropy, bce_on_softmax, brier])
@pytest.mark.parametrize("positions", [1, 4, 5, 6])
@pytest.mark.parametrize("method", VARIANTS, ids=name)
def test_a_few_positions_at_a_time_give_the_same_loss_and_gradients(
    method: DenseMultiMix, positions: int, criterion: Criterion
) -> None:
    torch.manual_seed(0)
    net, (x, y), weights = bare(3), features(4, 3), draw(4, 6)
    net.criterion = criterion
    expected = held(method, net, x, y, weights)
    with at_once(positions * 4 * CLASSES), comparing(net) as seen:
        loss = loss_of(method, weights, net, x, y)
    assert [len(logits) // 4 for logits, _ in seen] == [*map(len, torch.arange(6).split(positions))]
    assert_close(with_gradients(loss, net, x), with_gradients(expected, net, x))


@contextmanager
def at_once(numbers: int) -> Iterator[None]:
    """Let so many mixed logits be there at once."""
    with patch("mixbench.methods.densemultimix.AT_ONCE", numbers):
        yield


@pytest.mark.parametrize("m", [None, 2])
def test_so_they_do_in_a_network_and_with_soft_targets(m: int | None) -> None:
    torch.manual_seed(0)
    net, (x, _), y = tiny(), batch(4), torch.randn(4, CLASSES).softmax(1)
    weights = draw(4, 4, m=m)
    expected = with_gradients(held(dense, net, x, y, weights), net, x)
    with at_once(1):
        loss = loss_of(dense, weights, net, x, y)
    assert_close(with_gradients(loss, net, x), expected, 1e-9)  # some gradients nearly vanish


def test_so_they_do_for_patches() -> None:
    torch.manual_seed(0)
    net, (x, y), weights = scattered_vit(), batch(3), draw(3, 16)
    method = replace(dense, at=("block4",), detach=False)
    expected = with_gradients(loss_of(method, weights, net, x, y), net, x)
    with at_once(1):
        loss = loss_of(method, weights, net, x, y)
    assert_close(with_gradients(loss, net, x), expected)


def test_so_they_do_where_nothing_is_trained() -> None:
    torch.manual_seed(0)
    net, (x, y), weights = bare(3), features(4, 3), draw(4, 6)
    expected = loss_of(dense, weights, net, x, y)
    with at_once(1), torch.no_grad():
        loss = loss_of(dense, weights, net, x, y)
    assert not loss.requires_grad
    assert_close([loss], [expected])


def test_mixed_logits_are_never_there_all_at_once() -> None:
    torch.manual_seed(0)
    b, n, c, positions = 2, 50, 40, 3
    net, (x, _), y = bare(8, nn.Linear(8, c)), features(b, 8, 7, 7), torch.eye(c)[:b]
    with at_once(positions * n * c), Made() as made:  # type: ignore[no-untyped-call]
        replace(dense, n=n, detach=False).loss(net, x, y).backward()
    assert made.most == positions * n * c


class Made(TorchDispatchMode):
    """Watches how many numbers the largest tensor has that is made within."""

    most = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = (leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        self.most = max(self.most, *sizes, 0)
        return out


def test_a_few_positions_at_a_time_take_a_fraction_of_the_memory() -> None:
    torch.manual_seed(0)
    b, n, c, r = 16, 60, 60, 49  # ResNet-50 on 224 x 224 pixels has sixteen times b, n and c
    net, (x, _), y = bare(8, nn.Linear(8, c)), features(b, 8, 7, 7), torch.eye(c)[:b]
    peaks = []
    for numbers in (r * n * c, n * c):
        with at_once(numbers), LiveBytes([x, y]) as live:
            replace(dense, n=n).loss(net, x, y).backward()
        peaks.append(live.peak / (8 * r * n * c))
    whole, parts = peaks
    assert whole > 4
    assert parts < 1.3  # the weights, the logits of the batch and their gradient are 0.8


@given(size=st.integers(1, 8), seed=seeds)
@few
def test_a_sum_of_parts_has_the_gradients_of_the_sum(size: int, seed: int) -> None:
    torch.manual_seed(seed)
    u, v, w = (torch.randn(7, k, requires_grad=k < 3) for k in (1, 2, 3))

    def part(u: Tensor, v: Tensor, w: Tensor) -> Tensor:
        return (u.exp() * v.sum(1, keepdim=True) * w).square().sum()

    assert torch.autograd.gradcheck(lambda u, v: summed(part, size, u, v, w), (u, v))
    assert_close([summed(part, size, u, v, w)], [part(u, v, w)])


def test_a_part_is_computed_once() -> None:
    z, seen = torch.ones(6, 1, requires_grad=True), []

    def part(z: Tensor) -> Tensor:
        seen.append(len(z))
        return z.square().sum()

    summed(part, 4, z).backward()
    assert seen == [4, 2]
    assert z.grad is not None
    assert_same(z.grad, torch.full((6, 1), 2.0))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", VARIANTS, ids=name)
def test_attention_is_a_distribution_over_positions(method: DenseMultiMix, seed: int) -> None:
    torch.manual_seed(seed)
    net, (x, y) = bare(3), features(5, 3)
    a = method.attend(x.flatten(2), y, net.head)
    assert a.shape == (5, 6)
    assert a.min() >= 0
    assert_same(a.sum(1), torch.ones(5), atol=1e-14)
    expected = [attention(method, net, x[i].flatten(1), y[i]) for i in range(5)]
    assert_same(a, torch.stack(expected), atol=1e-14)
    assert a.requires_grad == (not method.detach and method.attention != "uniform")


def test_relu_leaves_out_positions_against_the_mean_and_softmax_does_not() -> None:
    z, y = torch.tensor([[[3.0, 2.0, -1.0]]]), torch.eye(1)
    a = dense.attend(z, y, nn.Linear(1, 1))
    assert_same(a, torch.tensor([[0.6, 0.4, 0.0]]), atol=1e-15)
    a = replace(dense, squash="softmax").attend(z, y, nn.Linear(1, 1))
    assert_same(a, (z[:, 0] * 4 / 3).softmax(1), atol=1e-15)


def test_without_any_positive_score_attention_is_uniform() -> None:
    head = nn.Linear(2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    z = torch.tensor([[[-1.0, 0.0, -3.0], [5.0, 1.0, 0.0]]]).expand(2, 2, 3)
    a = replace(dense, attention="cam").attend(z, torch.eye(2), head)
    assert_same(a, torch.tensor([[1 / 3] * 3, [5 / 6, 1 / 6, 0.0]]), atol=1e-15)
    a = dense.attend(torch.zeros(1, 2, 4), torch.eye(2)[:1], head)
    assert_same(a, torch.full((1, 4), 0.25), atol=1e-15)


@pytest.mark.parametrize("method", VARIANTS, ids=name)
@pytest.mark.parametrize(("b", "n"), [(1, 1), (1, 3), (3, 1)])
def test_zero_features_give_finite_loss_and_gradients(
    method: DenseMultiMix, b: int, n: int
) -> None:
    torch.manual_seed(0)
    net, (x, y) = bare(3), features(b, 3)
    x = torch.zeros_like(x, requires_grad=True)
    loss = replace(method, n=n).loss(net, x, y)
    assert all(each.isfinite().all() for each in with_gradients(loss, net, x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("squash", SQUASHES)
def test_the_loss_is_finite_under_autocast(
    squash: Squash, attention: Attention, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    net = bare(3)
    x, y = unattended(net, b=6)
    method = replace(dense, n=50, attention=attention, squash=squash)
    with torch.autocast("cpu", dtype=dtype):
        assert method.loss(net.float(), x.to(dtype), y.float()).isfinite()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_scaling_all_attention_changes_nothing(reduction: Reduction) -> None:
    torch.manual_seed(0)
    net, (x, y), weights = bare(3), features(4, 3), draw(4, 6)
    method, a = replace(dense, reduction=reduction), torch.rand(4, 6)
    losses = [with_attention(method, scale * a, net, x, y, weights) for scale in (1, 7, 1e-3)]
    assert_same(losses[1], losses[0])
    assert_same(losses[2], losses[0])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_scaling_the_attention_of_one_position_matters_to_the_global_loss_alone(
    reduction: Reduction,
) -> None:
    torch.manual_seed(0)
    net, (x, y), weights = bare(3), features(4, 3), draw(4, 6)
    method, a, scale = replace(dense, reduction=reduction), torch.rand(4, 6), torch.ones(6)
    scale[2] = 5
    loss = with_attention(method, a, net, x, y, weights)
    scaled = with_attention(method, scale * a, net, x, y, weights)
    assert loss.isclose(scaled, rtol=0, atol=1e-10) == (reduction != "global")


def with_attention(
    method: DenseMultiMix, a: Tensor, net: Net, x: Tensor, y: Tensor, weights: Tensor
) -> Tensor:
    """The loss if the attention (b, r) were this one."""
    with patch.object(DenseMultiMix, "attend", lambda *_: a):
        return loss_of(method, weights, net, x, y)


@pytest.mark.parametrize(
    "method", [v for v in VARIANTS if v.detach and v.attention != "uniform"], ids=name
)
def test_detached_attention_is_a_constant(method: DenseMultiMix) -> None:
    torch.manual_seed(0)
    net, (x, y), weights = bare(3), features(4, 3), draw(4, 6)
    a = method.attend(x.flatten(2), y, net.head)
    constant = with_gradients(with_attention(method, a, net, x, y, weights), net, x)
    assert_same(with_gradients(loss_of(method, weights, net, x, y), net, x), constant)
    attached = replace(method, detach=False)
    loss, gradient, *_ = with_gradients(loss_of(attached, weights, net, x, y), net, x)
    assert_same(loss, constant[0])
    assert not gradient.allclose(constant[1])


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize("method", VARIANTS, ids=name)
def test_of_one_position_it_is_multimix(method: DenseMultiMix, head: str) -> None:
    torch.manual_seed(0)
    net = bare(3, heads(3)[head])
    (x, y), weights = features(4, 3, 1, 1), draw(4, 1)
    with drawing(weights):
        expected = MultiMix(p=1.0).loss(net, x, y)
    loss = loss_of(method, weights, net, x, y)
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_uniform_attention_is_the_plain_mean_over_positions(reduction: Reduction) -> None:
    torch.manual_seed(0)
    net, (x, y), weights = bare(3), features(4, 3), draw(4, 6)
    z = x.flatten(2).permute(2, 0, 1)
    logits, targets = net.head(weights @ z), weights @ y
    plain = F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1))
    loss = loss_of(replace(uniform, reduction=reduction), weights, net, x, y)
    assert_same(loss, 6 * plain if reduction == "sum" else plain)


def test_without_mixing_it_is_the_dense_baseline() -> None:
    torch.manual_seed(0)
    net, (x, y) = bare(3), features(4, 3)
    losses = [
        Baseline().loss(net, x[..., i : i + 1, j : j + 1], y) for i in (0, 1) for j in range(3)
    ]
    assert_same(loss_of(uniform, torch.eye(4).expand(6, 4, 4), net, x, y), total(losses) / 6)


def test_attention_to_one_example_picks_it() -> None:
    torch.manual_seed(0)
    net, (x, y), weights = bare(3), features(4, 3), draw(4, 6)
    a = torch.zeros(4, 6)
    chosen = [2, 0, 3, 3, 1, 2]
    a[chosen, range(6)] = torch.rand(6) + 0.1
    z = x.flatten(2)[chosen, :, range(6)]
    expected = F.cross_entropy(net.head(z), y[chosen])
    assert_same(with_attention(dense, a, net, x, y, weights), expected)


def test_a_position_without_attention_counts_as_zero_in_the_mean() -> None:
    torch.manual_seed(0)
    net, (x, y), weights = bare(3), features(4, 3), draw(4, 6)
    a = torch.rand(4, 6)
    a[:, 5] = 0
    rest = a[:, :5], weights[:5]
    some = with_attention(dense, rest[0], net, x.flatten(2)[..., None, :5], y, rest[1])
    assert_same(with_attention(dense, a, net, x, y, weights), some * 5 / 6)


def test_with_equal_weights_everywhere_the_mean_mixture_is_that_of_multimix() -> None:
    torch.manual_seed(0)
    net, (x, y), weights = bare(3, nn.Sequential(nn.Linear(3, CLASSES))), features(4, 3), draw(4, 1)
    seen = []
    net.head.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    loss_of(uniform, weights.expand(6, 4, 4), net, x, y)
    with drawing(weights):
        MultiMix(p=1.0).loss(net, x, y)
    assert_same(seen[0].unflatten(0, (6, 4)).mean(0), seen[1], atol=1e-14)


@pytest.mark.parametrize("method", VARIANTS, ids=name)
def test_the_order_of_positions_does_not_matter(method: DenseMultiMix) -> None:
    torch.manual_seed(0)
    net, (x, y), weights = bare(3), features(4, 3), draw(4, 6)
    order = [4, 2, 0, 5, 1, 3]
    moved = x.flatten(2)[..., order].view_as(x)
    loss = loss_of(method, weights, net, x, y)
    assert_same(loss_of(method, weights[order], net, moved, y), loss)


@given(seed=seeds)
@few
def test_there_are_r_n_terms_whose_masses_and_losses_are_bounded(seed: int) -> None:
    torch.manual_seed(seed)
    net, (x, y), weights, a = bare(3), features(5, 3), draw(5, 6, n=7), torch.rand(5, 6)
    with (
        patch.object(DenseMultiMix, "shares", side_effect=lambda s: s) as shares,
        comparing(net) as seen,
    ):
        with_attention(dense, a, net, 3 * x, y, weights)
    ((s,), _), ((logits, targets),) = shares.call_args, seen
    loss = F.cross_entropy(logits, targets, reduction="none").unflatten(0, (6, 7))
    assert loss.shape == s.shape == (6, 7)
    assert (s >= a.amin(0)[:, None] - 1e-14).all()
    assert (s <= a.amax(0)[:, None] + 1e-14).all()
    w = weights * a.T[:, None] / s[..., None]
    for j in range(6):
        plain = net.head(3 * x.flatten(2)[..., j])
        pairs = torch.stack([torch.stack([cross_entropy(each, t) for each in plain]) for t in y])
        assert (loss[j] <= torch.einsum("ki,kl,il->k", w[j], w[j], pairs)).all()


def test_weights_are_drawn_independently_for_each_position() -> None:
    torch.manual_seed(0)
    w = DenseMultiMix(n=20_000, alpha=(1.0, 1.0)).draw(4, 3)
    assert w.shape == (3, 20_000, 4)
    assert_same(w.sum(2), torch.ones(3, 20_000), atol=1e-14)
    correlation = torch.corrcoef(w[..., 0])
    assert_same(correlation, torch.eye(3), atol=4 / 20_000**0.5)
    assert w.square().sum(2).mean(1).tolist() == pytest.approx([2 / 5] * 3, rel=0.01)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
@pytest.mark.parametrize(("b", "m"), [(4, None), (6, None), (6, 3)])
def test_each_weight_is_beta_distributed_at_each_position(
    b: int, m: int | None, alpha: float
) -> None:
    torch.manual_seed(0)
    others = (m or b) - 1
    for lam in DenseMultiMix(n=20_000, m=m, alpha=(alpha, alpha)).draw(b, 3)[..., 1]:
        assert kstest(lam[lam > 0], beta(alpha, others * alpha).cdf).pvalue > 1e-3


@given(b=st.integers(1, 9), m=st.integers(1, 9), seed=seeds)
@few
def test_a_mixture_has_one_subset_at_all_positions_and_other_weights_at_each(
    b: int, m: int, seed: int
) -> None:
    torch.manual_seed(seed)
    w = DenseMultiMix(n=8, m=m).draw(b, 5)
    used = w > 0
    assert used.equal(used[:1].expand_as(used))
    assert (used.sum(2) == min(m, b)).all()
    assert_same(w.sum(2), torch.ones(5, 8), atol=1e-14)
    if min(m, b) > 1:
        assert len(w.flatten(0, 1).unique(dim=0)) == 40


def test_the_weights_of_one_subset_are_independent_too() -> None:
    torch.manual_seed(0)
    w = DenseMultiMix(n=20_000, m=2, alpha=(1.0, 1.0)).draw(3, 2)
    chosen = (w[0, :, 0] > 0) & (w[0, :, 1] > 0)
    correlation = torch.corrcoef(w[:, chosen, 0])[0, 1]
    assert abs(correlation) < 4 / chosen.sum().sqrt()
    assert w[:, chosen, 0].var(1).tolist() == pytest.approx([1 / 12] * 2, rel=0.03)


def test_all_subsets_are_equally_likely() -> None:
    torch.manual_seed(0)
    used = DenseMultiMix(n=6000, m=2).draw(4, 2)[1] > 0
    counts = used.unique(dim=0, return_counts=True)[1]
    assert len(counts) == 6
    assert_even(counts)


def test_alpha_is_drawn_for_each_position_and_mixture() -> None:
    torch.manual_seed(0)
    with patch("mixbench.methods.multimix.simplex", wraps=simplex) as draws:
        DenseMultiMix(n=5000).draw(3, 4)
    (alpha, _), _ = draws.call_args
    assert alpha.shape == (4, 5000)
    assert alpha.unique().numel() == 20_000
    for row in alpha:
        assert_even(torch.histc(row, 20, 0.5, 2))
    assert alpha.min() >= 0.5
    assert alpha.max() <= 2


def test_cam_without_the_weights_of_the_classes_is_refused() -> None:
    torch.manual_seed(0)
    method = replace(dense, attention="cam")
    x, y = features(4, 3)
    with pytest.raises(ValueError, match="cam needs a linear head"):
        method.loss(bare(3, nn.Sequential(nn.Linear(3, CLASSES))), x, y)
    with pytest.raises(ValueError, match="cam needs a linear head"):
        replace(method, at=("layer2",)).loss(tiny(), *batch(4))


def test_the_other_half_of_the_batches_takes_input_mixup() -> None:
    assert DenseMultiMix(input_alpha=0.7).otherwise() == Mixup(at=("pixels",), p=1.0, alpha=0.7)


def test_the_defaults_are_those_of_the_sheet() -> None:
    assert DenseMultiMix() == DenseMultiMix(
        at=("layer4",),
        p=0.5,
        n=1000,
        m=None,
        alpha=(0.5, 2.0),
        input_alpha=2.0,
        attention="gap",
        squash="relu",
        detach=True,
        reduction="mean",
    )
