"""Statistics: against scipy and worked examples, and how often intervals and tests are right."""

from math import inf, isfinite, nan, sqrt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mixbench.bench.spec import BadInput
from mixbench.bench.statistics import (
    BOOTSTRAPPED,
    MOST_SEEDS,
    Paired,
    Values,
    critical_difference,
    groups,
    holm,
    paired,
    ranking,
    seeds_needed,
)

NOTHING = dict.fromkeys(range(100), 0.0)
numbers = st.floats(-1e6, 1e6)
some = st.dictionaries(st.integers(0, 20), numbers)
ps = st.lists(st.none() | st.floats(0, 1))


def seeded(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def normal(n: int, draw: int) -> dict[int, float]:
    return seeded(*np.random.default_rng([n, draw]).normal(size=n).tolist())


def test_a_pair_is_compared_over_the_seeds_that_both_have() -> None:
    a, b = {0: 1.0, 1: 5.0, 3: 2.0, 4: nan}, {1: 2.0, 2: 9.0, 3: 4.0, 4: 1.0}
    found = paired(a, b)
    assert found.seeds == (1, 3) and found.n == 2
    assert found.difference == pytest.approx((3 - 2) / 2)
    assert found.std == pytest.approx(np.std([3, -2], ddof=1))


@pytest.mark.parametrize("n", [2, 3, 5, 9, 10, 30])
def test_p_is_that_of_scipys_paired_t_test(n: int) -> None:
    a, b = normal(n, 0), normal(n, 1)
    expected = stats.ttest_rel([*a.values()], [*b.values()]).pvalue
    assert paired(a, b).p == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, BOOTSTRAPPED - 1])
def test_the_interval_over_few_seeds_is_that_of_scipys_paired_t_test(n: int) -> None:
    a, b = normal(n, 0), normal(n, 1)
    expected = stats.ttest_rel([*a.values()], [*b.values()]).confidence_interval(0.95)
    assert paired(a, b).interval == pytest.approx(tuple(expected))


def test_the_interval_over_more_seeds_is_a_bootstrap_as_wide_as_students_for_normal_values() -> (
    None
):
    values = stats.norm.ppf((np.arange(40) + 0.5) / 40)
    low, high = paired(seeded(*values.tolist()), NOTHING).interval or (nan, nan)
    half = stats.t.ppf(0.975, 39) * values.std(ddof=1) / sqrt(40)
    assert (low, high) == pytest.approx((-half, half), rel=0.05)
    assert (low, high) != pytest.approx((-half, half), rel=1e-6)


def test_a_bootstrap_leans_to_where_the_values_do() -> None:
    values = np.exp(stats.norm.ppf((np.arange(20) + 0.5) / 20))
    found = paired(seeded(*values.tolist()), NOTHING)
    low, high = found.interval or (nan, nan)
    assert high - values.mean() > 1.2 * (values.mean() - low)


@pytest.mark.parametrize("n", [3, 5, BOOTSTRAPPED])
def test_the_interval_holds_the_truth_19_times_of_20(n: int) -> None:
    times = 1000
    intervals = (paired(normal(n, i), NOTHING).interval or (nan, nan) for i in range(times))
    share = sum(low <= 0 <= high for low, high in intervals) / times
    assert share == pytest.approx(0.95, abs=4 * sqrt(0.95 * 0.05 / times))


@given(some, some)
def test_what_is_said_of_a_pair_is_finite_and_consistent(a: Values, b: Values) -> None:
    found = paired(a, b)
    low, high = found.interval or (-inf, inf)
    said = [x for x in (found.difference, found.std, found.p, *(found.interval or ())) if x]
    assert all(map(isfinite, said))
    assert (found.difference is None) == (found.n == 0)
    assert (found.p is None) == (found.std is None) == (found.n < 2)
    if found.difference is not None:
        assert low <= found.difference <= high
    if found.p is not None:
        assert 0 <= found.p <= 1


@given(some, some)
def test_the_order_of_seeds_means_nothing(a: Values, b: Values) -> None:
    assert paired(dict(reversed([*a.items()])), b) == paired(a, b)


@given(st.dictionaries(st.integers(0, 30), st.integers(-1000, 1000), min_size=2))
def test_b_against_a_is_a_against_b_with_the_sign_turned(whole: dict[int, int]) -> None:
    a: Values = {seed: float(value) for seed, value in whole.items()}
    ahead, behind = paired(a, NOTHING), paired(NOTHING, a)
    assert behind.difference == pytest.approx(-(ahead.difference or 0.0))
    assert behind.p == pytest.approx(ahead.p)
    low, high = ahead.interval or (0.0, 0.0)
    assert (behind.interval or (0.0, 0.0)) == pytest.approx((-high, -low), abs=1e-9)


def test_bootstraps_are_the_same_at_all_times() -> None:
    powers = seeded(*(1.5**i for i in range(12)))
    assert paired(powers, NOTHING).interval == pytest.approx(
        (7.164420263263349, 40.077539363725286)
    )


def test_which_seed_has_which_difference_means_nothing_to_a_bootstrap() -> None:
    first, *rest = normal(12, 0).values()
    turned = paired(seeded(*rest, first), NOTHING)
    assert turned.interval == paired(seeded(first, *rest), NOTHING).interval


@pytest.mark.parametrize("by", [0.2, -3.0])
@pytest.mark.parametrize("n", [2, 3, 6])
def test_differences_that_are_all_the_same_are_only_as_sure_as_their_signs(
    n: int, by: float
) -> None:
    b = normal(n, 0)
    a = {seed: value + by for seed, value in b.items()}  # but for rounding
    found = paired(a, b)
    assert found.difference == pytest.approx(by)
    assert (found.std, found.interval, found.p) == (0.0, None, 2 ** (1 - n))
    assert stats.binomtest(n, n).pvalue == pytest.approx(found.p)


def test_methods_that_are_the_same_differ_by_nothing() -> None:
    assert paired(normal(5, 0), normal(5, 0)) == Paired((0, 1, 2, 3, 4), 0.0, 0.0, None, 1.0)


def test_what_is_the_same_but_for_rounding_differs_by_nothing() -> None:
    found = paired(seeded(0.1 + 0.2, 0.1 + 0.2), seeded(0.3, 0.3))
    assert (found.difference, found.p) == (0.0, 1.0)


def test_a_small_difference_of_large_values_is_one() -> None:
    found = paired(seeded(1e6 + 0.001, 1e6 + 0.003, 1e6 + 0.002), seeded(1e6, 1e6, 1e6))
    assert found.difference == pytest.approx(0.002, rel=1e-5) and found.interval


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_what_is_not_finite_is_missing(value: float) -> None:
    assert paired(seeded(value, 2.0), seeded(1.0, 1.0)) == Paired((1,), 1.0)
    assert paired(seeded(value), seeded(1.0)) == Paired(())


def test_the_example_of_holm() -> None:
    """By hand: 3 x 0.01, 2 x 0.02, and what follows is never less."""
    assert holm([0.02, None, 0.01, 0.03]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(ps)
def test_adjusted_p_values_are_no_less_in_the_same_order_and_probabilities(
    given: list[float | None],
) -> None:
    adjusted = holm(given)
    assert [p is None for p in adjusted] == [p is None for p in given]
    pairs = sorted(
        (p, q) for p, q in zip(given, adjusted, strict=True) if p is not None and q is not None
    )
    assert all(p <= q <= 1 for p, q in pairs)
    assert [q for _, q in pairs] == sorted(q for _, q in pairs)


@given(ps)
def test_adjusted_p_values_don_t_depend_on_the_order(given: list[float | None]) -> None:
    assert holm(given[::-1]) == holm(given)[::-1]


@pytest.mark.parametrize(("difference", "std"), [(1.0, 1.0), (-0.5, 1.0), (2.0, 0.5), (0.4, 1.0)])
def test_the_seeds_needed_are_the_fewest_that_reach_the_power(
    difference: float, std: float
) -> None:
    n = seeds_needed(Paired((0, 1), difference, std)) or 0

    def power(n: int) -> float:
        critical = stats.t.ppf(0.975, n - 1)
        found: float = stats.nct.sf(critical, n - 1, abs(difference) / std * sqrt(n))
        return found

    assert power(n) >= 0.8
    assert n == 2 or power(n - 1) < 0.8


def test_a_stricter_level_needs_more_seeds() -> None:
    pairs = Paired((0, 1), 1.0, 1.0)
    assert seeds_needed(pairs) == 10  # of the usual tables of power
    assert (seeds_needed(pairs, 0.001) or 0) > 10


@pytest.mark.parametrize(
    "pairs", [Paired(()), Paired((0,), 1.0), Paired((0, 1), 0.0, 1.0), Paired((0, 1), 1.0, 0.0)]
)
def test_there_may_be_no_telling_how_many_seeds_are_needed(pairs: Paired) -> None:
    assert seeds_needed(pairs) is None


def test_more_seeds_than_anybody_has_are_not_counted() -> None:
    assert (seeds_needed(Paired((0, 1), 0.29, 1.0)) or 0) in range(90, MOST_SEEDS + 1)
    assert seeds_needed(Paired((0, 1), 0.27, 1.0)) is None


COLUMN = {
    "even": seeded(5.0, 5.2, 5.1, 4.9),
    "best": seeded(4.9, 5.1, 5.2, 4.8),
    "worse": seeded(6.9, 7.1, 7.25, 6.8),
    "unsure": seeded(9.0),
    "missing": seeded(),
}


def test_a_group_is_the_best_and_those_that_can_t_be_told_from_it() -> None:
    assert groups(COLUMN, "lower") == ["even", "best", "unsure"]


def test_a_group_is_of_those_that_are_highest_where_that_is_better() -> None:
    column = {method: values for method, values in COLUMN.items() if method != "unsure"}
    assert groups(column, "higher") == ["worse"]


@pytest.mark.parametrize("column", [{}, {"missing": seeded()}, {"bad": seeded(nan)}])
def test_without_numbers_there_is_no_best(column: dict[str, Values]) -> None:
    assert groups(column, "lower") == []


def test_where_neither_is_better_there_is_no_best() -> None:
    assert groups(COLUMN, "neither") == []


def test_tests_against_the_best_are_corrected() -> None:
    """Of three tests with p = 0.03, none is significant; of one, it is."""
    best = seeded(0.0, 0.0, 0.0)
    wanted = stats.t.isf(0.015, 2)
    spread = np.array([-1.0, 0.0, 1.0]) + wanted / sqrt(3)
    other = seeded(*spread.tolist())
    assert paired(other, best).p == pytest.approx(0.03)
    assert groups({"best": best, "other": other}, "lower") == ["best"]
    three = {"best": best, "x": other, "y": other, "z": other}
    assert groups(three, "lower") == ["best", "x", "y", "z"]


@pytest.mark.parametrize("methods", [2, 6])
def test_the_truly_best_is_left_out_less_than_1_time_of_20(methods: int) -> None:
    """Where all are alike, any one is a best."""
    times = 400
    drawn = np.random.default_rng(0).normal(size=(times, methods, 5)).tolist()
    columns = [{str(m): seeded(*row) for m, row in enumerate(draw)} for draw in drawn]
    left_out = sum("0" not in groups(column, "lower") for column in columns)
    assert left_out / times < 0.05 + 2 * sqrt(0.05 * 0.95 / times)
    assert any(len(groups(column, "lower")) < methods for column in columns)


DEMSAR = pd.DataFrame(
    {
        "C4.5": [763, 599, 954, 628, 882, 936, 661, 583, 775, 1000, 940, 619, 972, 957],
        "C4.5+m": [768, 591, 971, 661, 888, 931, 668, 583, 838, 1000, 962, 666, 981, 978],
        "C4.5+cf": [771, 590, 968, 654, 886, 916, 609, 563, 866, 1000, 965, 614, 975, 946],
        "C4.5+m+cf": [798, 569, 967, 657, 898, 931, 685, 625, 875, 1000, 962, 669, 975, 970],
    }
).T
"""AUC, in thousandths, of four variants of C4.5 on 14 datasets (Demsar 2006, table 6)."""
HIGHER = dict.fromkeys(DEMSAR.columns, "higher")


def test_the_example_of_demsar() -> None:
    found = ranking(DEMSAR, HIGHER)
    published = {"C4.5": 3.143, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}
    assert found.ranks == pytest.approx(published, abs=0.04)  # of values in full
    assert [*found.ranks] == ["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"]
    assert found.difference == pytest.approx(1.25, abs=0.005)
    assert found.p == pytest.approx(stats.friedmanchisquare(*DEMSAR.to_numpy()).pvalue)
    assert found.p < 0.05
    assert found.groups == (("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"),)
    assert (found.columns, found.left_out) == (14, 0)


@pytest.mark.parametrize(("methods", "q"), [(3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_differences_are_those_of_demsars_table(methods: int, q: float) -> None:
    expected = q * sqrt(methods * (methods + 1) / (6 * 30))
    assert critical_difference(methods, 30) == pytest.approx(expected, rel=5e-4)


def frame(rows: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(rows).T


def test_ranks_go_by_which_way_each_column_is_better_and_ties_share_theirs() -> None:
    values = frame({"a": [1, 9, 5], "b": [2, 8, 5.0], "c": [3, 7, 6]})
    found = ranking(values, {0: "lower", 1: "higher", 2: "lower"})
    assert found.ranks == {"a": (1 + 1 + 1.5) / 3, "b": (2 + 2 + 1.5) / 3, "c": 3.0}


def test_values_that_differ_by_rounding_are_tied() -> None:
    values = frame({"a": [0.1 + 0.2, 1], "b": [0.3, 1], "c": [0.3, 1]})
    found = ranking(values, {0: "lower", 1: "lower"})
    assert found.ranks == {"a": 2.0, "b": 2.0, "c": 2.0}
    assert (found.p, found.groups) == (1.0, (("a", "b", "c"),))


def test_columns_that_lack_a_method_are_left_out_and_counted() -> None:
    values = frame({"a": [1, 1, 1, nan], "b": [2, 2, 2, 1], "c": [3, 3, nan, 2]})
    found = ranking(values, dict.fromkeys(range(4), "lower"))
    assert (found.columns, found.left_out) == (2, 2)


def test_columns_of_which_neither_side_is_better_are_not_ranked() -> None:
    values = frame({"a": [1, 1, 9], "b": [2, 2, 1], "c": [3, 3, 2]})
    found = ranking(values, {0: "lower", 1: "lower", 2: "neither"})
    assert (found.ranks["a"], found.columns, found.left_out) == (1.0, 2, 0)


def test_groups_are_the_longest_stretches_closer_than_the_critical_difference() -> None:
    """Ranks 1 to 5, with a critical difference between 1 and 2."""
    values = frame({name: [float(rank)] * 15 for rank, name in enumerate("abcde")})
    found = ranking(values, dict.fromkeys(range(15), "lower"))
    assert 1 < found.difference < 2
    assert found.groups == (("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"))


def test_a_group_within_another_and_a_group_of_one_are_none() -> None:
    swapped = [[1.0, 2.0, 3.0], [2.0, 1.0, 3.0], [3.0, 2.0, 1.0]]
    rows = {name: swapped[place] * 20 for place, name in enumerate("abc")} | {"z": [9.0] * 60}
    found = ranking(frame(rows), dict.fromkeys(range(60), "lower"))
    assert found.groups == (("b", "a", "c"),) and found.p < 0.05


def test_methods_are_not_told_apart_where_friedmans_test_finds_no_difference() -> None:
    """Though the first and the last of ten are farther apart than the critical difference."""
    between = {f"m{i}": [2.0 + i, 9.0 - i, 2.0 + i] for i in range(8)}
    rows = {"first": [1.0] * 3} | between | {"last": [10.0] * 3}
    found = ranking(frame(rows), dict.fromkeys(range(3), "lower"))
    assert found.p > 0.05 and found.difference < 9
    assert [set(group) for group in found.groups] == [set(rows)]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (frame({"a": [1, 2], "b": [2, 1]}), "there are 2 methods and 2 such columns$"),
        (frame({"a": [1], "b": [2], "c": [3]}), "there are 3 methods and 1 such column$"),
        (
            frame({"a": [1, 2, 3], "b": [nan, 2, 3], "c": [2, nan, nan]}),
            "there are 3 methods and 0 such columns; c lacks 2 of 3$",
        ),
        (pd.DataFrame(), "there are 0 methods and 0 such columns$"),
    ],
)
def test_too_little_to_rank_says_what_is_missing(values: pd.DataFrame, said: str) -> None:
    with pytest.raises(BadInput, match="at least 3 methods and 2 columns .*" + said):
        ranking(values, dict.fromkeys(values.columns, "lower"))


def test_a_method_that_is_ahead_where_both_were_run_is_not_told_apart() -> None:
    a = {0: 1.0, 1: 1.1, 2: 1.0, 3: 10.0, 4: 10.2}
    b = {0: 2.0, 1: 2.12, 2: 2.01}
    assert {*groups({"a": a, "b": b}, "higher")} == {"a", "b"}
