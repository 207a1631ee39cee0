"""Methods that become one another. The files of methods have some of these tests; here are the rest,
under either criterion of the network.

1. With nothing to mix, all are the baseline: here; and ``test_contract`` (no chance, one-hot
   weights), ``test_augmix``, ``test_comixup`` (alone, or of equal images), ``test_cutmix``,
   ``test_densemultimix``, ``test_manifold``, ``test_mixup``, ``test_multimix``,
   ``test_saliencymix``, ``test_stylemix`` (the whole box), ``test_supermix`` (nothing is solved),
   ``test_tokenmix`` (an empty mask), ``test_transmix``, ``test_zetamixup`` (a large gamma).
2. MultiMix of pairs is manifold mixup at the last layer: ``test_multimix``; AlignMixup is both, in
   either branch: here.
3. Dense MultiMix of one position is MultiMix: ``test_densemultimix``.
4. One interpolation per pair is the base method: ``test_multiple``.
5. zeta-mixup of two images is mixup at a fixed ratio: ``test_zetamixup``; manifold mixup at the
   images is mixup: ``test_manifold``; SuperMix with constant masks is a weighted mixup of several
   images, and PuzzleMix whose patches can't move is a mask of blocks: here.
6. TransMix with uniform attention is CutMix: ``test_transmix``; TokenMix with uniform activation has
   labels by area: ``test_tokenmix``; StyleCutMix that restyles nothing is CutMix:
   ``test_stylemix``; SaliencyMix is CutMix with other centres: here.
7. Before an affine head, embeddings or logits may be mixed: here, and ``test_multimix``,
   ``test_manifold`` and ``test_densemultimix`` against formulas.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import (
    CLASSES,
    assert_same,
    bare,
    batch,
    cut,
    drawing,
    heads,
    pair_matrix,
    pairing,
    tiny,
    with_gradients,
)
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.methods import Method, Net, bce_on_softmax, dirichlet
from mixbench.methods._saliency import unit
from mixbench.methods.alignmixup import AlignMixup
from mixbench.methods.baseline import Baseline
from mixbench.methods.comixup import CoMixup
from mixbench.methods.cutmix import CutMix
from mixbench.methods.densemultimix import DenseMultiMix
from mixbench.methods.manifold import Manifold
from mixbench.methods.mixup import Mixup
from mixbench.methods.multimix import MultiMix
from mixbench.methods.multiple import Multiple
from mixbench.methods.puzzlemix import PuzzleMix
from mixbench.methods.saliencymix import SaliencyMix
from mixbench.methods.supermix import SuperMix
from mixbench.methods.zetamixup import ZetaMixup

pytestmark = pytest.mark.usefixtures("float64")

PARTNER = [3, 4, 1, 0, 2]
ALIGN = AlignMixup(p=1.0)
CONVERGED = replace(ALIGN, eps=1.0, steps=400, tolerance=0.0)
each_branch = pytest.mark.parametrize("partner_moves", [True, False])


@pytest.fixture(autouse=True, params=[F.cross_entropy, bce_on_softmax], ids=["ce", "bce"])
def criterion(request: pytest.FixtureRequest) -> Iterator[None]:
    """Networks have this criterion."""
    with patch.object(Net, "criterion", staticmethod(request.param)):
        yield


@contextmanager
def at_ratio(lam: float, k: int = 1) -> Iterator[None]:
    """Let all methods of pairs draw k times this ratio and known partners."""
    partner, path = torch.tensor(PARTNER), torch.full((k,), lam)
    with ExitStack() as patches:
        for name in ("_ops", "alignmixup", "cutmix", "puzzlemix", "saliencymix"):
            patches.enter_context(patch(f"mixbench.methods.{name}.partners", return_value=partner))
        for name in ("mixup", "cutmix", "puzzlemix"):
            patches.enter_context(patch(f"mixbench.methods.{name}.ratios", return_value=path))
        for name in ("alignmixup", "saliencymix"):
            patches.enter_context(patch(f"mixbench.methods.{name}.beta", return_value=path[0]))
        yield


@contextmanager
def aligning(partner_moves: bool) -> Iterator[None]:
    """Let AlignMixup align the partner's map with the image's own, or the other way round."""
    with patch("mixbench.methods.alignmixup.chance", return_value=partner_moves):
        yield


@contextmanager
def centred(row: int, column: int) -> Iterator[None]:
    """Let all boxes lie around this pixel of images that are 8 x 12."""
    drawn = {1: 0, 8: row, 12: column}  # of one stage, the first

    def randint(size: int, shape: Sequence[int], **_: object) -> Tensor:
        return torch.full(tuple(shape), drawn[size])

    peak = torch.tensor([row]), torch.tensor([column])
    with (
        patch("torch.randint", side_effect=randint),
        patch("mixbench.methods.saliencymix._peak", return_value=peak),
    ):
        yield


# 1. Nothing to mix


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("method", "k"),
    [
        (ALIGN, 1),
        (PuzzleMix(), 1),
        (PuzzleMix(transport=False), 1),
        (Multiple(base="mixup"), 5),
        (Multiple(base="manifold"), 5),
        (CutMix(p=1.0, k=5), 5),
        (CutMix(p=1.0, k=5, nested=True), 5),
        (Multiple(base="puzzlemix"), 5),
    ],
    ids=str,
)
def test_at_ratio_one_the_loss_is_that_of_the_baseline(method: Method, k: int, train: bool) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().train(train), batch(5)
    with at_ratio(1.0, k), aligning(True):
        loss = method.loss(net, x, y)
    expected = Baseline().loss(net, x, y)
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


def test_at_ratio_zero_it_is_so_too_if_the_image_moves() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    with at_ratio(0.0), aligning(False):
        loss = ALIGN.loss(net, x, y)
    assert_same(loss, Baseline().loss(net, x, y))


@pytest.mark.parametrize("clean", [0.0, 0.5])
def test_comixup_of_single_images_is_the_baseline_and_its_clean_loss(clean: float) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    loss = CoMixup(part=1, clean=clean).loss(net, x, y)
    scaled = clean * unit(net, y) * F.cross_entropy(net(x), y)
    assert_same(loss, Baseline().loss(net, x, y) + scaled)


# 2. MultiMix, manifold mixup and AlignMixup at the last layer


@pytest.mark.parametrize("train", [True, False])
def test_alignmixup_of_a_partner_that_moves_is_manifold_mixup_of_the_embeddings(
    train: bool,
) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().train(train), batch(5)
    with at_ratio(0.3), aligning(True):
        aligned = with_gradients(ALIGN.loss(net, x, y), net, x)
    with at_ratio(0.3):
        manifold = with_gradients(Manifold(at=("pool",)).loss(net, x, y), net, x)
    assert_same(aligned, manifold, atol=1e-6)  # as columns of the plan sum to 1 + 4e-8


def test_so_it_is_multimix_of_pairs() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    with at_ratio(0.3), aligning(True):
        aligned = with_gradients(ALIGN.loss(net, x, y), net, x)
    with drawing(pair_matrix(0.3, PARTNER)[None]):
        multi = with_gradients(MultiMix(p=1.0).loss(net, x, y), net, x)
    assert_same(aligned, multi, atol=1e-6)


@each_branch
def test_if_rows_of_the_plan_sum_to_one_so_it_is_in_either_branch(partner_moves: bool) -> None:
    torch.manual_seed(0)
    net, (x, y) = bare(8), (torch.randn(5, 8, 2, 3, requires_grad=True), torch.eye(CLASSES))
    plan = CONVERGED.plan(x.flatten(2), x[PARTNER].flatten(2))
    assert_same(plan.sum(2), torch.ones(5, 6), atol=1e-6)
    assert plan.std() > 0.1
    with at_ratio(0.3), aligning(partner_moves):
        aligned = with_gradients(CONVERGED.loss(net, x, y), net, x)
    with drawing(pair_matrix(0.3, PARTNER)[None]):
        multi = with_gradients(MultiMix(p=1.0).loss(net, x, y), net, x)
    assert_same(aligned[0], multi[0], atol=1e-6)
    assert_same(aligned[2:], multi[2:], atol=1e-6)  # not of images, as positions move


def test_if_they_do_not_it_is_not_for_an_image_that_moves() -> None:
    torch.manual_seed(0)
    net, (x, y) = bare(8), (torch.randn(5, 8, 2, 3), torch.eye(CLASSES))
    losses = []
    for method in (replace(CONVERGED, steps=1), CONVERGED):
        with at_ratio(0.3), aligning(False):
            losses.append(method.loss(net, x, y))
    assert not losses[0].isclose(losses[1], rtol=0, atol=1e-3)


# 5. Special masks


@pytest.mark.parametrize("k", [1, 2, 3])
def test_supermix_with_constant_masks_is_a_weighted_mixup_of_several_images(k: int) -> None:
    torch.manual_seed(0)
    b, teacher, x = 5, bare(3), torch.rand(5, 3, 8, 12)
    ratio, masks = dirichlet(torch.full((b,), 3.0), k), torch.randn(b, k)
    constant = masks.view(b, k, 1, 1, 1).expand(b, k, 1, 4, 4)
    shares = masks.sigmoid() / masks.sigmoid().sum(1, keepdim=True)
    weights, by_ratio = torch.zeros(2, b, b)
    for i in range(b):
        for j in range(k):
            weights[i, (i + j) % b] += shares[i, j]
            by_ratio[i, (i + j) % b] += ratio[i, j]
    method = SuperMix(images=k, mask=4, steps=1, tolerance=0)
    seen: list[Tensor] = []
    teacher.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with (
        patch("mixbench.methods.supermix.dirichlet", return_value=ratio),
        patch.object(SuperMix, "moved", lambda *_: constant),
    ):
        method.generate(teacher, x)
        _, targets = method.sets(teacher, x)
    labels = F.one_hot(teacher(x).argmax(1), CLASSES).to(x)
    with patch.object(Mixup, "weights", lambda *_: weights):
        mixed, _ = Mixup().mix(x, labels)
    assert_same(seen[2], mixed, atol=1e-14)  # that after the step
    assert_same(targets, by_ratio @ labels, atol=1e-14)


def test_supermix_before_its_first_step_is_the_mean_of_several_images() -> None:
    torch.manual_seed(0)
    x, seen, teacher = torch.rand(5, 3, 8, 12), list[Tensor](), bare(3)
    teacher.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    SuperMix(images=2, steps=0).generate(teacher, x)
    weights = pair_matrix(0.5, [1, 2, 3, 4, 0])
    assert_same(seen[1], torch.einsum("nb,bchw->nchw", weights, x), atol=1e-15)


@pytest.mark.parametrize("patch_size", [2, 4, None])
def test_puzzlemix_whose_patches_can_not_move_is_a_mask_of_blocks(patch_size: int | None) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().eval(), batch(5, 16, 16)
    method, shares = PuzzleMix(patch=patch_size, clean=0.0, blocks=(4,)), list[Tensor]()
    literal = PuzzleMix.shares

    def noted(*args: Any) -> Tensor:
        shares.append(literal(*args))
        return shares[-1]

    losses = []
    with at_ratio(0.4), patch.object(PuzzleMix, "shares", noted):
        for each in (
            replace(method, distance=0),
            replace(method, distance=1e9),
            replace(method, transport=False),
        ):
            losses.append(each.loss(net, x, y))
    z = shares[0][0]
    assert all(each.equal(shares[0]) for each in shares)
    assert z.unique().numel() > 1
    mask = z.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    rho = z.mean((1, 2))[:, None]
    logits = net(mask * x + (1 - mask) * x[PARTNER])
    expected = with_gradients(net.criterion(logits, rho * y + (1 - rho) * y[PARTNER]), net, x)
    assert_same(with_gradients(losses[1], net, x), expected)
    assert_same(with_gradients(losses[2], net, x), expected)
    assert not losses[0].isclose(losses[1], rtol=0, atol=1e-6)


# 6. Boxes


@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize(("row", "column"), [(4, 6), (0, 0), (7, 3), (2, 11)])
def test_saliencymix_is_cutmix_around_another_centre(row: int, column: int, official: bool) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5, 8, 12)
    with at_ratio(0.6), centred(row, column):
        salient = SaliencyMix(p=1.0, official=official).loss(net, x, y)
        pasted = CutMix(p=1.0).loss(net, x, y)
    assert_same(with_gradients(salient, net, x), with_gradients(pasted, net, x))
    assert not pasted.isclose(Baseline().loss(net, x, y), rtol=0, atol=1e-6)


# 7. Affine heads


@pytest.mark.parametrize(
    ("method", "positions", "mixtures"),
    [
        (Mixup(at=("pool",)), 1, 5),
        (Mixup(at=("pool",), k=3), 1, 15),
        (Manifold(at=("pool",)), 1, 5),
        (ZetaMixup(at=("pool",)), 1, 5),
        (MultiMix(p=1.0, n=7), 1, 7),
        (MultiMix(p=1.0, n=7, m=2), 1, 7),
        (DenseMultiMix(p=1.0, n=7), 4, 7),
    ],
    ids=str,
)
def test_mixed_logits_of_an_affine_head_are_logits_of_mixed_embeddings(
    method: Method, positions: int, mixtures: int
) -> None:
    """A head in a container is not known to be affine, so embeddings are mixed before it."""
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    wrapped = Net({**dict(net.named_children()), "head": nn.Sequential(net.head)})
    rows, results = list[int](), []
    net.head.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    for each in (net, wrapped):
        torch.manual_seed(1)
        results.append(with_gradients(method.loss(each, x, y), each, x))
    assert_same(results[0], results[1])
    assert rows == [5 * positions, mixtures * positions]


@pytest.mark.parametrize("head", ["linear", "tanh", "cosine"])
def test_they_are_for_no_other_head(head: str) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    net.head = heads(64)[head]
    with pairing(0.3, PARTNER):
        embeddings, logits = (Mixup(at=(stage,)).loss(net, x, y) for stage in ("pool", "head"))
    assert embeddings.isclose(logits, rtol=0, atol=1e-10) == (head == "linear")


def test_weights_have_to_sum_to_one_for_it() -> None:
    torch.manual_seed(0)
    net, (x, _) = tiny().eval(), batch(5)
    below, head = cut(net, "pool")
    z, w = below(x), torch.rand(4, 5)
    assert not head(w @ z).allclose(w @ head(z), rtol=0, atol=1e-3)
    w = w / w.sum(1, keepdim=True)
    assert_same(head(w @ z), w @ head(z))
