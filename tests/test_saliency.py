"""Gradients with respect to pixels, and the loss whose gradients were kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from helpers import CLASSES, assert_same, batch, cross_entropy, tiny, total
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from mixbench.methods import Net, saliency
from mixbench.methods._saliency import evaluating, input_gradient, magnitude

pytestmark = pytest.mark.usefixtures("float64")

each_weight = pytest.mark.parametrize("clean", [0.0, 1.0, 0.3])


def trained(mode: bool = True) -> Net:
    """A network whose running statistics are not those of any batch."""
    torch.manual_seed(0)
    net = tiny()
    for _ in range(3):
        net(batch(6)[0])
    return net.train(mode)


def soft(b: int) -> tuple[Tensor, Tensor]:
    return torch.rand(b, 3, 8, 8), torch.randn(b, CLASSES).softmax(1)


def by_definition(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the loss of each image with respect to its normalised pixels."""
    stages = list(net.children())
    z = stages[0](x).detach().requires_grad_()
    out: Tensor = z
    for stage in stages[1:]:
        out = stage(out)
    total(cross_entropy(*each) for each in zip(out, y, strict=True)).backward()
    gradient: Tensor | None = z.grad
    assert gradient is not None
    return gradient


def assert_parallel(actual: Tensor, expected: Tensor) -> None:
    """All that is actual is what was expected, times one positive number."""
    assert expected.any()
    assert_same(actual / actual.norm(), expected / expected.norm())


@contextmanager
def counting(module: nn.Module) -> Iterator[list[int]]:
    """How many examples each call of the module sees."""
    seen: list[int] = []
    handle: RemovableHandle = module.register_forward_hook(
        lambda _, inputs, __: seen.append(len(inputs[0]))
    )
    yield seen
    handle.remove()


def buffers(net: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in net.named_buffers()}


def gradients(net: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    return found


@each_weight
@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_the_definition_but_for_a_factor(clean: float, seed: int) -> None:
    net = trained()
    torch.manual_seed(seed)
    x, y = soft(5)
    asked = deepcopy(net).train(clean > 0)
    gradient, _ = input_gradient(net, x, y, clean)
    assert_parallel(gradient, by_definition(asked, x, y))


@each_weight
def test_what_is_salient_is_the_root_mean_square_over_channels(clean: float) -> None:
    net, (x, y) = trained(), soft(3)
    expected = torch.zeros(3, 8, 8)
    found, _ = saliency(deepcopy(net), x, y, clean)
    gradient, _ = input_gradient(net, x, y, clean)
    for i in range(3):
        for r in range(8):
            for c in range(8):
                expected[i, r, c] = (sum(g**2 for g in gradient[i, :, r, c].tolist()) / 3) ** 0.5
    assert_same(found, expected, atol=1e-15)
    assert magnitude(gradient).equal(found)


def test_in_eval_mode_an_image_s_gradient_does_not_depend_on_its_batch() -> None:
    net, (x, y) = trained(), soft(5)
    together, _ = input_gradient(net, x, y)
    assert_same(input_gradient(net, x[2:3], y[2:3])[0], together[2:3])


@pytest.mark.parametrize("train", [True, False])
def test_without_a_clean_loss_the_network_is_left_as_it_was(train: bool) -> None:
    net, (x, y) = trained(train), soft(4)
    before = buffers(net)
    _, loss = input_gradient(net, x, y)
    assert_same(buffers(net), before, atol=0)
    assert all(p.grad is None for p in net.parameters())
    assert loss == 0
    assert not loss.requires_grad
    assert all(module.training is train for module in net.modules())


@each_weight
def test_gradients_that_are_there_already_are_left_alone(clean: float) -> None:
    net, (x, y) = trained(), soft(4)
    net(x).square().sum().backward()
    before = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    input_gradient(net, x, y, clean)
    assert_same(gradients(net), before, atol=0)


@each_weight
def test_each_module_stays_in_its_own_mode(clean: float) -> None:
    net, (x, y) = trained(), soft(4)
    frozen = net.get_submodule("layer2")
    frozen.eval()
    net.get_submodule("layer2.0.residual").train()
    before = [module.training for module in net.modules()]
    assert {*before} == {True, False}
    input_gradient(net, x, y, clean)
    assert [module.training for module in net.modules()] == before


def test_so_it_does_if_the_network_fails() -> None:
    net, (x, y) = trained(), soft(4)
    net.get_submodule("layer2").eval()
    before = [module.training for module in net.modules()]
    with pytest.raises(RuntimeError):
        input_gradient(net, x[:, :2], y)
    with pytest.raises(ZeroDivisionError), evaluating(net):
        assert not any(module.training for module in net.modules())
        raise ZeroDivisionError
    assert [module.training for module in net.modules()] == before


@pytest.mark.parametrize("clean", [0.0, 1.0])
def test_modules_in_eval_mode_are_asked_in_it(clean: float) -> None:
    net, (x, y) = trained(), soft(4)
    net.get_submodule("layer2").eval()
    before = buffers(net)
    gradient, _ = input_gradient(net, x, y, clean)
    changed = {name for name, buffer in buffers(net).items() if not buffer.equal(before[name])}
    statistics = {name for name in before if "running" in name or "tracked" in name}
    expected = {name for name in statistics if not name.startswith("layer2")} if clean else set()
    assert changed == expected
    asked = net if clean else net.eval()
    assert_parallel(gradient, by_definition(asked, x, y))


ways: dict[str, Callable[[Net, Tensor, Tensor], Tensor]] = {
    "alone": lambda net, clean, x: clean,
    "scaled": lambda net, clean, x: 65536 * clean,
    "halved": lambda net, clean, x: clean / 2,
    "added to another loss": lambda net, clean, x: net(x.flip(3)).square().mean() + clean,
    "in a product": lambda net, clean, x: net(x.flip(3)).square().mean() * clean,
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("clean", [1.0, 0.3])
@pytest.mark.parametrize("way", ways.values(), ids=ways)
def test_the_clean_loss_has_the_value_and_the_gradients_of_an_ordinary_one(
    way: Callable[[Net, Tensor, Tensor], Tensor], clean: float, train: bool
) -> None:
    net, (x, y) = trained(train), soft(4)
    twin = deepcopy(net)
    _, kept = input_gradient(net, x, y, clean)
    logits = twin(x)
    terms = [cross_entropy(*each) for each in zip(logits, y, strict=True)]
    ordinary = clean * total(terms) / 4
    assert_same(kept, ordinary)
    losses = way(net, kept, x), way(twin, ordinary, x)
    assert_same(*losses)
    for loss in losses:
        loss.backward()
    expected = gradients(twin)
    assert expected.keys() == dict(net.named_parameters()).keys()
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    assert_same(gradients(net), expected, atol=1e-12 * scale)


def test_its_gradients_add_up_with_those_of_a_second_batch() -> None:
    net = trained()
    twin = deepcopy(net)
    for seed in range(2):
        torch.manual_seed(seed)
        x, y = soft(4)
        input_gradient(net, x, y, 1.0)[1].backward()
        F.cross_entropy(twin(x), y).backward()
    assert_same(gradients(net), gradients(twin))


def test_parameters_that_are_not_trained_get_no_gradient() -> None:
    net, (x, y) = trained(), soft(4)
    twin = deepcopy(net)
    for each in (net, twin):
        each.get_submodule("stem").requires_grad_(False)
        each.get_parameter("head.weight").requires_grad_(False)
    input_gradient(net, x, y, 1.0)[1].backward()
    F.cross_entropy(twin(x), y).backward()
    expected, found = gradients(twin), gradients(net)
    assert found.keys() == expected.keys() < dict(net.named_parameters()).keys()
    assert_same(found, expected)


def test_with_a_clean_loss_running_statistics_take_one_step() -> None:
    net, (x, y) = trained(), soft(4)
    twin = deepcopy(net)
    input_gradient(net, x, y, 0.3)
    twin(x)
    assert_same(buffers(net), buffers(twin), atol=1e-12)


@each_weight
def test_the_network_is_asked_once(clean: float) -> None:
    net, (x, y) = trained(), soft(4)
    with counting(net.head) as calls, counting(net.get_submodule("stem")) as stems:
        _, loss = input_gradient(net, x, y, clean)
        if clean:
            loss.backward()
    assert calls == stems == [4]


@each_weight
def test_images_are_left_as_they_were(clean: float) -> None:
    net, (x, y) = trained(), soft(4)
    x.requires_grad_()
    before = x.detach().clone(), y.clone()
    gradient, loss = input_gradient(net, x, y, clean)
    if clean:
        loss.backward()
    assert x.equal(before[0])
    assert y.equal(before[1])
    assert x.grad is None
    assert not gradient.requires_grad


@each_weight
def test_no_number_is_drawn_or_read(clean: float) -> None:
    with torch.device("meta"):
        net, (x, y) = tiny(), soft(4)
    state = torch.get_rng_state()
    gradient, loss = input_gradient(net, x, y, clean)
    assert gradient.is_meta
    assert loss.is_meta
    assert torch.get_rng_state().equal(state)
