"""Figures of all seeds: their numbers, what they are without, and SVG that can stand in a page."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from mixbench.bench import catalogue
from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.figures import FIGURES, draw, svg
from mixbench.bench.figures.trade import _front, _hidden
from mixbench.bench.spec import BadInput
from mixbench.bench.statistics import ranking
from mixbench.bench.tables import Table

RADII = ("robustness", "robustness,fgsm_eps=0,eps=0.01", "robustness,fgsm_eps=0.1,eps=0.1")
ROWS = ("baseline", "mixup", "mixup,alpha=0.1", "mixup,alpha=4", "cutmix")
TABLE = Table(
    name="tiny",
    caption="A caption.",
    settings=("digits/small",),
    methods=ROWS,
    columns=("classification", "cost", "calibration", *RADII),
    seeds=3,
)
TABLES = {
    "pareto": TABLE,
    "heatmap": TABLE,
    "ranks": TABLE,
    "training": TABLE,
    "eps": TABLE,
    "ablation": replace(TABLE, methods=ROWS[:-1], columns=("classification", "calibration:ece")),
}
"""Figures, and what is drawn."""


def put(
    store: Store,
    run: Run,
    task: str,
    metrics: Mapping[str, float | None],
    curves: Mapping[str, Any] | None = None,
) -> None:
    cell = Cell(run, catalogue.task(task).spelling)
    rules = catalogue.task(task).metrics.items()
    others = {name: 1.0 for name, rule in rules if not rule.complement}
    record = cell.identity() | {"metrics": {**others, **metrics}, "curves": curves or {}}
    store.publish(cell, record)


def number(method: str, seed: int, task: str) -> float:
    """Of a cell; other cells have others."""
    return 10 * ROWS.index(method) + seed**2 + len(task) / 8


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "results")
    for method in ROWS:
        for seed in range(3):
            fill(store, method, seed)
    return store


def fill(store: Store, method: str, seed: int) -> None:
    run, top1 = Run("digits/small", method, seed), number(method, seed, "classification")
    history = {"epoch_top1": [90.0, 50.0 - seed, top1], "epoch_loss": [2.0, 1.0, seed / 10]}
    put(store, run, "classification", {"top1": top1}, history)
    put(store, run, "cost", {"speed": 1000.0 / (1 + ROWS.index(method)) + seed})
    put(store, run, "calibration", {"ece": number(method, seed, "calibration")})
    for task in RADII:
        each = number(method, seed, task)
        put(store, run, task, {"fgsm": each, "pgd": each + 1})


def drawn(
    name: str, store: Store, tmp_path: Path, table: Table | None = None, without: Any = ()
) -> pd.DataFrame:
    assert [*draw(name, table or TABLES[name], store, 0, tmp_path / "a.svg")] == [*without]
    return pd.read_csv(tmp_path / "a.csv")


def of_task(method: str, task: str, more: float = 0) -> tuple[float, float]:
    values = [number(method, seed, task) + more for seed in range(3)]
    return mean(values), stdev(values)


def pair(row: Any) -> Any:
    return pytest.approx((row["mean"], row["std"]), rel=1e-5)


def test_training_shows_each_epoch(store: Store, tmp_path: Path) -> None:
    numbers = drawn("training", store, tmp_path)
    error = numbers[numbers.panel == "top-1 error on test images, %"]
    assert list(error.method.unique()) == list(ROWS)
    assert list(error.x) == [1, 2, 3] * len(ROWS)
    assert set(numbers.n) == {3}
    for method, curve in error.groupby("method"):
        assert curve["mean"].iloc[0] == 90 and curve["std"].iloc[0] == 0
        assert of_task(str(method), "classification") == pair(curve.iloc[2])
    loss = numbers[numbers.panel == "training loss"]
    assert list(loss["mean"]) == pytest.approx([2, 1, 0.1] * len(ROWS))


def test_eps_shows_the_radius_of_each_attack(store: Store, tmp_path: Path) -> None:
    numbers = drawn("eps", store, tmp_path)
    fgsm, pgd = (numbers[numbers.panel.str.startswith(name)] for name in ("FGSM", "PGD"))
    assert len(fgsm) + len(pgd) == len(numbers)
    assert set(fgsm.panel) == {"FGSM error, %, radius in 1/255"}
    assert set(pgd.panel) == {"PGD error, %, 20 steps, radius in 1/255"}
    asked = {0: RADII[1], 8: RADII[0], 25.5: RADII[2]}
    for method in ROWS:
        one, other = (each[each.method == method] for each in (fgsm, pgd))
        assert list(one.x) == [*asked]
        assert list(other.x) == [0, 2.55, 4, 25.5]
        for row, task in zip(one.to_dict("records"), asked.values(), strict=True):
            assert of_task(method, task) == pair(row)
        assert of_task(method, "classification") == pair(other.iloc[0])
        assert of_task(method, RADII[0], more=1) == pair(other.iloc[2])


def test_of_columns_with_one_radius_the_first_counts(store: Store, tmp_path: Path) -> None:
    columns = ("robustness,fgsm_eps=0", *RADII)
    put(store, Run("digits/small", "baseline", 0), columns[0], {"fgsm": 7.0, "pgd": 8.0})
    table = replace(TABLE, methods=("baseline",), columns=columns, seeds=1)
    numbers = drawn("eps", store, tmp_path, table)
    assert list(numbers["mean"][numbers.x == 4]) == [8]
    assert list(numbers["mean"][(numbers.x == 0) & numbers.panel.str.startswith("FGSM")]) == [7]


def test_eps_needs_two_radii(store: Store, tmp_path: Path) -> None:
    for columns, why in (
        (("robustness", "classification"), "one radius: add --task robustness,eps=R"),
        (("classification",), "no column of robustness: add --task robustness"),
    ):
        with pytest.raises(BadInput, match=why):
            drawn("eps", store, tmp_path, replace(TABLE, columns=columns))


def test_ablation_shows_the_values_of_the_field_that_varies(store: Store, tmp_path: Path) -> None:
    numbers = drawn("ablation", store, tmp_path)
    assert list(numbers.panel.unique()) == ["top-1 error, %", "ECE, %"]
    assert list(numbers.method) == ["mixup"] * 3 + ["baseline"] + ["mixup"] * 3 + ["baseline"]
    assert list(numbers.x.fillna(-1)) == [0.1, 1, 4, -1] * 2
    for i, method in enumerate(["mixup,alpha=0.1", "mixup", "mixup,alpha=4", "baseline"]):
        assert of_task(method, "classification") == pair(numbers.iloc[i])
        assert of_task(method, "calibration") == pair(numbers.iloc[4 + i])


def test_a_field_may_be_words(store: Store, tmp_path: Path) -> None:
    rows = ["cutmix,at=layer2", "cutmix", "multimix,at=layer3", "multimix,at=layer2"]
    for method in rows:
        put(store, Run("digits/small", method, 0), "classification", {"top1": 2.0})
    table = replace(TABLE, methods=tuple(rows), columns=("classification",))
    numbers = drawn("ablation", store, tmp_path, table)
    assert list(numbers.method) == ["cutmix", "cutmix", "multimix", "multimix"]
    assert list(numbers.x) == ["pixels", "layer2", "layer2", "layer3"]


def panels_of(name: str, table: Table, store: Store) -> list[Any]:
    from matplotlib.figure import Figure

    from mixbench.bench.figures.chart import Asked

    FIGURES[name].plot(figure := Figure(), Asked(table, store, 0))
    return figure.axes


@pytest.mark.parametrize(("most", "scale"), [(2, "linear"), (4, "log")])
def test_values_far_apart_are_on_a_logarithmic_axis(
    most: float, scale: str, store: Store, tmp_path: Path
) -> None:
    methods = ("baseline", "mixup,alpha=0.1", "mixup", f"mixup,alpha={most}")
    put(store, Run("digits/small", methods[-1], 0), "classification", {"top1": 2.0})
    table = replace(TABLE, methods=methods, columns=("classification",))
    (panel,) = panels_of("ablation", table, store)
    assert panel.get_xscale() == scale
    if scale == "log":
        assert [text.get_text() for text in panel.get_xticklabels()] == ["0.1", "1", "4"]


def test_words_stand_in_the_order_of_the_rows(store: Store) -> None:
    panel = ablation(store, "multiple,base=puzzlemix", "multiple", "multiple,base=cutmix")
    assert ticks(panel) == ["puzzlemix", "mixup", "cutmix"]
    assert curves(panel) == {"multiple": [[0, 0], [1, 1], [2, 2]]}


def ablation(store: Store, *methods: str) -> Any:
    """The panel of an ablation in which the top-1 error of methods is their place."""
    for i, method in enumerate(methods):
        for seed in range(3):
            put(store, Run("digits/small", method, seed), "classification", {"top1": float(i)})
    table = replace(TABLE, methods=methods, columns=("classification",))
    (panel,) = panels_of("ablation", table, store)
    return panel


def ticks(panel: Any) -> list[str]:
    return [text.get_text() for text in panel.get_xticklabels()]


def curves(panel: Any) -> dict[str, list[list[float]]]:
    return {line.get_label(): [*map(list, line.get_xydata())] for line in panel.lines}


def test_stages_stand_in_the_order_of_the_network(store: Store) -> None:
    panel = ablation(
        store,
        *("multimix", "multimix,at=layer10", "multimix,at=layer2"),
        *("densemultimix", "densemultimix,at=pixels+layer2", "densemultimix,at=stem"),
    )
    assert ticks(panel) == ["pixel…ayer2", "stem", "layer2", "layer4", "layer10", "pool"]
    assert curves(panel) == {
        "multimix": [[2, 2], [4, 1], [5, 0]],
        "densemultimix": [[0, 4], [1, 5], [3, 3]],
    }


def test_long_values_that_are_shortened_alike_stand_apart(store: Store) -> None:
    stages = ("pixels+layer1+layer3", "pixels+layer2+layer3")
    panel = ablation(store, *(f"manifold,at={each}" for each in stages))
    assert ticks(panel) == ["pixel…ayer3"] * 2
    assert curves(panel) == {"manifold": [[0, 0], [1, 1]]}


def test_what_is_not_given_stands_last_and_is_said(store: Store) -> None:
    panel = ablation(store, "multimix", "multimix,m=32", "multimix,m=8")
    assert ticks(panel) == ["8", "32", "all"]
    assert curves(panel) == {"multimix": [[0, 2], [1, 1], [2, 0]]}
    assert ticks(ablation(store, "augmix", "augmix,depth=2")) == ["2", "default"]


def test_rows_that_differ_in_another_field_too_have_a_curve_of_their_own(store: Store) -> None:
    by_k = ablation(
        store,
        *("multiple,k=2", "multiple", "multiple,k=10"),
        *("multiple,base=puzzlemix,k=2", "multiple,base=puzzlemix", "multiple,base=cutmix,k=10"),
    )
    assert by_k.get_xlabel() == "k"
    assert curves(by_k) == {
        "multiple": [[2, 0], [5, 1], [10, 2]],
        "multiple,base=puzzlemix": [[2, 3], [5, 4]],
    }
    attention = ablation(
        store,
        *("densemultimix", "densemultimix,squash=softmax", "densemultimix,attention=cam"),
        *("densemultimix,attention=cam,squash=softmax", "densemultimix,attention=uniform"),
    )
    assert ticks(attention) == ["gap", "cam", "uniform"]
    assert curves(attention) == {
        "densemultimix": [[0, 0], [1, 2], [2, 4]],
        "densemultimix,squash=softmax": [[0, 1], [1, 3]],
    }


def test_ablation_needs_one_field(store: Store, tmp_path: Path) -> None:
    for methods, why in (
        (("baseline", "mixup"), "no field varies in tiny: add METHODs such as mixup,alpha=0.2"),
        (("multimix,n=10", "multimix,at=layer4"), "rows differ in at and n: choose METHODs"),
        (("mixup", "mixup,alpha=2", "cutmix", "cutmix,at=layer1"), "differ in alpha and at"),
    ):
        with pytest.raises(BadInput, match=why):
            drawn("ablation", store, tmp_path, replace(TABLE, methods=methods))


def test_rows_that_do_not_vary_are_named(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "a.svg"
    assert draw("ablation", TABLE, store, 0, out) == {
        "cutmix": "no other row differs from it in alpha alone"
    }


def test_pareto_is_relative_to_the_baseline_with_the_same_seed(
    store: Store, tmp_path: Path
) -> None:
    numbers = drawn("pareto", store, tmp_path).set_index("method")
    for i, method in enumerate(ROWS):
        times = [(1000 + seed) / (1000 / (1 + i) + seed) for seed in range(3)]
        assert numbers.cost[method] == pytest.approx(mean(times), rel=1e-5)
        assert numbers.cost_std[method] == pytest.approx(stdev(times), rel=1e-4)
        assert of_task(method, "classification") == pair(numbers.loc[method])
    assert list(numbers.index[numbers.front]) == ["baseline"]
    alone = drawn("pareto", store, tmp_path, replace(TABLE, methods=("mixup",)))
    assert list(alone.cost) == pytest.approx([mean(1000 / (500 + i) for i in range(3))], 1e-5)


def test_pareto_takes_the_first_column_that_has_a_better(store: Store, tmp_path: Path) -> None:
    columns = ("cost", "cost:terms", "calibration", "classification")
    numbers = drawn("pareto", store, tmp_path, replace(TABLE, columns=columns))
    assert of_task("cutmix", "calibration") == pair(numbers.set_index("method").loc["cutmix"])
    for lacking, why in (
        (("cost",), "costs alone: add --task classification"),
        (("classification", "cost:memory"), "no training speed: add --task cost"),
    ):
        with pytest.raises(BadInput, match=why):
            drawn("pareto", store, tmp_path, replace(TABLE, columns=lacking))


def test_the_front_has_what_nothing_surpasses() -> None:
    cost, error = pd.Series([1, 2, 3, 1, 3, 2]), pd.Series([5, 4, 4, 5, 1, 4.5])
    assert _front(cost, error, "lower") == [True, True, False, True, True, False]
    assert _front(cost, -error, "higher") == [True, True, False, True, True, False]


def test_what_a_label_hides_is_counted() -> None:
    import numpy as np

    edges, box = np.array([0, 0, 10, 10]), np.array([8.0, 8.0, 12.0, 10.0])
    assert _hidden(box, [], edges) == 4
    assert _hidden(box, [np.array([8, 9, 9, 12])], edges) == 5
    assert _hidden(box - [4, 0, 4, 0], [np.array([8, 8, 9, 9])], edges) == 0


def test_a_heat_map_says_how_each_number_stands(store: Store, tmp_path: Path) -> None:
    numbers = drawn("heatmap", store, tmp_path)
    assert len(numbers) == len(ROWS) * len([*TABLE.each_column()])
    top1 = numbers[numbers.metric == "top1"].set_index("method")
    speed = numbers[numbers.metric == "speed"].set_index("method")
    for method in ROWS:
        assert of_task(method, "classification") == pair(top1.loc[method])
    assert list(top1.standing) == pytest.approx([0, -0.25, -0.5, -0.75, -1])
    assert speed.standing["baseline"] == 0 and speed.standing["cutmix"] == -1
    assert numbers[numbers.metric == "terms"].standing.isna().all()
    better = replace(TABLE, columns=("classification:accuracy",))
    accuracy = drawn("heatmap", store, tmp_path, better)
    assert list(accuracy["mean"]) == pytest.approx(list(100 - top1["mean"]))
    assert list(accuracy.standing) == pytest.approx(list(top1.standing))


@pytest.mark.parametrize("missing", [ROWS[0], ROWS[1], ROWS[-1]])
def test_a_gap_takes_the_colour_of_its_own_row_alone(
    missing: str, store: Store, tmp_path: Path
) -> None:
    for seed in range(3):
        store.path(Cell(Run("digits/small", missing, seed), "calibration")).unlink()
    numbers = drawn("heatmap", store, tmp_path, replace(TABLE, methods=(*ROWS[1:], ROWS[0])))
    standing = numbers[numbers.metric == "ece"].set_index("method").standing
    assert {*standing.index[standing.isna()]} == ({*ROWS} if missing == "baseline" else {missing})
    if missing != "baseline":
        assert standing.min() == -1 and standing["baseline"] == 0


def test_a_heat_map_tells_missing_from_not_applicable(store: Store) -> None:
    for seed in range(3):
        cell = Cell(Run("digits/small", "cutmix", seed), "calibration")
        store.publish(cell, cell.identity() | {"inapplicable": "it is not"})
        store.path(Cell(Run("digits/small", "mixup", seed), "calibration")).unlink()
    columns = ("classification", "calibration:ece")
    (panel,) = panels_of("heatmap", replace(TABLE, columns=columns), store)
    assert [patch.get_xy() for patch in panel.patches if patch.get_hatch()] == [(1, 4)]
    assert [text.get_position() for text in panel.texts if text.get_text() == "-"] == [(1.5, 1.5)]
    assert len(panel.texts) == 2 * len(ROWS) - 1


@pytest.mark.parametrize(("n", "blocks"), [(1, [1]), (12, [12]), (13, [7, 6]), (30, [10, 10, 10])])
def test_columns_of_a_heat_map_go_on_below(n: int, blocks: list[int], store: Store) -> None:
    columns = tuple(f"calibration,bins={i}:ece" for i in range(2, n + 2))
    for column in columns:
        task = column.partition(":")[0]
        put(store, Run("digits/small", "baseline", 0), task, {"ece": 3.0})
    table = replace(TABLE, methods=("baseline",), columns=columns)
    panels = panels_of("heatmap", table, store)
    assert [len(panel.get_xticks()) for panel in panels] == blocks
    assert {panel.get_xlim() for panel in panels} == {(0, max(blocks))}


def test_a_heat_map_needs_the_baseline(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="tiny has no numbers of the baseline to compare with"):
        drawn("heatmap", store, tmp_path, replace(TABLE, methods=("mixup",)))


def test_ranks_are_those_of_the_statistics(store: Store, tmp_path: Path) -> None:
    numbers = drawn("ranks", store, tmp_path)
    columns = [*TABLE.each_column()]
    means = TABLE.scores(store).groupby(["method", "task", "metric"]).value.mean()
    values = pd.DataFrame({(c.task, c.metric): means[:, c.task, c.metric] for c in columns})
    better = {(c.task, c.metric): c.rule.better for c in columns}
    found = ranking(values.loc[list(ROWS)], better)
    assert dict(zip(numbers.method, numbers["rank"], strict=True)) == pytest.approx(
        found.ranks, rel=1e-5
    )
    assert set(numbers["columns"]) == {found.columns}
    assert numbers.critical_difference[0] == pytest.approx(found.difference, rel=1e-5)


def test_a_diagram_names_each_method_once_and_joins_groups(store: Store) -> None:
    (panel,) = panels_of("ranks", TABLE, store)
    said = [text.get_text() for text in panel.texts]
    for method in ROWS:
        assert len([text for text in said if method in text.split()]) == 1
    assert [text for text in said if text.startswith("critical difference")]
    assert [text for text in said if "those of one network are not" in text]
    top, bottom = panel.get_ylim()[::-1]
    assert all(bottom <= text.get_position()[1] < top for text in panel.texts)
    bars = [line for line in panel.lines if line.get_linewidth() == 3]
    assert len(bars) >= 1


@pytest.mark.parametrize("name", TABLES)
def test_fewer_seeds_and_methods_without_cells_are_no_error(
    name: str, store: Store, tmp_path: Path
) -> None:
    one = Store(tmp_path / "one")
    for method in ROWS:
        fill(one, method, 0)
    table = TABLES[name].add("manifold", "transmix")
    left_out = draw(name, table, one, 0, tmp_path / "a.svg")
    assert left_out.keys() - {"cutmix"} == {"manifold", "transmix"}
    assert "needs the class token" in left_out["transmix"] or name in ("pareto", "ablation")
    numbers = pd.read_csv(tmp_path / "a.csv")
    assert not {*numbers.method} & {"manifold", "transmix"}
    assert set(numbers.get("n", [1])) == {1}
    if "std" in numbers:
        assert numbers["std"].isna().all() and numbers["mean"].notna().all()


@pytest.mark.parametrize("name", TABLES)
def test_nothing_to_draw_says_what_to_run(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nothing to draw: .*; `mixbench run tiny` makes cells"):
        draw(name, TABLES[name], Store(tmp_path), 0, tmp_path / "a.svg")
    with pytest.raises(BadInput, match="nothing to draw"):
        svg(name, TABLES[name], Store(tmp_path), 0)
    assert not (tmp_path / "a.svg").exists()


def test_cells_from_before_there_were_curves_are_named(store: Store, tmp_path: Path) -> None:
    for seed in range(3):
        put(store, Run("digits/small", "cutmix", seed), "classification", {"top1": 1.0})
    left_out = draw("training", TABLE, store, 0, tmp_path / "a.svg")
    assert [*left_out] == ["cutmix"]
    assert "came without epoch_top1, epoch_loss: delete it to have it" in left_out["cutmix"]


@pytest.mark.parametrize("name", ["training", "eps", "ablation", "pareto"])
def test_one_setting_is_shown(name: str, store: Store, tmp_path: Path) -> None:
    both = replace(TABLES[name], settings=("digits/small", "digits/smallvit"))
    with pytest.raises(BadInput, match="--setting, of digits/small, digits/smallvit"):
        drawn(name, store, tmp_path, both)


@pytest.mark.parametrize("name", TABLES)
def test_the_same_cells_give_the_same_files(
    name: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, date in (("a", "0"), ("b", "1000000000")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
        draw(name, TABLES[name], store, 0, tmp_path / f"{i}.svg")
    for end in ("svg", "csv"):
        assert (tmp_path / f"a.{end}").read_bytes() == (tmp_path / f"b.{end}").read_bytes()


def elsewhere(store: Store, seed: str) -> str:
    """What another process draws, and whether it needed torch."""
    code = (
        "import sys\n"
        "from hashlib import sha256\n"
        "from pathlib import Path\n"
        "from mixbench.bench.cells import Store\n"
        "from mixbench.bench.figures import svg\n"
        "from mixbench.bench.tables import Table\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"tables, store = {TABLES!r}, Store(Path({str(store.root)!r}))\n"
        "for name, table in tables.items():\n"
        "    print(name, sha256(svg(name, table, store, 0).encode()).hexdigest())\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_other_processes_draw_the_same_and_need_no_torch(store: Store) -> None:
    first, second = elsewhere(store, "1"), elsewhere(store, "2")
    assert first.splitlines()[:-1] == second.splitlines()[:-1]
    assert second.splitlines()[-1] == "False"


@pytest.mark.parametrize("name", TABLES)
def test_figures_can_stand_in_one_page(name: str, store: Store) -> None:
    text = svg(name, TABLES[name], store, 0)
    assert text.startswith("<svg") and "style" not in text and "<!--" not in text
    page = ElementTree.fromstring(text)
    ids = [each.get("id") for each in page.iter() if each.get("id")]
    assert len({*ids}) == len(ids) and all(str(i).startswith(f"tiny-{name}-") for i in ids)
    named = {*ids}
    for each in page.iter():
        for key, value in each.attrib.items():
            if key.endswith("href"):
                assert value.removeprefix("#") in named
            if value.startswith("url("):
                assert value.removeprefix("url(#").removesuffix(")") in named


HOSTILE = "stylemix,encoder=/$x_{$/<script>&\"'--]]>\x1b\u202e"


@pytest.mark.parametrize("name", ["pareto", "heatmap", "ranks", "training", "eps"])
def test_a_hostile_spelling_breaks_nothing(name: str, store: Store, tmp_path: Path) -> None:
    for cell, record in replace(TABLE, methods=("cutmix",)).records(store).items():
        hostile = Cell(replace(cell.run, method=HOSTILE), cell.task)
        store.publish(hostile, record | hostile.identity())
    table = replace(TABLE, methods=(*ROWS, HOSTILE))
    numbers = drawn(name, store, tmp_path, table)
    assert len([method for method in set(numbers.method) if HOSTILE[:-2] in method]) == 1
    for page in ((tmp_path / "a.svg").read_text(), svg(name, table, store, 0)):
        ElementTree.fromstring(page.encode())
        assert "<script" not in page and "\u202e" not in page and "\x1b" not in page


@pytest.mark.parametrize("speed", [0.0, -5.0, 1e-320])
def test_a_speed_that_is_none_is_no_cost(speed: float, store: Store, tmp_path: Path) -> None:
    for seed in range(3):
        put(store, Run("digits/small", ROWS[1], seed), "cost", {"speed": speed})
    numbers = drawn("pareto", store, tmp_path, without=[ROWS[1]])
    assert ROWS[1] not in {*numbers.method}


@pytest.mark.parametrize("curve", [5, ["a", "b"]])
def test_curves_that_are_none_are_refused_in_one_line(
    curve: Any, store: Store, tmp_path: Path
) -> None:
    curves = {"epoch_top1": curve, "epoch_loss": curve}
    put(store, Run("digits/small", "mixup", 0), "classification", {"top1": 1.0}, curves)
    with pytest.raises(BadInput, match=r"what is in the cells of \w+ can't be drawn \(TypeError"):
        draw("training", TABLE, store, 0, tmp_path / "a.svg")
    assert not [*tmp_path.glob("a.*")]
