"""Windows over the grid of a stage: their size, overlap and weights, and the slices beside one that is a slice."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lowres_seg.bundle.bounds import OVERLAP, SLICES
from lowres_seg.bundle.grids import Shape
from lowres_seg.bundle.part import Part
from lowres_seg.bundle.versions import Since

_Overlap = Annotated[float, Field(ge=0, le=OVERLAP)]
_Sigma = Annotated[float, Field(gt=0, le=1)]


def _is_tuple(value: object) -> bool:
    return isinstance(value, tuple)


class Windows(Part):
    """Overlapping windows that cover the conformed grid. Their scores are averaged with weights.

    The key `rules` names the convention for positions and for the Gaussian. ``nnunet`` is nnU-Net 2's: windows are
    evenly spread, and the Gaussian is cut off at four sigma. ``monai`` is that of ``sliding_window_inference``: windows
    have a fixed step, the last one is moved back, and weights are at least 0.001. Sigma is `sigma_scale` of a window.
    The step is at most 1 - `overlap` of a window. Both are one number, or one for each axis.

    Sizes are in the order of the conformed grid. With `axes` ``view`` they are in that of each network's array, so that
    (1, H, W) is a slice of every member that has a view.

    A network whose window is one slice may see `neighbours` further slices on each side of it, as further channels:
    for each slice from the first to the last its channels, or with `neighbours_by` ``channel`` for each channel its
    slices. It gives the scores of the slice in the middle. A slice `beyond` the grid is ``zero``, the last one once
    more (``edge``), or everywhere the ``mean`` of its channel on the grid.
    """

    roi_size: Shape
    overlap: Annotated[_Overlap | tuple[_Overlap, _Overlap, _Overlap], Since(3, _is_tuple)] = 0.5
    weights: Literal["constant", "gaussian"] = "gaussian"
    sigma_scale: Annotated[_Sigma | tuple[_Sigma, _Sigma, _Sigma], Since(3, _is_tuple)] = 0.125
    convention: Literal["nnunet", "monai"] = Field(default="nnunet", alias="rules")
    axes: Annotated[Literal["grid", "view"], Since(3)] = "grid"
    neighbours: Annotated[int, Field(ge=0, le=SLICES), Since(3)] = 0
    neighbours_by: Annotated[Literal["slice", "channel"], Since(3)] = "slice"
    beyond: Annotated[Literal["zero", "edge", "mean"], Since(3)] = "zero"

    @model_validator(mode="after")
    def _says_nothing_in_vain(self) -> Windows:
        if self.neighbours == 0 and (self.neighbours_by, self.beyond) != ("slice", "zero"):
            msg = "neighbours_by and beyond are of neighbouring slices, and there are none; expected neighbours too"
            raise ValueError(msg)
        return self

    @property
    def slices(self) -> int:
        """Number of slices that a network sees at once, where it sees slices."""
        return 1 + 2 * self.neighbours

    def on_grid(self, order: tuple[int, int, int]) -> Windows:
        """The same windows in the order of the conformed grid, of a network whose array has its axes in `order`."""
        if self.axes == "grid":
            return self
        place = tuple(order.index(axis) for axis in range(3))
        turned = {key: tuple(getattr(self, key)[at] for at in place) for key in self._each_axis()}
        return self.model_copy(update={**turned, "axes": "grid"})

    def _each_axis(self) -> list[str]:
        """Keys with a number for each axis."""
        return [key for key in ("roi_size", "overlap", "sigma_scale") if isinstance(getattr(self, key), tuple)]

    @property
    def in_half(self) -> bool:
        """True if sums and means are kept in half precision. nnU-Net keeps them so, and its masks depend on it."""
        return self.convention == "nnunet"

    @property
    def overlaps(self) -> tuple[float, float, float]:
        """Overlap along each axis."""
        return self.overlap if isinstance(self.overlap, tuple) else (self.overlap,) * 3

    @property
    def sigma_scales(self) -> tuple[float, float, float]:
        """Sigma along each axis, relative to a window."""
        return self.sigma_scale if isinstance(self.sigma_scale, tuple) else (self.sigma_scale,) * 3
