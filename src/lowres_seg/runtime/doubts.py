"""Doubts: what a reader of a mask should look at before using it, each with a name and its figure.

They are signs, and no errors: the mask is written all the same. ``benchmarks/doubts.py`` measures that none is raised
on real scans, and that faults are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.bundle.rules import LargestComponent
from lowres_seg.runtime.cleanup import component_sizes
from lowres_seg.volumes.volume import Volume

DoubtName = Literal[
    "empty",
    "nothing-to-look-at",
    "beyond-the-field",
    "volume",
    "cut-off",
    "fragments",
    "padding",
    "label-gone",
    "beyond-the-grid",
    "series",
    "guessed-channel",
    "another-grid",
    "brain-channel",
]
#: Section of the mask on a border plane of the scan, as a share of its widest section along that axis.
CUT_OFF = 0.25
#: Planes along an axis below which no widest section is known.
FEW_PLANES = 8
#: Share of a label outside its largest component, and number of components, of a label that is one organ.
SCATTERED, MANY = 0.02, 3
#: Share of voxels at the lowest value.
PADDED = 0.001
#: Labels that are one organ.
ORGANS = (
    "brain",
    "brain-mask",
    "brainmask",
    "whole-brain",
    "cerebrum",
    "cerebellum",
    "brainstem",
    "brain-stem",
    "head",
)
#: Values of padding that are the lowest of a type of whole numbers.
_LOWEST = (-(2**15), -(2**31))


class Doubt(str):
    """A sentence with the figure that raised the doubt, and its short name, which stays the same.

    Attributes
    ----------
    name : str
    """

    __slots__ = ("name",)
    name: DoubtName

    def __new__(cls, name: DoubtName, sentence: str) -> Self:
        """Make a doubt."""
        doubt = super().__new__(cls, sentence)
        doubt.name = name
        return doubt

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return self.name, str(self)


def of_scan(volumes: Sequence[Volume]) -> list[Doubt]:
    """Doubts about the channels of a scan."""
    doubts = []
    for volume in volumes:
        found = padding(volume.data)
        if found is not None:
            share, lowest, low, high = found
            told = f"{100 * share:.3g}% of the voxels are {lowest:g}, and all others {low:g} to {high:g}"
            doubts.append(Doubt("padding", f"{volume.name}: {told}; if that is padding, set it to the background"))
    return doubts


def of_result(pipeline: Pipeline, labels: Volume) -> list[Doubt]:
    """Doubts about the label map of a pipeline."""
    if not pipeline.labels:
        return []
    doubts = []
    if not labels.data.any():
        doubts.append(Doubt("empty", "the result is empty"))
    doubts += _of_volumes(pipeline, labels)
    share, plane = cut_off(labels.data)
    if share > CUT_OFF:
        doubts.append(
            Doubt(
                "cut-off",
                f"the mask is cut off at the {plane} of the scan: its section there is {100 * share:.0f}% of its "
                f"widest one, expected at most {100 * CUT_OFF:.0f}%",
            )
        )
    for value, name in one_organ(pipeline):
        count, scattered = fragments(labels.data, value)
        if count >= MANY and scattered > SCATTERED:
            doubts.append(
                Doubt(
                    "fragments",
                    f"{name} has {count} pieces, with {100 * scattered:.3g}% of it outside the largest one, expected "
                    f"at most {100 * SCATTERED:g}%",
                )
            )
    return doubts


def _of_volumes(pipeline: Pipeline, labels: Volume) -> list[Doubt]:
    limited = [(label, label.volume_ml) for label in pipeline.labels if label.volume_ml is not None]
    if not limited:
        return []
    doubts = []
    counts = np.bincount(labels.data.ravel(), minlength=256)
    for label, (low, high) in limited:
        found = float(counts[label.value]) * labels.grid.voxel_ml
        if not low <= found <= high:
            doubts.append(Doubt("volume", f"{label.name} has {found:.4g} ml, expected {low:g} to {high:g} ml"))
    return doubts


def cut_off(labels: NDArray[np.uint8]) -> tuple[float, str]:
    """How much of the mask the border of the scan cuts off.

    Without any background, or along an axis of few planes, nothing tells what the widest section is.

    Parameters
    ----------
    labels : (I, J, K) ndarray of uint8

    Returns
    -------
    share : float
        Largest section on a border plane, as a share of the widest section along that axis; 0 without any.
    plane : str
        ``first plane along axis 2``, for example.
    """
    worst, where = 0.0, ""
    for axis, n in enumerate(labels.shape):
        ends = [int(np.count_nonzero(np.moveaxis(labels, axis, 0)[index])) for index in (0, -1)]
        if n < FEW_PLANES or max(ends) == 0:
            continue
        # Most masks touch no border, and are looked at no further.
        moved = np.moveaxis(labels, axis, 0)
        sections = [int(np.count_nonzero(section)) for section in moved]
        if min(sections) == moved[0].size:
            continue
        share = max(ends) / max(sections)
        if share > worst:
            worst, where = share, f"{'first' if ends[0] >= ends[1] else 'last'} plane along axis {axis}"
    return worst, where


def one_organ(pipeline: Pipeline) -> list[tuple[int, str]]:
    """Labels that are one organ, whose pieces the last clean-up has not taken away: value and name."""
    cleaned = any(isinstance(rule, LargestComponent) for rule in pipeline.stages[-1].cleanup)
    return [] if cleaned else [(label.value, label.name) for label in pipeline.labels if label.name in ORGANS]


def fragments(labels: NDArray[np.uint8], value: int) -> tuple[int, float]:
    """Count the connected components of a label, and tell the share of it that lies outside the largest one."""
    sizes = component_sizes(labels == value)
    return len(sizes), 1 - float(sizes.max()) / float(sizes.sum()) if len(sizes) else 0.0


def padding(data: NDArray[Any]) -> tuple[float, float, float, float] | None:
    """Tell whether many voxels lie at the lowest value, far below all others: further than those reach.

    Returns
    -------
    share, lowest, low, high : float, or None
        Share of the voxels at the lowest value, that value, and the range of all others. None without padding.
    """
    lowest = data.min()
    if lowest >= 0:
        return None
    at = data == lowest
    share = np.count_nonzero(at) / data.size
    if share < PADDED or share == 1:
        return None
    others = data[~at]
    low, high = float(others.min()), float(others.max())
    far = low - float(lowest) > high - low or (lowest in _LOWEST and low > lowest + 1)
    return (share, float(lowest), low, high) if far else None
