"""Gradient variance: known variances, brute force, and that partners stay."""

from collections.abc import Callable, Iterator
from itertools import permutations

import numpy as np
import pytest
import torch
from helpers import CLASSES, assert_same, batch, pairing, tiny
from numpy.typing import NDArray
from questions import EPOCHS, Sets, digit_sets, numbers, trained
from torch import Tensor, nn

from mixbench.methods import Method, Net
from mixbench.methods.baseline import Baseline
from mixbench.methods.cutmix import CutMix
from mixbench.methods.mixup import Mixup
from mixbench.methods.multimix import MultiMix
from mixbench.methods.multiple import Multiple
from mixbench.methods.puzzlemix import PuzzleMix
from mixbench.tasks import Inapplicable, Reader, Trained, variance
from mixbench.tasks.variance import SamePartners, Spread, Variance

D = 40


class Gaussian(Sets):
    """In each epoch another batch of ``b`` vectors of independent normal numbers."""

    def __init__(self, b: int, d: int = D) -> None:
        super().__init__({})
        self.b, self.d = b, d

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        draw = torch.Generator().manual_seed(epoch)
        x = torch.randn(self.b, self.d, generator=draw, dtype=torch.float64)
        yield x, torch.eye(3)[torch.randint(3, (self.b,), generator=draw)]


class Linear(nn.Module):
    """An objective whose gradient is drawn by a function of the batch."""

    def __init__(self, slope: Callable[[Tensor], Tensor], d: int = D) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d, 1, bias=False, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(d, dtype=torch.float64), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(1))
        self.slope = slope

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        assert self.training
        loss: Tensor = self.net(self.slope(x)[None]).sum() + self.frozen.square() @ self.slope(x)
        return loss


def asked(objective: nn.Module, data: Sets) -> Trained:
    net = nn.Sequential()
    return Trained(net, objective.eval(), data, EPOCHS, Reader(net, data.batches))


def answer(task: Variance, subject: Trained, seed: int = 0) -> dict[str, float]:
    torch.manual_seed(seed)
    return numbers(task.evaluate(subject))


@pytest.mark.parametrize("draws", [2, 5])
def test_known_variances_are_found(draws: int) -> None:
    objective = Linear(lambda x: x.mean(0) + 0.3 * torch.randn(D))
    task = Variance(batches=400, draws=draws)
    found = answer(task, asked(objective, Gaussian(5)))
    pair, interpolation = D / 5, D * 0.3**2
    error = 5 * (2 / 400 / D) ** 0.5  # five standard errors of a variance, relative
    assert found["interpolation"] == pytest.approx(interpolation, rel=error)
    assert found["pair"] == pytest.approx(pair, rel=1.5 * error)
    assert found["total"] == found["pair"] + found["interpolation"]
    assert found["share"] == 100 * found["interpolation"] / found["total"]


class Few(Sets):
    """In each epoch, twelve other training images."""

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in super().epoch(0):
            yield x[12 * epoch :][:12], y[12 * epoch :][:12]


@pytest.mark.parametrize("method", [Mixup(), MultiMix(n=30), CutMix(p=1.0), PuzzleMix(blocks=(2,))])
def test_its_numbers_are_those_of_the_matrix_of_all_gradients(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[NDArray[np.float64]] = []
    gradient = variance.gradient

    def noted(loss: Tensor, objective: nn.Module) -> Tensor:
        found = gradient(loss, objective)
        rows.append(found.double().numpy())
        return found

    monkeypatch.setattr(variance, "gradient", noted)
    found = answer(Variance(batches=6, draws=3), trained(method, Few(digit_sets().sets)))
    g = np.stack(rows).reshape(6, 3, -1)
    interpolation = g.var(1, ddof=1).sum(1).mean()
    pair = g.mean(1).var(0, ddof=1).sum() - interpolation / 3
    assert found["interpolation"] == pytest.approx(interpolation, rel=1e-5)
    assert found["pair"] == pytest.approx(pair, rel=1e-4)
    assert interpolation > 0


def test_what_draws_nothing_has_no_variance_of_interpolation() -> None:
    found = answer(Variance(batches=8), trained(Baseline(), Few(digit_sets().sets)))
    assert found["interpolation"] == found["share"] == 0
    assert found["pair"] == found["total"] > 0


def test_draws_are_of_the_same_state() -> None:
    """A method that learns from each batch, such as one with a pool, is not another in each draw."""

    class Learning(Linear):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__(lambda x: x.mean(0) * self.seen)
            self.register_buffer("seen", torch.ones(()))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            loss = super().forward(x, y)
            self.seen.data = self.seen + 1
            return loss

    found = answer(Variance(batches=8, draws=3), asked(Learning(), Gaussian(5)))
    assert found["interpolation"] == 0 < found["pair"]


def test_gradients_that_are_all_equal_have_no_share() -> None:
    with pytest.raises(Inapplicable, match="all gradients are equal"):
        answer(Variance(batches=3), trained(Baseline(), Few({"train": equal_images()})))


def equal_images() -> tuple[Tensor, Tensor]:
    return torch.rand(1, 3, 8, 8).expand(48, -1, -1, -1), torch.arange(48) % 12 % 10


class Fixed(Sets):
    """The same small batch in each epoch."""

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.sets["train"][0], torch.eye(3)[self.sets["train"][1]]


def logistic(b: int, method: Method) -> tuple[nn.Module, Fixed]:
    """A method on a logistic model, and a batch."""
    torch.manual_seed(0)
    net = Net(pixels=nn.Identity(), pool=nn.Flatten(), head=nn.Linear(12, 3))
    x, y = torch.rand(b, 3, 2, 2), torch.arange(b) % 3
    return method.objective(net), Fixed({"train": (x, y)}, 3)


@pytest.mark.usefixtures("float64")
def test_the_parts_of_mixup_are_those_of_all_partners_and_ratios() -> None:
    objective, data = logistic(3, Mixup())
    ratios, n = (np.arange(40) + 0.5) / 40, 700
    x, y = next(data.epoch(0))
    g = np.stack(
        [[slope(objective, x, y, lam, p) for lam in ratios] for p in permutations(range(3))]
    )
    within = ((g[:, :, None] - g[:, None]) ** 2).sum(3) / 2  # of two draws, for all that there are
    off = ((g[:, :, None] + g[:, None]) / 2 - g.mean((0, 1))) ** 2
    between = off.sum(3) - within / 2
    assert between.mean() == pytest.approx(g.mean(1).var(0).sum())
    assert within.mean() == pytest.approx(g.var(1).sum(1).mean())
    found = answer(Variance(batches=n), asked(objective, data))
    for part, values in (("interpolation", within), ("pair", between)):
        error = values.std() / n**0.5
        assert error < 0.1 * values.mean()
        assert found[part] == pytest.approx(values.mean(), abs=4 * error)


def slope(
    objective: nn.Module, x: Tensor, y: Tensor, lam: float, partner: tuple[int, ...]
) -> NDArray[np.float64]:
    with pairing(lam, partner):
        parts = torch.autograd.grad(objective(x, y), list(objective.parameters()))
    return torch.cat([part.flatten() for part in parts]).numpy()


@pytest.mark.usefixtures("float64")
def test_of_k_interpolations_their_part_falls_as_one_over_k_and_that_of_pairs_stays() -> None:
    one, many = (
        answer(Variance(batches=250, draws=6), asked(*logistic(4, Multiple(k=k))), seed=k)
        for k in (1, 4)
    )
    assert one["interpolation"] / many["interpolation"] == pytest.approx(4, rel=0.3)
    assert one["pair"] / many["pair"] == pytest.approx(1, rel=0.3)
    assert one["share"] > many["share"]


def test_the_mean_and_variance_of_vectors_are_torchs() -> None:
    spread, rows = Spread(), 1e3 + torch.randn(50, 7, dtype=torch.float64)
    for row in rows:
        spread.add(row)
    assert_same(spread.mean, rows.mean(0))
    assert spread.variance == pytest.approx(rows.var(0).sum().item())


def draws(b: int, drawn: list[Tensor]) -> list[Tensor]:
    with SamePartners(b, drawn):
        return [torch.randperm(9), torch.randperm(50), torch.randperm(n=50), torch.rand(3)]


def test_permutations_of_the_batch_stay_and_all_else_is_drawn_anew() -> None:
    torch.manual_seed(0)
    drawn: list[Tensor] = []
    first = draws(50, drawn)
    first[1].zero_()  # to do so is harmless
    second, third, other = draws(50, drawn), draws(50, drawn), draws(50, [])
    assert len(drawn) == 2
    for i, same in enumerate((False, True, True, False)):
        assert second[i].equal(third[i]) == same
        assert not second[i].equal(other[i])
    assert second[2].equal(first[2])
    assert not second[1].equal(second[2])
    assert sorted(second[1].tolist()) == list(range(50))


def test_permutations_that_only_a_later_pass_asks_for_join() -> None:
    torch.manual_seed(0)
    drawn: list[Tensor] = []
    with SamePartners(50, drawn):
        before = torch.randperm(50)
    with SamePartners(50, drawn):
        again, new = torch.randperm(50), torch.randperm(50)
    with SamePartners(50, drawn):
        assert torch.randperm(50).equal(before)
        assert torch.randperm(50).equal(new)
    assert again.equal(before)
    assert not new.equal(before)


def test_methods_draw_partners_where_they_are_kept() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(7)
    assert y.shape[1] == CLASSES
    for method in (Mixup(), CutMix(p=1.0), PuzzleMix(blocks=(2,))):
        drawn: list[Tensor] = []
        with SamePartners(7, drawn):
            method.objective(net)(x, y)
        assert [sorted(each.tolist()) for each in drawn] == [list(range(7))]


def test_parameters_stay_as_they_are_and_the_seed_decides() -> None:
    subject = trained(Mixup(), Few(digit_sets().sets))
    before = [p.clone() for p in subject.objective.parameters()]
    task = Variance(batches=4)
    first, second = answer(task, subject), answer(task, subject)
    assert first == second != answer(task, subject, seed=1)
    assert first.keys() == task.metrics.keys()
    assert all(a.equal(b) for a, b in zip(before, subject.objective.parameters(), strict=True))


@pytest.mark.parametrize("name", ["batches", "draws"])
def test_of_one_there_is_no_variance(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Variance(**{name: 1})
