"""Figures: their numbers, what they are without, and files that are the same from the same cells."""

import builtins
import os
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mixbench.bench import cells
from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.figures import FIGURES, _csv, draw, networks, style
from mixbench.bench.figures.boxes import boxes
from mixbench.bench.figures.chart import Asked
from mixbench.bench.paper import TABLES as PAPER
from mixbench.bench.spec import BadInput, names
from mixbench.bench.tables import Table

TABLE = Table(
    name="tiny",
    caption="A caption.",
    settings=("digits/small",),
    methods=("baseline", "mixup"),
    columns=("calibration,bins=4", "landscape:error", "embedding", "detection"),
)
TASKS = {
    "reliability": "calibration,bins=4",
    "landscape": "landscape",
    "projection": "embedding",
    "boxes": "detection",
}
CURVES: Mapping[str, Mapping[str, Any]] = {
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
    "detection": {"classes": ["cat", "dog", "cow"]},
}
POINTS = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
CLASSES = np.repeat([3, 7, 8], 4)
RAMPS = np.mgrid[0:240:60j, 0:240:60j].astype(np.uint8)
SCENES = {
    "figure_images": np.stack([RAMPS[[0, 1, 1]], RAMPS[[1, 1, 0]]]),
    "figure_sizes": np.array([[40, 60], [60, 50]]),
    "figure_found": np.array(
        [
            [0, 2, 0.9, 5, 10, 20, 30],
            [0, 0, 0.4, 40, 12, 58, 38],
            [1, 1, 0.1, 3, 1, 45, 55.5],
        ],
        np.float32,
    ),
    "figure_truth": np.array([[0, 0, 41, 11, 59, 39], [1, 1, 2, 2, 44, 56]], np.float32),
}
ARRAYS: Mapping[str, Mapping[str, Any]] = {
    "embedding": {"figure_embeddings": POINTS, "figure_classes": CLASSES},
    "detection": SCENES,
}


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
    monkeypatch.setattr(networks, "_projector", lambda: ("first two", lambda z: z[:, :2]))


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


def test_boxes_are_listed_with_the_names_of_their_classes(store: Store, tmp_path: Path) -> None:
    drawn("boxes", store, tmp_path / "a.png")
    found = [
        "{},0,cow,0.9,5,10,20,30",
        "{},0,cat,0.4,40,12,58,38",
        "{},1,dog,0.1,3,1,45,55.5",
    ]
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        "method,image,class,score,left,top,right,bottom",
        "annotated,0,cat,,41,11,59,39",
        "annotated,1,dog,,2,2,44,56",
        *(line.format("baseline") for line in found),
        *(line.format("mixup") for line in found),
    ]


def scenes(**changes: Any) -> dict[str, Any]:
    return {**SCENES, "classes": np.array(["cat", "dog", "cow"])} | changes


def panels_of(**methods: Mapping[str, Any]) -> list[Any]:
    """Row by row."""
    from matplotlib.figure import Figure

    boxes(figure := Figure(), methods)
    return figure.axes


def labels(panel: Any) -> list[str]:
    return [text.get_text() for text in panel.texts]


def test_a_row_shows_an_image_as_annotated_and_as_each_method_sees_it() -> None:
    panels = panels_of(mixup=scenes(), cutmix=scenes(figure_found=SCENES["figure_found"][1:]))
    assert [panel.get_title() for panel in panels[:3]] == ["annotated", "mixup", "cutmix"]
    for i, (h, w) in enumerate(SCENES["figure_sizes"]):
        for panel in panels[3 * i : 3 * i + 3]:
            (image,) = panel.images
            picture = SCENES["figure_images"][i, :, :h, :w].transpose(1, 2, 0)
            np.testing.assert_array_equal(image.get_array(), picture)
            assert [*panel.get_xlim(), *panel.get_ylim()] == image.get_extent() == [0, w, h, 0]
            assert panel.get_aspect() == 1 and not panel.axison
    assert [labels(panel) for panel in panels] == [
        ["cat"],
        ["cat 0.40", "cow 0.90"],  # the likelier is on top
        ["cat 0.40"],
        ["dog"],
        ["dog 0.10"],
        ["dog 0.10"],
    ]
    cat, cow = panels[1].patches
    assert (cat.get_xy(), cat.get_width(), cat.get_height()) == ((40, 12), 18, 26)
    assert (cow.get_xy(), cow.get_width(), cow.get_height()) == ((5, 10), 15, 20)


def test_a_class_has_one_colour_whoever_finds_it() -> None:
    none = SCENES["figure_found"][:0]
    for panels in (
        panels_of(one=scenes()),
        panels_of(other=scenes(figure_found=none), one=scenes()),
    ):
        (annotated,), (cat, cow) = panels[0].patches, panels[len(panels) // 2 - 1].patches
        assert annotated.get_edgecolor() == cat.get_edgecolor() != cow.get_edgecolor()


def test_a_spreadsheet_takes_no_class_for_a_formula(store: Store, tmp_path: Path) -> None:
    for method in TABLE.methods:
        put(store, method, "detection", {"classes": ["=1+1", "@a", "ß"]}, SCENES)
    numbers = drawn("boxes", store, tmp_path / "a.svg")
    assert {*numbers["class"]} == {"'=1+1", "'@a", "ß"}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (5.0, "5"),
        (-0.25, "-0.25"),
        (1 / 3, "0.333333"),
        (1.5e-7, "1.5e-07"),
        (123456.7, "123457"),
        (1e300, "1e+300"),
        (float("inf"), "inf"),
        (float("nan"), ""),
        (7, "7"),
        (True, "True"),
    ],
)
def test_numbers_have_six_digits(number: float, text: str) -> None:
    assert _csv(pd.DataFrame({"a": ["x"], "b": [number]})) == f"a,b\nx,{text}\n"


def test_files_are_the_same_in_any_locale(store: Store, tmp_path: Path) -> None:
    for method in TABLE.methods:
        put(store, method, "detection", {"classes": ["é", "ß", "a"]}, SCENES)
    drawn("boxes", store, tmp_path / "a.svg")
    code = (
        "from pathlib import Path\n"
        "from mixbench.bench.cells import Store\n"
        "from mixbench.bench.figures import draw\n"
        "from mixbench.bench.tables import Table\n"
        f"store, out = Store(Path({str(store.root)!r})), Path({str(tmp_path / 'b.svg')!r})\n"
        f"draw('boxes', {TABLE!r}, store, 0, out)\n"
    )
    plain = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **plain}, check=True)
    for end in ("svg", "csv"):
        assert (tmp_path / f"a.{end}").read_bytes() == (tmp_path / f"b.{end}").read_bytes()


def test_where_panels_stand_is_round() -> None:
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    panels = style.panels(figure, ["one", "two", "three"], "x", "y")
    style.settle(figure)
    places = [panel.get_position().bounds for panel in panels]
    assert len({*places}) == 3
    assert places == [tuple(round(number, 4) for number in place) for place in places]
    panels[0].set_title("one\ntwo\nthree\nfour")
    figure.draw_without_rendering()
    assert [panel.get_position().bounds for panel in panels] == places


def test_labels_stay_inside_and_can_be_read() -> None:
    from matplotlib.colors import to_rgb

    def luminance(colour: Any) -> float:
        """As WCAG defines it, but for its exponent."""
        return float(np.dot(np.square(to_rgb(colour)), [0.2126, 0.7152, 0.0722]))

    _, panel, _, upright = panels_of(one=scenes())
    cat, cow = panel.texts
    assert (cow.get_horizontalalignment(), cow.get_position()) == ("left", (5, 10))
    assert (cat.get_horizontalalignment(), cat.get_position()) == ("right", (58, 12))
    (dog,) = upright.texts
    assert cat.get_verticalalignment() == cow.get_verticalalignment() == "bottom"
    assert dog.get_verticalalignment() == "top"
    many = np.array([[0, i, 0.5, 5, 10, 20, 30] for i in range(8)])
    names = np.array([f"class {i}" for i in range(8)])
    _, panel, *_ = panels_of(one=scenes(figure_found=many, classes=names))
    grounds = [text.get_bbox_patch().get_facecolor() for text in panel.texts]
    assert len({*grounds}) == 8
    for text, ground in zip(panel.texts, grounds, strict=True):
        two = sorted([luminance(text.get_color()), luminance(ground)])
        assert (two[1] + 0.05) / (two[0] + 0.05) > 2.5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("without", "left"),
    [
        (["figure_found"], [1, 0, 1, 0]),
        (["figure_truth"], [0, 2, 0, 1]),
        (["figure_found", "figure_truth"], [0, 0, 0, 0]),
    ],
)
def test_there_may_be_no_boxes(without: list[str], left: list[int]) -> None:
    panels = panels_of(one=scenes(**{name: SCENES[name][:0] for name in without}))
    assert [len(labels(panel)) for panel in panels] == left
    assert [len(panel.patches) for panel in panels] == left


def test_a_class_may_be_named_with_dollars(store: Store, tmp_path: Path) -> None:
    for method in TABLE.methods:
        put(store, method, "detection", {"classes": ["$_{$", "$x$", "a"]}, SCENES)
    drawn("boxes", store, tmp_path / "a.svg")


def test_cells_of_different_test_images_are_not_drawn_together() -> None:
    other = SCENES["figure_truth"] + [0, 0, 0, 0, 0, 1]
    names = np.array(["cat", "dog", "horse"])
    for changes in (
        {"figure_sizes": SCENES["figure_sizes"] - 1},
        {"figure_truth": other},
        {"figure_truth": other[1:]},
        {"classes": names},
    ):
        with pytest.raises(BadInput, match="cells of mixup and cutmix show different test images"):
            panels_of(mixup=scenes(), cutmix=scenes(**changes))
    decoded_elsewhere = scenes(figure_images=SCENES["figure_images"] + np.uint8(1))
    assert len(panels_of(mixup=scenes(), cutmix=decoded_elsewhere)) == 6


@pytest.mark.parametrize(("n", "rows", "columns"), [(2, 1, 2), (6, 1, 6), (7, 2, 4)])
def test_columns_of_images_go_on_below(n: int, rows: int, columns: int) -> None:
    from matplotlib.figure import Figure

    stacks = style.stacks(Figure(), [str(i) for i in range(n)], [0.5, 1])
    assert len(stacks) == n
    for i, stack in enumerate(stacks):
        spec = [panel.get_subplotspec() for panel in stack]
        assert spec[0].get_gridspec().get_geometry() == (2 * rows, columns)
        assert spec[0].get_gridspec().get_height_ratios() == [0.5, 1] * rows
        assert [place.colspan.start for place in spec] == [i % columns] * 2
        assert [place.rowspan.start for place in spec] == [i // columns * 2, i // columns * 2 + 1]
        assert stack[0].get_title().strip() == str(i) and not stack[1].get_title()


def test_photographs_are_small_and_smooth_in_svg(store: Store, tmp_path: Path) -> None:
    drawn("boxes", store, tmp_path / "a.svg")
    svg = (tmp_path / "a.svg").read_text()
    assert "image/png" not in svg and "pixelated" not in svg
    found = re.findall(r'data:image/jpeg;base64,([^"]+)"', svg)
    assert len(found) == 2 * 3
    shown = np.asarray(Image.open(BytesIO(b64decode(found[0]))), int)
    np.testing.assert_allclose(shown, RAMPS[[0, 1, 1], :40, :60].transpose(1, 2, 0), atol=12)


def test_of_several_tasks_the_first_is_drawn_and_said(store: Store) -> None:
    from matplotlib.figure import Figure

    two = ("detection,data=coco", "detection:map")
    for method in TABLE.methods:
        put(store, method, two[0], CURVES["detection"], SCENES)
    said = [
        FIGURES["boxes"].plot(Figure(), Asked(replace(TABLE, columns=columns), store, 0)).title
        for columns in (two, two[::-1], two[1:])
    ]
    assert [title.splitlines()[1] for title in said] == [
        "digits/small, seed 0, detection,data=coco",
        "digits/small, seed 0, detection",
        "digits/small, seed 0",
    ]


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
@pytest.mark.parametrize("name", TASKS)
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
@pytest.mark.parametrize("name", TASKS)
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


@pytest.mark.parametrize("name", TASKS)
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
    variants = [f"mixup,alpha={i}" for i in range(2, 9)]
    looks = style.looks([*known, *variants])
    assert len({str(look) for look in looks.values()}) == len(known) + len(variants)
    assert style.looks(["mixup"])["mixup"] == looks["mixup"]


METHODS = [*names("mixbench.methods"), "lab.new", "lab.other"]
SPELLINGS = st.sampled_from(
    [*METHODS, *(f"{m},{p}" for m in METHODS for p in ("n=2", "at=layer1"))]
)


@given(st.lists(SPELLINGS), SPELLINGS, st.lists(SPELLINGS))
def test_a_look_is_that_of_the_spelling_alone(
    before: list[str], method: str, after: list[str]
) -> None:
    assert style.looks([*before, method, *after])[method] == style.looks([method])[method]


@given(SPELLINGS)
def test_a_variant_has_the_hue_of_its_method_and_another_line(method: str) -> None:
    from matplotlib.colors import rgb_to_hsv, to_rgb

    def hue(colour: str) -> float:
        return float(rgb_to_hsv(to_rgb(colour))[0])

    looks = style.looks([method, variant := f"{style.root(method)},k=3", style.root(method)])
    one, other = looks[variant], looks[style.root(method)]
    assert hue(one["color"]) == pytest.approx(hue(other["color"]), abs=0.02)
    assert one["linestyle"] not in style.LINES and one["linestyle"] != style.ELSEWHERE


def test_the_methods_of_a_declared_table_look_different() -> None:
    for table in PAPER.values():
        looks = style.looks(table.methods)
        assert len({str(looks[method]) for method in table.methods}) == len({*table.methods})


@given(st.text(), st.integers(5, 50))
def test_a_label_is_one_short_line(text: str, most: int) -> None:
    label = style.shortened(text, most)
    assert len(label) <= most and label.isprintable()
    if text.isprintable() and len(text) <= most:
        assert label == text


def test_a_long_label_keeps_both_ends() -> None:
    assert style.shortened("mylab.newmix,cells=8", 9) == "myla…ls=8"


@pytest.mark.parametrize(("n", "rows", "columns"), [(1, 1, 1), (6, 1, 6), (7, 2, 4), (17, 3, 6)])
def test_panels_fill_rows_evenly(n: int, rows: int, columns: int) -> None:
    from matplotlib.figure import Figure

    panels = style.panels(Figure(), [str(i) for i in range(n)])
    places = [panel.get_subplotspec() for panel in panels]
    assert [panel.get_title() for panel in panels] == [str(i) for i in range(n)]
    assert all(place and place.get_gridspec().get_geometry() == (rows, columns) for place in places)
    assert len(panels[0].figure.axes) == n
