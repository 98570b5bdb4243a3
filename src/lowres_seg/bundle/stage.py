"""One pass from scan to labels: the fields of a stage.

A stage takes a **region** of the scan, **conforms** it to the grid of its networks, **normalises** intensities, runs
the networks on the whole grid or in **windows**, **decodes** scores to labels, **restores** the labels to the scan's
own grid, and **cleans** them up.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lowres_seg.bundle.part import LabelValue, Name, Part
from lowres_seg.bundle.rules import CleanupRule, IntensityRule
from lowres_seg.volumes.orientations import ORIENTATIONS, STORED

Shape = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Millimetres = Annotated[float, Field(gt=0, le=50)]
Axis = Literal[0, 1, 2]
View = Literal["axial", "coronal", "sagittal"]
Activation = Literal["none", "sigmoid", "softmax"]


class Conform(Part):
    """The grid of a stage's networks, and how the region is resampled to it.

    The array axes are those of `orientation`, or with ``stored`` those of the file in the order of `axes`. Without
    `spacing_mm` the region is stretched to `shape`. With `spacing_mm` (null for an axis that keeps its own spacing) the
    region is resampled to that spacing, then padded or cropped about its centre to `shape`. A stage with windows has no
    `shape`: its region is padded to one window at least. `pad` is the value of the padding: each channel's minimum;
    or, after normalisation, zero, or noise of mean 0 and variance 1 that is the same on every run.

    ``nearest`` and ``linear`` sample at voxel centres, as torch's ``nearest-exact`` and ``trilinear`` (corners not
    aligned) do. ``cubic`` is the B-spline of order 3 of scikit-image's ``resize``, clipped to the range of its input.
    If one axis is more than `separate_above` times as coarse as the finest axis, in the spacing before resampling or
    else in the spacing after, that axis is sampled by nearest and the others as said: nnU-Net's rule.
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
            msg = f"axes reorder a {STORED} array only; write an orientation's letters in the order wanted"
            raise ValueError(msg)
        return self


class WholeVolume(Part):
    """The whole scan."""

    kind: Literal["volume"] = "volume"


class NonZero(Part):
    """The box around all voxels that are nonzero in any channel, with a margin, cut to the scan."""

    kind: Literal["nonzero"] = "nonzero"
    margin_voxels: int = Field(default=0, ge=0, le=256)


class BoxOf(Part):
    """The box around another stage's result, with a margin, cut to the scan.

    A slice of that result counts as part of the box if more than `min_occupancy` of it is foreground. The margin on
    each side is ``margin_fraction`` of the box plus ``margin_voxels`` of the scan. `rounding` ``outward`` keeps every
    voxel that the box touches. ``centre`` rounds centre and size of the box to whole voxels first, as deepbet does.
    With `largest` the box is that of the largest connected component.
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
    """Intensity rules, applied in their order, before or after the region is conformed."""

    when: Literal["before-conform", "after-conform"] = "after-conform"
    rules: tuple[IntensityRule, ...] = ()


class Windows(Part):
    """Overlapping windows that cover the conformed grid. Their scores are averaged with weights.

    The key `rules` names the convention for positions and for the Gaussian. ``nnunet`` is nnU-Net 2's: windows are
    evenly spread, and the Gaussian is cut off at four sigma. ``monai`` is that of ``sliding_window_inference``: windows
    have a fixed step, the last one is moved back, and weights are at least 0.001. Sigma is `sigma_scale` of a window.
    The step is at most 1 - `overlap` of a window.
    """

    roi_size: Shape
    overlap: float = Field(default=0.5, ge=0, lt=1)
    weights: Literal["constant", "gaussian"] = "gaussian"
    sigma_scale: float = Field(default=0.125, gt=0, le=1)
    convention: Literal["nnunet", "monai"] = Field(default="nnunet", alias="rules")

    @property
    def in_half(self) -> bool:
        """True if sums and means are kept in half precision. nnU-Net keeps them so, and its masks depend on it."""
        return self.convention == "nnunet"


class PaintedRegion(Part):
    """Where the score of `channel` exceeds `threshold`, `label` is written.

    With `within` it is written only where the score of one of those channels exceeds its own threshold as well.
    """

    channel: int = Field(ge=0)
    threshold: float = 0.5
    label: LabelValue
    within: tuple[int, ...] = ()


class Regions(Part):
    """Each region is thresholded and painted in the order given. Later regions overwrite earlier ones.

    nnU-Net writes its regions so. BraTS's table of WT, TC and ET is WT, then TC, then ET ``within`` both.
    """

    kind: Literal["regions"] = "regions"
    activation: Activation = "none"
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
    """Each voxel gets the label of its highest score. ``labels[c]`` is the label of channel c; 0 is background.

    The activation changes no label of a single network. An ensemble averages activated scores.
    """

    kind: Literal["argmax"] = "argmax"
    activation: Activation = "none"
    labels: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(min_length=2)


class Classes(Part):
    """One number for each class of the whole region, and no mask. The network gives scores (1, classes, 1, 1, 1)."""

    kind: Literal["classes"] = "classes"
    activation: Activation = "softmax"
    names: tuple[Name, ...] = Field(min_length=1)


Decode = Annotated[Regions | Argmax | Classes, Field(discriminator="kind")]


class Restore(Part):
    """What is resampled to the scan's own grid, named by the key `what`: scores, labels, or nothing.

    ``scores`` are decoded on the scan's grid. ``labels`` are decoded on the conformed grid first. With ``nothing`` the
    result stays on the conformed grid, where it can only locate a region for another stage. Scores are activated
    ``before`` they are resampled or ``after``, as nnU-Net does.
    """

    quantity: Literal["scores", "labels", "nothing"] = Field(default="scores", alias="what")
    activated: Literal["before", "after"] = "before"
    interpolation: Literal["nearest", "linear"] = "linear"

    @model_validator(mode="after")
    def _labels_are_not_interpolated(self) -> Restore:
        if self.quantity == "labels" and self.interpolation != "nearest":
            msg = "labels can only be restored with nearest interpolation"
            raise ValueError(msg)
        return self


class MaskOf(Part):
    """Another stage's result as a channel: 1 where it has one of `labels`, or any label if none is named, else 0."""

    stage: Name
    labels: tuple[LabelValue, ...] = ()


class Stage(Part):
    """One pass from scan to labels.

    Attributes
    ----------
    networks
        One network, or the members of an ensemble.
    views
        Members that see slices along another axis. That axis becomes the first of their array; the other two keep their
        order.
    ensemble
        ``mean-scores`` averages scores, ``mean-probabilities`` averages activated scores. With ``vote`` each member
        votes for each voxel's label, and the lowest label wins a tie.
    mirror_axes
        Each network also runs on the windows mirrored along each combination of these axes of the conformed grid. Its
        score is the mean of all runs, mirrored back.
    mask_channels
        Results of earlier stages, as further channels behind those of the scan.
    onto
        An earlier stage. The labels of this stage are written over its result.
    inference_precision
        Precision that the CPU computes in, apart from what is quantized.
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
    def _consistent(self) -> Stage:
        where = f"stage {self.name}"
        if (self.windows is None) == (self.conform.shape is None):
            msg = f"{where}: expected a shape to conform to, or windows, and not both"
            raise ValueError(msg)
        strange = [name for name in self.views if name not in self.networks]
        if strange:
            msg = f"{where}: has a view for network {strange[0]}, which it does not run"
            raise ValueError(msg)
        if self.views and self.conform.orientation == STORED:
            msg = f"{where}: views need an orientation such as RAS; {STORED} does not say which axis is which"
            raise ValueError(msg)
        if len(set(self.mirror_axes)) != len(self.mirror_axes):
            msg = f"{where}: names a mirror axis twice"
            raise ValueError(msg)
        if self.ensemble == "vote" and self.restore.quantity == "scores":
            msg = f"{where}: votes give labels and no scores; expected labels in restore.what"
            raise ValueError(msg)
        if self.ensemble == "vote" and isinstance(self.decode, Classes):
            msg = f"{where}: votes are for labels of voxels, and it decodes classes; expected mean-probabilities"
            raise ValueError(msg)
        if self.restore.activated == "after" and self.ensemble != "mean-scores":
            msg = f"{where}: {self.ensemble} activates scores before they are restored; expected activated = before"
            raise ValueError(msg)
        if isinstance(self.decode, Classes) and (self.windows is not None or self.restore.quantity != "nothing"):
            msg = f"{where}: classes are of the whole region; expected no windows and nothing to restore"
            raise ValueError(msg)
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a network's input on the conformed grid: one window, or the whole grid."""
        shape = self.conform.shape if self.windows is None else self.windows.roi_size
        assert shape is not None  # noqa: S101 - the validator has checked it
        return shape

    def axis_order(self, network: str) -> tuple[int, int, int]:
        """Axes of the conformed grid in the order of a network's array."""
        if network not in self.views:
            return (0, 1, 2)
        ends = {"axial": "IS", "coronal": "PA", "sagittal": "LR"}[self.views[network]]
        first = next(axis for axis, letter in enumerate(self.conform.orientation) if letter in ends)
        rest = [axis for axis in range(3) if axis != first]
        return first, rest[0], rest[1]

    def input_shape(self, network: str, channels: int) -> tuple[int, int, int, int, int]:
        """Input shape (1, C, D, H, W) of one of its networks, for a scan of `channels` channels."""
        d, h, w = (self.shape[axis] for axis in self.axis_order(network))
        return 1, channels + len(self.mask_channels), d, h, w
