"""Each way to the nearest gives what all pairs give."""

from __future__ import annotations

import numpy as np
import pytest

from lowres_seg.metrics import distances
from lowres_seg.metrics.distances import directed


def by_hand(a: np.ndarray, b: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    x, y = np.argwhere(a) * spacing, np.argwhere(b) * spacing
    return np.sqrt(((x[:, None] - y[None]) ** 2).sum(axis=2)).min(axis=1)


def masks(kind: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    a, b = np.zeros((50, 40, 30), bool), np.zeros((50, 40, 30), bool)
    if kind == "near":
        a[:] = rng.random(a.shape) < 0.02
        b[:] = np.roll(a, 1, axis=2) | (rng.random(a.shape) < 0.001)
    else:
        a[:6, :6, :6] = rng.random((6, 6, 6)) < 0.5
        b[-6:, -6:, -6:] = rng.random((6, 6, 6)) < 0.5
        b[2, 2, 2] = True
    return a, b


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.9, 0.9, 5.5), (2.0, 0.5, 1.0)])
@pytest.mark.parametrize("way", ["search", "pairs", "transform"])
@pytest.mark.parametrize("kind", ["near", "far"])
def test_every_way(kind: str, way: str, spacing: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is made the cheapest in turn."""
    monkeypatch.setattr(distances, "_STEP_S", 0.0 if way == "search" else 1.0)
    monkeypatch.setattr(distances, "_POINT_S", 0.0)
    monkeypatch.setattr(distances, "_PAIR_S", 1.0 if way == "transform" else 1e-12)
    transforms: list[int] = []
    transform = distances.distance_to
    monkeypatch.setattr(distances, "distance_to", lambda *a, **b: transforms.append(1) or transform(*a, **b))
    a, b = masks(kind)
    for found, expected in zip(directed(a, b, spacing), (by_hand(a, b, spacing), by_hand(b, a, spacing)), strict=True):
        there = np.isfinite(found)
        assert there.mean() >= 0.95
        assert found[there] == pytest.approx(expected[there], rel=1e-6)
        assert (expected[~there] >= found[there].max()).all()
        assert np.percentile(found, 95) == pytest.approx(np.percentile(expected, 95), rel=1e-6)
    assert (len(transforms) == 2) == (way == "transform")


def test_weights_say_which_95_percent() -> None:
    """One heavy point far away must be found; ninety-nine light ones near by are not enough."""
    a, b = np.zeros((40, 12, 12), bool), np.zeros((40, 12, 12), bool)
    a[0, :10, :10] = True
    b[0, :10, :10] = True
    a[11, 0, 0] = True
    weights = (np.r_[np.full(100, 0.01), 99.0], np.ones(100))
    there, back = directed(a, b, (1, 1, 1), weights)
    assert there[-1] == 11
    assert (back == 0).all()
