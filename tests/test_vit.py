"""Vision transformers: the same numbers as timm's, and as a plain transcription."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from helpers import assert_same
from timm import create_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.bench.nets.vit import smallvit, staged
from mixbench.methods import Net

pytestmark = pytest.mark.usefixtures("float64")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def scattered(model: nn.Module) -> None:
    """Let no parameter be zero, or small, or one."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.2)


def timm_vit(**settings: Any) -> VisionTransformer:
    small = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 3, "num_heads": 2}
    model = VisionTransformer(num_classes=7, **(small | settings))
    scattered(model)
    return model


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


PLAIN: dict[str, dict[str, Any]] = {
    "plain": {},
    "patches that are not square": {"img_size": (8, 12), "patch_size": (2, 4)},
    "everything else": {
        "pre_norm": True,
        "fc_norm": True,
        "init_values": 0.5,
        "qk_norm": True,
        "drop_rate": 0.3,
        "pos_drop_rate": 0.3,
        "patch_drop_rate": 0.3,
        "proj_drop_rate": 0.3,
        "attn_drop_rate": 0.3,
        "drop_path_rate": 0.3,
    },
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("settings", PLAIN.values(), ids=PLAIN)
def test_the_logits_are_those_of_timm(settings: dict[str, Any], train: bool) -> None:
    torch.manual_seed(0)
    model = timm_vit(**settings).train(train)
    net = staged(deepcopy(model), MEAN, STD)
    x = torch.rand(4, 3, 8, 12 if "img_size" in settings else 8)
    torch.manual_seed(1)
    expected = model(normalised(x))
    torch.manual_seed(1)
    assert_same(net(x), expected)
    assert expected.std() > 0.01


def test_no_parameter_is_lost_or_copied() -> None:
    model = timm_vit()
    net = staged(model, MEAN, STD)
    assert {id(p) for p in net.parameters()} == {id(p) for p in model.parameters()}
    net(torch.rand(2, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_vit_small_is_that_of_timm() -> None:
    torch.manual_seed(0)
    model = create_model("vit_small_patch16_224").eval()
    assert isinstance(model, VisionTransformer)
    net = staged(deepcopy(model), MEAN, STD)
    assert sum(p.numel() for p in net.parameters()) == 22_050_664
    assert sum(p.numel() for p in model.parameters()) == 22_050_664
    with torch.no_grad():
        x = torch.rand(1, 3, 224, 224)
        assert_same(net(x), model(normalised(x)))


def plain_smallvit(net: Net, x: Tensor) -> Tensor:
    """The network, function by function, on the same weights."""
    state: dict[str, Tensor] = dict(net.state_dict())

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
        return (x - mean) / (var + 1e-6).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    weight, bias = (state[f"stem.patch_embed.proj.{part}"] for part in ("weight", "bias"))
    patches = [
        torch.einsum("bchw,dchw->bd", x[..., i : i + 2, j : j + 2], weight) + bias
        for i in range(0, 8, 2)
        for j in range(0, 8, 2)
    ]
    tokens = torch.stack([state["stem.cls_token"][0, 0].expand(len(x), -1), *patches], 1)
    tokens = tokens + state["stem.pos_embed"]
    for block in ("block1", "block2", "block3", "block4"):
        queries, keys, values = linear(norm(tokens, f"{block}.norm1"), f"{block}.attn.qkv").chunk(
            3, -1
        )
        heads = []
        for head in range(4):
            part = slice(16 * head, 16 * head + 16)
            scores = queries[..., part] @ keys[..., part].transpose(1, 2) / 4
            heads.append(scores.softmax(2) @ values[..., part])
        tokens = tokens + linear(torch.cat(heads, 2), f"{block}.attn.proj")
        hidden = F.gelu(linear(norm(tokens, f"{block}.norm2"), f"{block}.mlp.fc1"))
        tokens = tokens + linear(hidden, f"{block}.mlp.fc2")
    return linear(norm(tokens, "pool.1")[:, 0], "head")


def test_smallvit_equals_a_plain_transcription() -> None:
    torch.manual_seed(0)
    net = smallvit(7, 8, MEAN, STD)
    scattered(net)
    x = torch.rand(3, 3, 8, 8)
    assert_same(net(x), plain_smallvit(net, normalised(x)))


def test_smallvit_has_the_known_number_of_parameters() -> None:
    attention, mlp = 65 * 3 * 64 + 65 * 64, 65 * 128 + 129 * 64
    stem, norm = 13 * 64 + 17 * 64 + 64, 2 * 64
    expected = stem + 4 * (attention + mlp + 2 * norm) + norm + 65 * 7
    assert sum(p.numel() for p in smallvit(7, 8, MEAN, STD).parameters()) == expected


@pytest.mark.parametrize("size", [8, 12])
def test_its_stages_in_a_row_are_the_network(size: int) -> None:
    net, x = smallvit(7, size, MEAN, STD), torch.rand(2, 3, size, size)
    assert list(net._modules) == [
        "pixels",
        "stem",
        *(f"block{i}" for i in range(1, 5)),
        "pool",
        "head",
    ]
    for stage in net._modules:
        below, above = net.split(stage)
        assert above(below(x)).equal(net(x))
    assert net.trunk(x).shape == (2, 1 + (size // 2) ** 2, 64)
    assert net(x).shape == (2, 7)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no class token": ({"class_token": False, "global_pool": "avg"}, "a class token"),
    "registers": ({"reg_tokens": 2}, "no register tokens"),
    "mean of tokens": ({"global_pool": "avg"}, "the class token as its embedding"),
    "class token without position": ({"no_embed_class": True}, "a learned position"),
    "no positions": ({"pos_embed": "none"}, "a learned position"),
    "any size": ({"dynamic_img_size": True}, "images of one size"),
}


@pytest.mark.parametrize(("settings", "reason"), REFUSED.values(), ids=REFUSED)
def test_another_model_is_refused_with_the_reason(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        staged(timm_vit(**settings), MEAN, STD)
