"""Networks: their shapes, and the same numbers as a plain transcription."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mixbench.bench.nets import NETS
from mixbench.bench.nets.preactresnet import preactresnet18, small
from mixbench.methods import Net

GREY = (0.5, 0.5, 0.5)


def test_the_last_maps_have_the_papers_shapes() -> None:
    x = torch.rand(2, 3, 32, 32)
    maps, _ = preactresnet18(100, 32, GREY, GREY).eval().split("layer4")
    assert maps(x).shape == (2, 512, 4, 4)
    assert maps(x).min() < 0  # no last ReLU
    maps, _ = small(10, 8, GREY, GREY).split("layer4")
    assert maps(torch.rand(2, 3, 8, 8)).shape == (2, 64, 2, 2)


def test_preactresnet18_has_the_known_number_of_parameters() -> None:
    convolutions = 3 * 9 * 64 + sum(
        2 * 9 * d * d + 9 * d * d + 9 * d * d_in + d * d_in * (d != d_in)
        for d_in, d in [(64, 64), (64, 128), (128, 256), (256, 512)]
    )
    norms = 2 * 64 + sum(
        2 * (d_in + 3 * d) for d_in, d in [(64, 64), (64, 128), (128, 256), (256, 512)]
    )
    net = preactresnet18(100, 32, GREY, GREY)
    assert sum(p.numel() for p in net.parameters()) == convolutions + norms + 513 * 100


def plain_preactresnet18(net: Net, x: Tensor) -> Tensor:
    """The network of the field's reference code, function by function, on the same weights."""
    state = dict(net.state_dict())

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])

    x = (x - 0.25) / 0.5
    x = F.conv2d(x, state["stem.0.weight"], padding=1)
    x = norm(x, "stem.1").relu()
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


def test_preactresnet18_equals_a_plain_transcription() -> None:
    torch.manual_seed(0)
    net = preactresnet18(100, 32, (0.25,) * 3, GREY)
    x = torch.rand(4, 3, 32, 32)
    net(x)  # so that running statistics are not those of a new network
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), plain_preactresnet18(net, x))


@pytest.mark.parametrize("name", sorted(NETS))
def test_stages_in_a_row_are_the_network(name: str) -> None:
    torch.manual_seed(0)
    net = NETS[name](7, 32, GREY, GREY).eval()
    x = torch.rand(2, 3, 32, 32)
    for stage in net._modules:
        below, above = net.split(stage)
        assert above(below(x)).equal(net(x))
    assert next(iter(net._modules)) == "pixels"
    assert list(net._modules)[-2:] == ["pool", "head"]


def test_a_stage_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="no stage 'layer9'; it has pixels, stem, layer1"):
        small(10, 8, GREY, GREY).split("layer9")


def test_splitting_shares_the_weights() -> None:
    net = small(10, 8, GREY, GREY)
    below, above = net.split("layer2")
    shared = {id(p) for part in (below, above) for p in part.parameters()}
    assert shared == {id(p) for p in net.parameters()}
