"""Figures: their numbers, what they are without, and files that are the same from the same cells."""

import builtins
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mixbench.bench import cells, figures
from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.figures import FIGURES, draw
from mixbench.bench.spec import BadInput, names
from mixbench.bench.tables import Table

TABLE = Table(
    name="tiny",
    caption="A caption.",
    settings=("digits/small",),
    methods=("baseline", "mixup"),
    columns=("calibration,bins=4", "landscape:error", "embedding"),
)
TASKS = {"reliability": "calibration,bins=4", "landscape": "landscape", "projection": "embedding"}
CURVES = {
    "calibration,bins=4": {
        "confidence": [0.0, 40.0, 60.0, 90.0],
        "accuracy": [0.0, 50.0, 60.0, 70.0],
        "share": [0.0, 0.25, 0.25, 0.5],
    },
    "landscape": {
        "position": [0.0, 0.5, 1.0],
        "accuracy": [90.0, 60.0, 80.0],
        "either": [95.0, 60.0, 85.0],
        "confidence": [0.9, 0.5, 0.2],
    },
}
POINTS = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
CLASSES = np.repeat([3, 7, 8], 4)
ARRAYS = {"embedding": {"figure_embeddings": POINTS, "figure_classes": CLASSES}}


def put(
    store: Store,
    method: str,
    task: str,
    curves: Mapping[str, Any] | None = None,
    arrays: Mapping[str, Any] | None = None,
) -> None:
    cell = Cell(Run("digits/small", method, 0), task)
    metrics = dict.fromkeys(cells.task(task).metrics, 12.5)
    record = cell.identity() | {"metrics": metrics, "curves": curves or {}}
    store.publish(cell, record, arrays or {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "results")
    for method in TABLE.methods:
        for task in TASKS.values():
            put(store, method, task, CURVES.get(task), ARRAYS.get(task))
    return store


@pytest.fixture
def no_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    """umap-learn is not installed."""
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "umap":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Projections are first coordinates, whatever is installed."""
    monkeypatch.setattr(figures, "_projector", lambda: ("first two", lambda z: z[:, :2]))


def drawn(name: str, store: Store, out: Path, table: Table = TABLE) -> pd.DataFrame:
    assert draw(name, table, store, 0, out) == {}
    return pd.read_csv(out.with_suffix(".csv"))


def test_reliability_shows_the_bins_of_each_method(store: Store, tmp_path: Path) -> None:
    numbers = drawn("reliability", store, tmp_path / "a.svg")
    assert list(numbers) == ["method", "confidence", "accuracy", "share", "ece"]
    assert list(numbers.method) == ["baseline"] * 4 + ["mixup"] * 4
    assert list(numbers.confidence) == CURVES["calibration,bins=4"]["confidence"] * 2
    assert list(numbers.accuracy) == CURVES["calibration,bins=4"]["accuracy"] * 2
    assert list(numbers.share) == [0, 25, 25, 50] * 2
    assert set(numbers.ece) == {12.5}


def test_landscape_shows_accuracy_and_confidence(store: Store, tmp_path: Path) -> None:
    numbers = drawn("landscape", store, tmp_path / "a.svg")
    assert list(numbers) == ["method", "position", "accuracy", "confidence"]
    for name in ("position", "accuracy", "confidence"):
        assert list(numbers[name]) == CURVES["landscape"][name] * 2


@pytest.mark.usefixtures("quick")
def test_projection_shows_points_and_classes(store: Store, tmp_path: Path) -> None:
    numbers = drawn("projection", store, tmp_path / "a.svg")
    assert list(numbers) == ["method", "projection", "class", "x", "y"]
    assert set(numbers.projection) == {"first two"}
    assert list(numbers["class"]) == [*CLASSES, *CLASSES]
    np.testing.assert_allclose(numbers[["x", "y"]], np.tile(POINTS[:, :2], (2, 1)), rtol=1e-5)


@pytest.mark.usefixtures("no_umap")
def test_without_umap_it_is_pca_and_says_so(store: Store, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"by PCA; for UMAP, pip install mixbench\[umap\]"):
        numbers = drawn("projection", store, tmp_path / "a.png")
    assert set(numbers.projection) == {"PCA"}
    flat = numbers[numbers.method == "mixup"][["x", "y"]].to_numpy()
    of_covariance = np.sort(np.linalg.eigvalsh(np.cov(POINTS.T)))[:-3:-1]
    np.testing.assert_allclose(flat.var(0, ddof=1), of_covariance, rtol=1e-4)


def test_umap_is_the_same_twice_and_takes_few_points(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("umap")
    numbers = drawn("projection", store, tmp_path / "a.png")
    assert set(numbers.projection) == {"UMAP"}
    one, other = (numbers[numbers.method == m][["x", "y"]].to_numpy() for m in TABLE.methods)
    np.testing.assert_array_equal(one, other)
    assert np.isfinite(one).all() and one.std() > 0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(
    ("suffix", "head"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")]
)
def test_the_same_cells_give_the_same_files(
    name: str, suffix: str, head: bytes, store: Store, tmp_path: Path
) -> None:
    first, second = (tmp_path / f"{i}{suffix}" for i in "ab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "0")
        drawn(name, store, first)
        patch.setenv("SOURCE_DATE_EPOCH", "1000000000")
        drawn(name, store, second)
    assert first.read_bytes().startswith(head)
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".csv").read_bytes() == second.with_suffix(".csv").read_bytes()
    assert {path.name for path in tmp_path.glob("*.*")} == {
        f"{i}{end}" for i in "ab" for end in (suffix, ".csv")
    }


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", FIGURES)
def test_a_user_s_own_style_changes_nothing(name: str, store: Store, tmp_path: Path) -> None:
    import matplotlib

    drawn(name, store, tmp_path / "a.svg")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": None}):
        drawn(name, store, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_methods_without_a_cell_are_named_with_the_reason(store: Store, tmp_path: Path) -> None:
    cell = Cell(Run("digits/small", "manifold", 0), "landscape")
    store.publish(cell, cell.identity() | {"inapplicable": "there is no layer to mix"})
    put(store, "augmix", "landscape", {"position": [0.0, 1.0]})
    table = TABLE.add("cutmix", "transmix", "manifold", "augmix")
    left_out = draw("landscape", table, store, 0, tmp_path / "a.svg")
    assert list(left_out) == ["cutmix", "transmix", "manifold", "augmix"]
    assert left_out["cutmix"] == "no landscape of seed 0"
    assert left_out["transmix"].startswith("not applicable, it needs the class token's attention")
    assert left_out["manifold"] == "not applicable, there is no layer to mix"
    path = store.path(Cell(Run("digits/small", "augmix", 0), "landscape"))
    assert left_out["augmix"] == (
        f"{path} came without accuracy, confidence: delete it to have it made again"
    )
    assert set(pd.read_csv(tmp_path / "a.csv").method) == {"baseline", "mixup"}


@pytest.mark.usefixtures("quick")
def test_a_cell_whose_arrays_were_left_behind_is_named(store: Store, tmp_path: Path) -> None:
    put(store, "cutmix", "embedding")
    left_out = draw("projection", TABLE.add("cutmix"), store, 0, tmp_path / "a.svg")
    assert "embedding.json came without figure_embeddings" in left_out["cutmix"]


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_to_draw_says_what_to_run(name: str, store: Store, tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"of seed 3; `mixbench run tiny` makes cells, with .* --seeds 4$"
    ):
        draw(name, TABLE, store, 3, tmp_path / "a.svg")
    assert not (tmp_path / "a.svg").exists()


@pytest.mark.parametrize("out", ["a.gif", "a", "a.csv"])
def test_a_file_of_no_known_format_is_refused(out: str, store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"end in \.svg or \.png or \.pdf, unlike .*a"):
        draw("landscape", TABLE, store, 0, tmp_path / out)


def test_what_can_t_be_drawn_is_refused(store: Store, tmp_path: Path) -> None:
    both = replace(TABLE, settings=("digits/small", "digits/smallvit"))
    with pytest.raises(BadInput, match="--setting, of digits/small, digits/smallvit"):
        draw("landscape", both, store, 0, tmp_path / "a.svg")
    bare = replace(TABLE, columns=("classification",))
    with pytest.raises(BadInput, match="no column of landscape: add --task landscape"):
        draw("landscape", bare, store, 0, tmp_path / "a.svg")
    with pytest.raises(BadInput, match="no figure 'landscap'; did you mean landscape"):
        draw("landscap", TABLE, store, 0, tmp_path / "a.svg")


def test_every_method_has_its_own_look_whatever_else_is_shown() -> None:
    known = names("mixbench.methods")
    looks = figures._looks([*known, "mixup,alpha=0.2"])
    assert len({str(look) for look in looks.values()}) == len(known) + 1
    assert figures._looks(["mixup"])["mixup"] == looks["mixup"]


@pytest.mark.parametrize(("n", "rows", "columns"), [(1, 1, 1), (6, 1, 6), (7, 2, 4), (17, 3, 6)])
def test_panels_fill_rows_evenly(n: int, rows: int, columns: int) -> None:
    from matplotlib.figure import Figure

    panels = figures._panels(Figure(), [str(i) for i in range(n)])
    places = [panel.get_subplotspec() for panel in panels]
    assert [panel.get_title() for panel in panels] == [str(i) for i in range(n)]
    assert all(place and place.get_gridspec().get_geometry() == (rows, columns) for place in places)
    assert len(panels[0].figure.axes) == n
