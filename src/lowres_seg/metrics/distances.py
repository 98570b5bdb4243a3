"""Distances between two sets of voxels, as far as a 95th percentile needs them.

A 95th percentile needs the nearer 95% of the distances, and masks that are worth comparing lie close together. So the
neighbourhood of every point is searched from near to far, and the search ends when enough points have found their
nearest point. Where the sets lie far apart, the cheaper of two other ways takes over: every pair of points, or a
distance transform. This is the home of edt, which is imported for that transform.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.errors import MissingExtraError

Spacing = tuple[float, float, float]
Mask = NDArray[np.bool_]
#: Largest distance of the search, in voxels of the finest axis.
REACH = 12
#: Nominal seconds of one step, of a step for each point, of a pair of points, and of a transform for each voxel. Only
#: their ratios matter: the search is left when it has cost half of the cheaper other way.
_STEP_S, _POINT_S, _PAIR_S, _VOXEL_S = 6e-6, 3e-9, 4e-9, 4e-8
#: Number of pairs of points in one matrix product.
_BLOCK = 1 << 22


class _Search:
    """Points that search for their nearest point in a target."""

    def __init__(self, points: Mask, target: Mask, pad: tuple[int, int, int], weights: NDArray[Any] | None) -> None:
        around = [(n, n) for n in pad]
        self.target = np.pad(target, around).ravel()
        self.left = np.flatnonzero(np.pad(points, around).ravel())
        self.place = np.arange(len(self.left))
        self.found = np.full(len(self.left), np.inf)
        self.weights = weights
        self.total = float(len(self.left) if weights is None else weights.sum())
        self.reached = 0.0

    def step(self, delta: int, distance: float) -> None:
        """Search at one more offset, whose length is `distance`."""
        hit = self.target[self.left + delta]
        if hit.any():
            places = self.place[hit]
            self.found[places] = distance
            self.reached += float(len(places) if self.weights is None else self.weights[places].sum())
            self.left, self.place = self.left[~hit], self.place[~hit]

    def finish(self, points: NDArray[np.float64], others: NDArray[np.float64]) -> None:
        """Find the nearest of all `others` for each point that is left. Both are (n, 3) arrays of positions in mm."""
        square = (others**2).sum(axis=1)
        rows = max(1, _BLOCK // len(others))
        for start in range(0, len(self.place), rows):
            place = self.place[start : start + rows]
            nearest = (square - 2 * points[place] @ others.T).argmin(axis=1)
            self.found[place] = np.sqrt(((points[place] - others[nearest]) ** 2).sum(axis=1))

    def enough(self) -> bool:
        """Tell whether the distances found include the 95th percentile, and the next value, if it interpolates."""
        if self.weights is None:
            return self.reached >= min(self.total, 0.95 * (self.total - 1) + 2)
        return self.reached >= self.total * (0.95 + 1e-9) or not len(self.left)


def directed(
    a: Mask,
    b: Mask,
    spacing_mm: Spacing,
    weights: tuple[NDArray[Any], NDArray[Any]] | None = None,
    *,
    threads: int = 1,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance of each point of `a` to the nearest point of `b`, and of each point of `b` to the nearest of `a`.

    Parameters
    ----------
    a, b : (I, J, K) ndarray of bool
        Neither may be empty.
    spacing_mm : tuple of 3 float
    weights : pair of ndarray, optional
        Weight of each point of `a` and of `b`, in the order of the array. The 95% are then 95% of the weight.
    threads : int
        For the distance transform.

    Returns
    -------
    pair of ndarray
        In mm, in the order of the array. At least the nearest 95% of each are exact. Larger ones may be infinite.
    """
    spacing = (float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2]))
    steps, distances, pad = _offsets(spacing)
    strides = np.array([(n + 2 * p) for n, p in zip(a.shape, pad, strict=True)])
    deltas = steps @ np.array([strides[1] * strides[2], strides[2], 1])
    searches = [
        _Search(points, target, pad, None if weights is None else weights[index])
        for index, (points, target) in enumerate(((a, b), (b, a)))
    ]
    transforms = 2 * a.size * _VOXEL_S
    budget = min(transforms, 2 * searches[0].found.size * searches[1].found.size * _PAIR_S) / 2
    for place, (delta, distance) in enumerate(zip(deltas.tolist(), distances.tolist(), strict=True)):
        # The search ends after a whole shell: every point that has found none is then further away than the others.
        if place and distance != distances[place - 1] and all(search.enough() for search in searches):
            return searches[0].found, searches[1].found
        for search in searches:
            search.step(delta, distance)
            budget -= _STEP_S + _POINT_S * len(search.left)
        if budget < 0:
            break
    found_a, found_b = searches
    pairs = len(found_a.left) * len(found_b.found) + len(found_b.left) * len(found_a.found)
    if pairs * _PAIR_S > transforms:
        to_b, to_a = (distance_to(one, spacing, threads=threads) for one in (b, a))
        return to_b[a].astype(np.float64), to_a[b].astype(np.float64)
    places_a, places_b = (np.argwhere(mask) * np.array(spacing) for mask in (a, b))
    found_a.finish(places_a, places_b)
    found_b.finish(places_b, places_a)
    return found_a.found, found_b.found


@lru_cache(maxsize=32)
def _offsets(spacing: Spacing) -> tuple[NDArray[np.int64], NDArray[np.float64], tuple[int, int, int]]:
    """Offsets from a voxel to those around it, near to far; their lengths in mm; and the largest along each axis."""
    reach_mm = REACH * min(spacing)
    most = [int(reach_mm / s) for s in spacing]
    steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), axis=-1).reshape(-1, 3)
    distances = np.sqrt(((steps * np.array(spacing)) ** 2).sum(axis=1))
    near = np.flatnonzero(distances <= reach_mm)
    order = near[np.argsort(distances[near], kind="stable")]
    return steps[order], distances[order], (most[0], most[1], most[2])


def distance_to(points: Mask, spacing_mm: Spacing, *, threads: int = 1, what: str = "HD95") -> NDArray[np.float32]:
    """Distance of every voxel to the nearest of `points`, in mm; infinite if there is none.

    Parameters
    ----------
    points : (I, J, K) ndarray of bool
    spacing_mm : tuple of 3 float
    threads : int
    what : str
        What needs it, for the message.

    Raises
    ------
    MissingExtraError
        If edt is not installed.
    """
    try:
        import edt
    except ImportError as error:
        raise MissingExtraError(f"{what} needs edt, not installed here: pip install edt") from error
    found = edt.edt(~points, anisotropy=spacing_mm, black_border=False, parallel=threads)
    return np.asarray(found, np.float32)
