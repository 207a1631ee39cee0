"""What training costs: phases by a clock that only moves when told to, turns, peers, the report."""

import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import count, islice
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import CLASSES, batch, tiny
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mixbench.bench.cells import Store, setting
from mixbench.bench.cli import main
from mixbench.bench.data import Data, Dataset, Held, Images
from mixbench.bench.lab import Lab, open_data
from mixbench.bench.spec import BadInput
from mixbench.bench.speed import peers as others
from mixbench.bench.speed import phases, speed, turns
from mixbench.bench.speed.course import Course
from mixbench.bench.speed.limit import bare
from mixbench.bench.speed.memory import LiveBytes, peak
from mixbench.bench.speed.peers import PEERS, Examples, Peer, contender, loaded, peers_of, view
from mixbench.bench.speed.phases import PHASES, shares
from mixbench.bench.speed.report import Line, Speeds
from mixbench.bench.speed.subjects import Subject, subject
from mixbench.bench.speed.turns import Feed, Track, race
from mixbench.bench.stepping import Plain
from mixbench.methods import Net

SETTING = "digits/small,batch=16"
CPU = torch.device("cpu")
ALL_PEERS = [peer for some in PEERS.values() for peer in some]
each_peer = pytest.mark.parametrize("peer", ALL_PEERS, ids=[peer.name for peer in ALL_PEERS])


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(setting(SETTING), Lab(Store(Path())), seed=0)


# Phases


class Clock:
    """Seconds of the wall, and of this thread, that go by when something is said to take them."""

    def __init__(self) -> None:
        self.wall = self.thread = 0.0

    def works(self, seconds: float) -> None:
        self.wall += seconds
        self.thread += seconds

    def idles(self, seconds: float) -> None:
        self.wall += seconds

    def perf_counter(self) -> float:
        return self.wall

    def thread_time(self) -> float:
        return self.thread


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(phases, "time", clock := Clock())
    return clock


class Takes(torch.autograd.Function):
    """The identity, which takes its time, forward and backward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, clock: Clock, seconds: float, back: float) -> Tensor:
        ctx.clock, ctx.back = clock, back
        clock.works(seconds)
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.clock.works(ctx.back)
        return gradients[0], None, None, None


class Stage(nn.Linear):
    """A stage that takes one second forward and two backward."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(CLASSES, CLASSES)
        self.clock = clock

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = Takes.apply(super().forward(z), self.clock, 1.0, 2.0)
        return out


class Slow(torch.optim.SGD):
    clock: Clock

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        self.clock.works(5.0)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self.clock.works(0.5)


def slow_net(clock: Clock) -> Net:
    return Net(pixels=nn.Identity(), layer1=Stage(clock), layer2=Stage(clock), head=Stage(clock))


Loss = Callable[[Tensor, Tensor], Tensor]


class Told(nn.Module):
    """An objective whose loss is told."""

    def __init__(self, net: Net, guide: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.net, self.guide, self.told = net, guide, loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.told(x, y)


def slow(clock: Clock, net: Net, loss: Loss, guide: nn.Module | None = None) -> Subject:
    told = Told(net, guide or nn.Identity(), loss)
    updates = Slow(told.parameters(), lr=0.1)
    updates.clock = clock
    return Subject("slow", told, updates, Plain(told, updates))


def fed(clock: Clock, works: float = 0.0, idles: float = 0.0) -> Feed:
    """Batches that take so long to make."""

    def epoch(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(3):
            clock.works(works)
            clock.idles(idles)
            yield torch.rand(4, CLASSES), torch.eye(CLASSES)[:4]

    return Feed(epoch)


def seconds(taken: Mapping[str, float], total: float) -> dict[str, float]:
    return {phase: round(total * share, 9) for phase, share in taken.items()}


def test_each_phase_gets_the_time_that_is_spent_in_it(clock: Clock) -> None:
    net = slow_net(clock)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        clock.works(7.0)
        below, above = net.split("layer1")
        z: Tensor = Takes.apply(below(x), clock, 11.0, 13.0)
        return cast(Tensor, Takes.apply(net.criterion(above(z), y), clock, 17.0, 19.0))

    found = shares(slow(clock, net, loss), fed(clock, works=3.0), 4, CPU)
    assert tuple(found) == PHASES
    assert seconds(found, 3 + 67 + 9 + 5.5) == {
        "data": 3.0,
        "mixing": 7.0 + 11 + 13 + 17 + 19,
        "network": 3 * (1.0 + 2.0),
        "optimizer": 5.5,
        "wait": 0.0,
    }


def test_further_passes_are_the_networks_and_what_follows_them_is_not(clock: Clock) -> None:
    net = slow_net(clock)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        below, above = net.split("pixels")
        z = below(x).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(net.criterion(above(z), y), z)
        clock.works(23.0)  # to solve something
        return net.criterion(net(x + gradient), y)

    found = shares(slow(clock, net, loss), fed(clock), 2, CPU)
    assert seconds(found, 18 + 23 + 5.5) == {
        "data": 0.0,
        "mixing": 23.0,
        "network": 2 * 3 * (1.0 + 2.0),
        "optimizer": 5.5,
        "wait": 0.0,
    }


def test_a_network_that_is_asked_without_gradients_counts_as_one(clock: Clock) -> None:
    net, guide = slow_net(clock), slow_net(clock)

    @torch.no_grad()
    def guessed(x: Tensor) -> Tensor:
        return cast(Tensor, guide(x)).softmax(1)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        target = guessed(x)
        clock.works(2.0)
        return net.criterion(net(x), target)

    found = seconds(shares(slow(clock, net, loss, guide), fed(clock), 2, CPU), 12 + 2 + 5.5)
    assert (found["network"], found["mixing"]) == (3 + 9, 2.0)


class Reader:
    """Stands for a process that reads."""

    ident = 4321

    def is_alive(self) -> bool:
        return True


def test_idling_is_waiting_only_where_others_read(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "kill", lambda pid, signal: None)
    net, waits = slow_net(clock), []
    for readers in (set(), {Reader()}):
        feed = fed(clock, works=2.0, idles=4.0)
        feed.readers = cast(Any, readers)
        found = shares(slow(clock, net, lambda x, y: net.criterion(net(x), y)), feed, 3, CPU)
        total = 6 + 9 + 5.5
        waits.append((seconds(found, total)["data"], seconds(found, total)["wait"]))
    assert waits == [(6.0, 0.0), (2.0, 4.0)]


def test_a_network_that_was_watched_is_watched_no_more(clock: Clock) -> None:
    net = slow_net(clock)
    shares(slow(clock, net, lambda x, y: net.criterion(net(x), y)), fed(clock), 1, CPU)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("name", ["puzzlemix", "densemultimix", "supermix,steps=1", "comixup"])
def test_watched_steps_train_as_others_do(name: str, data: Data) -> None:
    def trained(watched: bool) -> list[Tensor]:
        chosen, feed = subject(name, setting(SETTING), data, CPU), Feed(data.epoch)
        torch.manual_seed(1)
        if watched:
            assert sum(shares(chosen, feed, 3, CPU).values()) == pytest.approx(1)
        else:
            for x, y in islice(feed, 3):
                chosen.step(x, y)
        return [p.detach() for p in chosen.objective.parameters()]

    for ours, theirs in zip(trained(True), trained(False), strict=True):
        assert ours.equal(theirs)


# Memory


def test_live_bytes_are_those_of_all_tensors_at_once() -> None:
    x = torch.zeros(1000)
    with LiveBytes([x, x.view(10, 100)]) as live:
        y = x + 1
        z = y * y
        del y
        w = z.view(-1)[:10]
        del z
        one = x + 2
    assert live.peak == 3 * 4000
    del w, one
    assert live.now == 4000


def test_the_peak_of_a_step_is_known_for_a_linear_map() -> None:
    net = nn.Linear(512, 512, bias=False)

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return cast(Tensor, self.net(x)).mean()

    objective = Mean()
    updates = torch.optim.SGD(objective.parameters(), lr=0.1, momentum=0.9)
    step = Plain(objective, updates)
    x, weights = torch.rand(1, 512), 4 * 512**2
    step(x, x)
    most = peak(Subject("linear", objective, updates, step), [(x, x)])
    assert 3 * weights < most < 3.1 * weights  # weights, gradients, momentum


# Turns


class Noted(Subject):
    """Notes which batch of which epoch it is given."""

    def __init__(self, name: str, notes: list[tuple[str, float]]) -> None:
        net = tiny()
        super().__init__(
            name, net, torch.optim.SGD(net.parameters(), lr=0.1), lambda x, y: self.note(x)
        )
        self.notes = notes

    def note(self, x: Tensor) -> Tensor:
        self.notes.append((self.name, x.item()))
        return x


def numbered(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Two batches, the numbers 2 epoch and 2 epoch + 1."""
    yield from ((torch.tensor(2 * epoch + i), torch.tensor(0)) for i in range(2))


def test_all_take_their_turns_in_order_on_the_same_batches() -> None:
    notes: list[tuple[str, float]] = []
    tracks = [Track(Noted(name, notes), Feed(numbered)) for name in "ab"]
    race(tracks, rounds=2, warmup=1, steps=1, device=CPU)
    assert notes == [(name, i) for i in range(3) for name in "ab" for _ in ("loop", "alone")]


def test_turns_of_several_steps_repeat_the_last_batch() -> None:
    notes: list[tuple[str, float]] = []
    race([Track(Noted("a", notes), Feed(numbered))], rounds=1, warmup=0, steps=3, device=CPU)
    assert [number for _, number in notes] == [0, 1, 2, 2, 2, 2]


def test_seconds_are_per_step_and_without_those_of_warming_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = count(10.0, 10.0)

    class Measured:
        def __init__(self, device: torch.device) -> None:
            self.seconds = 0.0

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self.seconds = next(taken)

    monkeypatch.setattr(turns, "measured", Measured)
    track = Track(Noted("a", []), Feed(numbered))
    race([track], rounds=2, warmup=1, steps=5, device=CPU)
    assert (track.loop, track.alone) == ([6.0, 10.0], [8.0, 12.0])


def test_of_batches_that_are_made_at_once_the_mean_is_added() -> None:
    notes: list[tuple[str, float]] = []
    track = Track(Noted("a", notes), Feed(numbered), making=0.5)
    race([track], rounds=2, warmup=1, steps=3, device=CPU)
    assert track.loop == [alone + 0.5 for alone in track.alone]
    assert [number for _, number in notes] == [0] * 4 + [1] * 4 + [2] * 4


def state_of(pid: int | None) -> str:
    """As Linux has it: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells")
def test_those_who_read_rest_between_turns_and_end_at_the_end() -> None:
    before = {*active_children()}
    eight: Any = range(8)
    loader = DataLoader[Tensor](eight, num_workers=1, persistent_workers=True)
    feed = Feed(lambda epoch, read=loader: ((x, x) for x in read))  # type: ignore[misc]
    with feed.awake():
        seen = [int(x) for x, _ in islice(feed, 3)]
    (reader,) = {*active_children()} - before
    assert feed.readers == {reader}
    states = (state_of(reader.pid) for _ in iter(lambda: time.sleep(0.01), 0))
    assert any(state == "T" for state in islice(states, 500))
    with feed.awake():
        seen += [int(x) for x, _ in islice(feed, 7)]
    assert seen == [*range(8), 0, 1]
    feed.close()
    del loader, feed
    reader.join(10)
    assert reader not in active_children()


# The limit


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Let modules be compiled by a backend that is at hand at once."""
    compile = nn.Module.compile

    def by(backend: Any) -> None:
        monkeypatch.setattr(
            nn.Module, "compile", lambda self, **how: compile(self, backend=backend, **how)
        )

    return by


def test_the_limit_has_the_loss_of_the_baseline(
    data: Data, compiles: Callable[[Any], None]
) -> None:
    compiles("eager")
    where, (x, y) = setting(SETTING), next(iter(data.epoch(0)))
    expected = subject("baseline", where, data, CPU).take(x, y)
    for compiled in (False, True):
        limit = bare(where, data, CPU, compiled, eager=False)
        assert limit.take(x, y).item() == pytest.approx(expected.item(), abs=1e-6)
        assert limit.take(x, y) < expected


def test_both_limits_run_where_there_is_a_compiler(
    data: Data, lab: Lab, compiles: Callable[[Any], None]
) -> None:
    compiles("eager")
    with ExitStack() as ending:
        tracks, problem = Course(setting(SETTING), data, lab, ending).limits()
    assert [track.subject.name for track in tracks] == ["plain", "compiled"]
    assert not problem


def test_without_a_compiler_the_limit_is_plain_and_says_why(
    data: Data, lab: Lab, compiles: Callable[[Any], None]
) -> None:
    def none(*_: object) -> None:
        raise OSError("no C++ compiler\nhere")

    compiles(none)
    with ExitStack() as ending:
        tracks, problem = Course(setting(SETTING), data, lab, ending).limits()
    assert [track.subject.name for track in tracks] == ["plain"]
    assert "no C++ compiler" in problem and "\n" not in problem


# Peers


def test_peers_are_those_of_a_package() -> None:
    assert [peer.name for peer in peers_of("torchvision")] == [
        "torchvision MixUp",
        "torchvision CutMix",
    ]
    assert [peer.name for peer in peers_of("timm")] == ["timm Mixup"]


def test_an_unknown_peer_is_refused() -> None:
    with pytest.raises(BadInput, match=r"^no peer 'tim'; did you mean timm\?$"):
        peers_of("tim")


def test_a_peer_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"^there is no timm here: pip install timm$"):
        peers_of("timm")


@each_peer
def test_streams_have_no_peers(peer: Peer) -> None:
    why = peer.refusal(setting(SETTING).recipe, cast(Data, SimpleNamespace()))
    assert why == "it needs images that are held in memory"


def test_only_timm_needs_even_batches(data: Data) -> None:
    recipe = replace(setting(SETTING).recipe, batch=15)
    reasons = [peer.refusal(recipe, data) for peer in ALL_PEERS]
    assert reasons == ["it needs batches of an even size, unlike 15", "", ""]
    assert not any(peer.refusal(replace(recipe, batch=16), data) for peer in ALL_PEERS)


@each_peer
def test_peers_give_distributions_over_classes(peer: Peer) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    x, _ = batch(6)
    mixed, targets = peer.mix(CLASSES)(x.detach().clone(), torch.arange(6) % CLASSES)
    assert mixed.shape == x.shape and targets.shape == (6, CLASSES)
    assert targets.sum(1).tolist() == pytest.approx([1.0] * 6)
    assert not mixed.equal(x)
    assert ((targets > 0.01) & (targets < 0.99)).any()


@pytest.fixture(scope="module")
def separable() -> Data:
    """Dark images of one class, and bright ones of the other."""
    torch.manual_seed(0)
    y = torch.arange(64) % 2
    x = (200 * y.view(-1, 1, 1, 1) + torch.randint(0, 50, (64, 3, 8, 8))).to(torch.uint8)
    images = Images(x, y)
    return Held(Dataset(images, images, 2), batch=16, crop=0, flip=False, seed=0)


@each_peer
def test_peers_learn(peer: Peer, separable: Data, lab: Lab) -> None:
    np.random.seed(0)
    where = setting("digits/small,batch=16,crop=0,lr=0.05")
    learner, feed = contender(peer, where, separable, CPU), Feed(loaded(where, separable, lab))
    net, (x, y) = learner.objective.get_submodule("net"), next(iter(feed))
    before = nn.functional.cross_entropy(net(x), y)
    for images, labels in islice(feed, 40):
        learner.step(images, labels)
    assert nn.functional.cross_entropy(net(x), y) < before / 2
    assert not any(p.is_contiguous(memory_format=torch.channels_last) for p in wide(learner))


def wide(learner: Subject) -> list[Tensor]:
    """Weights of which it can be told how they lie in memory."""
    return [p for p in learner.objective.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]


@pytest.mark.parametrize("name", [SETTING, "digits/small,flip=True,crop=0"])
def test_peers_see_what_our_networks_see(name: str, data: Data) -> None:
    where = setting(name)
    recipe = replace(where.recipe, crop=0, flip=False)
    train = cast(Images, data.dataset.train)
    examples = Examples(train, view(recipe, data.dataset, data.size))
    x = (train.x[:5] / 255).expand(-1, 3, -1, -1)
    mean, std = (
        torch.tensor(each).view(-1, 1, 1) for each in (data.dataset.mean, data.dataset.std)
    )
    seen, labels = zip(*(examples[i] for i in range(5)), strict=True)
    assert len(examples) == len(train)
    assert [*labels] == train.y[:5].tolist()
    torch.testing.assert_close(torch.stack(seen), (x - mean) / std)


def test_peers_crop_and_flip_as_the_recipe_says(data: Data) -> None:
    def steps(**changes: Any) -> list[str]:
        recipe = replace(setting(SETTING).recipe, **changes)
        seen = cast(Any, view(recipe, data.dataset, data.size))
        return [type(step).__name__ for step in seen.transforms]

    common = ["ToImage", "ToDtype", "Normalize"]
    assert steps(crop=2, flip=True) == ["RandomCrop", "RandomHorizontalFlip", *common]
    assert steps(crop=0, flip=False) == common


def test_an_epoch_of_a_peer_is_of_full_batches(data: Data, lab: Lab) -> None:
    epoch = [*loaded(setting(SETTING), data, lab)(0)]
    assert len(epoch) == data.steps
    assert {x.shape for x, _ in epoch} == {(16, 3, 8, 8)}


# The report


def line(name: str, loop: float, alone: float, ours: str = "", passes: str = "") -> Line:
    parts = dict(zip(PHASES, (0.1, 0.2, 0.3, 0.4, 0.0), strict=True))
    return Line(name, [loop, 3 * loop], [alone, 3 * alone], 3 * 2**20, parts, passes, ours)


def speeds(limits: Mapping[str, list[float]], problem: str = "", **refusals: str) -> Speeds:
    lines = [
        line("baseline", 0.02, 0.01),
        line("mixup,alpha=0.2", 0.04, 0.02, passes="one | more"),
        line("timm Mixup", 0.08, 0.01, ours="mixup,alpha=0.2"),
    ]
    return Speeds(SETTING, 16, lines, limits, problem, {"device": "a <b>", "threads": 1}, refusals)


LIMITS = {"plain": [0.01, 0.02], "compiled": [0.02, 0.06]}


def cells(text: str) -> list[list[str]]:
    """Those of all grids, without the rules."""
    found = [
        re.split(r" +\| +", line.strip("| ")) for line in text.splitlines() if line.startswith("| ")
    ]
    return [[cell.strip() for cell in row] for row in found if not row[0].startswith("---")]


def test_the_grids_hold_rates_ratios_and_shares() -> None:
    heads, *rows = cells(speeds(LIMITS).markdown())
    assert heads[:4] == ["method", "images/s", "of baseline", "of limit"]
    assert heads[-1] == "of ours"
    base = ["400", "1.000", "0.417", *["20.00", "1.000"] * 2, "3", "1.00", "-"]
    assert rows[0] == ["baseline", *base]
    assert rows[1][:8] == ["mixup,alpha=0.2", "200", "0.500", "0.208", *["40.00", "2.000"] * 2]
    assert rows[2][2] == "0.250" and rows[2][-1] == "0.500 (mixup,alpha=0.2)"
    limit = ["1067", "2.500", "1.000", "15.00", "0.833", "15.00", "0.750", *"---"]
    assert rows[3] == ["limit", *limit]
    assert rows[4] == ["method", *PHASES, "beyond one forward + backward"]
    shares = ["10.0 %", "20.0 %", "30.0 %", "40.0 %", "0.0 %"]
    assert rows[6] == ["mixup,alpha=0.2", *shares, r"one \| more"]


def test_without_peers_there_is_no_column_for_them() -> None:
    found = speeds(LIMITS)
    heads, *rows = cells(replace(found, lines=found.lines[:2]).markdown())
    assert "of ours" not in heads
    assert len(rows[0]) == len(rows[2]) == len(heads)


@pytest.mark.parametrize(
    ("limits", "problem", "told"),
    [
        (LIMITS, "", "not compiled, since compiled it takes 2.500 times as long."),
        (
            {"plain": [0.02, 0.02], "compiled": [0.01, 0.01]},
            "",
            "compiled, which takes 0.500 times as long as not compiled.",
        ),
        ({"plain": [0.02, 0.02]}, "no `cl` <here>", "not compiled (no 'cl' &lt;here>)."),
    ],
)
def test_the_caption_says_which_limit_it_is(
    limits: Mapping[str, list[float]], problem: str, told: str
) -> None:
    found = speeds(limits, problem)
    assert f"one batch that is there, {told}" in found.markdown()
    assert found.limit == min(limits.values())


def test_the_caption_names_what_numbers_depend_on_and_what_is_not_there() -> None:
    caption = speeds(LIMITS, transmix="it needs *attention*").markdown().splitlines()[-1]
    assert caption.startswith(
        f"Setting: `{SETTING}`. device: a &lt;b>, threads: 1. All take turns."
    )
    assert caption.endswith("Not applicable: `transmix`, it needs \\*attention\\*.")


def test_csv_can_be_read_again() -> None:
    table = pd.read_csv(io.StringIO(speeds(LIMITS).csv()), keep_default_na=False)
    assert [*table.columns] == ["setting", "method", "quantity", "value"]
    assert {*table.setting} == {SETTING}
    of = table.set_index(["method", "quantity"]).value
    assert of["", "device"] == "a <b>"
    assert float(of["baseline", "images_per_second"]) == pytest.approx(400)
    assert float(of["baseline", "images_per_second_of_limit"]) == pytest.approx(5 / 12)
    assert float(of["limit, compiled", "step_median_seconds"]) == pytest.approx(0.04)
    assert float(of["timm Mixup", "images_per_second_of_ours"]) == pytest.approx(0.5)
    assert float(of["mixup,alpha=0.2", "step_mean_of_baseline"]) == pytest.approx(2)
    assert sum(float(of["baseline", f"share_{phase}"]) for phase in PHASES) == pytest.approx(1)
    assert not table.duplicated(["method", "quantity"]).any()
    assert ("baseline", "images_per_second_of_ours") not in of.index


# All of it


def test_methods_and_peers_are_timed_in_one_run(lab: Lab) -> None:
    before, state = {*active_children()}, torch.get_rng_state()
    lab = replace(lab, eager=True, workers=1)
    found = speed(SETTING, ["multimix", "transmix"], lab, 2, 1, ["timm", "torchvision", "timm"])
    ours = ["baseline", "multimix", "mixup", "cutmix"]
    assert [each.name for each in found.lines] == ours + [peer.name for peer in ALL_PEERS]
    assert [each.ours for each in found.lines[4:]] == ["mixup", "mixup", "cutmix"]
    assert all(len(each.loop) == len(each.alone) == 2 for each in found.lines)
    assert all(sum(each.shares.values()) == pytest.approx(1) for each in found.lines)
    assert found.lines[0].shares["wait"] == 0
    assert [*found.limits] == ["plain"]
    assert [*found.refusals] == ["transmix"]
    assert {"device", "threads", "workers", "torch", "turns"} <= {*found.where}
    assert {*active_children()} <= before
    assert torch.get_rng_state().equal(state)


def test_streamed_images_are_timed_without_peers(lab: Lab, tmp_path: Path) -> None:
    for where in (tmp_path / split / name for split in ("train", "val") for name in "ab"):
        where.mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (9, 9)).save(where / f"{i}.png")
    name = f"folder:{tmp_path}/small,batch=4,size=8,precision=float32"
    found = speed(name, [], replace(lab, eager=True, workers=1), 3, 1, ["torchvision"])
    assert [each.name for each in found.lines] == ["baseline", "mixup", "cutmix"]
    assert {*found.refusals.values()} == {"it needs images that are held in memory"}


def mixbench(*arguments: str) -> int:
    """The exit code of a command line."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["mixbench", *arguments])
        main()
    return int(end.value.code or 0)


def test_the_command_prints_grids_and_writes_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"speed {SETTING} puzzlemix supermix,steps=1 --steps 2 --warmup 1 --device cpu"
    out = tmp_path / "deep" / "now.csv"
    assert mixbench(*arguments.split(), "--eager", "--out", str(out)) == 0
    printed = capsys.readouterr().out
    names = [row[0] for row in cells(printed)]
    rows = ["baseline", "puzzlemix", "supermix,steps=1"]
    assert names == ["method", *rows, "limit", "method", *rows]
    assert "turns: 2" in printed and "not compiled (nothing is compiled)" in printed
    assert {*pd.read_csv(out).method.dropna()} == {*rows, "limit, plain"}


def test_an_unknown_peer_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert mixbench("speed", SETTING, "--against", "openmixup", "--device", "cpu") == 2
    printed = capsys.readouterr()
    assert printed.err == "mixbench: no peer 'openmixup'; there are: timm, torchvision\n"
    assert not printed.out
