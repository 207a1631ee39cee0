"""Networks: their shapes, and the same numbers as a plain transcription."""

import subprocess
import sys
from itertools import pairwise

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.bench.nets import NETS, build, known, outline, resnet
from mixbench.bench.nets.preactresnet import small
from mixbench.bench.nets.wideresnet import wideresnet
from mixbench.bench.spec import BadInput
from mixbench.methods import Net

GREY = (0.5, 0.5, 0.5)


def outline_of(name: str, classes: int) -> Net:
    with torch.device("meta"):
        return build(name, classes, 224, GREY, GREY)


def parameters(net: Net) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


LAST_MAPS = {
    ("small", 8): (64, 2, 2),
    ("preactresnet18", 32): (512, 4, 4),
    ("preactresnet18", 64): (512, 8, 8),
    ("preactresnet18-stride2", 64): (512, 4, 4),
    ("wrn16-8", 32): (512, 8, 8),
    ("wrn28-10", 32): (640, 8, 8),
    ("resnet18", 224): (512, 7, 7),
    ("resnet50", 224): (2048, 7, 7),
    ("smallvit", 8): (1 + 16, 64),
    ("vit-small", 224): (1 + 196, 384),
}


@pytest.mark.parametrize(("name", "size"), LAST_MAPS, ids=str)
def test_the_last_maps_have_the_papers_shapes(name: str, size: int) -> None:
    with torch.device("meta"):
        net = build(name, 10, size, GREY, GREY)
        x = torch.rand(2, 3, size, size)
        assert net.trunk(x).shape == (2, *LAST_MAPS[name, size])
        embeddings, _ = net.split("pool")
        assert embeddings(x).shape == (2, net.get_submodule("head").in_features)


@pytest.mark.parametrize("name", sorted(name for name in NETS if "vit" not in name))
def test_the_last_maps_leave_layer4(name: str) -> None:
    assert list(outline(name).trunk._modules)[-1] == "layer4"


@pytest.mark.parametrize("name", ["preactresnet18", "preactresnet18-stride2", "wrn16-8"])
def test_the_last_maps_of_wide_resnets_alone_have_no_sign(name: str) -> None:
    torch.manual_seed(0)
    maps = build(name, 10, 32, GREY, GREY).trunk(torch.rand(2, 3, 32, 32))
    assert (maps.min() < 0) == (name != "wrn16-8")


def test_preactresnet18_has_the_known_number_of_parameters() -> None:
    convolutions = 3 * 9 * 64 + sum(
        2 * 9 * d * d + 9 * d * d + 9 * d * d_in + d * d_in * (d != d_in)
        for d_in, d in [(64, 64), (64, 128), (128, 256), (256, 512)]
    )
    norms = 2 * 64 + sum(
        2 * (d_in + 3 * d) for d_in, d in [(64, 64), (64, 128), (128, 256), (256, 512)]
    )
    assert parameters(outline_of("preactresnet18", 100)) == convolutions + norms + 513 * 100
    stem_norm = 2 * 64
    strided = outline_of("preactresnet18-stride2", 100)
    assert parameters(strided) == convolutions + norms - stem_norm + 513 * 100


def plain_preactresnet18(net: Net, x: Tensor) -> Tensor:
    """The network of the field's reference code, function by function, on the same weights."""
    state = dict(net.state_dict())

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])

    x = (x - 0.25) / 0.5
    if "stem.weight" in state:
        x = F.conv2d(x, state["stem.weight"], stride=2, padding=1)
    else:
        x = norm(F.conv2d(x, state["stem.0.weight"], padding=1), "stem.1").relu()
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            out = norm(x, f"{name}.before.0").relu()
            short = state.get(f"{name}.shortcut.weight")
            shortcut = out if short is None else F.conv2d(out, short, stride=stride)
            out = F.conv2d(out, state[f"{name}.residual.0.weight"], stride=stride, padding=1)
            out = norm(out, f"{name}.residual.1").relu()
            x = F.conv2d(out, state[f"{name}.residual.3.weight"], padding=1) + shortcut
    return F.linear(F.avg_pool2d(x, 4).flatten(1), state["head.weight"], state["head.bias"])


@pytest.mark.parametrize(("name", "size"), [("preactresnet18", 32), ("preactresnet18-stride2", 64)])
def test_preactresnet18_equals_a_plain_transcription(name: str, size: int) -> None:
    torch.manual_seed(0)
    net = build(name, 100, size, (0.25,) * 3, GREY)
    x = torch.rand(4, 3, size, size)
    net(x)  # so that running statistics are not those of a new network
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), plain_preactresnet18(net, x))


def test_wide_resnets_have_the_known_number_of_parameters() -> None:
    for name, depth, width, classes, reference in [
        ("wrn16-8", 16, 8, 10, 10_961_370),
        ("wrn28-10", 28, 10, 10, 36_479_194),  # the paper's 36.5 M
    ]:
        net, blocks = outline_of(name, classes), (depth - 4) // 6
        d = [16, 16 * width, 32 * width, 64 * width]
        weights = 27 * 16 + 2 * d[-1] + (d[-1] + 1) * classes
        for d_in, d_out in pairwise(d):
            convolutions = 9 * d_in * d_out + (2 * blocks - 1) * 9 * d_out**2 + d_in * d_out
            norms = 2 * d_in + (2 * blocks - 1) * 2 * d_out
            weights += convolutions + norms
        assert weights == reference
        biases = 16 + sum((2 * blocks + 1) * d_out for d_out in d[1:])  # references have none
        assert parameters(net) == reference + biases


def plain_wideresnet(net: Net, x: Tensor, blocks: int) -> Tensor:
    """The network of AlignMixup's code, function by function, on the same weights."""
    state = dict(net.state_dict())

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])

    def convolution(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.conv2d(x, weight, bias, stride=stride, padding=weight.shape[-1] // 2)

    x = convolution((x - 0.25) / 0.5, "stem")
    for layer in (1, 2, 3):
        for block in range(blocks):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            out = convolution(norm(x, f"{name}.residual.0").relu(), f"{name}.residual.2")
            out = convolution(norm(out, f"{name}.residual.3").relu(), f"{name}.residual.5", stride)
            x = out + (x if block else convolution(x, f"{name}.shortcut", stride))
    features = norm(x, "layer4.0").relu().mean((2, 3))
    return F.linear(features, state["head.weight"], state["head.bias"])


def test_wide_resnets_equal_a_plain_transcription() -> None:
    torch.manual_seed(0)
    net = wideresnet(10, 32, (0.25,) * 3, GREY, depth=16, width=2)
    x = torch.rand(4, 3, 32, 32)
    net(x)  # so that running statistics are not those of a new network
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), plain_wideresnet(net, x, blocks=2))


def test_the_last_norm_alone_of_wide_resnets_forgets_fast() -> None:
    norms = [m for m in outline("wrn28-10").modules() if isinstance(m, nn.BatchNorm2d)]
    assert [norm.momentum for norm in norms] == [0.1] * 24 + [0.9]


def test_networks_of_the_libraries_have_the_known_number_of_parameters() -> None:
    known = {"resnet18": 11_689_512, "resnet50": 25_557_032, "vit-small": 22_050_664}
    assert {name: parameters(outline_of(name, 1000)) for name in known} == known


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_weights_of_torchvision_give_its_logits_to_the_bit(name: str) -> None:
    torch.manual_seed(0)
    original, shared = (torchvision.models.get_model(name, num_classes=7) for _ in range(2))
    net = resnet.staged(shared, (0.25,) * 3, GREY)
    shared.load_state_dict(original.state_dict())
    x = torch.rand(2, 3, 32, 32)
    normalised = ((x - 0.25) / 0.5).contiguous(memory_format=torch.channels_last)
    for mode in (True, False):
        assert net.train(mode)(x).equal(original.train(mode)(normalised))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_seed_gives_the_weights_that_torchvision_draws(name: str) -> None:
    torch.manual_seed(0)
    original = torchvision.models.get_model(name, num_classes=7)
    torch.manual_seed(0)
    net = build(name, 7, 32, GREY, GREY)
    for ours, theirs in zip(net.parameters(), original.parameters(), strict=True):
        assert ours.equal(theirs)


def test_vit_small_has_stochastic_depth_up_to_a_tenth() -> None:
    blocks = [stage for name, stage in outline("vit-small").named_children() if "block" in name]
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(12)])


@pytest.mark.parametrize("name", sorted(NETS))
def test_stages_in_a_row_are_the_network(name: str) -> None:
    torch.manual_seed(0)
    net = build(name, 7, 16, GREY, GREY).eval()
    x = torch.rand(2, 3, 16, 16)
    logits = net(x)
    assert logits.shape == (2, 7)
    for stage in net._modules:
        below, above = net.split(stage)
        assert above(below(x)).equal(logits)
    assert list(net._modules)[:2] == ["pixels", "stem"]
    assert list(net._modules)[-2:] == ["pool", "head"]
    assert type(net.head) is nn.Linear


def test_an_unknown_network_is_refused_with_near_names() -> None:
    with pytest.raises(BadInput, match="no network 'wrn28'; did you mean wrn28-10"):
        known("wrn28")
    with pytest.raises(BadInput, match=r"there are: preactresnet18, .*, timm/NAME, .*, wrn28-10"):
        build("???", 10, 32, GREY, GREY)
    assert [known(name) for name in NETS] == list(NETS)


def test_large_libraries_are_imported_when_they_are_needed() -> None:
    script = """
import sys
from mixbench.bench.nets import known, outline
known("resnet50"), outline("wrn16-8")
assert not {"timm", "torchvision"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_stage_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="no stage 'layer9'; it has pixels, stem, layer1"):
        small(10, 8, GREY, GREY).split("layer9")


def test_splitting_shares_the_weights() -> None:
    net = small(10, 8, GREY, GREY)
    below, above = net.split("layer2")
    shared = {id(p) for part in (below, above) for p in part.parameters()}
    assert shared == {id(p) for p in net.parameters()}
