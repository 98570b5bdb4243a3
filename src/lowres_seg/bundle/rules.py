"""Rules of a stage: for intensities before its networks run, and for labels after."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol, runtime_checkable

from pydantic import Field, model_validator

from lowres_seg.bundle.bounds import CHANNELS
from lowres_seg.bundle.part import LabelValue, Name, Part
from lowres_seg.bundle.versions import Since

Phase = Literal["before-conform", "after-conform", "after-crop"]
Connectivity = Literal[6, 18, 26]


class _OfChannels(Part):
    """A rule for the channels that it names; for all channels of the scan if it names none.

    `when` is the step before or after which it applies, if that is another than the stage's `normalise.when`.
    """

    channels: tuple[Name, ...] = Field(default=(), max_length=CHANNELS)
    when: Annotated[Phase | None, Since(3)] = None


class _OfStatistics(_OfChannels):
    """A rule with statistics of each channel, or with `together` of all its channels at once."""

    together: Annotated[bool, Since(3)] = False


@runtime_checkable
class TakesStatistics(Protocol):
    """A rule that can take its statistics of another stage's conformed input."""

    statistics_of: str | None


class PercentileScale(_OfStatistics):
    """``(x - p_lower) / d``, after clipping to the two percentiles.

    `voxels` selects the voxels whose percentiles are taken: ``all``, the ``nonzero`` ones, or those ``above-mean``
    (not below the mean). `clip` says which ends are clipped. ``d`` is ``p_upper - p_lower`` for `divide_by` ``range``
    and ``p_upper`` for ``upper``. With `statistics_of` the percentiles are those of the same channel of another stage's
    conformed input.
    """

    rule: Literal["percentile-scale"] = "percentile-scale"
    lower: float = Field(ge=0, lt=100)
    upper: float = Field(gt=0, le=100)
    voxels: Literal["all", "nonzero", "above-mean"] = "all"
    clip: Literal["both", "upper", "none"] = "both"
    divide_by: Literal["range", "upper"] = "range"
    statistics_of: Name | None = None

    @model_validator(mode="after")
    def _ordered(self) -> PercentileScale:
        if self.lower >= self.upper:
            msg = f"lower percentile {self.lower} is not below upper {self.upper}"
            raise ValueError(msg)
        return self


class ZScore(_OfStatistics):
    """``(x - mean) / std`` over the selected voxels. Only the selected voxels change.

    `voxels` selects ``all`` voxels, those that are ``nonzero`` in the channel itself, or those ``inside``: voxels that
    are nonzero in any channel of the scan, with the cavities between them, as in nnU-Net. With `statistics_of` mean and
    deviation are those of the same channel of another stage's conformed input. The foreground of the stage
    `inside_also` counts as inside too, as in nnU-Net's cascades.
    """

    rule: Literal["z-score"] = "z-score"
    voxels: Literal["all", "nonzero", "inside"] = "all"
    ddof: Literal[0, 1] = 0
    statistics_of: Name | None = None
    inside_also: Annotated[Name | None, Since(3)] = None

    @model_validator(mode="after")
    def _inside_its_own_input(self) -> ZScore:
        if self.inside_also is not None and self.voxels != "inside":
            msg = f"inside_also is for voxels inside, found {self.voxels}"
            raise ValueError(msg)
        if self.statistics_of is not None and self.voxels == "inside":
            msg = "voxels inside are known for the stage's own input only; expected all or nonzero with statistics_of"
            raise ValueError(msg)
        return self


class PercentileClip(_OfStatistics):
    """Values beyond the two percentiles become the percentiles. A percentile that is null clips nothing."""

    since = 3
    rule: Literal["percentile-clip"] = "percentile-clip"
    lower: float | None = Field(default=None, ge=0, lt=100)
    upper: float | None = Field(default=None, gt=0, le=100)

    @model_validator(mode="after")
    def _ordered(self) -> PercentileClip:
        lower, upper = self.lower or 0, 100 if self.upper is None else self.upper
        if lower >= upper:
            msg = f"lower percentile {lower} is not below upper {upper}"
            raise ValueError(msg)
        return self


class Affine(_OfChannels):
    """``scale · x + shift``, of ``all`` voxels, or of those that are ``nonzero`` in the channel itself."""

    rule: Literal["affine"] = "affine"
    scale: float = 1.0
    shift: float = 0.0
    voxels: Annotated[Literal["all", "nonzero"], Since(3)] = "all"


class Clip(_OfChannels):
    """Values below `lower` become `lower`, values above `upper` become `upper`."""

    rule: Literal["clip"] = "clip"
    lower: float
    upper: float

    @model_validator(mode="after")
    def _ordered(self) -> Clip:
        if self.lower >= self.upper:
            msg = f"lower bound {self.lower} is not below upper {self.upper}"
            raise ValueError(msg)
        return self


class Threshold(_OfChannels):
    """Values that are not above `above`, or not below `below`, become `becomes`."""

    since = 3
    rule: Literal["threshold"] = "threshold"
    above: float | None = None
    below: float | None = None
    becomes: float = 0.0

    @model_validator(mode="after")
    def _has_a_bound(self) -> Threshold:
        if self.above is None and self.below is None:
            msg = "expected above, below or both"
            raise ValueError(msg)
        return self


class Noise(_OfChannels):
    """Voxels that are zero in the channel itself get noise of mean 0 and variance 1, the same on every run."""

    rule: Literal["noise"] = "noise"
    seed: int = Field(default=0, ge=0)


IntensityRule = Annotated[
    PercentileScale | PercentileClip | ZScore | Affine | Clip | Threshold | Noise, Field(discriminator="rule")
]


class LargestComponent(Part):
    """Keep the `count` largest connected components of `labels`; of the whole foreground if none is named.

    The labels are taken together, or `each` by itself. Other labels stay as they are. Of components of one size the
    ``first`` ones are kept, or with `ties` ``all`` that are as large as the last one kept, as nnU-Net does.
    """

    rule: Literal["largest-component"] = "largest-component"
    connectivity: Connectivity = 26
    labels: Annotated[tuple[LabelValue, ...], Field(max_length=255), Since(3)] = ()
    each: Annotated[bool, Since(3)] = False
    count: Annotated[int, Field(ge=1, le=1000), Since(3)] = 1
    ties: Annotated[Literal["first", "all"], Since(3)] = "first"


class FillHoles(Part):
    """Fill the holes of `label`: cavities in 3D, or holes within each slice along one axis of the orientation.

    A hole is what no path from the border reaches without crossing `label`. A path goes through neighbours of
    `connectivity`. Background in a hole becomes `label`; with `over` ``all`` other labels do too.
    """

    rule: Literal["fill-holes"] = "fill-holes"
    label: LabelValue = 1
    slices_along: Literal[0, 1, 2] | None = None
    connectivity: Annotated[Connectivity, Since(3)] = 6
    over: Annotated[Literal["background", "all"], Since(3)] = "background"

    @model_validator(mode="after")
    def _paths_of_slices_go_through_faces(self) -> FillHoles:
        if self.slices_along is not None and self.connectivity != 6:
            msg = f"connectivity is {self.connectivity}; expected 6 for holes within slices"
            raise ValueError(msg)
        return self


class SmallComponents(Part):
    """Connected components of `label` with fewer than `fewer_than` voxels become another label, or background.

    With `unit` ``mm3`` the bound is a volume.
    """

    rule: Literal["small-components"] = "small-components"
    label: LabelValue
    fewer_than: float = Field(gt=0)
    becomes: Annotated[int, Field(ge=0, le=255)] = 0
    connectivity: Connectivity = 26
    unit: Annotated[Literal["voxels", "mm3"], Since(3)] = "voxels"


class SmallLabel(Part):
    """If `label` has fewer than `fewer_than` voxels in all, it becomes another label, or background.

    A small enhancing tumor becomes necrosis, for example. With `beside` the rule applies only if label `beside` has
    more than `beside_more_than` voxels.
    """

    rule: Literal["small-label"] = "small-label"
    label: LabelValue
    fewer_than: float = Field(gt=0)
    becomes: Annotated[int, Field(ge=0, le=255)] = 0
    beside: LabelValue | None = None
    beside_more_than: float = Field(default=0, ge=0)


CleanupRule = Annotated[LargestComponent | FillHoles | SmallComponents | SmallLabel, Field(discriminator="rule")]
