"""The result for one scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.runtime.ordering import by_stride
from lowres_seg.volumes.header import carried
from lowres_seg.volumes.volume import Volume

#: Number of labels up to which each is counted by itself.
_FEW = 8


def beside(scan: Volume, data: NDArray[Any]) -> Volume:
    """A volume of a scan's grid and name, whose header has the geometry of the scan's."""
    return Volume(data, scan.grid, None if scan.header is None else carried(scan.header, data), name=scan.name)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The result for one scan.

    Attributes
    ----------
    labels : Volume
        Label map (uint8) on the grid of the scan. Its header has the geometry, units and intent of the scan's, and none
        of its text, as what `save` writes.
    label_names : dict of int to str
    timings_s : dict of str to float
        Seconds of each step in their order: ``load``, then ``<stage>.<step>``.
    doubts : tuple of str
        What a reader of the result should know: an empty result, a header that does not say where left is. Those of
        `lowres_seg.runtime.doubts` have a `name`.
    numbers : dict of str to float
        Value of each class, of a network that classifies the scan.
    spread : Volume or None
        Standard deviation (float32) of the activated scores over the samples of the last stage that has some, largest
        over the channels that it decodes; None of a bundle whose networks have no dropout.
    """

    labels: Volume
    label_names: dict[int, str]
    timings_s: dict[str, float]
    doubts: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)
    spread: Volume | None = None

    def voxels(self) -> dict[str, int]:
        """Number of voxels of each label."""
        data = self.labels.data
        if len(self.label_names) <= _FEW:
            return {name: int(np.count_nonzero(data == value)) for value, name in self.label_names.items()}
        planes = data.transpose(by_stride(data))
        counts = sum((np.bincount(plane.ravel(), minlength=256) for plane in planes), np.zeros(256, np.intp))
        return {name: int(counts[value]) for value, name in self.label_names.items()}

    def volumes_ml(self) -> dict[str, float]:
        """Volume of each label in millilitres."""
        return {name: count * self.labels.grid.voxel_ml for name, count in self.voxels().items()}
