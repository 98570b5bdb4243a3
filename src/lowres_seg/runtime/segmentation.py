"""The result for one scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.errors import InputError
from lowres_seg.runtime import regrid
from lowres_seg.runtime.border import bordered, millimetres
from lowres_seg.runtime.doubts import Doubt
from lowres_seg.runtime.label_choice import Chosen, chosen, kept
from lowres_seg.runtime.ordering import by_stride
from lowres_seg.runtime.scan_input import VolumeOrPath, checked
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

    `choose`, `border`, `crop` and `like` give another result, made of this one.

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
    regions : dict of str to tuple of int
        Label values of each evaluated region of the bundle, which `choose` knows by name.
    scores : dict of str to Volume
        Score of each label, where `predict` was asked for them: float16 as the stage decodes it, or uint8, 255 times a
        probability. Clean-up and border have not changed them.
    scores_add : bool
        Whether the scores of labels exclude each other, so that `choose` adds up those of merged labels; else it takes
        the highest.
    """

    labels: Volume
    label_names: dict[int, str]
    timings_s: dict[str, float]
    doubts: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)
    spread: Volume | None = None
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    scores: dict[str, Volume] = field(default_factory=dict)
    scores_add: bool = False

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

    def choose(self, labels: str) -> Segmentation:
        """Keep some labels, or merge them. All others become background.

        Parameters
        ----------
        labels : str
            Words with commas between them: a label's name or value, an evaluated region's name, or ``NEW=A+B``. What is
            merged has the lowest of its values.

        Raises
        ------
        InputError
            If a label is unknown or named twice.
        """
        choice = chosen(labels, self.label_names, self.regions)
        data = kept(self.labels.data, choice)
        emptied = self.labels.data.any() and not data.any()
        told = f"the result is empty: it has other labels than {', '.join(label.name for label in choice)}"
        return replace(
            self,
            labels=beside(self.labels, data),
            label_names={label.values[0]: label.name for label in choice},
            regions={},
            scores={label.name: self._merged(label) for label in choice} if self.scores else {},
            doubts=self.doubts + ((Doubt("empty", told),) if emptied else ()),
        )

    def _merged(self, label: Chosen) -> Volume:
        """Score of several labels in one."""
        parts = [self.scores[self.label_names[value]] for value in label.values]
        data = parts[0].data
        for part in parts[1:]:
            if not self.scores_add:
                data = np.maximum(data, part.data)
            elif data.dtype == np.uint8:
                data = np.minimum(data.astype(np.uint16) + part.data, 255).astype(np.uint8)
            else:
                data = np.minimum(data + part.data, 1).astype(data.dtype)
        return beside(parts[0], data)

    def border(self, border_mm: float, *, threads: int = 1) -> Segmentation:
        """Grow what is labelled into the background by a distance, or shrink it if the distance is below zero.

        Distances are between centres of voxels, in mm. A label that is gone is a doubt.

        Parameters
        ----------
        border_mm : float
        threads : int

        Raises
        ------
        InputError
            If it is no finite number, or the axes of the scan are not at right angles.
        """
        border_mm = millimetres(border_mm, "border_mm")
        try:
            data = bordered(self.labels.data, self.labels.grid, border_mm, threads=threads)
        except InputError as error:
            raise InputError(f"{self.labels.name}: {error}") from error
        return self._without(beside(self.labels, data), f"a border of {border_mm:g} mm")

    def crop(self) -> Segmentation:
        """Cut the result to the box around what is labelled.

        Raises
        ------
        InputError
            If nothing is labelled.
        """
        box = regrid.box_around_labels(self.labels)
        spread = None if self.spread is None else regrid.cropped(self.spread, box)
        scores = {name: regrid.cropped(score, box) for name, score in self.scores.items()}
        return replace(self, labels=regrid.cropped(self.labels, box), spread=spread, scores=scores)

    def like(self, other: VolumeOrPath) -> Segmentation:
        """Put the result on the grid of another scan in the same space: labels of the nearest voxel, other maps linear.

        What is labelled outside of that grid, and a label that is gone, are doubts.

        Parameters
        ----------
        other : Volume, path, or image of nibabel or SimpleITK

        Raises
        ------
        InputError
            If the file is unusable, or both grids share no space.
        """
        given = checked(other, "other")
        target = given if isinstance(given, Volume) else Volume.blank(given)
        mine = self.labels.grid
        regrid.check_overlap(mine, target.grid, (self.labels.name, target.name))

        def moved(volume: Volume, *, linear: bool) -> Volume:
            return replace(beside(target, regrid.onto(volume.data, mine, target.grid, linear=linear)), name=volume.name)

        lost = regrid.beyond(self.labels, target.grid)
        told = f"{100 * lost:.3g}% of what is labelled lies outside of {target.name}, whose grid the result has"
        doubts = (Doubt("beyond-the-grid", told),) if lost else ()
        spread = None if self.spread is None else moved(self.spread, linear=True)
        found = self._without(moved(self.labels, linear=False), f"the grid of {target.name}", doubts)
        scores = {name: moved(score, linear=True) for name, score in self.scores.items()}
        return replace(found, spread=spread, scores=scores)

    def _without(self, labels: Volume, by: str, doubts: tuple[str, ...] = ()) -> Segmentation:
        """The result with other labels, and a doubt for each label that has lost all its voxels."""
        there, left = (set(np.unique(one.data).tolist()) - {0} for one in (self.labels, labels))
        gone = [self.label_names[value] for value in sorted(there - left)]
        doubts += tuple(Doubt("label-gone", f"{name} is gone: {by} has left no voxel of it") for name in gone)
        return replace(self, labels=labels, doubts=self.doubts + doubts)
