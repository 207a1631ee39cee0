"""Error under attack: closed forms, an independent PGD, and what torchattacks leaves to its user."""

import copy
import subprocess
import sys
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
import torchattacks
from questions import EPOCHS, Sets, digit_sets, trained
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.bench.spec import parse, spell
from mixbench.methods import Net
from mixbench.tasks import Inapplicable, Reader, Task, Trained, robustness
from mixbench.tasks.classification import errors
from mixbench.tasks.robustness import Name, Robustness, autoattack

EVERY: list[tuple[Name, Any]] = [
    ("fgsm", "linf"),
    *((name, norm) for name in ("pgd", "apgd", "autoattack") for norm in ("linf", "l2")),
]
EPS = {"linf": 0.06, "l2": 0.5}
each = pytest.mark.parametrize(("name", "norm"), EVERY)
each_norm = pytest.mark.parametrize("norm", EPS)
STANDARD = robustness.STEPS, robustness.TARGETS, robustness.QUERIES


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeded, and AutoAttack, which takes seconds for an image that it fails on, cut short."""
    torch.manual_seed(0)
    monkeypatch.setattr(robustness, "STEPS", 12)
    monkeypatch.setattr(robustness, "TARGETS", 4)
    monkeypatch.setattr(robustness, "QUERIES", 60)


def task(name: Name, norm: Any = "linf", eps: float | None = None, **fields: Any) -> Robustness:
    """One attack; the radius of the norm if none is given, and steps that can cross its ball."""
    eps = EPS[norm] if eps is None else eps
    given = {"fgsm_eps": eps, "eps": eps, "step": eps / 4, "steps": 10} | fields
    return Robustness(attacks=(name,), norm=norm, **given)


def asked_of(net: nn.Sequential, x: Tensor, y: Tensor) -> Trained:
    data = Sets({"test": (x, y)})
    return Trained(net.eval(), net, data, EPOCHS, Reader(net, data.batches))


@cache
def schooled() -> tuple[Net, Tensor, Tensor]:
    """A network that knows most digits, and the test images."""
    net = trained(steps=40).net
    assert isinstance(net, Net)
    return net, *digit_sets().sets["test"]


def digits_net(images: int | None = None) -> Trained:
    """A network that knows most digits, asked about the first test images."""
    net, x, y = copy.deepcopy(schooled())
    return asked_of(net, x[:images], y[:images])


def some(n: int = 12) -> tuple[Net, Tensor, Tensor]:
    """A frozen network, and digits that it knows."""
    net, x, y = copy.deepcopy(schooled())
    net.requires_grad_(False)
    known = net(x).argmax(1) == y
    return net, x[known][:n], y[known][:n]


def distance(z: Tensor, x: Tensor, norm: str) -> Tensor:
    """Of each image, (b,)."""
    order = {"linf": torch.inf, "l2": 2}[norm]
    far: Tensor = torch.linalg.vector_norm((z - x).flatten(1), order, dim=1)
    return far


@each
def test_without_a_radius_the_error_is_the_clean_one(name: Name, norm: Any) -> None:
    subject = digits_net()
    clean = errors(subject.net, subject.data.batches("test"))["top1"]
    assert 0 < clean < 50
    assert task(name, norm, eps=0, step=0.1).evaluate(subject) == {name: clean}


@each_norm
def test_without_gradient_or_radius_images_stay(norm: Any) -> None:
    net, x, y = linear(4, scale=0)
    for eps in (0.0, 0.5):
        assert task("pgd", norm, eps=eps, random_start=False).attacked("pgd", net, x, y).equal(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each
def test_images_stay_within_the_radius_and_the_range(
    name: Name, norm: Any, dtype: torch.dtype
) -> None:
    net, x, y = some()
    net.dtype = dtype
    kept = x.clone()
    z = task(name, norm, steps=5).attacked(name, net, x, y)
    assert x.equal(kept)
    assert z.shape == x.shape and z.dtype == torch.float32 and not z.requires_grad
    assert 0 < distance(z, x, norm).max() <= EPS[norm] + 1e-6
    assert z.min() >= 0 and z.max() <= 1


@each
def test_the_network_is_left_as_it_was(name: Name, norm: Any) -> None:
    subject = digits_net(images=20)
    subject.net.zero_grad()
    before = copy.deepcopy(subject.net.state_dict())
    task(name, norm, eps=0.3, steps=2).evaluate(subject)
    after = subject.net.state_dict()
    assert all(before[key].equal(after[key]) for key in before)
    assert all(p.grad is None for p in subject.net.parameters())
    assert not any(module.training for module in subject.net.modules())


def test_one_step_from_the_clean_image_is_fgsm() -> None:
    net, x, y = some()
    once = task("pgd", step=EPS["linf"], steps=1, random_start=False)
    assert once.attacked("pgd", net, x, y).equal(once.attacked("fgsm", net, x, y))


def unit(gradient: Tensor, norm: str) -> Tensor:
    """The direction of steepest ascent, of length one in ``norm``."""
    return gradient.sign() if norm == "linf" else F.normalize(gradient.flatten(1)).view_as(gradient)


def inside(z: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    if norm == "linf":
        return z.clamp(x - eps, x + eps).clamp(0, 1)
    return (x + (z - x) * (eps / distance(z, x, "l2")).clamp(max=1).view(-1, 1, 1, 1)).clamp(0, 1)


def start(x: Tensor, eps: float, norm: str) -> Tensor:
    if norm == "linf":
        return (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
    direction = unit(torch.empty_like(x).normal_(), norm)
    return (x + eps * torch.rand(len(x), 1, 1, 1) * direction).clamp(0, 1)


@pytest.mark.parametrize("random_start", [False, True])
@each_norm
def test_pgd_agrees_with_a_plain_loop(norm: Any, random_start: bool) -> None:
    net, x, y = some()
    asked = task("pgd", norm, random_start=random_start)
    torch.manual_seed(3)
    z = start(x, asked.eps, norm) if random_start else x
    for _ in range(asked.steps):
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(z), y, reduction="sum"), z)
        z = inside(z + asked.step * unit(gradient, norm), x, asked.eps, norm)
    torch.manual_seed(3)
    torch.testing.assert_close(asked.attacked("pgd", net, x, y), z.detach(), rtol=0, atol=1e-5)


def linear(classes: int, scale: float = 1.0) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A linear model, images far from the ends of the range, and as labels what it says of them."""
    torch.manual_seed(0)
    layer = nn.Linear(108, classes)
    layer.weight.data = scale * (layer.weight.data - layer.weight.data.mean(0))
    layer.bias.data.zero_()
    net = nn.Sequential(nn.Flatten(), layer).requires_grad_(False)
    x = 0.4 + 0.2 * torch.rand(21, 3, 6, 6)
    return net, x, net(x).argmax(1)


def weights(net: nn.Sequential) -> Tensor:
    layer = net[1]
    assert isinstance(layer, nn.Linear)
    return layer.weight


def critical(net: nn.Sequential, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """The radius, (b,), at which an image of a linear model touches another class.

    It is the least margin in units of the dual norm of the difference of two rows of weights.
    """
    weight = weights(net)
    margin = net(x).gather(1, y[:, None]) - net(x)
    slope = torch.linalg.vector_norm(weight[y][:, None] - weight, 1 if norm == "linf" else 2, -1)
    radii: Tensor = (margin / slope).nan_to_num(torch.inf).amin(1)
    return radii


@each
def test_linear_models_fall_at_their_closed_form_radius(name: Name, norm: Any) -> None:
    net, x, y = linear(classes=5 if name == "autoattack" else 2)
    radii = critical(net, x, y, norm).sort().values
    eps = (radii[10] + radii[11]).item() / 2
    asked = task(name, norm, eps=eps, steps=40)
    assert asked.evaluate(asked_of(net, x, y)) == {name: pytest.approx(100 * 11 / 21)}


@pytest.mark.parametrize("scale", [1, 200])
@pytest.mark.parametrize(("name", "norm"), [("fgsm", "linf"), ("pgd", "linf"), ("pgd", "l2")])
def test_the_worst_case_of_a_linear_model_is_reached_however_sure_it_is(
    name: Name, norm: Any, scale: float
) -> None:
    net, x, y = linear(2, scale)
    weight = weights(net)
    slope = torch.linalg.vector_norm(weight[0] - weight[1], 1 if norm == "linf" else 2)
    eps = 0.01 if norm == "linf" else 0.1

    def margin(z: Tensor) -> Tensor:
        logits: Tensor = net(z)
        return logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])

    z = task(name, norm, eps=eps, steps=40).attacked(name, net, x, y)
    torch.testing.assert_close(margin(z), margin(x) - eps * slope, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize(("name", "norm"), [pair for pair in EVERY if pair[0] != "autoattack"])
def test_error_grows_with_the_radius(name: Name, norm: Any) -> None:
    subject = digits_net()
    radii = [EPS[norm] * factor for factor in (0, 0.3, 1, 2)]
    found = [task(name, norm, eps=eps).evaluate(subject)[name] for eps in radii]
    assert found == sorted(found)
    assert found[-1] > found[0] + 20


@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_more_steps_find_more(name: Name) -> None:
    subject = digits_net(images=100)
    one, twenty = (task(name, steps=n).evaluate(subject)[name] for n in (1, 20))
    assert twenty > one


def test_stronger_attacks_find_more() -> None:
    subject = digits_net(images=100)
    weak_to_strong: list[Name] = ["fgsm", "pgd", "apgd", "autoattack"]
    found = [task(name).evaluate(subject)[name] for name in weak_to_strong]
    assert all(after >= before - 1 for before, after in pairwise(found))
    assert found[-1] > found[0]


@pytest.mark.parametrize("name", ["pgd", "apgd", "autoattack"])
def test_random_starts_are_decided_by_torchs_seed(name: Name) -> None:
    net, x, y = some()
    asked = task(name, eps=0.2, steps=2)

    def after(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return asked.attacked(name, net, x, y)

    first, next_batch = after(0), asked.attacked(name, net, x, y)
    assert first.equal(after(0))
    assert not first.equal(after(1))
    assert not first.equal(next_batch)


def test_an_error_does_not_depend_on_what_else_is_asked() -> None:
    subject = digits_net()

    def pgd(*attacks: Name, seed: int = 0) -> float:
        torch.manual_seed(seed)
        return replace(task("pgd", steps=1), attacks=attacks).evaluate(subject)["pgd"]

    assert pgd("pgd") == pgd("fgsm", "apgd", "pgd")
    assert len({pgd("pgd", seed=seed) for seed in range(4)}) > 1


def test_the_order_of_pixels_in_memory_is_no_matter() -> None:
    net, x, y = some()
    asked = task("pgd", "l2")
    torch.manual_seed(0)
    z = asked.attacked("pgd", net, x, y)
    torch.manual_seed(0)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(asked.attacked("pgd", net, last, y), z)


@pytest.mark.parametrize(
    ("wrong", "said"), [(1.5, "0.0, 1.5"), (-0.25, "-0.25, "), (torch.nan, "nan, nan")]
)
@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_images_outside_the_range_are_refused(wrong: float, said: str, eps: float) -> None:
    subject = digits_net(images=20)
    next(iter(subject.data.batches("test")))[0][1, 0, 2, 3] = wrong
    with pytest.raises(ValueError, match=rf"pixels in \[0, 1\]; these are in \[{said}"):
        task("pgd", eps=eps).evaluate(subject)


@each
def test_logits_that_are_not_finite_are_refused(name: Name, norm: Any) -> None:
    net, x, y = linear(4)
    weights(net)[2] = torch.nan
    why = f"of 84 logits of test images under {name} are not finite"
    with pytest.raises(ArithmeticError, match=why):
        task(name, norm).evaluate(asked_of(net, x, y))


def test_autoattack_is_the_standard_version() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 100))
    parts = autoattack(net, 100, 7, norm="L2", eps=0.5).attacks
    kinds = [torchattacks.APGD, torchattacks.APGDT, torchattacks.FAB, torchattacks.Square]
    assert [type(part) for part in parts] == kinds
    assert {(part.norm, part.eps, part.seed, part.n_restarts) for part in parts} == {
        ("L2", 0.5, 7, 1)
    }
    assert STANDARD == (100, 9, 5000)
    assert [part.steps for part in parts[:3]] == [robustness.STEPS] * 3
    assert [part.n_target_classes for part in parts[1:3]] == [robustness.TARGETS] * 2
    assert parts[0].loss == "ce" and parts[2].multi_targeted
    assert parts[3].n_queries == robustness.QUERIES and not parts[3].rescale_schedule


def test_autoattack_is_not_applicable_to_three_classes() -> None:
    with pytest.raises(Inapplicable, match="four classes or more; there are 3"):
        task("autoattack").evaluate(asked_of(*linear(3)))


def test_attacks_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    Robustness(attacks=("fgsm", "pgd", "apgd", "autoattack"), eps=0.3).evaluate(digits_net(10))
    assert capsys.readouterr() == ("", "")


def test_metrics_are_those_of_the_attacks_that_are_asked_for() -> None:
    text = "robustness,attacks=pgd+autoattack,norm=l2,eps=0.5"
    asked = parse(text, "mixbench.tasks", Task)
    assert spell(asked, "robustness") == text
    titles = {name: metric.title for name, metric in asked.metrics.items()}
    assert titles == {"pgd": "PGD error, %", "autoattack": "AutoAttack error, %"}
    assert list(Robustness().metrics) == ["fgsm", "pgd"]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"attacks": ()}, "one or more, none of them twice"),
        ({"attacks": ("pgd", "pgd")}, "one or more, none of them twice"),
        ({"norm": "l2"}, "fgsm is an attack of linf, not of l2; try attacks=pgd"),
    ],
)
def test_what_makes_no_sense_is_refused_before_training(fields: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Robustness(**fields).check(Sets({}))


def test_torchattacks_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    Robustness().check(Sets({}))
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(ValueError, match=r"needs torchattacks: pip install 'mixbench\[attacks\]'"):
        Robustness().check(Sets({}))


def test_torchattacks_is_not_imported_before_it_is_used() -> None:
    code = "import sys, mixbench.tasks.robustness; sys.exit('torchattacks' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
