"""What can be said of methods after a few seeds: differences over equal seeds, and mean ranks.

What holds with one seed holds of the same batches for all methods, so methods are compared seed by
seed. Values that are not finite count as missing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite, sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mixbench.bench.spec import BadInput, counted

if TYPE_CHECKING:
    import pandas as pd

Values = Mapping[int, float]
"""What a method scored, by seed."""

LEVEL = 0.05
"""How often a claim may be wrong; intervals hold the truth as often as 1 minus this."""
POWER = 0.8
"""How often a difference that is there should be seen."""
BOOTSTRAPPED = 10
"""The fewest seeds whose interval is a bootstrap."""
RESAMPLES = 10_000
MOST_SEEDS = 100
"""More are not thought of."""
ROUNDING = 1e-12
"""Relative to the values, what floating point makes of equal ones."""


@dataclass(frozen=True)
class Paired:
    """How a differs from b over the seeds that both have.

    difference: the mean of a - b; None without seeds. std: of the differences; None below 2 seeds.
    interval: holds the true difference with 95 %, one column taken alone. p: two-sided, of the
    paired t test. Both are None below 2 seeds. Differences that are all the same don't say how they
    would vary: there is no interval, and p is that of the sign test, 2 ** (1 - n).
    """

    seeds: tuple[int, ...]
    difference: float | None = None
    std: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None

    @property
    def n(self) -> int:
        return len(self.seeds)


def paired(a: Values, b: Values) -> Paired:
    """a - b, over the seeds that both have."""
    seeds = tuple(s for s in sorted(a.keys() & b.keys()) if isfinite(a[s]) and isfinite(b[s]))
    differences = [a[seed] - b[seed] for seed in seeds]
    if len(seeds) < 2:
        return Paired(seeds, differences[0] if seeds else None)
    mean, std = fmean(differences), stdev(differences)
    equal = ROUNDING * max(max(abs(a[seed]), abs(b[seed])) for seed in seeds)
    if std <= equal:
        same = mean if abs(mean) > equal else 0.0
        return Paired(seeds, same, 0.0, p=2.0 ** (1 - len(seeds)) if same else 1.0)
    return Paired(seeds, mean, std, _interval(differences), _p(differences))


def _p(differences: Sequence[float]) -> float:
    """Of the paired t test, two-sided."""
    from scipy.special import stdtr

    n = len(differences)
    t = fmean(differences) / (stdev(differences) / sqrt(n))
    return float(2 * stdtr(n - 1, -abs(t)))


def _interval(differences: Sequence[float]) -> tuple[float, float]:
    """Student's below ``BOOTSTRAPPED`` seeds, else the bootstrap's.

    A bootstrapped mean never leaves the range of what it is drawn from, and that holds the truth
    with a probability of 1 - 2 ** (1 - n) only: 75 % of the times with 3 seeds. Student's interval
    is exact for normal differences with any number of seeds.
    """
    few = len(differences) < BOOTSTRAPPED
    return _student(differences) if few else _bootstrap(differences)


def _student(differences: Sequence[float]) -> tuple[float, float]:
    from scipy.special import stdtrit

    n, mean = len(differences), fmean(differences)
    half = float(stdtrit(n - 1, 1 - LEVEL / 2)) * stdev(differences) / sqrt(n)
    return mean - half, mean + half


def _bootstrap(differences: Sequence[float]) -> tuple[float, float]:
    """The expanded percentile interval (Hesterberg 2015): percentiles alone are too narrow."""
    from scipy.special import ndtr, stdtrit

    n = len(differences)
    tail = float(ndtr(sqrt(n / (n - 1)) * stdtrit(n - 1, LEVEL / 2)))
    means = np.sort(differences)[_resamples(n)].mean(1)
    low, high = np.quantile(means, [tail, 1 - tail]).tolist()
    return low, high


@cache
def _resamples(n: int) -> NDArray[np.int64]:
    """The same draws at all times, each with its mirror image: (RESAMPLES, n) places of n."""
    half = np.random.default_rng(0).integers(n, size=(RESAMPLES // 2, n))
    return np.concatenate([half, n - 1 - half])


def seeds_needed(pairs: Paired, level: float = LEVEL) -> int | None:
    """Over how many seeds a difference of this size would be seen, 4 times of 5, at a level.

    It takes the standard deviation for the true one, so that few seeds give no more than an idea.
    None if there is none, or more would be needed than anybody has.
    """
    from scipy.special import nctdtr, stdtrit

    if not pairs.difference or not pairs.std:
        return None
    n = np.arange(2, MOST_SEEDS + 1)
    shift = abs(pairs.difference) / pairs.std * np.sqrt(n)
    seen = 1 - nctdtr(n - 1, shift, stdtrit(n - 1, 1 - level / 2))
    return int(n[seen >= POWER][0]) if (seen >= POWER).any() else None


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """The p values of tests that are made together, adjusted (Holm 1979); None stays None."""
    tested = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    highest = 0.0
    for before, (p, place) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - before) * p))
        adjusted[place] = highest
    return adjusted


def groups(column: Mapping[str, Values], better: str) -> list[str]:
    """The methods of a column that can't be told apart from the best, which is one of them.

    better: "lower" or "higher"; where it is neither, there is no best. Paired tests against the
    best, at 5 %, corrected by Holm's method: they leave out the truly best method less often, but
    one or the other of many equal ones more often, as the best was chosen by the same numbers. A
    method that has fewer than 2 seeds in common with the best can't be told apart, nor one that is
    ahead of it on those that they have in common.
    """
    means = {method: fmean(found) for method, v in column.items() if (found := _finite(v))}
    if not means or better == "neither":
        return []
    best = (max if better == "higher" else min)(means, key=means.__getitem__)
    rest = [method for method in means if method != best]
    pairs = [paired(column[best], column[method]) for method in rest]
    sign = 1 if better == "higher" else -1
    apart = {
        method
        for method, pair, p in zip(rest, pairs, holm([pair.p for pair in pairs]), strict=True)
        if p is not None and p < LEVEL and sign * (pair.difference or 0) > 0
    }
    return [method for method in means if method not in apart]


def _finite(values: Values) -> list[float]:
    return [value for value in values.values() if isfinite(value)]


@dataclass(frozen=True)
class Ranking:
    """The mean ranks of methods over columns; 1 is the best, and equal methods share theirs.

    ranks: the best first. groups: those methods, at most, that can't be told apart; a method may be
    in several, or in none. p: of Friedman's test that all are alike. difference: Nemenyi's critical
    one between mean ranks. columns: how many were ranked. left_out: those that lack a method.
    """

    ranks: Mapping[str, float]
    groups: tuple[tuple[str, ...], ...]
    p: float
    difference: float
    columns: int
    left_out: int


def ranking(values: "pd.DataFrame", better: Mapping[Any, str]) -> Ranking:
    """Methods (rows) compared over columns by ranks (Demsar 2006), at 5 %.

    better: "lower" or "higher" of each column; others are not looked at. Methods are told apart
    only if Friedman's test finds a difference at all. It takes columns for independent, as those
    of several datasets are; those of one network are less so, and p is then too small. Raises
    BadInput if there are fewer than 3 methods, or 2 columns that have them all.
    """
    sides = {"lower": 1, "higher": -1}
    values = values[[column for column in values.columns if better.get(column) in sides]]
    whole = values[[column for column in values.columns if np.isfinite(values[column]).all()]]
    methods, columns = whole.shape
    if methods < 3 or columns < 2:
        raise BadInput(_too_few(values, columns))
    signed = whole * [sides[better[column]] for column in whole.columns]
    ranks = signed.map(_unrounded).rank()
    mean = ranks.mean(axis=1).sort_values(kind="stable")
    p, difference = _friedman(ranks), critical_difference(methods, columns)
    found = tuple(_cliques(mean, difference)) if p < LEVEL else (tuple(mean.index),)
    left_out = values.shape[1] - columns
    return Ranking(mean.to_dict(), found, p, difference, columns, left_out)


def _too_few(values: "pd.DataFrame", columns: int) -> str:
    """What a ranking lacks, and the method that most numbers are missing of."""
    missing = (~np.isfinite(values)).sum(axis=1)
    said = (
        "a ranking takes at least 3 methods and 2 columns that have numbers of all of them; "
        f"there are {counted(len(values), 'method')} and {counted(columns, 'such column')}"
    )
    if columns > 1 or not missing.any():
        return said
    return f"{said}; {missing.idxmax()} lacks {missing.max()} of {values.shape[1]}"


def _unrounded(value: float) -> float:
    """Equal but for rounding is equal."""
    return float(f"{value:.12g}")


def _friedman(ranks: "pd.DataFrame") -> float:
    """The p value of Friedman's test, corrected for ties; 1 if all is tied."""
    from scipy.stats import friedmanchisquare

    if (ranks.nunique() == 1).all():
        return 1.0
    return float(friedmanchisquare(*ranks.to_numpy()).pvalue)


@cache
def critical_difference(methods: int, columns: int) -> float:
    """By how much mean ranks differ, 1 time of 20, if all methods are alike (Nemenyi 1963)."""
    from scipy.stats import studentized_range

    q = studentized_range.ppf(1 - LEVEL, methods, np.inf) / sqrt(2)
    return float(q * sqrt(methods * (methods + 1) / (6 * columns)))


def _cliques(ranks: "pd.Series[float]", difference: float) -> Iterator[tuple[str, ...]]:
    """Of sorted mean ranks, the longest stretches that are closer than the critical difference."""
    methods, reached = [*ranks.index], 0
    for start in range(len(methods)):
        end = int((ranks - ranks.iloc[start] < difference).sum())
        if end > max(reached, start + 1):
            yield tuple(methods[start:end])
            reached = end
