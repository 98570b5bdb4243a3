from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from lowres_seg.runtime import interpolation
from lowres_seg.runtime.interpolation import Sampling
from lowres_seg.runtime.openvino_engine import resize

cubic = partial(interpolation.spline_matrix, order=3)
quadratic = partial(interpolation.spline_matrix, order=2)
quintic = partial(interpolation.spline_matrix, order=5)
PAIRS = [(7, 14), (14, 7), (9, 9), (26, 31), (31, 26), (5, 21), (40, 3), (2, 9), (1, 4), (4, 1), (1, 1)]


@pytest.mark.parametrize(("n", "m"), PAIRS)
def test_linear_is_what_the_engine_does(n: int, m: int) -> None:
    x = np.random.default_rng(0).random((1, n, 1, 1), dtype=np.float32)
    expected = resize(x, (m, 1, 1), threads=1)
    assert np.allclose(interpolation.along_axis(x, interpolation.linear_matrix(Sampling(n, m)), 1), expected, atol=1e-6)


@pytest.mark.parametrize(("n", "m"), PAIRS)
@pytest.mark.parametrize("matrix", [interpolation.linear_matrix, cubic, quadratic, quintic])
def test_a_constant_stays_what_it_is(matrix: Callable[[Sampling], np.ndarray], n: int, m: int) -> None:
    found = matrix(Sampling(n, m))
    assert found.shape == (m, n)
    assert np.allclose(found.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("n", "m"), [(40, 61), (61, 40), (40, 80), (40, 20)])
@pytest.mark.parametrize("matrix", [interpolation.linear_matrix, cubic, quadratic, quintic])
def test_a_straight_line_stays_one_away_from_the_border(
    matrix: Callable[[Sampling], np.ndarray], n: int, m: int
) -> None:
    at = (np.arange(m) + 0.5) * n / m - 0.5
    inside = (at > 12) & (at < n - 13)
    assert inside.sum() >= 5
    found = matrix(Sampling(n, m)) @ np.arange(n, dtype=np.float32)
    assert np.allclose(found[inside], at[inside], atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 17, 64])
def test_samples_at_the_voxels_are_the_voxels(n: int) -> None:
    assert np.allclose(cubic(Sampling(n, n)), np.eye(n), atol=1e-6)
    assert np.array_equal(interpolation.linear_matrix(Sampling(n, n)), np.eye(n))


@pytest.mark.parametrize("n", [5, 16])
def test_cubic_passes_through_the_voxels_at_three_times_as_many_samples(n: int) -> None:
    """The middle one of three samples lies on a voxel."""
    assert np.allclose(cubic(Sampling(n, 3 * n))[1::3], np.eye(n), atol=1e-6)


def test_cubic_follows_a_parabola_where_linear_cuts_its_corner() -> None:
    x = (np.arange(40, dtype=np.float32) - 20) ** 2
    at = (np.arange(80) + 0.5) / 2 - 0.5
    inside = (at > 12) & (at < 27)
    exact = (at[inside] - 20) ** 2
    assert np.allclose((cubic(Sampling(40, 80)) @ x)[inside], exact, atol=1e-3)
    assert np.allclose((interpolation.linear_matrix(Sampling(40, 80)) @ x)[inside] - exact, 3 / 16, atol=1e-3)


def test_linear_holds_the_border_beyond_the_outer_centres() -> None:
    assert np.allclose(
        interpolation.linear_matrix(Sampling(2, 8)) @ np.array([0, 1], np.float32),
        [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1],
    )


@pytest.mark.parametrize(
    ("n", "m", "expected"),
    [
        (3, 3, [0, 1, 2]),
        (2, 4, [0, 0, 1, 1]),
        (3, 6, [0, 0, 1, 1, 2, 2]),
        (4, 2, [1, 3]),  # 0.5 and 2.5: the upper one of two that are equally near
        (5, 2, [1, 3]),
        (6, 4, [0, 2, 3, 5]),
        (1, 3, [0, 0, 0]),
    ],
)
def test_nearest_picks(n: int, m: int, expected: list[int]) -> None:
    assert interpolation.nearest_indices(Sampling(n, m)).tolist() == expected


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_matrix_works_along_its_axis(axis: int) -> None:
    x = np.random.default_rng(0).random((2, 4, 5, 6), dtype=np.float32)
    matrix = np.random.default_rng(1).random((3, x.shape[axis]), dtype=np.float32)
    expected = np.moveaxis(np.tensordot(matrix, x, axes=(1, axis)), 0, axis)
    assert np.allclose(interpolation.along_axis(x, matrix, axis), expected, atol=1e-5)
