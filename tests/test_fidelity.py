"""Every method against its paper, as ``papers/`` transcribes it."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
import torch
from papers.network import Array, Network
from papers.tape import Tape
from twins import (
    CRITERIA,
    Step,
    batch,
    directions,
    numpy_network,
    slope,
    small_adain,
    small_home,
    taught,
    weights_of,
)

from mixbench.bench.catalogue import live_method
from mixbench.bench.spec import names
from mixbench.methods import Net

pytestmark = pytest.mark.usefixtures("float64")


def paper(spelling: str) -> ModuleType:
    return import_module(f"papers.{spelling.partition(',')[0]}")


CASES = [case for name in names("mixbench.methods") for case in paper(name).CASES]


@pytest.fixture(params=CRITERIA)
def criterion(request: pytest.FixtureRequest) -> Iterator[str]:
    """Networks have this criterion."""
    with patch.object(Net, "criterion", staticmethod(CRITERIA[request.param][0])):
        yield request.param


@pytest.fixture(autouse=True)
def styles() -> Iterator[None]:
    """StyleMix finds small networks."""
    with patch("mixbench.methods.stylemix.load", small_adain):
        yield


@pytest.mark.parametrize("name", names("mixbench.methods"))
def test_every_method_is_transcribed(name: str) -> None:
    assert paper(name).CASES


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_the_paper(case: str, criterion: str, seed: int) -> None:
    torch.manual_seed(seed)
    method = live_method(case)
    net, teacher = small_home(method), small_home(method)
    soft = seed == 2 and getattr(paper(case), "SOFT", True)
    x, y = batch(5, getattr(paper(case), "SIZE", (8, 8)), soft)
    objective = method.objective(net, taught(teacher, x) if method.teacher else None)
    step = Step(objective, net, x, y, getattr(paper(case), "DRAWS", ()))
    guide = numpy_network(weights_of(getattr(objective, "guide", teacher)), criterion)
    tape, networks = Tape(step.draws), list[Network]()

    def formula(inputs: Mapping[str, Array], tape: Tape) -> float:
        networks.append(numpy_network(inputs, criterion, guide))
        loss: float = paper(case).loss(networks[-1], inputs["images"], step.targets, tape, method)
        return loss

    assert formula(step.inputs, tape) == pytest.approx(step.loss, abs=1e-10)
    assert not tape.rest
    for ours, theirs in zip(step.compared, networks[0].compared, strict=True):
        for part, literal in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(part, literal, rtol=0, atol=1e-10)
    for i, (name, gradient) in enumerate(step.gradients.items()):
        direction = directions(gradient.shape, i)
        expected = slope(formula, step, tape, name, direction)
        assert (gradient * direction).sum() == pytest.approx(expected, rel=1e-6, abs=1e-8), name


@pytest.mark.parametrize("law", [(), (1.0,), (2.0, 3)])
def test_a_draw_by_another_law_is_noticed(law: tuple[float, ...]) -> None:
    tape = Tape([("beta", (2.0,), 0.5)])
    with pytest.raises(AssertionError, match=r"beta: drawn by \(2.0,\), and not by"):
        tape.take("beta", *law)
