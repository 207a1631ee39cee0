"""What a method does to a batch, seen from outside, and drawn."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import CLASSES, assert_same, bound, cross_entropy, drawing, home, tiny
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mixbench.bench import specimen as module
from mixbench.bench.cells import Run
from mixbench.bench.lab import Lab
from mixbench.bench.runs import fill
from mixbench.bench.spec import BadInput
from mixbench.bench.specimen import draw, specimen
from mixbench.bench.specimen._look import BLEND, Seen, dithered, look, owners
from mixbench.bench.specimen._picture import Specimen, box, picture, summary
from mixbench.methods import Method, Net, bce_on_softmax
from mixbench.methods.alignmixup import AlignMixup
from mixbench.methods.augmix import AugMix
from mixbench.methods.baseline import Baseline
from mixbench.methods.comixup import CoMixup
from mixbench.methods.cutmix import CutMix
from mixbench.methods.densemultimix import DenseMultiMix
from mixbench.methods.manifold import Manifold
from mixbench.methods.mixup import Mixup
from mixbench.methods.multimix import MultiMix
from mixbench.methods.multiple import Multiple
from mixbench.methods.puzzlemix import PuzzleMix
from mixbench.methods.supermix import SuperMix
from mixbench.methods.tokenmix import TokenMix
from mixbench.methods.transmix import TransMix

OUTSIDE = """
from pydantic.dataclasses import dataclass
from mixbench.methods import Mixer

@dataclass(frozen=True)
class Halves(Mixer):
    \"\"\"The right half of the next image.\"\"\"

    colour: str = ""

    def mix(self, z, y):
        w = z.shape[-1] // 2
        mixed = z.clone()
        mixed[..., w:] = z.roll(-1, 0)[..., w:]
        return mixed, (y + y.roll(-1, 0)) / 2
"""


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAWS", 3)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A method that is kept elsewhere."""
    (folder := tmp_path / "their_lab").mkdir()
    (folder / "halves.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    return "their_lab.halves"


def examples(b: int = CLASSES) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return dithered((torch.rand(b, 3, 8, 8) * 255).round() / 255), torch.eye(b, CLASSES)


def watched(method: Method, seed: int = 1, net: Net | None = None, b: int = CLASSES) -> Seen:
    torch.manual_seed(0)
    return look(bound(method, net or home(method)), *examples(b), seed)


def until(mixed: Callable[[Seen], bool], method: Method) -> Seen:
    """The first of some draws of which that is true."""
    seen = next((each for i in range(30) if mixed(each := watched(method, i))), None)
    assert seen
    return seen


def test_the_baseline_mixes_nothing() -> None:
    seen = watched(Baseline())
    assert (seen.stage, seen.what) == ("", "")
    assert not len(seen.images)
    assert_same(seen.weights, torch.eye(CLASSES), atol=1e-6)


def test_mixup_blends_images_by_the_weights_of_its_targets() -> None:
    seen = watched(Mixup())
    x, _ = examples()
    assert seen.what == "images are blended"
    assert_same(seen.images, torch.einsum("nb,b...->n...", seen.weights, x), atol=1e-6)
    assert_same(seen.weights.sum(1), torch.ones(CLASSES), atol=1e-6)
    assert (seen.weights.max(1).values < 0.999).any()


def test_weights_are_those_of_examples_whose_targets_are_smoothed() -> None:
    x, y = examples()
    smooth = 0.9 * y + 0.1 / CLASSES
    hard, soft = (look(bound(Mixup(), tiny()), x, each, 1) for each in (y, smooth))
    assert_same(soft.weights, hard.weights, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_the_box_of_cutmix_is_what_differs(seed: int) -> None:
    seen = watched(CutMix(p=1), seed)
    x, _ = examples()
    for image, owner, weights, own in zip(seen.images, seen.owner, seen.weights, x, strict=True):
        i = int((x == own).flatten(1).all(1).nonzero()[0])
        differs = (image - own).abs().amax(0) > 1e-4
        assert differs.equal(owner != i)
        assert_same(weights[i], 1 - differs.float().mean(), atol=1e-6)
        if differs.any():
            found = box(owner)
            assert found
            example, (left, top, right, bottom) = found
            inside = torch.zeros(8, 8, dtype=torch.bool)
            inside[top:bottom, left:right] = True
            assert inside.equal(owner == example)


def test_equal_pixels_are_told_apart() -> None:
    black = dithered(torch.zeros(4, 3, 8, 8))
    whose = torch.randint(4, (8, 8))
    mixed = black.gather(0, whose.expand(1, 3, 8, 8))
    assert owners(mixed.double(), black.double()).equal(whose[None])
    assert black.mul(255).round().eq(0).all()


def test_pixels_that_moved_are_still_their_owners() -> None:
    x, _ = examples()
    moved = x.roll((2, 3), (2, 3)).flip(0)
    expected = torch.arange(CLASSES).flip(0)[:, None, None].expand(-1, 8, 8)
    assert owners(moved.double(), x.double()).equal(expected)


def test_what_is_no_examples_is_a_blend() -> None:
    x, _ = examples()
    half = x.clone()
    half[:, :, :, 4:] = (x + x.roll(1, 0))[:, :, :, 4:] / 2
    owner = owners(half.double(), x.double())
    assert (owner[:, :, 4:] == BLEND).all() and (owner[:, :, :4] != BLEND).all()


def test_a_box_is_the_smallest_full_rectangle() -> None:
    owner = torch.zeros(6, 6, dtype=torch.long)
    assert box(owner) is None
    owner[1:3, 2:6] = 3
    assert box(owner) == (3, (2, 1, 6, 3))
    owner[0, 0] = 4
    assert box(owner) == (4, (0, 0, 1, 1))
    owner[5, 5] = 4
    assert box(owner) == (3, (2, 1, 6, 3))
    owner[2, 2] = BLEND
    assert box(owner) is None


@pytest.mark.parametrize("stage", ["layer1", "layer2", "pool"])
def test_the_stage_where_manifold_mixes_is_named(stage: str) -> None:
    seen = watched(Manifold(at=(stage,)))
    after = "head" if stage == "pool" else stage  # which an affine head makes the same
    assert (seen.stage, seen.what) == (after, f"what leaves {after} is mixed")
    assert not len(seen.images)
    assert seen.weights.shape == (CLASSES, CLASSES)
    assert_same(seen.weights.sum(1), torch.ones(CLASSES), atol=1e-6)


def test_mixing_after_the_stage_of_pixels_is_mixing_images() -> None:
    assert watched(Manifold(at=("pixels",))).stage == "pixels"


def test_multimix_has_the_weights_that_were_drawn() -> None:
    weights = torch.rand(1, 7, CLASSES).softmax(2)
    with drawing(weights):
        seen = watched(MultiMix(p=1, n=7))
    assert seen.stage == "head"
    assert_same(seen.weights, weights[0], atol=1e-6)


def test_dense_multimix_mixes_each_position() -> None:
    seen = watched(DenseMultiMix(p=1, n=7))
    assert seen.stage == "layer4"
    assert seen.weights.shape == (4 * 7, CLASSES)
    total = seen.weights.sum(1)
    assert ((total - 1).abs().lt(1e-5) | total.eq(0)).all() and total.any()


def test_both_branches_of_a_method_are_seen() -> None:
    assert until(lambda seen: seen.stage == "layer4", AlignMixup()).images.shape[0] == 0
    assert len(until(lambda seen: seen.stage == "pixels", AlignMixup()).images) == CLASSES


def test_all_interpolations_of_a_pair_are_seen_in_order() -> None:
    seen = watched(Multiple(k=3))
    assert seen.images.shape[0] == len(seen.weights) == 3 * CLASSES
    own = seen.weights.unflatten(0, (3, CLASSES)).diagonal(0, 1, 2)
    assert (own.diff(dim=0) <= 1e-6).all()
    assert not seen.weights.isnan().any()


def test_views_of_augmix_have_no_target() -> None:
    seen = watched(AugMix())
    assert len(seen.images) == 2 * CLASSES  # the images themselves are left out
    assert seen.weights.shape == (2 * CLASSES, CLASSES) and seen.weights.isnan().all()


def test_a_view_that_is_trained_on_has_its_images_target() -> None:
    seen = watched(AugMix(jsd=0))
    assert_same(seen.weights, torch.eye(CLASSES), atol=1e-6)


def test_of_two_comparisons_each_has_its_images() -> None:
    seen = until(lambda seen: seen.stage == "pixels", SuperMix())
    x, _ = examples()
    assert len(seen.images) == len(seen.weights) == CLASSES
    assert_same(seen.weights.sum(1), torch.ones(CLASSES), atol=1e-6)
    assert (seen.images[:, None] - x).abs().amax((2, 3, 4)).min() > 1e-3


def test_a_first_pass_for_saliency_is_not_taken_for_the_images() -> None:
    seen = until(lambda seen: seen.what == "images are pasted", PuzzleMix(clean=1.0))
    shares = [(seen.owner == i).float().mean((1, 2)) for i in range(CLASSES)]
    assert (torch.stack(shares, 1) <= seen.weights + 1e-5).all()


def test_attention_and_not_area_is_in_the_targets_of_transmix() -> None:
    seen = until(lambda seen: seen.what == "images are pasted", TransMix(p=1, smoothing=0, area=0))
    area = torch.stack([(seen.owner == i).float().mean((1, 2)) for i in range(CLASSES)], 1)
    assert_same(seen.weights.sum(1), torch.ones(CLASSES), atol=1e-5)
    assert not torch.allclose(seen.weights, area, atol=1e-3)


def test_what_is_not_compared_by_the_networks_criterion_is_seen() -> None:
    seen = watched(TokenMix(p=1, activation="uniform", smoothing=0))
    assert seen.what == "images are pasted"
    area = torch.stack([(seen.owner == i).float().mean((1, 2)) for i in range(CLASSES)], 1)
    assert_same(seen.weights, area, atol=1e-5)


@pytest.mark.parametrize("criterion", [F.cross_entropy, bce_on_softmax])
def test_weights_do_not_depend_on_the_criterion(criterion: Any) -> None:
    net = tiny()
    net.criterion = criterion
    assert_same(watched(Mixup(), net=net).weights, watched(Mixup()).weights, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_is_not_taken_for_mixing(dtype: torch.dtype) -> None:
    net = tiny()
    net.dtype = dtype
    assert watched(Baseline(), net=net).stage == ""
    assert watched(Manifold(at=("layer1",)), net=net).stage == "layer1"


class TwoTerms(Method):
    """Mixup as it is often written: the loss is mixed in place of the targets."""

    def loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        logits, labels = net(0.75 * x + 0.25 * x.roll(1, 0)), y.argmax(1)
        return 0.75 * F.cross_entropy(logits, labels) + 0.25 * F.cross_entropy(
            logits, target=labels.roll(1)
        )


class TwoPasses(Method):
    """Mixed images and, in a pass of their own, the images as they are."""

    def loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        mixed, clean = net((x + x.flip(0)) / 2), net(x)
        return net.criterion(mixed, (y + y.flip(0)) / 2) + net.criterion(clean, y)


class Cooled(Method):
    """The logits are scaled before they are compared."""

    def loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        return net.criterion(net((x + x.flip(0)) / 2) / 2, (y + y.flip(0)) / 2)


class TwoDepths(Method):
    """Images are mixed, and, in a pass of their own, logits."""

    def loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        mixed, logits, target = net((x + x.flip(0)) / 2), net(x), (y + y.flip(0)) / 2
        return net.criterion(mixed, target) + net.criterion((logits + logits.flip(0)) / 2, target)


class Silent(Method):
    """No loss of torch's is asked."""

    def loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(net(x)[0], y[0])


def test_a_mixed_loss_is_a_mixed_target() -> None:
    eye = torch.eye(CLASSES)
    assert_same(watched(TwoTerms()).weights, 0.75 * eye + 0.25 * eye.roll(1, 0), atol=1e-5)


def test_a_pass_of_the_images_themselves_is_not_shown() -> None:
    seen, (x, _) = watched(TwoPasses()), examples()
    eye = torch.eye(CLASSES)
    assert_same(seen.images, (x + x.flip(0)) / 2, atol=1e-6)
    assert_same(seen.weights, (eye + eye.flip(0)) / 2, atol=1e-6)


@pytest.mark.parametrize("method", [Cooled(), TwoDepths()])
def test_images_come_before_what_is_mixed_later(method: Method) -> None:
    seen, (x, _) = watched(method), examples()
    eye = torch.eye(CLASSES)
    assert seen.stage == "pixels"
    assert_same(seen.images, (x + x.flip(0)) / 2, atol=1e-6)
    assert_same(seen.weights, (eye + eye.flip(0)) / 2, atol=1e-6)


def test_the_clean_loss_beside_the_networks_criterion_is_not_what_is_shown() -> None:
    net = tiny()
    net.criterion = bce_on_softmax
    seen = watched(CoMixup(clean=1.0), net=net)
    assert seen.what == "images are pasted"
    assert_same(seen.weights.sum(1), torch.ones(CLASSES), atol=1e-5)


def test_a_loss_without_targets_is_refused() -> None:
    with pytest.raises(BadInput, match="compares no logits with targets"):
        watched(Silent())


def test_looking_leaves_the_objective_as_it_was() -> None:
    objective = bound(MultiMix(), tiny())
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    criterion = objective.net.criterion
    look(objective, *examples(), 0)
    assert_same(objective.state_dict(), before)
    assert objective.net.criterion is criterion
    assert not objective.net[0]._forward_hooks


def test_the_same_seed_is_the_same_look() -> None:
    assert_same(watched(Mixup(), 3).weights, watched(Mixup(), 3).weights)
    assert not watched(Mixup(), 3).weights.equal(watched(Mixup(), 4).weights)


def of(method: str, lab: Lab, seed: int = 0) -> Specimen:
    return specimen(Run("digits/small", method, seed), lab)


def test_a_specimen_has_one_example_of_each_of_some_classes(lab: Lab) -> None:
    found = of("mixup", lab)
    assert found.images.shape == (8, 3, 8, 8)
    assert found.classes == sorted(set(found.classes)) and len(found.classes) == 8
    assert len(found.seen) == len(found.cornered) == 3
    assert all(seen.weights.shape == (8, 8) for seen in found.seen)
    assert all(seen.weights.shape == (3, 3) for seen in found.cornered)
    assert_same(found.points("images are blended").sum(1), torch.ones(9), atol=1e-6)
    assert not of("mixup", lab, seed=1).seen[0].weights.equal(found.seen[0].weights)
    assert "untrained network" in found.where and "taught" not in found.where


def test_it_says_how_many_batches_are_mixed(lab: Lab) -> None:
    assert summary(of("baseline", lab)) == "nothing is mixed in any of 3 batches of these images"
    assert summary(of("mixup", lab)) == "all 3 batches of these images are mixed"
    assert of("cutmix,p=0", lab).kinds() == {}


def test_a_trained_network_is_used_and_named(lab: Lab) -> None:
    run = Run("digits/small,epochs=1", "supermix", 0)
    assert specimen(run, lab).where.endswith("untrained network, taught by an untrained baseline")
    fill(Run(run.setting, "baseline", 0), [], lab)
    assert specimen(run, lab).where.endswith("untrained network, taught by a trained baseline")
    fill(run, [], lab)
    told = specimen(run, lab).where
    assert told.endswith("seed 0, trained network, taught by a trained baseline")
    assert "untrained" in specimen(Run(run.setting, "supermix", 1), lab).where


def test_attention_is_shown_where_a_method_tells_it(lab: Lab) -> None:
    (name, maps), *more = of("densemultimix", lab).maps.items()
    assert name == "attention over layer4" and not more
    assert maps.shape == (8, 2, 2)
    assert_same(maps.flatten(1).sum(1), torch.ones(8), atol=1e-6)
    assert not of("mixup", lab).maps


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_the_same_seed_is_the_same_file(suffix: str, lab: Lab, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}{suffix}" for i in range(3)]
    for file, seed in zip(files, (0, 0, 1), strict=True):
        draw("multimix,n=20", "digits/small", lab, seed, file)
    first, again, other = (file.read_bytes() for file in files)
    assert first == again != other


@pytest.mark.parametrize(
    "method", ["baseline", "augmix", "cutmix,p=1", "densemultimix,p=1,n=9", "multiple,k=7"]
)
def test_every_kind_is_drawn(method: str, lab: Lab, tmp_path: Path) -> None:
    draw(method, "digits/small", lab, 0, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 50


def test_a_method_kept_elsewhere_is_shown(outside: str, lab: Lab, tmp_path: Path) -> None:
    draw(outside, "digits/small", lab, 0, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 10_000
    seen, *_ = of(outside, lab).seen
    assert seen.what == "images are pasted"
    assert [box(owner) for owner in seen.owner] == [
        (min(i, (i + 1) % 8), (4, 0, 8, 8) if (i + 1) % 8 < i else (0, 0, 4, 8)) for i in range(8)
    ]
    eye = torch.eye(8)
    assert_same(seen.weights, (eye + eye.roll(-1, 0)) / 2, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "$\\frac$", "--><b>", "\x07" + "x" * 900]
)
def test_a_hostile_spelling_is_only_text(name: str, outside: str, lab: Lab, tmp_path: Path) -> None:
    draw(f"{outside},colour={name}", "digits/small", lab, 0, tmp_path / "a.svg")
    tags = {element.tag.rpartition("}")[2] for element in ET.parse(tmp_path / "a.svg").iter()}
    assert not tags & {"script", "b"}


def test_a_file_of_another_kind_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"should end in .svg or .png or .pdf, unlike .*a.txt"):
        draw("mixup", "digits/small", lab, 0, tmp_path / "a.txt")
    assert not list(tmp_path.iterdir())


def test_what_does_not_apply_is_refused_with_the_reason(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"transmix can't be applied in digits/small: .*class token"):
        draw("transmix", "digits/small", lab, 0, tmp_path / "a.svg")
    with pytest.raises(BadInput, match="no method 'mixap'; did you mean"):
        draw("mixap", "digits/small", lab, 0, tmp_path / "a.svg")


def test_targets_that_do_not_sum_to_one_are_drawn(lab: Lab, tmp_path: Path) -> None:
    odd = torch.tensor([[1.5, -0.1, 0.2], [torch.nan] * 3, [0.0, 0.0, 0.0]])
    images = torch.rand(3, 3, 4, 4)
    seen = Seen("pixels", images, torch.full((3, 4, 4), BLEND), odd)
    found = Specimen("a", "b", images, [1, 2, 3], {}, [seen], [seen])
    picture(found, tmp_path / "a.png")
    assert_same(found.points(seen.what), torch.tensor([[1.5, 0, 0.2]]) / 1.7, atol=1e-6)


def test_what_fails_is_told_with_its_line(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "slips_lab").mkdir()
    wrong = OUTSIDE.replace("return ", "return torch.zeros(3, 5) @ z, ", 1)
    (folder / "slip.py").write_text(wrong)
    monkeypatch.syspath_prepend(tmp_path)
    line = next(i for i, text in enumerate(wrong.splitlines(), 1) if "torch.zeros(3, 5)" in text)
    expected = rf"slips_lab.slip fails on a batch of digits/small: \w+: .*\(slip.py, line {line}\)"
    with pytest.raises(BadInput, match=expected):
        draw("slips_lab.slip", "digits/small", lab, 0, tmp_path / "a.svg")
