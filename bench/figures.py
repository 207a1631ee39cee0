"""Figures, drawn from cells: no network is asked. Their numbers are written beside them."""

import re
import warnings
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from mixbench.bench.cells import Cell, Run, Store, written_aside
from mixbench.bench.runs import inapplicable
from mixbench.bench.spec import BadInput, choose, names
from mixbench.bench.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
Values = Mapping[str, Array]
"""What a figure shows of one method, by name."""

UNDATED: Mapping[str, Mapping[str, None]] = {
    ".svg": {"Date": None},
    ".png": {},
    ".pdf": {"CreationDate": None},
}
"""The formats, by suffix, and what keeps the time of writing out of each."""

WIDTH, SIDE = 9.6, 3.2
"""Inches: of a figure, in which a README leaves text readable, and at most of a panel."""
ROW = 6
"""The most panels side by side."""
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "figure.titlesize": 10,
    "figure.dpi": 200,  # of what is drawn as pixels
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "mixbench",  # names in the file would be random
}

INK, GREY, PALE = "#222222", "#888888", "#dddddd"
BLUE, ROSE, SKY = "#332288", "#cc6677", "#88ccee"
COLOURS = [INK, BLUE, ROSE, "#117733", SKY, "#882255", "#999933", "#aa4499", "#44aa99", "#ddcc77"]
"""Black, and the muted scheme of Paul Tol (SRON/EPS/TN/09-002), which the colour-blind tell apart."""
LINES = ("-", (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (5, 1)))

CORNERS = ["left", "top", "right", "bottom"]
BOXES = ("figure_images", "figure_sizes", "figure_found", "figure_truth", "classes")
"""What detection leaves of its first test images."""

NEIGHBOURS, FEWEST = 15, 5
"""Of UMAP: its default, and how many embeddings it can do with."""


@dataclass(frozen=True)
class Chart:
    """What a figure takes of the cells of a task, and how it is plotted: to a title and numbers.

    photographs: what it shows as pixels are such, which need not be exact.
    """

    task: str
    takes: tuple[str, ...]
    plot: Callable[["Figure", Mapping[str, Values]], tuple[str, pd.DataFrame]]
    photographs: bool = False


def draw(name: str, table: Table, store: Store, seed: int, out: Path) -> dict[str, str]:
    """Draw a figure of the table's runs with one seed, to a file and a .csv beside it.

    Returns the methods that it is without, and why. Raises BadInput if it can't be drawn.
    """
    chart = FIGURES[choose(name, FIGURES, "figure")]
    if out.suffix not in UNDATED:
        raise BadInput(f"a figure's file should end in {' or '.join(UNDATED)}, unlike {out}")
    setting, tasks = _setting(table), _tasks(chart, table)
    found = {
        method: _values(Cell(Run(setting, method, seed), tasks[0]), chart.takes, store)
        for method in table.methods
    }
    shown = {method: values for method, values in found.items() if not isinstance(values, str)}
    left_out = {method: why for method, why in found.items() if isinstance(why, str)}
    if not shown:
        raise BadInput(f"nothing to draw: {next(iter(left_out.values()))}; {_remedy(table, seed)}")
    which = f", {tasks[0]}" if len(tasks) > 1 else ""
    _write(chart, shown, f"{setting}, seed {seed}{which}", out)
    return left_out


def _remedy(table: Table, seed: int) -> str:
    more = f" and --seeds {seed + 1}" if seed >= table.seeds else ""
    return f"`mixbench run {table.name}` makes cells, with the same METHODs and options{more}"


def _setting(table: Table) -> str:
    if len(table.settings) > 1:
        listed = ", ".join(table.settings)
        raise BadInput(f"a figure shows one setting: choose one with --setting, of {listed}")
    return table.settings[0]


def _tasks(chart: Chart, table: Table) -> list[str]:
    """The chart's task in each spelling that the table has; the first is drawn."""
    spelled = [task for task in table.tasks() if task.partition(",")[0] == chart.task]
    if not spelled:
        raise BadInput(f"{table.name} has no column of {chart.task}: add --task {chart.task}")
    return spelled


def _values(cell: Cell, takes: Sequence[str], store: Store) -> Values | str:
    """What a cell has for a figure; or why it has nothing."""
    record = store.read(cell)
    if record is None:
        why = inapplicable(cell.run.setting, cell.run.method)
        return f"not applicable, {why}" if why else f"no {cell.task} of seed {cell.run.seed}"
    if "inapplicable" in record:
        return f"not applicable, {record['inapplicable']}"
    there = {**record["metrics"], **record.get("curves", {}), **store.arrays(cell)}
    if missing := [name for name in takes if name not in there]:
        came = f"{store.path(cell)} came without {', '.join(missing)}"
        return f"{came}: delete it to have it made again"
    return {name: np.asarray(there[name]) for name in takes}


def _write(chart: Chart, shown: Mapping[str, Values], of: str, out: Path) -> None:
    from matplotlib import style
    from matplotlib.figure import Figure

    pixels = {"image.interpolation": "bilinear" if out.suffix == ".png" else "none"}
    with style.context(["default", STYLE, pixels]), written_aside(out) as path:
        figure = Figure(layout="constrained")
        title, numbers = chart.plot(figure, shown)
        figure.suptitle(f"{title}\n{of}")
        figure.savefig(path, format=out.suffix[1:], metadata=UNDATED[out.suffix])
        if chart.photographs and out.suffix == ".svg":
            path.write_text(_as_jpeg(path.read_text()))
    with written_aside(out.with_suffix(".csv")) as path:
        numbers.to_csv(path, index=False, lineterminator="\n", float_format="%.6g")


def _as_jpeg(svg: str) -> str:
    """An SVG whose pictures, which matplotlib writes as PNG, take a tenth, and are smooth."""

    def smaller(png: re.Match[str]) -> str:
        with Image.open(BytesIO(b64decode(png[1]))) as image:
            image.convert("RGB").save(jpeg := BytesIO(), "jpeg")
        return f"data:image/jpeg;base64,{b64encode(jpeg.getvalue()).decode()}"

    svg = svg.replace("image-rendering:crisp-edges;image-rendering:pixelated", "")
    return re.sub(r"data:image/png;base64,\s*([\w+/=]+)", smaller, svg)


def _reliability(figure: "Figure", shown: Mapping[str, Values]) -> tuple[str, pd.DataFrame]:
    """How often predictions are right that are made with some confidence, in bins."""
    shown = {method: {**values, "share": 100 * values["share"]} for method, values in shown.items()}
    titles = [f"{method}\nECE {values['ece']:.1f} %" for method, values in shown.items()]
    panels = _panels(figure, titles, "confidence, %", "accuracy, %", sharex=True, sharey=True)
    for panel, values in zip(panels, shown.values(), strict=True):
        _bars(panel, values["confidence"], values["accuracy"], values["share"])
    _legend(figure, panels)
    return "Reliability on test images", _numbers(shown)


def _bars(panel: "Axes", confidence: Array, accuracy: Array, share: Array) -> None:
    """Bins of equal widths, and how far the two are apart in each; all in percent."""
    edges = np.linspace(0, 100, len(share) + 1)
    over, under = (confidence - accuracy).clip(0), (accuracy - confidence).clip(0)
    for height, bottom, colour, label in (
        (accuracy, 0, SKY, "accuracy"),
        (over, accuracy, ROSE, "overconfident"),
        (under, confidence, BLUE, "underconfident"),
    ):
        panel.bar(edges[:-1], height, edges[1], bottom, align="edge", color=colour, label=label)
    panel.stairs(share, edges, color=INK, linewidth=0.6, label="share of images")
    panel.plot([0, 100], [0, 100], "--", color=GREY, linewidth=1, label="calibrated")
    panel.set(xlim=(0, 100), ylim=(0, 100), xticks=[0, 50, 100], yticks=[0, 50, 100])


def _landscape(figure: "Figure", shown: Mapping[str, Values]) -> tuple[str, pd.DataFrame]:
    """Accuracy and confidence along the lines between images of different classes."""
    panels = _panels(
        figure,
        ["class of the nearer image; in the middle, of either", "class of the first image"],
        "share of the second image",
    )
    figure.set_figwidth(WIDTH)
    looks = _looks(shown)
    for panel, name in zip(panels, ("accuracy", "confidence"), strict=True):
        for method in sorted(shown, key=lambda method: -shown[method]["accuracy"][1:-1].mean()):
            values = shown[method]
            panel.plot(values["position"], values[name], label=method, **looks[method])
        panel.set_xlim(0, 1)
    panels[1].plot([0, 1], [1, 0], "--", color=GREY, linewidth=3, label="linear", zorder=1)
    panels[0].set_ylabel("accuracy, %")
    panels[1].set_ylabel("mean confidence")
    _legend(figure, panels, loc="outside right center", ncols=1)
    return "Between test images of different classes", _numbers(shown)


def _projection(figure: "Figure", shown: Mapping[str, Values]) -> tuple[str, pd.DataFrame]:
    """Embeddings of test images of some classes, in two dimensions."""
    how, project = _projector()
    flat = {
        method: project(_enough(values["figure_embeddings"])) for method, values in shown.items()
    }
    classes = {method: values["figure_classes"] for method, values in shown.items()}
    colours = dict(
        zip(np.unique(np.concatenate([*classes.values()])), cycle(COLOURS), strict=False)
    )
    panels = _panels(figure, list(shown))
    for panel, xy, y in zip(panels, flat.values(), classes.values(), strict=True):
        for c in np.unique(y):
            x1, x2 = xy[y == c].T
            panel.scatter(x1, x2, 2, colours[c], label=f"class {c}", rasterized=True)
        panel.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        panel.spines[:].set(visible=True, color=PALE)
    _legend(figure, panels, markerscale=3)
    numbers = {
        method: {
            "projection": np.full(len(xy), how),
            "class": classes[method],
            "x": xy[:, 0],
            "y": xy[:, 1],
        }
        for method, xy in flat.items()
    }
    return f"{how} of embeddings of test images", _numbers(numbers)


def _enough(z: Array) -> Array:
    if len(z) < FEWEST:
        raise BadInput(f"a projection needs {FEWEST} embeddings or more, not {len(z)}")
    return z


def _projector() -> tuple[str, Callable[[Array], Array]]:
    """UMAP or, where it is not installed, PCA: its name, and (n, d) to (n, 2)."""
    try:
        with warnings.catch_warnings(action="ignore"):
            import umap  # noqa: F401
    except ImportError:
        why = "embeddings are projected by PCA; for UMAP, pip install mixbench[umap]"
        warnings.warn(why, stacklevel=2)
        return "PCA", _pca
    return "UMAP", _umap


def _umap(z: Array) -> Array:
    from umap import UMAP

    near = min(NEIGHBOURS, len(z) - 1)
    with warnings.catch_warnings(action="ignore"):
        return np.asarray(UMAP(n_neighbors=near, random_state=0, n_jobs=1).fit_transform(z))


def _pca(z: Array) -> Array:
    from sklearn.decomposition import PCA

    return np.asarray(PCA(2, svd_solver="full").fit_transform(z))


def _boxes(figure: "Figure", shown: Mapping[str, Values]) -> tuple[str, pd.DataFrame]:
    """Test images with the boxes that are annotated, and with those that each method finds."""
    first = _of_the_same_images(shown)
    images = zip(first["figure_images"], first["figure_sizes"], strict=True)
    pictures = [image[:, :h, :w].transpose(1, 2, 0) for image, (h, w) in images]
    boxes = {"annotated": np.insert(first["figure_truth"], 2, np.nan, axis=1)}
    boxes |= {method: values["figure_found"] for method, values in shown.items()}
    numbers = pd.concat([_listed(method, boxes[method], first["classes"]) for method in boxes])
    bright = cycle(COLOURS[2:])
    colours = dict(zip(numbers["class"].unique(), bright, strict=False))
    heights = [min(1.0, h / w) for h, w in first["figure_sizes"]]
    for method, panels in zip(boxes, _stacks(figure, list(boxes), heights), strict=True):
        for i, (panel, picture) in enumerate(zip(panels, pictures, strict=True)):
            here = numbers[(numbers.method == method) & (numbers.image == i)]
            _scene(panel, picture, here, colours)
    return "Boxes found in test images", numbers


def _of_the_same_images(shown: Mapping[str, Values]) -> Values:
    """What the first method was shown. Raises BadInput if another was shown something else.

    Pixels are not compared: the same files are decoded a little differently on other machines.
    """
    (one, first), *others = shown.items()
    for other, values in others:
        for name in ("figure_sizes", "figure_truth", "classes"):
            if not np.array_equal(values[name], first[name]):
                raise BadInput(
                    f"the cells of {one} and {other} show different test images: "
                    "delete what was made from other data"
                )
    return first


def _listed(method: str, boxes: Array, classes: Array) -> pd.DataFrame:
    """Boxes (n, 7): image, label, score, corners; with names."""
    image, label = boxes[:, :2].astype(int).T
    names = {"method": method, "image": image, "class": classes[label], "score": boxes[:, 2]}
    return pd.DataFrame({**names, **dict(zip(CORNERS, boxes[:, 3:].T, strict=True))})


def _scene(panel: "Axes", picture: Array, boxes: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """An image (h, w, 3) and boxes in it, the likeliest on top."""
    height, width, _ = picture.shape
    panel.imshow(picture, extent=(0, width, height, 0))
    ordered = boxes.sort_values("score", kind="stable")[["class", "score", *CORNERS]]
    for name, score, *corners in ordered.itertuples(index=False):
        label = name if np.isnan(score) else f"{name} {score:.2f}"
        _box(panel, corners, label, colours[name])


def _box(panel: "Axes", corners: Sequence[float], label: str, colour: str) -> None:
    """A box, and its label at the corner above that is farther from the panel's edge."""
    from matplotlib.colors import rgb_to_hsv, to_rgb
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    left, top, right, bottom = corners
    width, height = panel.get_xlim()[1], panel.get_ylim()[0]
    light = rgb_to_hsv(to_rgb(colour))[2] > 0.85
    panel.add_patch(
        Rectangle(
            (left, top),
            right - left,
            bottom - top,
            fill=False,
            edgecolor=colour,
            linewidth=1.3,
            path_effects=[withStroke(linewidth=2.1, foreground="white")],
        )
    )
    panel.text(
        left if left < width / 2 else right,
        top,
        label,
        parse_math=False,
        fontsize=6,
        color=INK if light else "white",
        horizontalalignment="left" if left < width / 2 else "right",
        verticalalignment="bottom" if top > height / 10 else "top",
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
    )


def _stacks(figure: "Figure", titles: Sequence[str], heights: Sequence[float]) -> list[Array]:
    """Columns of panels of these heights, for a width of 1; as many side by side as there is room."""
    rows, columns, side = _shape(len(titles))
    height = rows * (side * sum(heights) + 0.3) + 0.5
    figure.set_size_inches(max(columns * side, WIDTH / 2), height)
    ratios = [*heights] * rows
    every = figure.subplots(len(ratios), columns, squeeze=False, height_ratios=ratios)
    stacks = [stack for row in np.split(every, rows) for stack in row.T]
    for panel in every.flat:
        panel.axis("off")
    for i, (stack, title) in enumerate(zip(stacks, titles, strict=False)):
        stack[0].set_title(title if i < columns else f"\n{title}")
    return stacks[: len(titles)]


def _shape(n: int) -> tuple[int, int, float]:
    """Of n panels side by side, in as many rows as it takes: rows, columns, inches per column."""
    rows = ceil(n / ROW)
    columns = ceil(n / rows)
    return rows, columns, min(WIDTH / columns, SIDE)


def _panels(
    figure: "Figure", titles: Sequence[str], x: str = "", y: str = "", **kind: Any
) -> list["Axes"]:
    """Square panels side by side, in as many rows as it takes; x and y are labelled at the edge."""
    rows, columns, side = _shape(len(titles))
    figure.set_size_inches(max(columns * side, WIDTH / 2), rows * (side + 0.2) + 0.8)
    every = list(figure.subplots(rows, columns, squeeze=False, **kind).flat)
    panels, spare = every[: len(titles)], every[len(titles) :]
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title)
    for panel in panels[-columns:]:
        panel.set_xlabel(x)
        panel.tick_params(labelbottom=True)
    for panel in panels[::columns]:
        panel.set_ylabel(y)
    for panel in spare:
        panel.remove()
    return panels


def _legend(figure: "Figure", panels: Sequence["Axes"], **kind: Any) -> None:
    """What is in any of the panels, once; below them, or where it is said."""
    handles = {
        label: handle
        for panel in panels
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    inches = 0.4 + 0.075 * max(map(len, handles))
    below: dict[str, Any] = {"loc": "outside lower center"}
    below["ncols"] = max(1, int(figure.get_figwidth() / inches))
    figure.legend(handles.values(), handles, **(below | kind))


def _looks(methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour and a line for each method, the same in all figures; variants come after all."""
    order = list(dict.fromkeys(["baseline", *names("mixbench.methods"), *methods]))
    return {
        method: {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": LINES[i // len(COLOURS) % len(LINES)],
        }
        for i, method in enumerate(order)
    }


def _numbers(shown: Mapping[str, Mapping[str, Array]]) -> pd.DataFrame:
    """A row for each point shown, after the name of its method; single numbers are repeated."""
    return pd.concat([pd.DataFrame({"method": m, **values}) for m, values in shown.items()])


FIGURES: Mapping[str, Chart] = {
    "reliability": Chart("calibration", ("confidence", "accuracy", "share", "ece"), _reliability),
    "landscape": Chart("landscape", ("position", "accuracy", "confidence"), _landscape),
    "projection": Chart("embedding", ("figure_embeddings", "figure_classes"), _projection),
    "boxes": Chart("detection", BOXES, _boxes, photographs=True),
}
