"""One pass from scan to labels: what a stage of a manifest may say.

A stage takes a **region** of the scan, **conforms** it to the grid that its networks expect, **normalises** the
intensities, runs the networks, in one piece or in **windows**, **decodes** their scores to labels, **restores** those
to the scan's own grid and **cleans** them up.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lowres_seg.bundle.rules import CleanupRule, IntensityRule, LabelValue, Name, Part
from lowres_seg.volumes.orientations import ORIENTATIONS, STORED

Shape = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Millimetres = Annotated[float, Field(gt=0, le=50)]
Axis = Literal[0, 1, 2]
View = Literal["axial", "coronal", "sagittal"]


class Conform(Part):
    """The grid that the networks of a stage expect.

    The axes of the array are those of `orientation`, or of the file as it is ``stored``, in the order of `axes`.
    The region is stretched to `shape`; with `spacing_mm` (null for an axis that keeps its own) it is instead resampled
    to that spacing and then padded or cropped about its centre to `shape`. A stage with windows has no `shape`: its
    region is only padded, to one window at least. `pad` is what it is padded with: each channel's minimum; or, after
    normalisation, zero, or noise of mean 0 and variance 1, the same on every run.

    ``nearest`` and ``linear`` sample at voxel centres, as ``nearest-exact`` and ``trilinear`` (corners not aligned) of
    torch do; ``cubic`` is the B-spline of scikit-image's ``resize`` of order 3, clipped to the range of its input.
    Where the spacing before, or else after, is on one axis more than `separate_above` times the finest, that axis
    is sampled by nearest and the others as said: nnU-Net's rule.
    """

    orientation: str = "RAS"
    axes: tuple[Axis, Axis, Axis] = (0, 1, 2)
    shape: Shape | None = None
    spacing_mm: tuple[Millimetres | None, Millimetres | None, Millimetres | None] | None = None
    interpolation: Literal["nearest", "linear", "cubic"] = "linear"
    separate_above: Annotated[float, Field(ge=1)] | None = None
    pad: Literal["minimum", "zero", "noise"] = "minimum"

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
            msg = f"axes reorder a {STORED} array; the letters of an orientation stand in the order that is wanted"
            raise ValueError(msg)
        return self


class WholeVolume(Part):
    """The whole scan."""

    kind: Literal["volume"] = "volume"


class NonZero(Part):
    """The box around all voxels that are not zero in every channel, with a margin, cut to the scan."""

    kind: Literal["nonzero"] = "nonzero"
    margin_voxels: int = Field(default=0, ge=0, le=256)


class BoxOf(Part):
    """The box around another stage's result, with a margin, cut to the scan.

    A slice of the other stage's result counts as part of the box when more than `min_occupancy` of it is
    foreground. The margin on each side is ``margin_fraction`` of the box plus ``margin_voxels`` of the scan.
    `rounding` ``outward`` keeps every voxel that the box touches; ``centre`` rounds centre and size of the box
    to whole voxels first, as deepbet does. With `largest` it is the box of the largest connected component.
    """

    kind: Literal["box-of"] = "box-of"
    stage: Name
    margin_fraction: float = Field(default=0.0, ge=0, le=1)
    margin_voxels: int = Field(default=0, ge=0, le=256)
    min_occupancy: float = Field(default=0.0, ge=0, lt=1)
    largest: bool = False
    rounding: Literal["outward", "centre"] = "outward"


Region = Annotated[WholeVolume | NonZero | BoxOf, Field(discriminator="kind")]


class Normalise(Part):
    """Intensity rules, applied in order, before or after the region is conformed."""

    when: Literal["before-conform", "after-conform"] = "after-conform"
    rules: tuple[IntensityRule, ...] = ()


class Windows(Part):
    """Overlapping windows that cover the conformed grid; their scores are averaged, with weights.

    `rules` says whose positions and whose Gaussian: those of nnU-Net 2 (evenly spread; the Gaussian is cut off at four
    sigma) or of MONAI's ``sliding_window_inference`` (a fixed step, the last window moved back; weights of 0.001 at
    least). Sigma is `sigma_scale` of a window. A step is 1 - `overlap` of a window at the most.
    """

    roi_size: Shape
    overlap: float = Field(default=0.5, ge=0, lt=1)
    weights: Literal["constant", "gaussian"] = "gaussian"
    sigma_scale: float = Field(default=0.125, gt=0, le=1)
    rules: Literal["nnunet", "monai"] = "nnunet"

    @property
    def in_half(self) -> bool:
        """Whether means are kept in half precision: nnU-Net does, and a mask is to be the one that nnU-Net gives."""
        return self.rules == "nnunet"


class PaintedRegion(Part):
    """Where the score of `channel` exceeds `threshold`, `label` is written.

    With `within`, only where the region of one of those channels is too.
    """

    channel: int = Field(ge=0)
    threshold: float = 0.5
    label: LabelValue
    within: tuple[int, ...] = ()


class Regions(Part):
    """Each region is thresholded and painted in the order given; later ones overwrite earlier ones.

    So nnU-Net writes its regions, and BraTS's table of WT, TC and ET is written as WT, TC, and ET ``within`` both.
    """

    kind: Literal["regions"] = "regions"
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    regions: tuple[PaintedRegion, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _within_regions(self) -> Regions:
        channels = {region.channel for region in self.regions}
        lost = sorted({other for region in self.regions for other in region.within} - channels)
        if lost:
            msg = f"a region lies within channel {lost[0]}, which is no region"
            raise ValueError(msg)
        return self


class Argmax(Part):
    """Each voxel gets the label of its highest score; ``labels[c]`` is channel c's, 0 is background.

    The activation changes no label of one network; an ensemble takes the mean of what it gives.
    """

    kind: Literal["argmax"] = "argmax"
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    labels: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(min_length=2)


class Classes(Part):
    """A number for each class of the whole region, and no mask: the network gives scores (1, classes, 1, 1, 1)."""

    kind: Literal["classes"] = "classes"
    activation: Literal["none", "sigmoid", "softmax"] = "softmax"
    names: tuple[Name, ...] = Field(min_length=1)


Decode = Annotated[Regions | Argmax | Classes, Field(discriminator="kind")]


class Restore(Part):
    """What returns to the scan's own grid: the scores, decoded there, or the decoded labels, or nothing.

    With ``nothing`` the result stays on the conformed grid; it can then only locate a region for another stage.
    Scores are activated ``before`` they return or ``after``, as nnU-Net does.
    """

    what: Literal["scores", "labels", "nothing"] = "scores"
    activated: Literal["before", "after"] = "before"
    interpolation: Literal["nearest", "linear"] = "linear"

    @model_validator(mode="after")
    def _labels_are_not_interpolated(self) -> Restore:
        if self.what == "labels" and self.interpolation != "nearest":
            msg = "labels can only be restored with nearest interpolation"
            raise ValueError(msg)
        return self


class MaskOf(Part):
    """Another stage's result as a channel: 1 where it has one of `labels`, or any label if none is named."""

    stage: Name
    labels: tuple[LabelValue, ...] = ()


class Stage(Part):
    """One pass from scan to labels.

    Attributes
    ----------
    networks
        One, or the members of an ensemble.
    views
        Members that look at the volume slice by slice along another axis, which becomes the first of their array; the
        other two keep their order.
    ensemble
        What of the members is averaged: their scores, or what the activation of `decode` makes of them; or each has a
        vote for each voxel's label, and the lowest label wins a tie.
    mirror_axes
        Every network also sees the windows mirrored along each combination of these axes of the conformed grid; the
        mean of the scores, mirrored back, is its score.
    mask_channels
        Results of stages before it, that follow the channels of the scan.
    onto
        A stage before it, over whose result this one writes its labels; the rest of that result stays.
    inference_precision
        What the CPU computes in, apart from what is quantized.
    """

    name: Name
    networks: tuple[Name, ...] = Field(min_length=1)
    views: dict[Name, View] = Field(default={})
    ensemble: Literal["mean-scores", "mean-probabilities", "vote"] = "mean-scores"
    mirror_axes: tuple[Axis, ...] = ()
    region: Region = WholeVolume()
    conform: Conform
    normalise: Normalise = Normalise()
    mask_channels: tuple[MaskOf, ...] = ()
    windows: Windows | None = None
    decode: Decode
    restore: Restore = Restore()
    cleanup: tuple[CleanupRule, ...] = ()
    onto: Name | None = None
    inference_precision: Literal["f32", "bf16"] = "f32"

    @model_validator(mode="after")
    def _hangs_together(self) -> Stage:
        where = f"stage {self.name}"
        if (self.windows is None) == (self.conform.shape is None):
            msg = f"{where}: expected a shape to conform to, or windows, and not both"
            raise ValueError(msg)
        strange = [name for name in self.views if name not in self.networks]
        if strange:
            msg = f"{where}: a view for network {strange[0]}, which it does not run"
            raise ValueError(msg)
        if self.views and self.conform.orientation == STORED:
            msg = f"{where}: views need an orientation by its letters, {STORED} says nothing of where up is"
            raise ValueError(msg)
        if len(set(self.mirror_axes)) != len(self.mirror_axes):
            msg = f"{where}: an axis to mirror is there twice"
            raise ValueError(msg)
        if self.ensemble == "vote" and self.restore.what == "scores":
            msg = f"{where}: votes are for labels, so labels are what it can restore"
            raise ValueError(msg)
        if self.ensemble == "vote" and isinstance(self.decode, Classes):
            msg = f"{where}: votes are for labels, and it tells classes; take the mean of their probabilities"
            raise ValueError(msg)
        if self.restore.activated == "after" and self.ensemble != "mean-scores":
            msg = f"{where}: probabilities are what its networks give, so they are activated before they return"
            raise ValueError(msg)
        if isinstance(self.decode, Classes) and (self.windows is not None or self.restore.what != "nothing"):
            msg = f"{where}: classes are of the whole region: no windows, and nothing to restore"
            raise ValueError(msg)
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """What its networks see at a time, on the conformed grid."""
        shape = self.conform.shape if self.windows is None else self.windows.roi_size
        assert shape is not None  # noqa: S101 - the validator has seen to it
        return shape

    def order(self, network: str) -> tuple[int, int, int]:
        """Axes of the conformed grid, in the order in which a network has them."""
        if network not in self.views:
            return (0, 1, 2)
        ends = {"axial": "IS", "coronal": "PA", "sagittal": "LR"}[self.views[network]]
        first = next(axis for axis, letter in enumerate(self.conform.orientation) if letter in ends)
        rest = [axis for axis in range(3) if axis != first]
        return first, rest[0], rest[1]

    def input_shape(self, network: str, channels: int) -> tuple[int, int, int, int, int]:
        """(1, C, D, H, W) of one of its networks, for a scan of so many channels."""
        d, h, w = (self.shape[axis] for axis in self.order(network))
        return 1, channels + len(self.mask_channels), d, h, w
