"""What holds for every method there is."""

import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import CLASSES, assert_same, batch, bound, comparing, home, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mixbench.bench.spec import canonical, find, names, parse, spell, write
from mixbench.methods import (
    Criterion,
    Guided,
    LinearMixer,
    Method,
    Mixer,
    Net,
    Objective,
    bce_on_softmax,
)
from mixbench.methods.baseline import Baseline

PACKAGE = "mixbench.methods"
NAMES = names(PACKAGE)
METHODS = {name: parse(name, PACKAGE, Method) for name in NAMES}
SMALLER = {"stylemix": {"size": 16}}  # AdaIN on images of 224 x 224 takes seconds
HOST = {"supermix": "mixtures are made until enough are solved"}
OWN_CRITERION = {"tokenmix": "its targets don't sum to one"}
MIXERS = {name: method for name, method in METHODS.items() if isinstance(method, Mixer)}
LINEAR = {name: method for name, method in MIXERS.items() if isinstance(method, LinearMixer)}
PLAIN = {
    name: mixer for name, mixer in LINEAR.items() if type(mixer).mixed_loss is Mixer.mixed_loss
}
SWITCHES = {name: method for name, method in METHODS.items() if hasattr(method, "p")}
CHEAP = {name: replace(method, **SMALLER.get(name, {})) for name, method in METHODS.items()}
VARIANTS = CHEAP | {
    f"{name},p={p:g}": replace(CHEAP[name], p=p)  # type: ignore[call-arg]
    for name in SWITCHES
    for p in (0.0, 1.0)
}
pytestmark = pytest.mark.usefixtures("adain")

each_name = pytest.mark.parametrize("name", NAMES)
each_method = pytest.mark.parametrize("method", VARIANTS.values(), ids=VARIANTS)
each_mixer = pytest.mark.parametrize("method", MIXERS.values(), ids=MIXERS)
each_linear_mixer = pytest.mark.parametrize("method", LINEAR.values(), ids=LINEAR)
each_plain_mixer = pytest.mark.parametrize("method", PLAIN.values(), ids=PLAIN)
each_criterion = pytest.mark.parametrize(
    "criterion", [F.cross_entropy, bce_on_softmax], ids=["ce", "bce"]
)
few = settings(max_examples=15, deadline=None)


def short(method: Method) -> str:
    """The name of its file."""
    return type(method).__module__.rpartition(".")[2]


def seeded(objective: Objective, x: Tensor, y: Tensor, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    loss: Tensor = objective(x, y)
    return loss


def test_methods_are_found() -> None:
    assert {"baseline", "mixup", "cutmix", "manifold", "multimix"} <= METHODS.keys()


@each_name
def test_it_is_a_frozen_dataclass_that_is_equal_to_itself_rebuilt(name: str) -> None:
    kind = find(name, PACKAGE, Method)
    method: Any = kind()
    with pytest.raises(FrozenInstanceError):
        method.anything = 1
    rebuilt = kind(**{field.name: getattr(method, field.name) for field in fields(method)})
    assert rebuilt == method
    assert hash(rebuilt) == hash(method)


@each_name
def test_its_name_is_its_canonical_spelling(name: str) -> None:
    assert spell(METHODS[name], name) == name
    assert canonical(name, PACKAGE, Method) == name


@each_name
def test_its_defaults_may_be_spelled_out(name: str) -> None:
    values = {field.name: getattr(METHODS[name], field.name) for field in fields(METHODS[name])}
    given = [f"{key}={write(value)}" for key, value in values.items() if value is not None]
    text = ",".join([name, *given])
    assert parse(text, PACKAGE, Method) == METHODS[name]
    assert canonical(text, PACKAGE, Method) == name


@each_mixer
def test_a_changed_field_is_spelled_and_read_back(method: Mixer) -> None:
    name = short(method)
    changed = replace(method, p=0.25, at=("layer1", "layer2"))
    assert spell(changed, name) == f"{name},p=0.25,at=layer1+layer2"
    assert parse(spell(changed, name), PACKAGE, Method) == changed


@each_method
@pytest.mark.parametrize("b", [1, 3, 8])
def test_the_loss_is_a_finite_scalar(method: Method, b: int) -> None:
    torch.manual_seed(0)
    loss = bound(method, home(method))(*batch(b))
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss > 0


@each_method
def test_targets_may_be_soft(method: Method) -> None:
    torch.manual_seed(0)
    x, _ = batch(4)
    assert bound(method, home(method))(x, torch.randn(4, CLASSES).softmax(1)).isfinite()


@each_mixer
@each_criterion
@pytest.mark.usefixtures("float64")
def test_smoothed_targets_add_their_share_of_the_loss_of_uniform_ones(
    method: Mixer, criterion: Criterion
) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(6)
    net.criterion = criterion
    uniform = torch.full_like(y, 1 / CLASSES)
    objective = bound(replace(method, p=1.0), net)
    hard, even, smoothed = (
        seeded(objective, x, each) for each in (y, uniform, torch.lerp(y, uniform, 0.1))
    )
    assert_same(smoothed, torch.lerp(hard, even, 0.1))
    assert not hard.isclose(even)


@each_method
def test_the_network_says_by_what_predictions_are_compared_with_targets(method: Method) -> None:
    torch.manual_seed(0)
    net = home(method)
    net.criterion = bce_on_softmax
    objective = bound(method, net)
    with comparing(net) as seen:
        objective(*batch(6)).backward()
    for logits, target in seen:
        assert logits.shape == target.shape
        assert_same(target.sum(1), torch.ones(len(target)), atol=1e-6)
    assert bool(seen) != (short(method) in OWN_CRITERION)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@each_method
def test_it_trains_in_half_precision_and_rounds_no_target(method: Method) -> None:
    torch.manual_seed(0)
    net, (x, y) = home(method), batch(6)
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        net.dtype = dtype
        objective = bound(method, deepcopy(net))
        with comparing(objective.net) as seen:
            losses.append(seeded(objective, x, y))
    losses[1].backward()
    for logits, target in seen:
        assert logits.dtype == target.dtype == torch.float32
        assert_same(target.sum(1), torch.ones(len(target)), atol=1e-6)
    assert not losses[1].equal(losses[0])
    assert_same(losses[1], losses[0], atol=0.05 * losses[0].item())
    for parameter in objective.net.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@each_method
def test_every_parameter_gets_a_finite_gradient(method: Method) -> None:
    torch.manual_seed(0)
    net = home(method)
    objective = bound(method, net)
    for _ in range(4):
        objective(*batch(6)).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@each_method
@pytest.mark.parametrize("train", [True, False])
def test_the_batch_and_the_network_are_left_as_they_were(method: Method, train: bool) -> None:
    torch.manual_seed(0)
    net, (x, y) = home(method).train(train), batch(6)
    x = x.detach()
    objective = bound(method, net)
    before = x.clone(), y.clone(), deepcopy(net)
    objective(x, y)
    assert x.equal(before[0])
    assert y.equal(before[1])
    assert x._version == y._version == 0
    assert not x.requires_grad
    assert all(module.training == train for module in net.modules())
    for old, new in zip(before[2].parameters(), net.parameters(), strict=True):
        assert old.equal(new)
        assert new.requires_grad
        assert new.grad is None


@each_method
def test_the_loss_depends_on_the_seed_of_torch_alone(method: Method) -> None:
    torch.manual_seed(0)
    net, (x, y) = home(method).eval(), batch(6)
    losses = []
    for state in (0, 1):
        random.seed(state)
        np.random.seed(state)
        losses.append(seeded(bound(method, net), x, y))
    assert losses[0].equal(losses[1])


@each_mixer
def test_another_seed_gives_another_loss(method: Mixer) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(6)
    objective = bound(replace(method, p=1.0), net)
    losses = [seeded(objective, x, y, seed) for seed in range(4)]
    assert len({loss.item() for loss in losses}) > 1


@each_method
def test_the_objective_is_the_loss_of_its_network(method: Method) -> None:
    torch.manual_seed(0)
    net, (x, y) = home(method).eval(), batch(6)
    objective = bound(method, net)
    assert isinstance(objective, Objective)
    trained = {id(p) for p in objective.parameters() if p.requires_grad}
    assert {id(p) for p in net.parameters()} == trained
    if isinstance(method, Guided):
        with pytest.raises(TypeError, match="needs a guide"):
            method.loss(net, x, y)
        guide = objective.train().get_submodule("guide")
        assert not any(module.training for module in guide.modules())
    else:
        loss = seeded(objective, x, y)
        torch.manual_seed(1)
        assert loss.equal(method.loss(net, x, y))


@each_mixer
@given(b=st.integers(1, 9), seed=st.integers(0, 10**6))
@few
def test_mixed_targets_are_distributions(method: Mixer, b: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, y = batch(b)
    z, targets = method.mix(x, y)
    assert z.shape[1:] == x.shape[1:]
    assert targets.shape == (len(z), CLASSES)
    assert targets.min() >= 0
    assert_same(targets.sum(1), torch.ones(len(z)), atol=1e-6)


@each_linear_mixer
@given(b=st.integers(1, 33), seed=st.integers(0, 10**6))
@few
def test_weights_are_rows_on_the_simplex(method: LinearMixer, b: int, seed: int) -> None:
    torch.manual_seed(seed)
    w = method.weights(b)
    assert w.shape[1] == b
    assert w.min() >= 0
    assert_same(w.sum(1), torch.ones(len(w)), atol=1e-6)


@each_plain_mixer
def test_one_hot_weights_give_the_baseline(method: LinearMixer) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(6)
    with patch.object(type(method), "weights", lambda *_: torch.eye(6)):
        loss = replace(method, p=1.0).loss(net, x, y)
    assert_same(loss, Baseline().loss(net, x, y), atol=1e-6)


@each_mixer
def test_with_p_zero_it_is_the_other_method(method: Mixer) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(6)
    with patch("mixbench.methods._base.chance", lambda p: p > 0):  # a coin that draws nothing
        loss = seeded(replace(method, p=0.0).objective(net), x, y)
        other = seeded(method.otherwise().objective(net), x, y)
    assert loss.equal(other)


@each_mixer
def test_p_is_the_share_of_batches_that_are_mixed(method: Mixer) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(2)
    other = patch.object(type(method), "otherwise", Nothing)
    with patch.object(type(method), "mixed_loss", lambda *_: torch.ones(())), other:
        for p in (0.0, 0.3, 0.5, 1.0):
            draws = [replace(method, p=p).loss(net, x, y) for _ in range(3000)]
            share = torch.stack(draws).mean()
            assert abs(share - p) <= 4 * (p * (1 - p) / 3000) ** 0.5


class Nothing(Method):
    """A method whose loss is zero."""

    def __init__(self, *_: object) -> None: ...

    def loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        return torch.zeros(())


@each_mixer
def test_every_stage_that_it_may_mix_at_is_drawn(method: Mixer) -> None:
    torch.manual_seed(0)
    stages = ("pixels", "stem", "layer1")
    drawn = [replace(method, at=stages).stage(tiny()) for _ in range(60)]
    assert set(drawn) == set(stages)


@each_mixer
def test_a_stage_that_is_not_there_is_refused(method: Mixer) -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="no stage 'layer9'"):
        replace(method, at=("layer9",), p=1.0).loss(tiny(), *batch(4))


@each_linear_mixer
def test_mixing_keeps_the_memory_format(method: LinearMixer) -> None:
    torch.manual_seed(0)
    for memory_format in (torch.channels_last, torch.contiguous_format):
        x = torch.rand(4, 3, 8, 8).contiguous(memory_format=memory_format)
        w = torch.rand(4, 4).softmax(1)
        with patch.object(type(method), "weights", lambda *_, w=w: w):
            mixed, _ = method.mix(x, torch.eye(4))
        assert mixed.is_contiguous(memory_format=memory_format)
        assert_same(mixed, (w @ x.flatten(1)).view(4, 3, 8, 8), atol=1e-6)


class OnMeta(TorchDispatchMode):
    """Lets nothing but single numbers be made off the meta device, where no value can be read."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._sample_dirichlet.default:  # torch lacks it on meta
            func = _empty_like
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and made.numel() > 1:
                assert made.is_meta, f"{func} on {made.device}"
        return out


def _empty_like(alpha: Tensor, generator: object = None) -> Tensor:
    return torch.empty_like(alpha)


on_meta = OnMeta()  # type: ignore[no-untyped-call]


@each_method
def test_draws_are_made_on_the_device_of_the_images_and_never_read(method: Method) -> None:
    reason = HOST.get(short(method))
    if reason:
        pytest.skip(reason)
    net = home(method)
    objective = bound(method, net).to("meta")
    with torch.device("meta"):
        x, y = batch(6)
    with on_meta:
        for _ in range(5):
            loss = objective(x, y)
            loss.backward()
    assert loss.is_meta
    assert loss.shape == ()
    assert torch.get_default_device() == torch.device("cpu")


@each_mixer
def test_a_mixer_needs_no_objective_for_that(method: Mixer) -> None:
    with torch.device("meta"):
        net, (x, y) = tiny(), batch(6)
    with on_meta:
        assert replace(method, p=1.0).loss(net, x, y).is_meta


@each_method
@pytest.mark.usefixtures("float64")
def test_it_works_in_double_precision(method: Method) -> None:
    torch.manual_seed(0)
    net = home(method)
    loss = bound(method, net)(*batch(6))
    loss.backward()
    assert loss.dtype == torch.float64
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
