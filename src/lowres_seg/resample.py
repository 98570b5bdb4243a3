"""From a region of the scan to the grid that a network expects, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowres_seg.engine import Interpolation, resize
from lowres_seg.errors import InputError
from lowres_seg.stage import Conform

Shape = tuple[int, int, int]
#: More voxels than any network of this field takes; a bound on what a wrong spacing can ask for.
MAX_VOXELS = 1024**3


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
    """

    region: Shape
    resampled: Shape
    conformed: Shape

    @classmethod
    def of(cls, region: Shape, spacing_mm: tuple[float, float, float], conform: Conform) -> Fit:
        """Fit a region of the scan, in the orientation of `conform`, to the grid that `conform` names.

        Raises
        ------
        InputError
            If the conformed grid would be larger than any network takes.
        """
        resampled = conform.shape
        if conform.spacing_mm is not None:
            resampled = _three(
                max(1, round(n * have / want))
                for n, have, want in zip(region, spacing_mm, conform.spacing_mm, strict=True)
            )
        if np.prod(resampled, dtype=object) > MAX_VOXELS:
            raise InputError(
                f"the scan would be resampled to {resampled} voxels, more than {MAX_VOXELS}; check its spacing"
            )
        return cls(region, resampled, conform.shape)

    def _overlap(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where the resampled region and the conformed grid share voxels, in the indices of each."""
        ours, theirs = [], []
        for n, m in zip(self.resampled, self.conformed, strict=True):
            shift = (m - n) // 2
            ours.append(slice(max(0, -shift), min(n, m - shift)))
            theirs.append(slice(max(0, shift), min(m, n + shift)))
        return tuple(ours), tuple(theirs)

    def conform(self, x: NDArray[np.float32], interpolation: Interpolation, *, threads: int) -> NDArray[np.float32]:
        """Take (C, *region) to (C, *conformed); what lies outside the region gets the channel's minimum."""
        resampled = resize(x, self.resampled, interpolation, threads=threads)
        if self.resampled == self.conformed:
            return resampled
        ours, theirs = self._overlap()
        lowest = resampled.min(axis=(1, 2, 3), keepdims=True)
        result = np.broadcast_to(lowest, (len(x), *self.conformed)).copy()
        result[:, theirs[0], theirs[1], theirs[2]] = resampled[:, ours[0], ours[1], ours[2]]
        return result

    def restore(self, y: NDArray[np.float32], interpolation: Interpolation, *, threads: int) -> NDArray[np.float32]:
        """Take (C, *conformed) to (C, *region).

        What of the region lies outside the conformed grid takes the values at the nearest edge of it.
        """
        if self.resampled != self.conformed:
            ours, theirs = self._overlap()
            edges = [(s.start, n - s.stop) for s, n in zip(ours, self.resampled, strict=True)]
            y = np.pad(y[:, theirs[0], theirs[1], theirs[2]], [(0, 0), *edges], mode="edge")
        return resize(y, self.region, interpolation, threads=threads)


def _three(values: Iterable[int]) -> Shape:
    i, j, k = values
    return i, j, k
