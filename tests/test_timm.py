"""Models of timm as stages: the same numbers, or a refusal."""

from copy import deepcopy
from typing import Any
from unittest.mock import patch

import pytest
import timm
import torch
from helpers import assert_same
from torch import Tensor, nn

from mixbench.bench.nets import build, known, outline, zoo
from mixbench.bench.spec import BadInput, names, parse
from mixbench.methods import Method, Net

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
LAYERS = ["pixels", "stem", "layer1", "layer2", "layer3", "layer4", "pool", "head"]
MAPS = {  # side of the images; channels that leave the stem, layer1 to layer4, the pool
    "resnet18": (32, (64, 64, 128, 256, 512, 512)),
    "resnet50d": (32, (64, 256, 512, 1024, 2048, 2048)),
    "convnext_tiny": (32, (96, 96, 192, 384, 768, 768)),
    "swin_tiny_patch4_window7_224": (64, (96, 96, 192, 384, 768, 768)),
    "efficientnet_b0": (32, (16, 24, 40, 112, 1280, 1280)),
    "regnety_004": (32, (32, 48, 104, 208, 440, 440)),
    "mobilenetv3_small_100": (32, (16, 16, 24, 48, 576, 1024)),
    "densenet121": (32, (64, 256, 512, 1024, 1024, 1024)),
}
each_family = pytest.mark.parametrize("name", MAPS)


def scattered(model: nn.Module) -> None:
    """Let no parameter be zero, nor one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)


def normalised(x: Tensor) -> Tensor:
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def timm_model(name: str, size: int, **settings: Any) -> nn.Module:
    config: Any = timm.models.get_pretrained_cfg(name)
    if config.fixed_input_size:
        settings["img_size"] = size
    return timm.create_model(name, num_classes=7, **settings)


@each_family
def test_weights_of_timm_give_the_logits_of_timm_to_the_bit(name: str) -> None:
    torch.manual_seed(0)
    size, _ = MAPS[name]
    original = timm_model(name, size)
    scattered(original)
    shared = timm_model(name, size)
    net = zoo.staged(shared, MEAN, STD)
    shared.load_state_dict(original.state_dict())
    assert {id(p) for p in net.parameters()} == {id(p) for p in shared.parameters()}
    x = torch.rand(2, 3, size, size)
    for mode in (True, False):
        torch.manual_seed(1)
        expected = original.train(mode)(normalised(x))
        torch.manual_seed(1)
        assert net.train(mode)(x).equal(expected)


@each_family
def test_layers_leave_maps_of_the_known_shapes(name: str) -> None:
    torch.manual_seed(0)
    size, widths = MAPS[name]
    net = build(f"timm/{name}", 7, size, MEAN, STD).eval()
    assert list(net._modules) == LAYERS
    assert type(net.head) is nn.Linear
    z = torch.rand(1, 3, size, size)
    shapes = []
    with torch.no_grad():
        for stage in net:
            shapes.append(tuple((z := stage(z)).shape[1:]))
    assert tuple(shape[0] for shape in shapes[1:-1]) == widths
    assert [shape[1:] for shape in shapes[2:6]] == [(size // s, size // s) for s in (4, 8, 16, 32)]
    assert shapes[6:] == [(widths[-1],), (7,)]


@pytest.mark.parametrize("name", ["test_resnet", "vit_tiny_patch16_224"])
def test_its_stages_in_a_row_are_the_network(name: str) -> None:
    net, x = build(f"timm/{name}", 7, 32, MEAN, STD).eval(), torch.rand(2, 3, 32, 32)
    for stage in net._modules:
        below, above = net.split(stage)
        assert above(below(x)).equal(net(x))


def test_a_vision_transformer_has_its_blocks_as_stages() -> None:
    torch.manual_seed(0)
    model = timm_model("vit_tiny_patch16_224", 32)
    scattered(model)
    net, x = zoo.staged(model.eval(), MEAN, STD), torch.rand(2, 3, 32, 32)
    blocks = [f"block{i + 1}" for i in range(12)]
    assert list(net._modules) == ["pixels", "stem", *blocks, "pool", "head"]
    assert_same(net(x), model(normalised(x)), atol=1e-5)


SPELLINGS = [
    f"{name},size=16" if name == "stylemix" else name for name in names("mixbench.methods")
]


def home(method: Method) -> Net:
    """A model of timm that the method can be applied to."""
    try:
        method.check(net := build("timm/test_resnet", 7, 32, MEAN, STD))
    except ValueError:
        method.check(net := build("timm/vit_tiny_patch16_224", 7, 32, MEAN, STD))
    return net


@pytest.mark.usefixtures("adain")
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_method_takes_a_step(spelling: str) -> None:
    torch.manual_seed(0)
    method = parse(spelling, "mixbench.methods", Method)
    net = home(method)
    objective = method.objective(net, deepcopy(net) if method.teacher else None)
    loss = objective(torch.rand(4, 3, 32, 32), torch.eye(7)[:4])
    loss.backward()
    assert loss.isfinite()
    stem = net.get_submodule("stem")
    assert all(p.grad is not None and p.grad.isfinite().all() for p in stem.parameters())


OTHERS = ["swin_tiny_patch4_window7_224", "test_convnext", "mobilenetv3_small_050"]


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("spelling", ["manifold", "alignmixup", "densemultimix", "cutmix"])
def test_methods_that_mix_maps_take_a_step_on_other_families(name: str, spelling: str) -> None:
    torch.manual_seed(0)
    method = parse(f"{spelling},p=1", "mixbench.methods", Method)
    net = build(f"timm/{name}", 7, 64, MEAN, STD)
    method.check(net)
    loss = method.loss(net, torch.rand(4, 3, 64, 64), torch.eye(7)[:4])
    loss.backward()
    assert loss.isfinite()
    stem = net.get_submodule("stem")
    assert all(p.grad is not None and p.grad.any() for p in stem.parameters())


def test_a_seed_gives_the_weights_that_timm_draws() -> None:
    torch.manual_seed(0)
    model = timm_model("test_resnet", 32)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    net = build("timm/test_resnet", 7, 32, MEAN, STD)
    assert torch.get_rng_state().equal(state)
    for ours, theirs in zip(net.parameters(), model.parameters(), strict=True):
        assert ours.equal(theirs)


def test_an_outline_has_the_same_stages_and_no_numbers() -> None:
    for name in ("timm/swin_tiny_patch4_window7_224", "timm/vit_tiny_patch16_224"):
        net = outline(name)
        assert all(tensor.is_meta for tensor in net.state_dict().values())
        assert list(net._modules) == list(build(name, 10, 32, MEAN, STD)._modules)


REFUSED = {
    "deit_tiny_distilled_patch16_224": "its head should be one nn.Linear, not tuple",
    "resnetv2_18": "its head should be one nn.Linear, not Conv2d",
    "test_vit_relpos": r"it should have features at strides of \(4, 8, 16, 32\) pixels",
    "test_vit": "a vision transformer should have images of one size",
    "test_mambaout": "it should be four layers, a pool and a head in a row",
    "hrnet_w18_small": "it should be four layers, a pool and a head in a row",
    "ghostnet_050": "in a row they would compute something else",
    "inception_v3": "it fails on 32 x 32 pixels: RuntimeError",
}


@pytest.mark.parametrize(("name", "reason"), REFUSED.items(), ids=REFUSED)
def test_a_model_without_such_stages_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(BadInput, match=f"^timm/{name} can't be had as stages: {reason}") as caught:
        build(f"timm/{name}", 7, 32, MEAN, STD)
    assert "\n" not in str(caught.value)


def test_a_size_that_the_model_refuses_is_named() -> None:
    with pytest.raises(BadInput, match=r"^timm/nest_tiny can't be made for 33 x 33 pixels: "):
        build("timm/nest_tiny", 7, 33, MEAN, STD)


@pytest.mark.parametrize(
    "name", ["timm/resnet5", "timm/resnet50.a1_in1k", "timm/", "timm/qqqqqqqq"]
)
def test_an_unknown_model_is_refused_with_near_names(name: str) -> None:
    with pytest.raises(BadInput, match=r"^timm has no model .*; did you mean timm/") as caught:
        known(name)
    assert len(str(caught.value)) < 200
    with pytest.raises(BadInput, match=r"^timm has no model"):
        build(name, 7, 32, MEAN, STD)


def tiny(**settings: Any) -> tuple[Net, nn.Module]:
    """The stages of a model, and the model."""
    torch.manual_seed(0)
    model = timm_model("test_resnet", 32, **settings)
    return zoo.staged(model, MEAN, STD), model


def test_what_is_verified_is_left_as_it_was() -> None:
    net, model = tiny()
    before = deepcopy(model.state_dict())
    with (
        patch("torch.cuda._is_in_bad_fork", return_value=False),
        patch("torch.cuda.manual_seed_all") as gpus,
    ):
        zoo.verify(net, model, 32)
    gpus.assert_not_called()
    assert_same(dict(model.state_dict()), dict(before), atol=0)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_other_stages_and_missing_ones_are_refused() -> None:
    net, model = tiny()
    stages = dict(net.named_children())
    stages["layer1"] = nn.Sequential(nn.ReLU(), nn.Tanh(), stages["layer1"])
    with pytest.raises(ValueError, match="in a row they would compute something else"):
        zoo.verify(Net(stages), model, 32)
    del stages["layer1"]
    with pytest.raises(ValueError, match="they would lack some of its parameters"):
        zoo.verify(Net(stages), model, 32)


def test_what_only_parameters_that_start_at_zero_would_show_is_refused() -> None:
    net, model = tiny()
    nn.init.zeros_(model.get_parameter("fc.weight"))
    stages = dict(net.named_children())
    stages["pool"] = nn.Sequential(stages["pool"], nn.Tanh())
    with pytest.raises(ValueError, match="in a row they would compute something else"):
        zoo.verify(Net(stages), model, 32)


def test_what_only_training_would_show_is_refused() -> None:
    with pytest.raises(ValueError, match="in a row they would compute something else"):
        zoo.verify(*tiny(drop_rate=0.5), 32)


def test_every_network_of_timm_is_verified() -> None:
    with (
        patch.object(zoo, "verify", side_effect=ValueError("no")),
        pytest.raises(BadInput, match=r"^timm/test_resnet can't be had as stages: no$"),
    ):
        build("timm/test_resnet", 7, 32, MEAN, STD)


def test_a_model_that_does_not_classify_is_refused() -> None:
    with pytest.raises(BadInput, match="can't be had as stages: it should be a classifier"):
        outline("timm/gemma4_vit_167m_enc")


def test_stages_that_fail_in_a_row_are_refused() -> None:
    net, model = tiny()
    stages = dict(net.named_children())
    stages["layer4"] = nn.Sequential(stages["layer4"], nn.Flatten())
    with pytest.raises(ValueError, match="in a row they fail on 32 x 32 pixels: "):
        zoo.verify(Net(stages), model, 32)
