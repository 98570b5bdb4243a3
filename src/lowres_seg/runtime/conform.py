"""From a region of the scan to the grid of a stage's networks, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.grids import Across, Conform, Crop, Interpolation
from lowres_seg.errors import InputError
from lowres_seg.runtime.interpolation import Axes, Sampling, between
from lowres_seg.runtime.resampling import Border, planes_of, resample
from lowres_seg.runtime.spacing import resampled_grid
from lowres_seg.volumes.grid import AS_STORED, Box, StoredAxes, three

Array = NDArray[np.float32]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
Affine = NDArray[np.float64]
#: Bound on the voxels of a conformed grid, for headers with a wrong spacing. No network of this field takes as many.
MAX_VOXELS = 1024**3
#: Scores are resampled back to the region in slabs of about this size.
SLAB_BYTES = 8 << 20
#: How far, in voxels, rounding may take the centre of a voxel that lies on the edge of another.
_ON_AN_EDGE = 1e-6
#: How far, in voxels, the axes of a scan that is resampled by MONAI's rule may lean: headers round to less.
_MOST_LEAN = 0.01


@dataclass(frozen=True)
class Fit:
    """How a region and a conformed grid lie to each other.

    Attributes
    ----------
    axes : tuple of 3 Sampling
        From the region, in voxels of the scan, to the resampled region.
    axes_back : tuple of 3 Sampling
        From the resampled region to the region.
    conformed : tuple of 3 int
        Shape of the conformed grid: the resampled region, cut to the crop, then padded or cropped about its centre.
    crop : Box or None
        Part of the resampled region that is kept; it may reach beyond it. None for all of it.
    unpadded : Box or None
        The conformed grid without what pads it to one window. None for all of it.
    separate, separate_back : int or None
        Axis that is resampled apart when the region is conformed, and when it is restored.
    shifts : tuple of 3 int
        First voxel of the kept part in the conformed grid. It is negative where the kept part is cropped.
    beyond : bool
        Whether the kept part is larger than the conformed grid, or than what is cropped about its centre.
    """

    axes: Axes
    axes_back: Axes
    conformed: Shape
    shifts: Shape
    crop: Box | None = None
    unpadded: Box | None = None
    separate: int | None = None
    separate_back: int | None = None
    beyond: bool = False

    @classmethod
    def between(cls, region: Shape, resampled: Shape, conformed: Shape) -> Fit:
        """Stretch a region to a shape, and pad or crop it about its centre to another."""
        there, back = _stretched(region, resampled)
        return cls(there, back, conformed, three((m - n) // 2 for n, m in zip(resampled, conformed, strict=True)))

    @classmethod
    def of(
        cls, region: Shape, affine: Affine, conform: Conform, at_least: Shape, stored: StoredAxes = AS_STORED
    ) -> Fit:
        """Fit a region of the scan, in the orientation of `conform`, to the grid that `conform` names.

        If `conform` names no shape, the conformed grid has on each axis as many voxels as the resampled region, and at
        least `at_least`.

        Parameters
        ----------
        region : tuple of 3 int
            Its shape.
        affine : (4, 4) ndarray
            Of the region.
        conform : Conform
        at_least : tuple of 3 int
        stored : StoredAxes
            The axes of the file, where the orientation has changed them.

        Raises
        ------
        InputError
            If the conformed grid would be larger than any network takes.
        """
        spacing_mm = three(float(mm) for mm in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
        wanted = three(
            have if want is None else want
            for have, want in zip(spacing_mm, conform.spacing_mm or (None,) * 3, strict=True)
        )
        there, back = _axes(region, affine, wanted, conform, stored)
        lean = max(abs(by) * axis.m for axis in there for by in axis.lean)
        if lean > _MOST_LEAN:
            raise InputError(
                f"the scan's axes are not at right angles (they lean by {lean:.2g} voxels), and the bundle resamples "
                "to upright axes; resample the scan to an upright grid first"
            )
        resampled = three(axis.m for axis in there)
        if np.prod(resampled, dtype=object) > MAX_VOXELS:
            raise InputError(
                f"the scan would be resampled to {resampled} voxels, more than {MAX_VOXELS}; check its spacing"
            )
        above, both = conform.separate_above, conform.separate_spacing == "either"
        separate = None if above is None else _coarse_axis(spacing_mm, wanted if both else None, above)
        separate_back = None if above is None else _coarse_axis(wanted, spacing_mm if both else None, above)
        whole = cls(there, back, resampled, (0, 0, 0), separate=separate, separate_back=separate_back)
        return whole.cropped(Box.whole(resampled), conform, at_least)

    def cropped(self, box: Box, conform: Conform, at_least: Shape) -> Fit:
        """Keep a box of the resampled region, which may reach beyond it, and its centre if `conform` says so."""
        asked = box
        most = (conform.shape if conform.convention == "monai" else None) or conform.at_most
        if most is not None:
            box = _centre(box, most)
        conformed, shifts, unpadded = _placed(box.shape, conform, at_least)
        kept = None if box == Box.whole(self.resampled) else box
        result = replace(self, conformed=conformed, shifts=shifts, crop=kept, unpadded=unpadded)
        ends = zip(result.overlap[0], asked.start, asked.stop, self.resampled, strict=True)
        return replace(result, beyond=any(one.start > max(0, a) or one.stop < min(n, b) for one, a, b, n in ends))

    @property
    def region(self) -> Shape:
        """Shape of the region, in voxels of the scan."""
        return three(axis.n for axis in self.axes)

    @property
    def resampled(self) -> Shape:
        """Shape of the region after resampling."""
        return three(axis.m for axis in self.axes)

    @property
    def kept(self) -> Box:
        """Part of the resampled region that is kept."""
        return Box.whole(self.resampled) if self.crop is None else self.crop

    @property
    def same(self) -> bool:
        """True if the conformed grid has the region's own voxels, with or without padding around them."""
        return (
            self.crop is None
            and all(axis.changes_nothing for axis in self.axes)
            and all(a <= b for a, b in zip(self.resampled, self.conformed, strict=True))
        )

    @property
    def overlap(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Voxels that the resampled region and the conformed grid share, in the indices of each."""
        ours, theirs = [], []
        kept = self.kept
        for n, m, shift, low, high in zip(
            self.resampled, self.conformed, self.shifts, kept.start, kept.stop, strict=True
        ):
            first = low - shift  # index in the resampled region of the conformed grid's first voxel
            start, stop = max(0, low, first), min(n, high, first + m)
            ours.append(slice(start, max(start, stop)))
            theirs.append(slice(start - first, max(start, stop) - first))
        return tuple(ours), tuple(theirs)

    @property
    def inner(self) -> tuple[slice, slice, slice]:
        """Index of the resampled region in the conformed grid."""
        return three(self.overlap[1])

    @property
    def seen(self) -> Box:
        """Box of the region's voxels whose centres lie within voxels of the conformed grid.

        At an end of the resampled region that is not cut off, all voxels of the region up to its border are among them.
        """
        start, stop = [], []
        for one, axis in zip(self.overlap[0], self.axes_back, strict=True):
            at = axis.positions()
            low = -np.inf if one.start == 0 else one.start - 0.5 - _ON_AN_EDGE
            high = np.inf if one.stop == axis.n else one.stop - 0.5 + _ON_AN_EDGE
            inside = np.flatnonzero((at >= low) & (at <= high)) if one.stop > one.start else np.empty(0, np.intp)
            start.append(int(inside[0]) if inside.size else 0)
            stop.append(int(inside[-1]) + 1 if inside.size else 0)
        return Box(three(start), three(stop))

    def resample(
        self,
        x: Array,
        interpolation: Interpolation,
        *,
        across: Across = "nearest",
        border: Border = "edge",
        threads: int,
    ) -> Array:
        """Resample (C, *region) to (C, *resampled)."""
        apart = self.separate
        return resample(x, self.axes, interpolation, separate=apart, across=across, border=border, threads=threads)

    def cut(self, x: Array) -> Array:
        """Cut (C, *resampled) to the crop, (C, *kept). What lies beyond the resampled region is zero."""
        if self.crop is None:
            return x
        ends = list(zip(self.crop.start, self.crop.stop, self.resampled, strict=True))
        inside = [slice(max(0, a), min(n, b)) for a, b, n in ends]
        beyond = [(max(0, -a), max(0, b - n)) for a, b, n in ends]
        return np.pad(x[:, inside[0], inside[1], inside[2]], [(0, 0), *beyond])

    def place(self, x: Array, pad: float | Literal["edge", "reflect", "wrap"] | None) -> Array:
        """Pad or crop (C, *kept) to (C, *conformed).

        Parameters
        ----------
        x : (C, I, J, K) ndarray
        pad : float, str or None
            Value of the padding; or ``edge``, ``reflect`` or ``wrap``; or each channel's minimum if it is None.
        """
        if x.shape[1:] == self.conformed:
            return x
        shape = zip(self.shifts, self.conformed, x.shape[1:], strict=True)
        inside = [(slice(max(0, -s), min(n, m - s)), max(0, s), max(0, m - s - n)) for s, m, n in shape]
        i, j, k = (one[0] for one in inside)
        if isinstance(pad, str):
            widths = [(0, 0), *(one[1:] for one in inside)]
            return np.pad(x[:, i, j, k], widths, mode=pad)
        if pad is None:
            result = np.broadcast_to(x.min(axis=(1, 2, 3), keepdims=True), (len(x), *self.conformed)).copy()
        else:
            result = np.full((len(x), *self.conformed), pad, np.float32)
        a, b, c = (slice(one[1], one[1] + one[0].stop - one[0].start) for one in inside)
        result[:, a, b, c] = x[:, i, j, k]
        return result

    def unplaced(self, y: Array, outside: Border) -> Array:
        """Cut or pad (C, *conformed) to (C, *resampled), by zero or the values at the nearest edge."""
        if self.resampled == self.conformed and self.crop is None:
            return y
        ours, theirs = self.overlap
        edges = [(s.start, n - s.stop) for s, n in zip(ours, self.resampled, strict=True)]
        y = y[:, theirs[0], theirs[1], theirs[2]]
        if not any(before or after for before, after in edges):
            return y
        return np.pad(y, [(0, 0), *edges], mode="edge" if outside == "edge" and y.size else "constant")

    def restored(
        self,
        y: Array,
        interpolation: Interpolation,
        *,
        across: Across = "nearest",
        outside: Border = "edge",
        border: Border = "edge",
        threads: int,
    ) -> Iterator[tuple[slice, Array]]:
        """Resample (C, *conformed) to (C, *region), in slabs along the first axis.

        Voxels of the resampled region outside the conformed grid get the values at the nearest edge of the grid, or
        zero.

        Yields
        ------
        planes : slice
            Where the slab lies in the region.
        values : (C, planes, J, K) ndarray
        """
        y = self.unplaced(y, outside)
        planes = max(1, SLAB_BYTES // (4 * len(y) * self.region[1] * self.region[2]))
        axes, apart = self.axes_back, self.separate_back
        for start in range(0, self.region[0], planes):
            slab = slice(start, min(self.region[0], start + planes))
            part = planes_of(
                y, axes, slab, interpolation, separate=apart, across=across, border=border, threads=threads
            )
            yield slab, part


def box_to_keep(x: Array, crop: Crop, channels: tuple[str, ...]) -> Box:
    """Box of a conformed scan that a crop keeps; it may reach beyond the scan.

    Parameters
    ----------
    x : (C, I, J, K) ndarray
    crop : Crop
    channels : tuple of str
        Names of the channels of `x`.
    """
    shape = three(x.shape[1:])
    looked_at = [x[channels.index(name)] for name in crop.channels] or list(x)
    start, stop = [], []
    for axis, n in enumerate(shape):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(np.logical_or.reduce([(one > crop.above).any(axis=others) for one in looked_at]))
        if used.size == 0:
            return Box.whole(shape)
        low, high = int(used[0]) - crop.margin_voxels[axis], int(used[-1]) + 1 + crop.margin_voxels[axis]
        if crop.cut:
            low, high = max(0, low), min(n, high)
        more = -(high - low) % crop.multiple_of[axis]
        start.append(low - more // 2)
        stop.append(low - more // 2 + high - low + more)
    return Box(three(start), three(stop))


def _stretched(region: Shape, resampled: Shape) -> tuple[Axes, Axes]:
    """Sampling of each axis between the same edges, there and back."""
    pairs = list(zip(region, resampled, strict=True))
    return three(Sampling(n, m) for n, m in pairs), three(Sampling(m, n) for n, m in pairs)


def _axes(region: Shape, affine: Affine, wanted: Spacing, conform: Conform, stored: StoredAxes) -> tuple[Axes, Axes]:
    """Sampling of each axis, from the region to the resampled region and back."""
    if conform.spacing_mm is None:
        return _stretched(region, conform.shape or region)
    if conform.convention == "edges":
        spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        ratios = zip(region, spacing, wanted, strict=True)
        return _stretched(region, three(max(1, round(have / want * n)) for n, have, want in ratios))
    if conform.spacing_axes == "orientation":
        shape, there, back = resampled_grid(affine, region, conform.spacing_mm)
        return between(there, region, shape), between(back, shape, region)
    # The grid is that of the file's own axes.
    into = stored.matrix(region)
    own = three(region[stored.axes.index(place)] for place in range(3))
    shape, there, back = resampled_grid(affine @ np.linalg.inv(into), own, conform.spacing_mm)
    new = three(shape[place] for place in stored.axes)
    out_of = stored.matrix(new)
    return (
        between(np.linalg.inv(into) @ there @ out_of, region, new),
        between(np.linalg.inv(out_of) @ back @ into, new, region),
    )


def _centre(box: Box, most: Shape) -> Box:
    """The middle of a box, as MONAI rounds it."""
    start, stop = [], []
    for a, b, m in zip(box.start, box.stop, most, strict=True):
        n = b - a
        first = a + (n // 2 - m // 2 if m < n else 0)
        start.append(first)
        stop.append(first + min(n, m))
    return Box(three(start), three(stop))


def _placed(kept: Shape, conform: Conform, at_least: Shape) -> tuple[Shape, Shape, Box]:
    """Shape of the conformed grid, the first voxel of the kept part in it, and the grid without windows' padding."""
    shape = conform.shape
    if shape is None:
        least, multiple = conform.at_least or kept, conform.multiple_of or (1, 1, 1)
        shape = three(-(-max(n, a) // k) * k for n, a, k in zip(kept, least, multiple, strict=True))
    shifts = [0 if m >= n and conform.pad_side == "end" else (m - n) // 2 for n, m in zip(kept, shape, strict=True)]
    # Windows are padded on both sides, whatever the padding before.
    conformed = three(max(pair) for pair in zip(shape, at_least, strict=True))
    more = three((m - n) // 2 for n, m in zip(shape, conformed, strict=True))
    unpadded = Box(more, three(first + n for first, n in zip(more, shape, strict=True)))
    return conformed, three(shift + extra for shift, extra in zip(shifts, more, strict=True)), unpadded


def _coarse_axis(first: Spacing, second: Spacing | None, above: float) -> int | None:
    """The axis that is more than `above` times as coarse as the finest, in the first spacing or else in the second."""
    for spacing in (first, second):
        if spacing is not None and max(spacing) / min(spacing) > above:
            coarsest = [axis for axis in range(3) if spacing[axis] == max(spacing)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None
