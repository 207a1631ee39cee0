"""Networks whose stages compute in half precision."""

import pytest
import torch
from helpers import CLASSES, assert_same, batch, tiny, tiny_vit
from torch import Tensor, nn

from mixbench.methods import Net

each_net = pytest.mark.parametrize("make", [tiny, tiny_vit])


def half(net: Net) -> Net:
    net.dtype = torch.bfloat16
    return net


class Product(nn.Linear):
    """A linear map that notes in which type it computed."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        self.computed = out.dtype
        return out


def products() -> Net:
    return half(
        Net(pixels=nn.Identity(), stem=Product(4, 4), pool=Product(4, 4), head=Product(4, 3))
    )


@pytest.mark.parametrize("outer", [True, False])
def test_all_stages_but_the_head_compute_in_it(outer: bool) -> None:
    net = products()
    with torch.autocast("cpu", torch.float16, enabled=outer):
        net(torch.rand(2, 4))
    computed = {name: getattr(stage, "computed", None) for name, stage in net.named_children()}
    assert computed.pop("head") == torch.float32
    assert computed == {"pixels": None, "stem": torch.bfloat16, "pool": torch.bfloat16}


@pytest.mark.parametrize("stage", ["pixels", "stem", "pool", "head"])
def test_what_leaves_a_network_or_a_part_is_float32(stage: str) -> None:
    x = torch.rand(2, 4)
    net = products()
    below, above = net.split(stage)
    z = below(x)
    assert z.dtype == above(z).dtype == net.trunk(x).dtype == net(x).dtype == torch.float32
    assert above(z).equal(net(x))


@each_net
def test_logits_are_close_to_those_of_float32_and_do_not_tie(make: type[Net]) -> None:
    torch.manual_seed(0)
    net, (x, _) = make().eval(), batch(256)
    exact = net(x)
    logits = half(net)(x)
    assert not logits.equal(exact)
    assert_same(logits, exact, atol=0.02 * exact.abs().max().item())
    assert not logits.bfloat16().float().equal(logits)


@each_net
def test_gradients_are_float32_and_close_to_those_of_float32(make: type[Net]) -> None:
    torch.manual_seed(0)
    net, (x, _) = make(), batch(32)
    found = []
    for net.dtype in (torch.float32, torch.bfloat16):
        gradients = torch.autograd.grad(net(x).square().mean(), list(net.parameters()))
        assert all(gradient.dtype == torch.float32 for gradient in gradients)
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    exact, gradient = found
    assert not gradient.equal(exact)
    assert (gradient - exact).norm() <= 0.1 * exact.norm()


@pytest.mark.usefixtures("float64")
def test_double_precision_stays_as_it_is_by_default() -> None:
    x, _ = batch(2)
    assert tiny().trunk(x).dtype == tiny()(x).dtype == torch.float64
    assert tiny()(x).shape == (2, CLASSES)
