"""Placement of a stage on a scan: orientation, box, conformed grid, and the arrays that live while it runs.

It is computed once. The run allocates by it, the memory estimate counts by it, and the re-estimation of norms takes its
grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.stage import Stage
from lowres_seg.runtime.conform import SLAB_BYTES, Fit
from lowres_seg.volumes.grid import Box, Grid, Reorientation


@dataclass(frozen=True)
class ScoreSums:
    """The arrays in which the scores of windows are summed.

    Attributes
    ----------
    count : int
        One for all members of an ensemble, or one for each.
    planes : int
        Number of planes of the conformed grid that they hold at a time.
    dtype : numpy dtype
    """

    count: int
    planes: int
    dtype: Any


@dataclass(frozen=True)
class Placement:
    """Where a stage works on a scan.

    Attributes
    ----------
    stage : Stage
    oriented : Reorientation
        From the grid of the scan to the orientation of the stage.
    box : Box
        Region of the scan, in the orientation of the stage.
    fit : Fit
        How the region and the conformed grid lie to each other.
    """

    stage: Stage
    oriented: Reorientation
    box: Box
    fit: Fit

    @classmethod
    def of(cls, stage: Stage, grid: Grid, box: Box | None = None) -> Placement:
        """Place a stage on a grid, in `box` of its own orientation, or on the whole grid.

        Raises
        ------
        InputError
            If the conformed grid would be larger than any network takes.
        """
        oriented = orient(stage, grid)
        result = oriented.result
        box = Box.whole(result.shape) if box is None else box
        return cls(stage, oriented, box, Fit.of(box.shape, result.affine, stage.conform, stage.shape, oriented.stored))

    def cropped(self, kept: Box) -> Placement:
        """Keep a box of the resampled region."""
        return replace(self, fit=self.fit.cropped(kept, self.stage.conform, self.stage.shape))

    def restored(self, y: NDArray[np.float32], threads: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Resample (C, *conformed) to the region in slabs, as the stage says."""
        restore = self.stage.restore
        return self.fit.restored(
            y,
            restore.interpolation,
            across=restore.separate_interpolation,
            outside=restore.outside,
            border=self.stage.conform.border,
            threads=threads,
        )

    def clear_unseen(self, values: NDArray[Any], to: float = 0) -> None:
        """Set what (..., I, J, K) says about voxels of the region that the conformed grid does not cover."""
        seen = self.fit.seen
        if seen == Box.whole(self.fit.region):
            return
        for axis, (start, stop) in enumerate(zip(seen.start, seen.stop, strict=True)):
            along = np.moveaxis(values, axis - 3, 0)
            along[:start] = to
            along[stop:] = to

    @property
    def conformed_voxel_mm3(self) -> float:
        """Volume of a voxel of the conformed grid."""
        steps = [axis.n / axis.m if axis.step is None else axis.step for axis in self.fit.axes]
        return prod(steps) * self.oriented.result.voxel_ml * 1000

    def unseen(self) -> str:
        """Doubt about a scan that is larger than the field of the networks; empty if it is not."""
        fit = self.fit
        total, seen = prod(fit.region), prod(fit.seen.shape)
        if not fit.beyond or seen == total:
            return ""
        spacing = self.oriented.result.spacing_mm
        steps = [axis.n / axis.m if axis.step is None else axis.step for axis in fit.axes]
        field = "×".join(f"{n * s * mm:.4g}" for n, s, mm in zip(fit.conformed, steps, spacing, strict=True))
        found = "×".join(f"{n * mm:.4g}" for n, mm in zip(fit.region, spacing, strict=True))
        what = "scan" if self.box == Box.whole(self.oriented.result.shape) else "region"
        return (
            f"stage {self.stage.name}: the {what} ({found} mm) is larger than the field of the network ({field} mm); "
            f"{total - seen} of {total} voxels were not seen, and get no label"
        )

    @property
    def scores_stay_whole(self) -> bool:
        """True if scores are kept on the whole conformed grid, because they are resampled before they are decoded."""
        stage = self.stage
        return stage.restore.quantity == "scores" and (
            not self.fit.same or bool(stage.mean_with) or stage.samples is not None
        )

    def sums(self, *, in_turn: bool) -> ScoreSums:
        """Arrays in which the scores of windows are summed, or collected if there are no windows.

        With windows they hold the planes that a window still reaches (ADR 8).

        Parameters
        ----------
        in_turn : bool
            Whether members run one after the other, each over all windows. Sums are then kept whole, and so they are
            where members see windows of different shapes.
        """
        stage, planes = self.stage, self.fit.conformed[0]
        members = len(stage.networks)
        averaged = stage.ensemble == "mean-scores"
        if stage.windows is None:
            return ScoreSums(members, planes, np.float32)
        # A sum over members that was rounded to half precision is not the sum of their rounded sums, and one over
        # windows that lie elsewhere has other weights.
        separate = not averaged or stage.windows.in_half or not stage.windows_alike
        whole = in_turn or not stage.windows_alike
        return ScoreSums(
            members if separate else 1,
            planes if whole else min(planes, stage.shape[0]),
            np.float16 if stage.windows.in_half else np.float32,
        )

    def array_bytes(self, channels: int, heads: int, *, in_turn: bool) -> int:
        """Estimate the bytes of the arrays of this stage at their peak, without the networks' own.

        Parameters
        ----------
        channels : int
            Channels of the scan.
        heads : int
            Largest number of score channels of its networks.
        in_turn : bool
            As for `sums`.
        """
        fit, sums = self.fit, self.sums(in_turn=in_turn)
        stage = self.stage
        if stage.samples is not None:  # their spread is one channel more
            heads += 1
        # What is picked of the channels or stacked of slices is copied, and once more if it is turned.
        picked = 2 if stage.inputs or stage.slices > 1 else 1
        taken = 4 * picked * max(prod(stage.input_shape(name, channels)) for name in stage.networks)
        window = max(prod(stage.shape_of(name)) for name in stage.networks)
        given = 4 * channels * prod(fit.region)
        if fit.region != fit.conformed:  # resampled, padded or cropped: then there are two arrays for a while
            given += 4 * channels * prod(fit.conformed)
        if any(axis.step is not None for axis in fit.axes):  # two neighbours of each voxel, axis after axis
            given += 4 * channels * max(prod(fit.region), prod(fit.resampled))
        seen = 4 * (channels + len(self.stage.mask_channels)) * prod(fit.conformed)
        if any(mask.interpolation != "nearest" for mask in self.stage.mask_channels):  # scores of labels, and the best
            given += seen + 20 * prod(fit.resampled)
        # Scores of the planes that are held at a time, in float32, of one member or of the mean of all.
        planes = 4 * heads * sums.planes * fit.conformed[1] * fit.conformed[2]
        if self.stage.windows is None:
            running = taken + planes * (sums.count if sums.count > 1 else 0)
        else:
            width = np.dtype(sums.dtype).itemsize
            held = width * planes // 4 * (heads + 1) // heads  # the sum of scores, and that of weights
            running = sums.count * (held + 8 * window) + taken + 4 * heads * window
        # What is taken out, once for each sum; copies while it is averaged or activated; and what decoding makes of it.
        copies = 3 if self.stage.ensemble == "mean-probabilities" else 1
        taken = planes * (sums.count + copies) + 10 * planes // (4 * heads)
        whole = planes // sums.planes * fit.conformed[0] if self.scores_stay_whole else 0
        if stage.samples is not None:  # a run, its difference from the mean, the mean and the squares; and the spread
            running += 16 * heads * window
            whole += 4 * prod(fit.region)
        if stage.ensemble == "staple":  # label maps of all members, twice, and where they differ
            whole += (2 * len(stage.networks) + 20) * prod(fit.conformed)
        # A slab while it is restored; and while it is activated and averaged with those of other stages.
        slabs = 6 if self.stage.mean_with else 3
        back = slabs * min(SLAB_BYTES, 4 * heads * prod(fit.region)) if self.scores_stay_whole else 0
        return int(max(given, seen + running + taken + whole, whole + back))


def orient(stage: Stage, grid: Grid) -> Reorientation:
    """Reorientation from a scan's grid to the orientation of a stage."""
    return Reorientation(grid, stage.conform.orientation, stage.conform.axes)
