"""The grid of a stage's networks, and the way back to the scan's own grid."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from lowres_seg.bundle.bounds import CHANNELS, SIDE, SPACING_MM
from lowres_seg.bundle.part import Name, Part
from lowres_seg.bundle.versions import Since
from lowres_seg.volumes.orientations import ORIENTATIONS, STORED

_Side = Annotated[int, Field(ge=1, le=SIDE)]
Shape = tuple[_Side, _Side, _Side]
Millimetres = Annotated[float, Field(ge=SPACING_MM, le=50)]
Axis = Literal[0, 1, 2]
Clipped = Literal["quadratic", "cubic", "quartic", "quintic"]
Interpolation = Literal[Clipped, "nearest", "floor", "linear", "area", "spline-2", "spline-3", "spline-4", "spline-5"]
#: Interpolation along the axis that is resampled apart from the others.
Across = Literal["nearest", "floor", "linear", "spline-2", "spline-3", "spline-4", "spline-5"]


def _is_of_version_3(interpolation: str) -> bool:
    return interpolation not in ("nearest", "linear", "cubic")


_Margin = Annotated[int, Field(ge=0, le=1024)]


class Crop(Part):
    """The part of the resampled region that is kept: the box around voxels above `above` in any of `channels`.

    The box grows by a margin on each axis, and then about its centre to a multiple of `multiple_of`. What lies beyond
    the resampled region is zero; with `cut` the margin ends at the region. Without any voxel above, all is kept.
    """

    since = 3
    above: float = 0.0
    channels: tuple[Name, ...] = Field(default=(), max_length=CHANNELS)
    margin_voxels: tuple[Annotated[int, Field(ge=0, le=1024)], ...] = Field(
        default=(0, 0, 0), min_length=3, max_length=3
    )
    cut: bool = False
    multiple_of: Shape = (1, 1, 1)


class Conform(Part):
    """The grid of a stage's networks, and how the region is resampled to it.

    The array axes are those of `orientation`, or with ``stored`` those of the file in the order of `axes`. Without
    `spacing_mm` the region is stretched to `shape`. With `spacing_mm` (null for an axis that keeps its own spacing) the
    region is resampled to that spacing, cut to `crop`, then padded or cropped about its centre to `shape`. Without a
    `shape`, which windows allow, it is cropped to `at_most`, and padded to `at_least`, to a multiple of `multiple_of`
    and to one window. `pad`
    is the value of the padding: each channel's minimum; or, after normalisation, zero, `pad_value`, the ``edge``, the
    ``reflect``-ed or ``wrap``-ped grid, or noise of mean 0 and variance 1 that is the same on every run.

    ``nearest`` and ``linear`` sample at voxel centres, as torch's ``nearest-exact`` and ``trilinear`` (corners not
    aligned) do. ``quadratic``, ``cubic``, ``quartic`` and ``quintic`` are the B-splines of order 2 to 5 of
    scikit-image's ``resize``, clipped to the range of their input.
    ``floor`` takes sample floor(i·n/m), as torch's ``nearest`` does. ``area`` is the mean over a voxel's part of the
    region, as torch's ``area``. ``spline-N`` is SciPy's B-spline of order N, not clipped.
    If one axis is more than `separate_above` times as coarse as the finest axis, in the spacing before resampling or
    else in the spacing after, that axis is sampled by `separate_interpolation` and the others as said: nnU-Net's rule.
    With `separate_spacing` ``before`` only the spacing before resampling is looked at.

    `convention` says where the resampled voxels lie. With ``edges`` the region and the resampled region begin and end
    at the same edges. ``monai`` is that of MONAI's ``Spacing``: their first voxels have one centre, voxels lie exactly
    `spacing_mm` apart, a spacing within 0.001 mm of the wanted one is kept, and the centre of a crop is rounded as
    MONAI rounds it. `spacing_axes` ``stored`` means that `spacing_mm`, and the first voxel, are those of the file's own
    axes. `border` is what lies beyond the outer centres: their values, or zero.
    """

    orientation: str = "RAS"
    axes: tuple[Axis, Axis, Axis] = (0, 1, 2)
    shape: Shape | None = None
    spacing_mm: tuple[Millimetres | None, Millimetres | None, Millimetres | None] | None = None
    interpolation: Annotated[Interpolation, Since(3, _is_of_version_3)] = "linear"
    separate_above: Annotated[float, Field(ge=1)] | None = None
    separate_interpolation: Annotated[Across, Since(3)] = "nearest"
    separate_spacing: Annotated[Literal["either", "before"], Since(3)] = "either"
    pad: Annotated[
        Literal["minimum", "zero", "noise", "value", "edge", "reflect", "wrap"],
        Since(3, lambda value: value not in ("minimum", "zero", "noise")),
    ] = "minimum"
    pad_value: Annotated[float, Since(3)] = 0.0
    pad_side: Annotated[Literal["both", "end"], Since(3)] = "both"
    at_most: Annotated[Shape | None, Since(3)] = None
    at_least: Annotated[Shape | None, Since(3)] = None
    multiple_of: Annotated[Shape | None, Since(3)] = None
    crop: Annotated[Crop | None, Since(3)] = None
    convention: Annotated[Literal["edges", "monai"], Since(3)] = "edges"
    spacing_axes: Annotated[Literal["orientation", "stored"], Since(3)] = "orientation"
    border: Annotated[Literal["edge", "zero"], Since(3)] = "edge"

    @field_validator("orientation")
    @classmethod
    def _is_orientation(cls, value: str) -> str:
        if value != STORED and value not in ORIENTATIONS:
            msg = f"{value!r} is no orientation; expected three letters such as RAS or LPS, or {STORED}"
            raise ValueError(msg)
        return value

    @field_validator("axes")
    @classmethod
    def _is_permutation(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if sorted(value) != [0, 1, 2]:
            msg = f"{list(value)} is no order of the axes 0, 1 and 2"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _one_way_to_name_the_axes(self) -> Conform:
        if self.orientation != STORED and self.axes != (0, 1, 2):
            msg = f"axes reorder a {STORED} array only; write an orientation's letters in the order wanted"
            raise ValueError(msg)
        return self

    @property
    def crops(self) -> bool:
        """True if the resampled region may be cropped before the last intensity rules."""
        centred = self.convention == "monai" and self.shape is not None and self.pad != "minimum"
        return self.crop is not None or self.at_most is not None or centred

    @model_validator(mode="after")
    def _grid_fits_the_convention(self) -> Conform:
        if self.convention == "monai" and self.interpolation in (*get_args(Clipped), "floor", "area"):
            msg = f"{self.interpolation} is of the convention edges"
            raise ValueError(msg)
        if self.convention == "edges" and (self.spacing_axes == "stored" or self.border == "zero"):
            msg = "spacing_axes stored and border zero are of the convention monai"
            raise ValueError(msg)
        if self.interpolation == "area" and self.spacing_mm is not None:
            msg = "area is for a region that is stretched to a shape; expected no spacing_mm"
            raise ValueError(msg)
        if self.shape is not None and (self.at_most, self.at_least, self.multiple_of) != (None, None, None):
            msg = "at_most, at_least and multiple_of are for grids without a shape"
            raise ValueError(msg)
        cut = self.crop is not None or self.at_most is not None
        if cut and (self.spacing_mm is None or self.pad == "minimum"):
            msg = "a crop needs spacing_mm (null for an axis that keeps its own), and another pad than minimum"
            raise ValueError(msg)
        return self


class Restore(Part):
    """What is resampled to the scan's own grid, named by the key `what`: scores, labels, or nothing.

    ``scores`` are decoded on the scan's grid. ``labels`` are decoded on the conformed grid first. With ``nothing`` the
    result stays on the conformed grid, where it can only locate a region for another stage. Scores are activated
    ``before`` they are resampled or ``after``, as nnU-Net does. Restored scores have the `precision` of the windows'
    scores, or ``single``. `separate_interpolation` is that of `Conform`.

    Voxels of the region that the conformed grid does not cover are background. The values that are interpolated beyond
    its edge are those at the edge, or zero (`outside`). With `rounding` the values of labels are interpolated, and
    rounded to the ``nearest`` whole number or ``down``: MONAI writes such values if it inverts a label map without
    ``nearest_interp``.
    """

    quantity: Literal["scores", "labels", "nothing"] = Field(default="scores", alias="what")
    activated: Literal["before", "after"] = "before"
    interpolation: Annotated[Interpolation, Since(3, lambda value: value not in ("nearest", "linear"))] = "linear"
    separate_interpolation: Annotated[Across, Since(3)] = "nearest"
    precision: Annotated[Literal["windows", "single"], Since(3)] = "windows"
    outside: Annotated[Literal["edge", "zero"], Since(3)] = "edge"
    rounding: Annotated[Literal["nearest", "down"] | None, Since(3)] = None

    @model_validator(mode="after")
    def _labels_are_not_interpolated(self) -> Restore:
        if self.quantity == "labels" and self.interpolation not in ("nearest", "floor") and self.rounding is None:
            msg = "labels can only be restored with nearest interpolation, unless a rounding is named"
            raise ValueError(msg)
        if self.rounding is not None and self.quantity != "labels":
            msg = f"rounding is for labels, and {self.quantity} are restored"
            raise ValueError(msg)
        return self
