"""Figures of networks: what they say of test images, and of what lies between them."""

import warnings
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mixbench.bench.figures.chart import Values, listed
from mixbench.bench.figures.style import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    PALE,
    ROSE,
    SKY,
    Array,
    beside,
    legend,
    looks,
    panels,
    shortened,
)
from mixbench.bench.spec import BadInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEIGHBOURS, FEWEST = 15, 5
"""Of UMAP: its default, and how many embeddings it can do with."""


def reliability(figure: "Figure", shown: Mapping[str, Values]) -> tuple[str, pd.DataFrame]:
    """How often predictions are right that are made with some confidence, in bins."""
    shown = {method: {**values, "share": 100 * values["share"]} for method, values in shown.items()}
    titles = [f"{shortened(method)}\nECE {values['ece']:.1f} %" for method, values in shown.items()]
    square = panels(figure, titles, "confidence, %", "accuracy, %", sharex=True, sharey=True)
    for panel, values in zip(square, shown.values(), strict=True):
        _bars(panel, values["confidence"], values["accuracy"], values["share"])
    legend(figure, square)
    return "Reliability on test images", listed(shown)


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


def landscape(figure: "Figure", shown: Mapping[str, Values]) -> tuple[str, pd.DataFrame]:
    """Accuracy and confidence along the lines between images of different classes."""
    titles = ["class of the nearer image; in the middle, of either", "class of the first image"]
    left, right = both = panels(figure, titles, "share of the second image")
    look = looks(shown)
    for panel, name in zip(both, ("accuracy", "confidence"), strict=True):
        for method in sorted(shown, key=lambda method: -shown[method]["accuracy"][1:-1].mean()):
            values = shown[method]
            panel.plot(values["position"], values[name], label=method, **look[method])
        panel.set_xlim(0, 1)
    right.plot([0, 1], [1, 0], "--", color=GREY, linewidth=3, label="linear", zorder=1)
    left.set_ylabel("accuracy, %")
    right.set_ylabel("mean confidence")
    beside(figure, both)
    return "Between test images of different classes", listed(shown)


def projection(figure: "Figure", shown: Mapping[str, Values]) -> tuple[str, pd.DataFrame]:
    """Embeddings of test images of some classes, in two dimensions."""
    how, project = _projector()
    flat = {
        method: project(_enough(values["figure_embeddings"])) for method, values in shown.items()
    }
    classes = {method: values["figure_classes"] for method, values in shown.items()}
    colours = dict(
        zip(np.unique(np.concatenate([*classes.values()])), cycle(COLOURS), strict=False)
    )
    square = panels(figure, [shortened(method) for method in shown])
    for panel, xy, y in zip(square, flat.values(), classes.values(), strict=True):
        for c in np.unique(y):
            x1, x2 = xy[y == c].T
            panel.scatter(x1, x2, 2, colours[c], label=f"class {c}", rasterized=True)
        panel.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        panel.spines[:].set(visible=True, color=PALE)
    legend(figure, square, markerscale=3)
    numbers = {
        method: {
            "projection": np.full(len(xy), how),
            "class": classes[method],
            "x": xy[:, 0],
            "y": xy[:, 1],
        }
        for method, xy in flat.items()
    }
    return f"{how} of embeddings of test images", listed(numbers)


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
    umap = UMAP(
        n_neighbors=near,
        random_state=0,
        n_jobs=1,
        precomputed_knn=nearest(z, near),  # it would compile a search for the same ones first
    )
    with warnings.catch_warnings(action="ignore"):
        return np.asarray(umap.fit_transform(z))


def nearest(z: Array, k: int) -> tuple[Array, Array]:
    """The k nearest of each of (n, d), itself one of them, and how far they are, (n, k) each."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(z)
    neighbours = found.kneighbors(z, return_distance=False).astype(np.int32)
    distances = np.linalg.norm(z[:, None] - z[neighbours], axis=2)  # of equal points exactly zero
    return neighbours, distances.astype(np.float32)


def _pca(z: Array) -> Array:
    from sklearn.decomposition import PCA

    return np.asarray(PCA(2, svd_solver="full").fit_transform(z))
