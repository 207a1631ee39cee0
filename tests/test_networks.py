"""Figures of networks: the neighbours that UMAP lays out."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mixbench.bench.figures import networks


def points(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize(("n", "d", "k"), [(5, 2, 4), (60, 3, 15), (200, 64, 15)])
def test_neighbours_are_those_of_all_pairs(n: int, d: int, k: int) -> None:
    z = points(n, d)
    neighbours, distances = networks.nearest(z, k)
    pairs = cdist(z.astype(np.float64), z.astype(np.float64))
    np.testing.assert_array_equal(neighbours, pairs.argsort(1)[:, :k])
    np.testing.assert_array_equal(neighbours[:, 0], np.arange(n))
    np.testing.assert_allclose(distances, np.sort(pairs)[:, :k], rtol=1e-5)


def test_equal_points_are_at_no_distance() -> None:
    z = 1000 + points(40, 64)
    z[:20] = z[20]
    _, distances = networks.nearest(z, 15)
    assert not distances[:21].any() and not distances[:, 0].any()
    assert distances[21:, 1:].all()


def test_umap_does_not_search_again(monkeypatch: pytest.MonkeyPatch) -> None:
    umap = pytest.importorskip("umap.umap_")
    monkeypatch.delattr(umap, "nearest_neighbors")
    monkeypatch.delattr(umap, "pairwise_distances")
    flat = networks._umap(points(30, 4))
    assert flat.shape == (30, 2) and np.isfinite(flat).all()
