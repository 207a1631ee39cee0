"""Comparing two methods: a golden made by hand, verdicts, costs, and what is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.compare import WIDTH, compare
from mixbench.bench.paper import TABLES
from mixbench.bench.spec import BadInput
from mixbench.bench.statistics import paired, seeds_needed
from mixbench.bench.tables import Table

TABLE = Table(
    name="tiny",
    caption="A caption.",
    settings=("digits/small",),
    methods=("baseline", "mixup"),
    columns=("robustness", "cost"),
)
SMALL, LONGER = "digits/small", "digits/small,epochs=2"


def put(
    store: Store,
    run: Run,
    task: str,
    metrics: Mapping[str, float | None],
    made: Mapping[str, Any] | None = None,
) -> None:
    cell = Cell(run, task)
    store.publish(cell, cell.identity() | {"metrics": metrics, "made": made or {}})


def robustness(
    store: Store, method: str, fgsm: Sequence[float], setting: str = SMALL, **made: Any
) -> None:
    """Cells of seeds 0, 1, ..., with PGD errors that are the same for all methods."""
    for seed, value in enumerate(fgsm):
        run = Run(setting, method, seed)
        put(store, run, "robustness", {"fgsm": value, "pgd": 50.0}, {"training": made})


def cost(store: Store, method: str, speeds: Sequence[float], device: str = "cpu") -> None:
    """Cells of seeds 0, 1, ...; memory is what speed is not."""
    for seed, speed in enumerate(speeds):
        metrics = {"speed": speed, "memory": 100_000 / speed, "terms": 64.0}
        put(store, Run(SMALL, method, seed), "cost", metrics, {"task": {"device": device}})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    robustness(store, "mixup", (10.0, 11.0, 12.5))
    robustness(store, "cutmix", (20.0, 21.0, 22.0, 99.0))
    cost(store, "mixup", (1000.0, 1040.0))
    cost(store, "cutmix", (500.0, 500.0))
    return store


def rows(text: str) -> dict[str, list[str]]:
    """Of the last grid with each heading, its texts."""
    cells = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) == 7}


def prose(text: str) -> str:
    return " ".join(line for line in text.splitlines() if not line.startswith("|"))


def test_golden(store: Store) -> None:
    """By hand: t of FGSM is -59, of 2 degrees of freedom, p 0.00029, and 4 times that.

    Those of memory and speed are -53 and 26 of 1 degree, p 0.0120 and 0.0245, 3 and 2 times.
    """
    assert compare("mixup", "cutmix", TABLE, store) == (
        "A is `mixup`, B is `cutmix`. Table: `tiny`. Setting: `digits/small`.\n"
        "\n"
        "|                      |     A |     B |          A - B [95 %] | Holm p | seeds |     better |\n"
        "| -------------------- | ----: | ----: | --------------------: | -----: | ----: | ---------: |\n"
        "| FGSM error, %        | 11.17 | 21.00 | -9.83 [-10.55, -9.12] |  0.001 |     3 |          A |\n"
        "| PGD error, %         | 50.00 | 50.00 |                 +0.00 |  1.000 |     3 | can't tell |\n"
        "| training images/s    |  1020 |   500 |       +520 [266, 774] |  0.049 |     2 |          A |\n"
        "| peak memory, MiB     |    98 |   200 |      -102 [-126, -77] |  0.036 |     2 |          A |\n"
        "| loss terms per batch |    64 |    64 |                    +0 |      - |     2 |          - |\n"
        "\n"
        "`mixup` is better in 3 of 4 columns, `cutmix` in 0. A takes 0.49 times as long as B for a training\n"
        "step, and 0.49 of its memory.\n"
        "\n"
        "Means and differences are over the seeds that both have (0, 1, 2), intervals of each column alone; p\n"
        "is that of the paired t test, corrected for 4 columns (Holm), and below 0.05 one is better.\n"
        "Differences that are the same for all seeds have no interval, and p of a sign test.\n"
    )


def test_the_other_way_round_the_other_wins(store: Store) -> None:
    text = compare("cutmix", "mixup", TABLE, store)
    found = {heading: row[-1] for heading, row in rows(text).items()}
    assert found["FGSM error, %"] == found["training images/s"] == "B"
    assert found["PGD error, %"] == "can't tell"
    assert "`cutmix` is better in 0 of 4 columns, `mixup` in 3." in prose(text)


def test_methods_are_given_by_any_spelling(store: Store) -> None:
    text = compare("mixup,alpha=1.0", "cutmix", TABLE, store)
    assert text == compare("mixup", "cutmix", TABLE, store)


def test_only_seeds_of_the_table_count(store: Store) -> None:
    robustness(store, "mixup", (10.0, 11.0, 12.5, 0.0))
    few = compare("mixup", "cutmix", TABLE, store)
    assert rows(few)["FGSM error, %"][0] == "11.17"
    more = compare("mixup", "cutmix", replace(TABLE, seeds=4), store)
    assert rows(more)["FGSM error, %"][0] == "8.38" and "(0, 1, 2, 3)" in more


@pytest.mark.parametrize(
    ("ours", "theirs", "row"),
    [
        ((1.0,), (2.0,), ["1.00", "2.00", "-1.00", "-", "1", "few seeds"]),
        ((1.0, 2.0), (2.0, 3.0), ["1.50", "2.50", "-1.00", "0.500", "2", "few seeds"]),
        ((1.0, 2.0), (), ["-", "-", "-", "-", "0", "no numbers"]),
        (
            (2.999, 3.0),
            (3.0, 3.0),
            ["3.00", "3.00", "+0.00 [-0.01, 0.01]", "0.500", "2", "can't tell"],
        ),
    ],
)
def test_verdicts_over_few_seeds(
    tmp_path: Path, ours: Sequence[float], theirs: Sequence[float], row: list[str]
) -> None:
    store = Store(tmp_path)
    robustness(store, "mixup", ours)
    robustness(store, "cutmix", theirs)
    cost(store, "mixup", [1.0])
    cost(store, "cutmix", [1.0])
    table = replace(TABLE, columns=("robustness:fgsm", "cost:terms"))
    assert rows(compare("mixup", "cutmix", table, store))["FGSM error, %"] == row


def test_numbers_of_other_seeds_are_few_seeds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    robustness(store, "mixup", (1.0,))
    put(store, Run(SMALL, "cutmix", 1), "robustness", {"fgsm": 1.0, "pgd": 1.0})
    text = compare("mixup", "cutmix", replace(TABLE, columns=("robustness:fgsm",)), store)
    assert rows(text)["FGSM error, %"] == ["-", "-", "-", "-", "0", "few seeds"]
    assert "Nothing can be tested: in no column do both have" in prose(text)


def test_what_is_undefined_is_no_number(store: Store) -> None:
    for seed in range(3):
        put(store, Run(SMALL, "mixup", seed), "robustness", {"fgsm": None, "pgd": 1.0})
    assert rows(compare("mixup", "cutmix", TABLE, store))["FGSM error, %"][-1] == "no numbers"


def test_p_values_are_corrected_over_the_columns_that_are_shown(store: Store) -> None:
    robustness(store, "mixup", (10.0, 12.0, 14.0))
    p = paired({0: 10.0, 1: 12.0, 2: 14.0}, {0: 20.0, 1: 21.0, 2: 22.0}).p or 0.0
    alone = compare("mixup", "cutmix", replace(TABLE, columns=("robustness:fgsm",)), store)
    both = compare("mixup", "cutmix", replace(TABLE, columns=("robustness",)), store)
    assert rows(alone)["FGSM error, %"][3] == f"{p:.3f}"
    assert rows(both)["FGSM error, %"][3] == f"{2 * p:.3f}"


def test_where_no_side_is_better_nothing_is_tested_and_a_difference_is_shown(store: Store) -> None:
    for seed, terms in enumerate((64.0, 66.0)):
        metrics = {"speed": 1.0, "memory": 1.0, "terms": terms}
        put(store, Run(SMALL, "mixup", seed), "cost", metrics)
    text = compare("mixup", "cutmix", replace(TABLE, columns=("cost:terms",)), store)
    assert rows(text)["loss terms per batch"] == ["65", "64", "+1 [-12, 14]", "-", "2", "-"]
    assert "`mixup` is better in 0 of 0 columns, `cutmix` in 0." in prose(text)


def test_how_many_seeds_would_tell_is_told_of_the_first_column_that_can_t(store: Store) -> None:
    robustness(store, "cutmix", (11.0, 11.5, 14.5))
    table = replace(TABLE, columns=("robustness:fgsm", "cost:speed"))
    pairs = paired({0: 10.0, 1: 11.0, 2: 12.5}, {0: 11.0, 1: 11.5, 2: 14.5})
    text = prose(compare("mixup", "cutmix", table, store))
    n = seeds_needed(pairs, 0.05 / 2)
    assert (
        f"A difference as large as that of FGSM error, % would be seen with about {n} seeds."
        in text
    )
    assert "sign test" not in text


def test_training_times_are_compared_where_nobody_asked_for_the_cost(tmp_path: Path) -> None:
    store, table = Store(tmp_path), replace(TABLE, columns=("robustness",))
    robustness(store, "mixup", (1.0, 1.0), seconds=30.0, device="cpu")
    robustness(store, "cutmix", (1.0,), seconds=20.0, device="cpu")
    assert "A takes 1.50 times as long to train as B." in prose(
        compare("mixup", "cutmix", table, store)
    )


@pytest.mark.parametrize(
    "made", [{}, {"seconds": float("inf")}, {"seconds": float("nan")}, {"seconds": "20"}]
)
def test_a_record_that_lacks_its_times_says_nothing_of_cost(
    tmp_path: Path, made: dict[str, Any]
) -> None:
    store, table = Store(tmp_path), replace(TABLE, columns=("robustness",))
    robustness(store, "mixup", (1.0,), **made)
    robustness(store, "cutmix", (1.0,), seconds=30.0)
    assert "A takes" not in compare("mixup", "cutmix", table, store)


def test_costs_that_were_asked_for_differently_are_not_compared(store: Store) -> None:
    metrics = {"speed": 9e9, "memory": 1.0, "terms": 1.0}
    made = {"task": {"device": "cpu"}}
    for seed in range(2):
        put(store, Run(SMALL, "mixup", seed), "cost,steps=2", metrics, made)
    text = compare("mixup", "cutmix", replace(TABLE, columns=("cost", "cost,steps=2")), store)
    assert "A takes 0.49 times as long as B for a training step" in prose(text)


def test_costs_on_different_devices_are_not_compared(store: Store) -> None:
    cost(store, "mixup", (1000.0, 9999.0), device="a GPU")
    cost(store, "cutmix", (500.0,), device="a GPU")
    text = prose(compare("mixup", "cutmix", TABLE, store))
    assert "A takes 0.50 times as long as B for a training step, and 0.50 of its memory." in text
    cost(store, "cutmix", (500.0,))
    assert "A takes" not in prose(compare("mixup", "cutmix", TABLE, store))


@pytest.mark.parametrize(
    ("order", "headings", "first"),
    [
        ("setting", [SMALL, LONGER], "FGSM error, %"),
        ("column", ["FGSM error, %", "PGD error, %"], SMALL),
    ],
)
def test_settings_stand_in_the_order_of_the_table(
    store: Store, order: Any, headings: list[str], first: str
) -> None:
    robustness(store, "mixup", (1.0, 2.0), seconds=5.0)
    robustness(store, "cutmix", (1.0, 2.0), seconds=10.0)
    robustness(store, "mixup", (1.0,), LONGER, seconds=30.0)
    robustness(store, "cutmix", (2.0,), LONGER, seconds=10.0)
    table = replace(TABLE, settings=(SMALL, LONGER), columns=("robustness",), order=order)
    text = compare("mixup", "cutmix", table, store)
    assert [line for line in text.splitlines() if line in headings] == headings
    assert [*rows(text)][2] == first and text.count("| A |") + text.count(" A |") >= 2
    assert (
        f"In `{SMALL}`, A takes 0.50 times as long to train as B. "
        f"In `{LONGER}`, A takes 3.00 times as long to train as B."
    ) in prose(text)


@pytest.mark.parametrize(
    ("other", "heading"),
    [
        ("0.2", "FGSM error, % (robustness,eps=0.12345…"),
        ("0.123456784", "FGSM error, % (robustness,eps=0.123456789)"),
    ],
)
def test_headings_are_cut_to_the_width_if_they_still_differ(
    store: Store, other: str, heading: str
) -> None:
    tasks = [f"robustness,eps={eps}" for eps in ("0.123456789", other)]
    for method, task in product(("mixup", "cutmix"), tasks):
        put(store, Run(SMALL, method, 0), task, {"fgsm": 1.0, "pgd": 1.0})
    table = replace(TABLE, columns=tuple(f"{task}:fgsm" for task in tasks))
    text = compare("mixup", "cutmix", table, store)
    assert heading in rows(text)
    assert (max(map(len, text.splitlines())) == WIDTH) == heading.endswith("…")


def test_a_method_is_not_compared_with_itself(store: Store) -> None:
    with pytest.raises(BadInput, match=r"^mixup,alpha=1 and mixup are the same method; name two$"):
        compare("mixup,alpha=1", "mixup", TABLE, store)


def test_a_method_without_numbers_is_named_with_what_to_run(store: Store) -> None:
    with pytest.raises(BadInput) as error:
        compare("cutmix", "mixup,alpha=0.20", TABLE, store)
    assert str(error.value) == (
        "no numbers of mixup,alpha=0.2 in tiny; to have them: "
        "mixbench run tiny cutmix mixup,alpha=0.2 --only, with the same options"
    )


def test_a_method_that_can_t_be_applied_says_why(store: Store) -> None:
    with pytest.raises(BadInput, match=r"^transmix: it needs the class token's attention"):
        compare("mixup", "transmix", TABLE, store)


RESULTS = Path(__file__).parents[1] / "results"


@pytest.mark.filterwarnings("ignore::mixbench.bench.cells.BadFile")
@pytest.mark.skipif(not (RESULTS / "digits").exists(), reason="results are in the repository only")
def test_the_quickstart_fits_one_screen() -> None:
    text = compare("baseline", "multimix", TABLES["quickstart"], Store(RESULTS))
    lines = text.splitlines()
    assert len(lines) < 40 and max(map(len, lines)) <= WIDTH
    assert "nan" not in text and "inf" not in text
    assert rows(text)["top-1 error, %"][:2] != ["-", "-"]
    assert text == compare("baseline", "multimix", TABLES["quickstart"], Store(RESULTS))
