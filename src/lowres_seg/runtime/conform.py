"""From a region of the scan to the grid of a stage's networks, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.stage import Conform
from lowres_seg.errors import InputError
from lowres_seg.runtime.interpolation import along_axis, cubic_matrix, linear_matrix, nearest_indices
from lowres_seg.runtime.openvino_engine import resize
from lowres_seg.volumes.grid import three

Array = NDArray[np.float32]
Interpolation = Literal["nearest", "linear", "cubic"]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
#: Bound on the voxels of a conformed grid, for headers with a wrong spacing. No network of this field takes as many.
MAX_VOXELS = 1024**3
#: Scores are resampled back to the region in slabs of about this size.
SLAB_BYTES = 64 << 20


@dataclass(frozen=True)
class Fit:
    """How a region and a conformed grid lie to each other.

    Attributes
    ----------
    region : tuple of 3 int
        Shape of the region, in voxels of the scan.
    resampled : tuple of 3 int
        Shape of the region after resampling.
    conformed : tuple of 3 int
        Shape of the conformed grid: the resampled region, padded or cropped about its centre.
    separate, separate_back : int or None
        Axis that is sampled by nearest when the region is conformed, and when it is restored.
    """

    region: Shape
    resampled: Shape
    conformed: Shape
    separate: int | None = None
    separate_back: int | None = None

    @classmethod
    def of(cls, region: Shape, spacing_mm: Spacing, conform: Conform, at_least: Shape) -> Fit:
        """Fit a region of the scan, in the orientation of `conform`, to the grid that `conform` names.

        If `conform` names no shape, the conformed grid has on each axis as many voxels as the resampled region, and at
        least `at_least`.

        Raises
        ------
        InputError
            If the conformed grid would be larger than any network takes.
        """
        resampled, wanted = conform.shape or region, spacing_mm
        if conform.spacing_mm is not None:
            wanted = three(
                have if want is None else want for have, want in zip(spacing_mm, conform.spacing_mm, strict=True)
            )
            resampled = three(
                max(1, round(have / want * n)) for n, have, want in zip(region, spacing_mm, wanted, strict=True)
            )
        if np.prod(resampled, dtype=object) > MAX_VOXELS:
            raise InputError(
                f"the scan would be resampled to {resampled} voxels, more than {MAX_VOXELS}; check its spacing"
            )
        conformed = conform.shape or three(max(pair) for pair in zip(resampled, at_least, strict=True))
        above = conform.separate_above
        forward = None if above is None else _coarse_axis(spacing_mm, wanted, above)
        back = None if above is None else _coarse_axis(wanted, spacing_mm, above)
        return cls(region, resampled, conformed, forward, back)

    @property
    def same(self) -> bool:
        """True if the conformed grid has the region's own voxels, with or without padding around them."""
        return self.region == self.resampled and all(
            a <= b for a, b in zip(self.resampled, self.conformed, strict=True)
        )

    def _overlap(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Voxels that the resampled region and the conformed grid share, in the indices of each."""
        ours, theirs = [], []
        for n, m in zip(self.resampled, self.conformed, strict=True):
            shift = (m - n) // 2
            ours.append(slice(max(0, -shift), min(n, m - shift)))
            theirs.append(slice(max(0, shift), min(m, n + shift)))
        return tuple(ours), tuple(theirs)

    @property
    def inner(self) -> tuple[slice, slice, slice]:
        """Index of the resampled region in the conformed grid."""
        return three(self._overlap()[1])

    def resample(self, x: Array, interpolation: Interpolation, *, threads: int) -> Array:
        """Resample (C, *region) to (C, *resampled)."""
        return _resampled(x, self.resampled, interpolation, self.separate, threads)

    def place(self, x: Array, fill: float | None) -> Array:
        """Pad or crop (C, *resampled) to (C, *conformed), with `fill`, or with each channel's minimum if it is None."""
        if self.resampled == self.conformed:
            return x
        ours, theirs = self._overlap()
        if fill is None:
            result = np.broadcast_to(x.min(axis=(1, 2, 3), keepdims=True), (len(x), *self.conformed)).copy()
        else:
            result = np.full((len(x), *self.conformed), fill, np.float32)
        result[:, theirs[0], theirs[1], theirs[2]] = x[:, ours[0], ours[1], ours[2]]
        return result

    def restored(self, y: Array, interpolation: Interpolation, *, threads: int) -> Iterator[tuple[slice, Array]]:
        """Resample (C, *conformed) to (C, *region), in slabs along the first axis.

        Voxels of the region outside the conformed grid get the values at the nearest edge of the grid.

        Yields
        ------
        planes : slice
            Where the slab lies in the region.
        values : (C, planes, J, K) ndarray
        """
        if self.resampled != self.conformed:
            ours, theirs = self._overlap()
            edges = [(s.start, n - s.stop) for s, n in zip(ours, self.resampled, strict=True)]
            y = y[:, theirs[0], theirs[1], theirs[2]]
            if any(before or after for before, after in edges):
                y = np.pad(y, [(0, 0), *edges], mode="edge")
        planes = max(1, SLAB_BYTES // (4 * len(y) * self.region[1] * self.region[2]))
        for start in range(0, self.region[0], planes):
            slab = slice(start, min(self.region[0], start + planes))
            yield slab, self._slab(y, slab, interpolation, threads)

    def _slab(self, y: Array, slab: slice, interpolation: Interpolation, threads: int) -> Array:
        """Planes of the region, from (C, *resampled)."""
        n, m = self.resampled[0], self.region[0]
        if n != m and (self.separate_back == 0 or interpolation == "nearest"):
            y = y[:, nearest_indices(n, m)[slab]]
        elif n != m:
            matrix = (linear_matrix if interpolation == "linear" else cubic_matrix)(n, m)[slab]
            used = np.flatnonzero(matrix.any(axis=0))
            near = slice(used[0], used[-1] + 1)
            y = along_axis(np.ascontiguousarray(y[:, near]), matrix[:, near], 1)
        else:
            y = y[:, slab]
        shape = (y.shape[1], self.region[1], self.region[2])
        return _resampled(y, shape, interpolation, self.separate_back, threads)


def _resampled(x: Array, shape: Shape, interpolation: Interpolation, separate: int | None, threads: int) -> Array:
    """Resample (C, I, J, K) to (C, *shape), the axis `separate` by nearest if it is given."""
    if x.shape[1:] == shape:
        return np.ascontiguousarray(x, dtype=np.float32)
    inner = three(x.shape[1 + axis] if axis == separate else shape[axis] for axis in range(3))
    x = _cubic(x, inner, separate) if interpolation == "cubic" else resize(x, inner, interpolation, threads=threads)
    if separate is not None and inner != shape:
        x = np.take(x, nearest_indices(inner[separate], shape[separate]), axis=1 + separate)
    return x


def _cubic(x: Array, shape: Shape, separate: int | None) -> Array:
    # Clipped to the range of what is resampled at a time: the volume, or each slice along the separate axis.
    axes: Sequence[int] = [1, 2, 3] if separate is None else [1 + axis for axis in range(3) if axis != separate]
    low, high = x.min(axis=tuple(axes), keepdims=True), x.max(axis=tuple(axes), keepdims=True)
    for axis in axes:
        if x.shape[axis] != shape[axis - 1]:
            x = along_axis(np.ascontiguousarray(x), cubic_matrix(x.shape[axis], shape[axis - 1]), axis)
    return np.asarray(np.clip(x, low, high))


def _coarse_axis(first: Spacing, second: Spacing, above: float) -> int | None:
    """The axis that is more than `above` times as coarse as the finest, in the first spacing or else in the second."""
    for spacing in (first, second):
        if max(spacing) / min(spacing) > above:
            coarsest = [axis for axis in range(3) if spacing[axis] == max(spacing)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None
