"""From a region of the scan to the grid that a network expects, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.stage import Conform
from lowres_seg.errors import InputError
from lowres_seg.runtime import interpolation as matrices
from lowres_seg.runtime.engine import resize

Array = NDArray[np.float32]
Interpolation = Literal["nearest", "linear", "cubic"]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
#: More voxels than any network of this field takes; a bound on what a wrong spacing can ask for.
MAX_VOXELS = 1024**3
#: Scores are brought back to the region in slabs of about this size.
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
        Axis that is sampled by nearest on the way there, and on the way back.
    """

    region: Shape
    resampled: Shape
    conformed: Shape
    separate: int | None = None
    separate_back: int | None = None

    @classmethod
    def of(cls, region: Shape, spacing_mm: Spacing, conform: Conform, at_least: Shape) -> Fit:
        """Fit a region of the scan, in the orientation of `conform`, to the grid that it names.

        A conformed grid whose shape it does not name has as many voxels on each axis as the resampled region, or as
        `at_least`.

        Raises
        ------
        InputError
            If the conformed grid would be larger than any network takes.
        """
        resampled, wanted = conform.shape or region, spacing_mm
        if conform.spacing_mm is not None:
            wanted = _spacing(
                have if want is None else want for have, want in zip(spacing_mm, conform.spacing_mm, strict=True)
            )
            resampled = _three(
                max(1, round(have / want * n)) for n, have, want in zip(region, spacing_mm, wanted, strict=True)
            )
        if np.prod(resampled, dtype=object) > MAX_VOXELS:
            raise InputError(
                f"the scan would be resampled to {resampled} voxels, more than {MAX_VOXELS}; check its spacing"
            )
        conformed = conform.shape or _three(max(pair) for pair in zip(resampled, at_least, strict=True))
        above = conform.separate_above
        there = None if above is None else _coarse_axis(spacing_mm, wanted, above)
        back = None if above is None else _coarse_axis(wanted, spacing_mm, above)
        return cls(region, resampled, conformed, there, back)

    @property
    def same(self) -> bool:
        """Whether the conformed grid has the region's own voxels, with or without some around them."""
        return self.region == self.resampled and all(
            a <= b for a, b in zip(self.resampled, self.conformed, strict=True)
        )

    def _overlap(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where the resampled region and the conformed grid share voxels, in the indices of each."""
        ours, theirs = [], []
        for n, m in zip(self.resampled, self.conformed, strict=True):
            shift = (m - n) // 2
            ours.append(slice(max(0, -shift), min(n, m - shift)))
            theirs.append(slice(max(0, shift), min(m, n + shift)))
        return tuple(ours), tuple(theirs)

    @property
    def inner(self) -> tuple[slice, slice, slice]:
        """Where the resampled region lies in the conformed grid."""
        i, j, k = self._overlap()[1]
        return i, j, k

    def resample(self, x: Array, interpolation: Interpolation, *, threads: int) -> Array:
        """Take (C, *region) to (C, *resampled)."""
        return _resampled(x, self.resampled, interpolation, self.separate, threads)

    def place(self, x: Array, fill: float | None) -> Array:
        """Pad or crop (C, *resampled) to (C, *conformed), with `fill`, or with each channel's minimum."""
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
        """Take (C, *conformed) to (C, *region), in slabs along the first axis: where each lies, and its values.

        What of the region lies outside the conformed grid takes the values at the nearest edge of it.
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
            y = y[:, matrices.nearest(n, m)[slab]]
        elif n != m:
            matrix = (matrices.linear if interpolation == "linear" else matrices.cubic)(n, m)[slab]
            used = np.flatnonzero(matrix.any(axis=0))
            near = slice(used[0], used[-1] + 1)
            y = matrices.along(np.ascontiguousarray(y[:, near]), matrix[:, near], 1)
        else:
            y = y[:, slab]
        shape = (y.shape[1], self.region[1], self.region[2])
        return _resampled(y, shape, interpolation, self.separate_back, threads)


def _resampled(x: Array, shape: Shape, interpolation: Interpolation, separate: int | None, threads: int) -> Array:
    """Resample (C, I, J, K) to (C, *shape), one axis by nearest if it is named."""
    if x.shape[1:] == shape:
        return np.ascontiguousarray(x, dtype=np.float32)
    inner = _three(x.shape[1 + axis] if axis == separate else shape[axis] for axis in range(3))
    x = _cubic(x, inner, separate) if interpolation == "cubic" else resize(x, inner, interpolation, threads=threads)
    if separate is not None and inner != shape:
        x = np.take(x, matrices.nearest(inner[separate], shape[separate]), axis=1 + separate)
    return x


def _cubic(x: Array, shape: Shape, separate: int | None) -> Array:
    # Clipped to the range of what is resampled at a time: the volume, or one of its slices.
    axes: Sequence[int] = [1, 2, 3] if separate is None else [1 + axis for axis in range(3) if axis != separate]
    low, high = x.min(axis=tuple(axes), keepdims=True), x.max(axis=tuple(axes), keepdims=True)
    for axis in axes:
        if x.shape[axis] != shape[axis - 1]:
            x = matrices.along(np.ascontiguousarray(x), matrices.cubic(x.shape[axis], shape[axis - 1]), axis)
    return np.asarray(np.clip(x, low, high))


def _coarse_axis(first: Spacing, then: Spacing, above: float) -> int | None:
    """The axis along which one of two spacings, looked at in turn, is that much coarser than on its finest."""
    for spacing in (first, then):
        if max(spacing) / min(spacing) > above:
            coarsest = [axis for axis in range(3) if spacing[axis] == max(spacing)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def _three(values: Iterable[int]) -> Shape:
    i, j, k = values
    return i, j, k


def _spacing(values: Iterable[float]) -> Spacing:
    i, j, k = values
    return i, j, k
