"""A run's ResNet in a detector: every tensor arrives, or the wrong ones are named."""

from collections import OrderedDict
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from helpers import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from mixbench.bench.nets import build, outline
from mixbench.bench.nets.resnet import staged
from mixbench.methods import Net
from mixbench.tasks import Inapplicable
from mixbench.tasks._detection.backbone import LAYERS, fill, resnet

MEAN, STD = (0.25, 0.5, 0.75), (0.125, 0.25, 0.5)
HEAD = {"fc.weight", "fc.bias"}


def network(name: str, size: int = 32) -> Net:
    """A new one whose batch norm has seen images."""
    torch.manual_seed(0)
    net = build(name, 7, size, MEAN, STD)
    net(torch.rand(4, 3, size, size))
    return net.eval()


@cache
def weights18() -> dict[str, Tensor]:
    return dict(resnet(network("resnet18")).weights)


def headless(depth: int = 18, **choices: Any) -> Any:
    model = getattr(models, f"resnet{depth}")(**choices)
    model.fc = nn.Identity()
    return model.eval()


@cache
def unfilled() -> Any:
    """A backbone that refuses all that it is given, so that it stays as it is."""
    return headless()


def refused(weights: dict[str, Tensor], backbone: nn.Module | None = None) -> str:
    """What is said of weights that do not fit."""
    with pytest.raises(ValueError) as error:
        fill(backbone or unfilled(), weights)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "depth"), [("resnet18", 18), ("resnet50", 50), ("timm/resnet18", 18)]
)
@pytest.mark.usefixtures("float64")
def test_a_filled_backbone_computes_what_the_network_does(name: str, depth: int) -> None:
    net = network(name)
    backbone = resnet(net)
    assert (backbone.depth, backbone.mean, backbone.std) == (depth, MEAN, STD)
    model = headless(depth)
    fill(model, backbone.weights)
    body = IntermediateLayerGetter(model, {layer: layer for layer in LAYERS})
    x = torch.rand(2, 3, 64, 64)
    for layer, maps in body(net.get_submodule("pixels")(x)).items():
        assert_same(maps, net.split(layer)[0](x))


@pytest.mark.parametrize("depth", [34, 101, 152])
def test_other_depths_are_told(depth: int) -> None:
    model = getattr(models, f"resnet{depth}")()
    assert resnet(staged(model, MEAN, STD)).depth == depth


def test_all_tensors_of_resnet50_arrive() -> None:
    backbone, model = resnet(network("resnet50")), headless(50)
    fill(model, backbone.weights)
    names = models.resnet50().state_dict().keys()
    assert len(names) == 320
    assert backbone.weights.keys() == model.state_dict().keys() == names - HEAD
    assert all(torch.equal(w, backbone.weights[name]) for name, w in model.state_dict().items())
    assert backbone.weights["bn1.num_batches_tracked"] == 1


def test_weights_are_those_of_the_network_without_gradients() -> None:
    net = network("resnet18")
    weights = resnet(net).weights
    assert weights["conv1.weight"].data_ptr() == net.get_parameter("stem.0.weight").data_ptr()
    assert not any(w.requires_grad for w in weights.values())


def test_to_fill_a_backbone_leaves_the_network_as_it_was() -> None:
    net, model = network("resnet18"), headless()
    before = deepcopy(net.state_dict())
    fill(model, resnet(net).weights)
    with torch.no_grad():
        model.conv1.weight.zero_()
    assert_same(net.state_dict(), before, atol=0)


def test_to_look_at_a_network_draws_and_changes_nothing() -> None:
    net = network("resnet18").train()
    before, draws = deepcopy(net.state_dict()), torch.get_rng_state()
    resnet(net)
    assert net.get_submodule("layer4").training
    assert_same(net.state_dict(), before, atol=0)
    assert torch.equal(torch.get_rng_state(), draws)


OTHERS = {  # what is said of them
    "small": ("missing: layer1.0.conv1.weight", "conv1.weight 16 x 3 x 3 x 3 for 64 x 3 x 7 x 7"),
    "preactresnet18": ("unexpected: layer1.0.before.0.weight", "bn1.weight"),
    "wrn16-8": ("missing: conv1.weight, bn1.weight, bn1.bias and 117 more", "unexpected: weight"),
    "smallvit": ("missing: conv1.weight", "unexpected: cls_token"),
    "timm/resnet50d": ("unexpected: conv1.0.weight, conv1.1.weight", "missing: conv1.weight"),
    "timm/resnext50_32x4d": ("layer1.0.conv1.weight 128 x 64 x 1 x 1 for 64 x 64 x 1 x 1",),
    "timm/wide_resnet50_2": ("from resnet50", "layer1.0.bn1.weight 128 for 64"),
    "timm/seresnet18": ("from resnet18", "unexpected: layer1.0.se.fc1.weight"),
    "timm/resnet50_gn": ("missing: bn1.running_mean, bn1.running_var",),
    "timm/resnet26": ("unexpected: layer1.0.conv3.weight",),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_other_networks_lack_is_named(name: str) -> None:
    with pytest.raises(Inapplicable) as error:
        resnet(outline(name))
    message = str(error.value)
    assert "needs a ResNet of depth 18, 34, 50, 101 or 152" in message and "\n" not in message
    assert all(part in message for part in OTHERS[name])


@pytest.mark.parametrize("name", ["timm/resnetblur18", "timm/resnetaa50"])
def test_the_same_tensors_used_in_another_way_are_refused(name: str) -> None:
    with pytest.raises(Inapplicable, match="computes something else"):
        resnet(network(name))


def test_a_network_whose_training_diverged_is_refused() -> None:
    net = network("resnet18")
    net.get_buffer("layer3.1.bn2.running_var")[5] = torch.nan
    with pytest.raises(ArithmeticError, match="not finite: training has diverged"):
        resnet(net)


def test_a_network_that_does_not_normalise_is_refused() -> None:
    stages = dict(network("resnet18").named_children())
    with pytest.raises(Inapplicable, match=r"missing: pixels\.mean, pixels\.std$"):
        resnet(nn.Sequential(OrderedDict({**stages, "pixels": nn.Identity()})))


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone."])
def test_a_prefix_of_all_names_is_told(prefix: str) -> None:
    message = refused({f"{prefix}{name}": w for name, w in weights18().items()})
    assert f"all 120 have the prefix '{prefix}'" in message
    assert "missing: conv1.weight, bn1.weight, bn1.bias and 117 more" in message
    assert f"unexpected: {prefix}conv1.weight" in message


def test_a_checkpoint_that_was_cut_short_is_refused() -> None:
    message = refused(dict(list(weights18().items())[:100]))
    assert "prefix" not in message and "unexpected" not in message
    first, second, third = list(weights18())[100:103]
    assert f"missing: {first}, {second}, {third} and 17 more" in message


def test_no_weights_at_all_are_refused() -> None:
    assert "missing: conv1.weight" in refused({})


names = st.sampled_from(sorted(weights18()))
at_leisure = settings(deadline=None)


@at_leisure
@given(st.sets(names, min_size=1))
def test_whatever_is_missing_is_named(lost: set[str]) -> None:
    message = refused({name: w for name, w in weights18().items() if name not in lost})
    *named, last = message.partition("missing: ")[2].split(", ")
    last, _, more = last.partition(" and ")
    assert {*named, last} <= lost
    assert len(named) + 1 + int(more.removesuffix(" more") or 0) == len(lost)


@at_leisure
@given(names)
def test_whatever_has_another_shape_is_named(name: str) -> None:
    weights = weights18()
    message = refused({**weights, name: weights[name][None]})
    assert message.endswith(f"of another shape: {name} {shape(1, name)} for {shape(None, name)}")


def shape(first: int | None, name: str) -> str:
    sizes = [*([] if first is None else [first]), *weights18()[name].shape]
    return " x ".join(map(str, sizes)) or "of no axes"


@at_leisure
@given(names, st.sampled_from(["more", "num_batches_tracked", "weight.weight"]))
def test_whatever_is_surplus_is_named(name: str, more: str) -> None:
    surplus = f"{name}.{more}"
    assert refused({**weights18(), surplus: torch.ones(1)}).endswith(f"unexpected: {surplus}")


@pytest.mark.parametrize("surplus", ["fc.weight", "layer5.0.conv1.weight", "num_batches_tracked"])
def test_what_is_no_layer_of_a_resnet_is_surplus(surplus: str) -> None:
    assert f"unexpected: {surplus}" in refused({**weights18(), surplus: torch.ones(1)})


def test_a_backbone_that_was_refused_is_as_it_was() -> None:
    backbone = headless()
    before = deepcopy(backbone.state_dict())
    weights = {**weights18(), "conv1.weight": torch.ones(2)}
    refused(weights, backbone)
    assert_same(backbone.state_dict(), before, atol=0)


@pytest.mark.parametrize("last", LAYERS)
def test_a_backbone_may_end_with_any_layer(last: str) -> None:
    backbone = IntermediateLayerGetter(headless(), {last: last})
    fill(backbone, weights18())
    filled = backbone.state_dict()
    assert {name.partition(".")[0] for name in filled} >= {"conv1", "bn1", last}
    assert all(torch.equal(w, weights18()[name]) for name, w in filled.items())


def test_a_backbone_may_not_skip_a_layer() -> None:
    backbone = headless()
    backbone.layer3 = nn.Identity()
    assert "unexpected: layer3.0.conv1.weight" in refused(weights18(), backbone)


def test_a_layer_that_a_backbone_has_in_part_is_refused() -> None:
    backbone = headless()
    del backbone.layer4[1]
    assert "unexpected: layer4.1.conv1.weight" in refused(weights18(), backbone)


def test_frozen_batch_norm_leaves_the_counts_and_nothing_else() -> None:
    backbone = headless(norm_layer=FrozenBatchNorm2d)
    fill(backbone, weights18())
    left = weights18().keys() - backbone.state_dict().keys()
    assert left == {name for name in weights18() if name.endswith(".num_batches_tracked")}
    assert torch.equal(backbone.bn1.running_var, weights18()["bn1.running_var"])
    message = refused({**weights18(), "layer1.num_batches_tracked": torch.ones(1)}, backbone)
    assert message.endswith("unexpected: layer1.num_batches_tracked")


def test_batch_norm_that_counts_needs_the_count() -> None:
    weights = {name: w for name, w in weights18().items() if name != "bn1.num_batches_tracked"}
    assert refused(weights).endswith("missing: bn1.num_batches_tracked")


class Deaf(nn.BatchNorm2d):
    """Loads nothing, and does not say so."""

    def _load_from_state_dict(self, *_: Any) -> None:
        pass


def test_weights_that_do_not_arrive_are_named() -> None:
    backbone = headless(norm_layer=Deaf)
    message = refused(weights18(), backbone)
    assert message.startswith("weights did not arrive in the backbone: bn1.running_mean")
