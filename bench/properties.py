"""What methods do to a mini-batch, as in MultiMix's Table 1, measured on the methods themselves.

Venkataramanan et al., NeurIPS 2023, arXiv 2311.05538.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import cache, partial
from itertools import takewhile
from math import prod
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.bench import nets
from mixbench.bench.formats.markdown import grid
from mixbench.bench.lab import reproducible
from mixbench.bench.spec import BadInput, one_line, parse
from mixbench.methods import Method, Net, Objective
from mixbench.tasks import Watching
from mixbench.tasks.cost import CRITERIA
from mixbench.tasks.intrusion import present

PROPERTIES = {
    "space": "space",
    "loss_terms": "loss terms",
    "max_examples_mixed": "most examples mixed",
    "interpolation_factors": "interpolation factors",
    "distribution": "distribution",
}
"""By the names under which they are published: their headings."""

LEGEND = (
    "Measured on batches of b images, whose last maps have r positions; n, k and the like are "
    "parameters of the method. Examples and factors are those of targets; factors that are the "
    "same up to the order of examples count once. Of a method that mixes some batches deeper in "
    "the network than others, only these count. ≤ where it differs between batches."
)

PUBLISHED_NAMES = {
    "Input mixup": "mixup",
    "Manifold mixup": "manifold",
    "zeta-Mixup": "zetamixup",
    "SuperMix": "supermix",
    "MultiMix": "multimix",
    "Dense MultiMix": "densemultimix",
}
"""Of the methods in the published table: their spellings here."""

SUPERMIX = "it trains on b images beside b mixtures, under the teacher's one label of each"
KNOWN = {
    ("zetamixup", "max_examples_mixed"): "all weights of a batch are positive, most of them tiny",
    ("supermix", "loss_terms"): SUPERMIX,
    ("supermix", "max_examples_mixed"): SUPERMIX,
    ("supermix", "interpolation_factors"): SUPERMIX,
    ("supermix", "distribution"): "of two images, which is its default, Dirichlet's is Beta's",
}
"""Why what is measured is not what was published."""

UNTOLD = "-"
PLAIN, INPUT, EMBEDDING = range(3)
SPACES = (UNTOLD, "input", "embedding")
COUNTS = ("loss_terms", "max_examples_mixed", "interpolation_factors")

NETWORKS = ("small", "smallvit")
BATCH, SIDE = 6, 8
DRAWS = 12
CONFIDENT = 10.0
TINY = 1e-5
LOGITS = ""

SHUFFLE = "RandPerm"
DISTRIBUTIONS: Mapping[Callable[..., Any], str] = {
    torch.randperm: SHUFFLE,
    torch.argsort: SHUFFLE,
    Tensor.argsort: SHUFFLE,
    torch._standard_gamma: "Gamma",
    torch.normal: "Gaussian",
    torch.randn: "Gaussian",
    torch.randn_like: "Gaussian",
    Tensor.normal_: "Gaussian",
}
"""Besides those of Dirichlet, of which that of two examples is Beta."""


@dataclass(frozen=True)
class Published:
    """A published property. doubt: why it may be wrong."""

    value: str
    doubt: str = ""


def properties(methods: Sequence[str]) -> pd.DataFrame:
    """A row for each method: its spelling, ``PROPERTIES``, and why they can't be measured, or ''.

    Raises BadInput if a method is not known.
    """
    parsed = {text: parse(text, "mixbench.methods", Method) for text in methods}
    rows = [{"method": text, **_measured(method)} for text, method in parsed.items()]
    return pd.DataFrame(rows, columns=["method", *PROPERTIES, "why"])


def markdown(
    methods: Sequence[str], published: Mapping[tuple[str, str], Published] | None = None
) -> str:
    """The properties as a table, and beside those that were published otherwise, what and why.

    published: by the spelling of a method and the name of a property.
    """
    table, published = properties(methods), published or {}
    differing = {
        (method, name): published[method, name]
        for method, name, value in _cells(table)
        if (method, name) in published and published[method, name].value != value.replace(" ", "")
    }
    rows = [
        [
            row["method"],
            *(_beside(row[name], differing.get((row["method"], name))) for name in PROPERTIES),
        ]
        for row in table.to_dict("records")
    ]
    notes = [LEGEND, *_notes(table, differing)]
    return grid([["method", *PROPERTIES.values()], *rows]) + f"\n{' '.join(notes)}\n"


def read_published(path: Path) -> dict[tuple[str, str], Published]:
    """The published table, from its file in ``results/reported``."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return {
        (PUBLISHED_NAMES[name], metric): Published(value, doubt)
        for name, metric, value, doubt in table[["name", "metric", "value", "doubt"]].itertuples(
            index=False
        )
    }


def _cells(table: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Method, property and value of all that was measured."""
    measured = table[table.why == ""].melt(["method"], [*PROPERTIES])
    yield from measured.itertuples(index=False)


def _beside(value: str, other: Published | None) -> str:
    return f"{value} (published: {other.value})" if other else value


def _notes(table: pd.DataFrame, differing: Mapping[tuple[str, str], Published]) -> Iterator[str]:
    for method, why in table.loc[table.why != "", ["method", "why"]].itertuples(index=False):
        yield f"Not measured: `{method}`, {why}."
    explained: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (method, name), other in differing.items():
        if why := "; ".join(filter(None, (KNOWN.get((method, name)), other.doubt))):
            explained[method, why].append(PROPERTIES[name])
    for (method, why), named in explained.items():
        yield f"`{method}`, {', '.join(named)}: {why}."


def _measured(method: Method) -> dict[str, str]:
    try:
        return {**_described(method), "why": ""}
    except Exception as error:  # whatever a method of the user's own may raise
        why = one_line(BadInput(error) if isinstance(error, ValueError) else error)
        return {**dict.fromkeys(PROPERTIES, "n/a"), "why": why}


@cache
def _described(method: Method) -> Mapping[str, str]:
    """The properties, numbers in symbols. Raises ValueError if they can't be measured."""
    seen, positions = _deepest(method)
    grown = {
        "b": _Growth(BATCH, BATCH + 2, _deepest(method, b=BATCH + 2)[0]),
        "r": _Growth(positions, 4 * positions, _deepest(method, side=2 * SIDE)[0]),
    }
    drawn = {name for each in seen for name in each.distributions}
    return {
        "space": SPACES[seen[0].space],
        **{name: _symbol(method, name, seen, grown) for name in COUNTS},
        "distribution": ", ".join(sorted(drawn)) or UNTOLD,
    }


@dataclass(frozen=True)
class Seen:
    """What a batch showed: where it was mixed, the properties that are numbers, what was drawn."""

    space: int
    counts: Mapping[str, int]
    distributions: frozenset[str]

    @property
    def depth(self) -> tuple[int, bool]:
        return self.space, self.counts["max_examples_mixed"] > 1


@dataclass(frozen=True)
class _Growth:
    """What batches showed after a size that was ``before`` became ``after``."""

    before: int
    after: int
    seen: Sequence[Seen]

    def scales(self, name: str, before: int) -> bool:
        """Whether a count that was ``before`` grew in proportion."""
        return _most(self.seen, name) * self.before == before * self.after


def _most(seen: Sequence[Seen], name: str) -> int:
    return max(each.counts[name] for each in seen)


def _symbol(method: Method, name: str, seen: Sequence[Seen], grown: Mapping[str, _Growth]) -> str:
    """A count as a product of a number, parameters of the method, b and r."""
    most, least = _most(seen, name), min(each.counts[name] for each in seen)
    if most < 2:
        return str(most) if most else UNTOLD
    if least < most <= BATCH:
        return "≤ b"
    symbols = [symbol for symbol, growth in grown.items() if growth.scales(name, most)]
    rest = Fraction(most, prod(grown[symbol].before for symbol in symbols))
    for field, value in _integers(method):
        if rest % value == 0 and _scales(method, field, value, name, most):
            symbols, rest = [field, *symbols], rest / value
    text = " ".join([str(rest), *symbols] if rest != 1 or not symbols else symbols)
    return f"≤ {text}" if least < most else text


def _integers(method: Method) -> Iterator[tuple[str, int]]:
    """The parameters that are whole numbers above one."""
    for field in fields(method):
        value = getattr(method, field.name)
        if type(value) is int and value > 1:
            yield field.name, value


def _scales(method: Method, field: str, value: int, name: str, most: int) -> bool:
    """Whether a count is proportional to a parameter."""
    try:
        more = replace(method, **{field: value + 1})
    except ValueError:  # it may have to be even, for example
        return False
    return _Growth(value, value + 1, _deepest(more)[0]).scales(name, most)


def _deepest(method: Method, b: int = BATCH, side: int = SIDE) -> tuple[list[Seen], int]:
    """What those of some batches showed that were mixed deepest, and the positions of last maps."""
    with reproducible(0, torch.device("cpu")):
        net, x = _home(method, b, side), torch.rand(b, 3, side, side)
        teacher = _expert(net, x) if method.teacher else None
        objective = method.objective(net, teacher).eval()
        observer = Observer(net, x)
        seen = [observer.of(objective, x) for _ in range(DRAWS)]
    depth = max(each.depth for each in seen)
    return [each for each in seen if each.depth == depth], observer.positions


def _home(method: Method, classes: int, side: int) -> Net:
    """A small network that the method can be applied to, in eval mode. Raises ValueError."""
    refusals = []
    for name in NETWORKS:
        net = nets.build(name, classes, side, (0.5,) * 3, (0.25,) * 3).eval()
        try:
            method.check(net)
            return net
        except ValueError as error:
            refusals.append(error)
    raise refusals[0]


def _expert(net: Net, x: Tensor) -> Net:
    """A copy of the network that takes each of the images (b, 3, h, w) for a class of its own."""
    expert = deepcopy(net)
    with torch.no_grad():
        z = net.split("pool")[0](x)
        expert.head = nn.Linear(z.shape[1], len(x))
        expert.head.weight.copy_(CONFIDENT * torch.linalg.pinv(z).T)
        expert.head.bias.zero_()
    return expert.eval()


class Observer(Watching):
    """Sees what the stages of a network, and ``CRITERIA``, are given instead of a batch (b, ...).

    Targets should be the unit matrix (b, b), so that those of mixtures are weights of examples.
    """

    def __init__(self, net: Net, x: Tensor) -> None:
        super().__init__()
        self.net = net
        self.plain = dict(_through(net, x))
        self.spaces: set[int] = set()
        self.targets: list[Tensor] = []
        self.drawn: set[str] = set()
        for name, stage in net.named_children():
            stage.register_forward_pre_hook(partial(self._entering, name))

    @property
    def positions(self) -> int:
        """Of the last maps, (b, d, h, w) or (b, 1 + n, d)."""
        z = self.plain["pool"]
        return prod(z.shape[2:]) if z.ndim == 4 else z.shape[1] - 1

    def of(self, objective: Objective, x: Tensor) -> Seen:
        """What the objective makes of the batch. Raises BadInput if nothing is compared."""
        for notes in (self.spaces, self.targets, self.drawn):
            notes.clear()
        with self:
            objective(x, torch.eye(len(x)))
        if not self.targets:
            raise BadInput("it is not seen to compare a prediction with a target")
        return Seen(min(self.spaces, default=PLAIN), _counts(torch.cat(self.targets)), self.names)

    @property
    def names(self) -> frozenset[str]:
        """Of what was drawn; a permutation says nothing where there is a distribution."""
        named = self.drawn - {SHUFFLE} or self.drawn
        return frozenset(named) if self.spaces else frozenset()

    def _entering(self, name: str, stage: nn.Module, args: tuple[Tensor]) -> None:
        self.entered(name, args[0])

    def entered(self, name: str, z: Tensor) -> None:
        """Note where ``z`` (n, ...) is that entered a stage, or left the last one as ``LOGITS``."""
        if _among(z.detach(), self.plain[name]):
            return
        before = takewhile(lambda stage: stage[0] != name, self.net.named_children())
        learned = any(list(stage.parameters()) for _, stage in before)
        self.spaces.add(EMBEDDING if learned else INPUT)

    def called(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        if func in CRITERIA:
            self.compared(**{**dict(zip(("input", "target"), args, strict=False)), **kwargs})
        elif func is torch._sample_dirichlet:
            self.drawn.add("Beta" if args[0].shape[-1] == 2 else "Dirichlet")
        elif func in DISTRIBUTIONS:
            self.drawn.add(DISTRIBUTIONS[func])
        return super().called(func, args, kwargs)

    def compared(self, input: Tensor, target: Tensor, **_: Any) -> None:
        """Note predictions (n, c) that are compared with targets (n, c), or labels (n,)."""
        if not target.is_floating_point():
            target = F.one_hot(target, input.shape[1]).to(input)
        self.targets.append(target.detach())
        self.entered(LOGITS, input)


@torch.no_grad()
def _through(net: Net, z: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What enters each stage, and, as ``LOGITS``, what leaves the last."""
    for name, stage in net.named_children():
        yield name, z
        z = stage(z)
    yield LOGITS, z


def _counts(weights: Tensor) -> dict[str, int]:
    """Of targets (n, b), which are weights of examples."""
    mixed = present(weights)
    several = mixed.sum(1) > 1
    factors = (weights * mixed)[several].sort(1).values
    distinct = (factors / TINY).round().unique(dim=0)
    return dict(zip(COUNTS, (len(weights), int(mixed.sum(1).max()), len(distinct)), strict=True))


def _among(z: Tensor, plain: Tensor) -> bool:
    """Whether each row of ``z`` is one of ``plain``."""
    if z.shape[1:] != plain.shape[1:]:
        return False
    apart = (z.flatten(1)[:, None] - plain.flatten(1)).abs().amax(2)
    return bool((apart.amin(1) < 1e-4).all())
