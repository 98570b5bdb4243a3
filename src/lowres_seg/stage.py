"""One pass from scan to labels: what a stage of a manifest may say.

A stage takes a **region** of the scan, **conforms** it to the grid that its networks expect, **normalises** the
intensities, runs the networks, **decodes** their scores to labels, **restores** those to the scan's own grid
and **cleans** them up.
"""

from __future__ import annotations

from itertools import permutations, product
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)]
Shape = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Millimetres = Annotated[float, Field(gt=0, le=50)]
LabelValue = Annotated[int, Field(ge=1, le=255)]
ORIENTATIONS = frozenset(
    "".join(pair[axis] for pair, axis in zip(axes, ends, strict=True))
    for axes in permutations(("LR", "PA", "IS"))
    for ends in product((0, 1), repeat=3)
)


class Part(BaseModel):
    """Base of every part of a manifest: frozen, and nothing unknown in it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Conform(Part):
    """The grid that the networks of a stage expect.

    The region is stretched to `shape`; with `spacing_mm` it is instead resampled to that spacing and then
    padded (with its minimum) or cropped about its centre to `shape`. ``nearest`` and ``linear`` sample at voxel
    centres, as ``nearest-exact`` and ``trilinear`` (corners not aligned) of torch do.
    """

    orientation: str = "RAS"
    shape: Shape
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None
    interpolation: Literal["nearest", "linear"] = "linear"

    @field_validator("orientation")
    @classmethod
    def _is_orientation(cls, value: str) -> str:
        if value not in ORIENTATIONS:
            msg = f"{value!r} is no orientation; expected three letters such as RAS or LPS"
            raise ValueError(msg)
        return value


class WholeVolume(Part):
    """The whole scan."""

    kind: Literal["volume"] = "volume"


class BoxOf(Part):
    """The box around another stage's result, with a margin, cut to the scan.

    A slice of the other stage's result counts as part of the box when more than `min_occupancy` of it is
    foreground. The margin on each side is ``margin_fraction`` of the box plus ``margin_voxels`` of the scan.
    `rounding` ``outward`` keeps every voxel that the box touches; ``centre`` rounds centre and size of the box
    to whole voxels first, as deepbet does.
    """

    kind: Literal["box-of"] = "box-of"
    stage: Name
    margin_fraction: float = Field(default=0.0, ge=0, le=1)
    margin_voxels: int = Field(default=0, ge=0, le=256)
    min_occupancy: float = Field(default=0.0, ge=0, lt=1)
    rounding: Literal["outward", "centre"] = "outward"


Region = Annotated[WholeVolume | BoxOf, Field(discriminator="kind")]


class PercentileScale(Part):
    """``(x - p_lower) / d``, after clipping to the two percentiles.

    The percentiles are those of the voxels that `voxels` names: ``all``, the ``nonzero`` ones, or those
    ``above-mean`` (not below the mean). `clip` says which ends are clipped. ``d`` is ``p_upper - p_lower`` for
    `divide_by` ``range`` and ``p_upper`` for ``upper``. With `statistics_of` the percentiles are those of
    another stage's conformed input, of the same channel.
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


class ZScore(Part):
    """``(x - mean) / std``, over ``all`` voxels or the ``nonzero`` ones (the others then stay 0)."""

    rule: Literal["z-score"] = "z-score"
    voxels: Literal["all", "nonzero"] = "all"
    ddof: Literal[0, 1] = 0


class Affine(Part):
    """``scale · x + shift``."""

    rule: Literal["affine"] = "affine"
    scale: float = 1.0
    shift: float = 0.0


IntensityRule = Annotated[PercentileScale | ZScore | Affine, Field(discriminator="rule")]


class Normalise(Part):
    """Intensity rules, applied in order, before or after the region is conformed."""

    when: Literal["before-conform", "after-conform"] = "after-conform"
    rules: tuple[IntensityRule, ...] = ()


class PaintedRegion(Part):
    """Where the score of `channel` exceeds `threshold`, `label` is written."""

    channel: int = Field(ge=0)
    threshold: float = 0.5
    label: LabelValue


class Regions(Part):
    """Each region is thresholded and painted in the order given; later ones overwrite earlier ones."""

    kind: Literal["regions"] = "regions"
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    regions: tuple[PaintedRegion, ...] = Field(min_length=1)


class Argmax(Part):
    """Each voxel gets the label of its highest score; ``labels[c]`` is channel c's, 0 is background."""

    kind: Literal["argmax"] = "argmax"
    labels: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(min_length=2)


Decode = Annotated[Regions | Argmax, Field(discriminator="kind")]


class Restore(Part):
    """What returns to the scan's own grid: the scores, decoded there, or the decoded labels, or nothing.

    With ``nothing`` the result stays on the conformed grid; it can then only locate a region for another stage.
    """

    what: Literal["scores", "labels", "nothing"] = "scores"
    interpolation: Literal["nearest", "linear"] = "linear"

    @model_validator(mode="after")
    def _labels_are_not_interpolated(self) -> Restore:
        if self.what == "labels" and self.interpolation != "nearest":
            msg = "labels can only be restored with nearest interpolation"
            raise ValueError(msg)
        return self


class LargestComponent(Part):
    """Keep the largest connected component of the foreground."""

    rule: Literal["largest-component"] = "largest-component"
    connectivity: Literal[6, 18, 26] = 26


class FillHoles(Part):
    """Fill holes of `label`: cavities in 3D, or holes within each slice along an axis of the orientation."""

    rule: Literal["fill-holes"] = "fill-holes"
    label: LabelValue = 1
    slices_along: Literal[0, 1, 2] | None = None


CleanupRule = Annotated[LargestComponent | FillHoles, Field(discriminator="rule")]


class Stage(Part):
    """One pass from scan to labels.

    The scores of several `networks` are averaged. `inference_precision` is what the CPU computes in,
    apart from what is quantized.
    """

    name: Name
    networks: tuple[Name, ...] = Field(min_length=1)
    region: Region = WholeVolume()
    conform: Conform
    normalise: Normalise = Normalise()
    decode: Decode
    restore: Restore = Restore()
    cleanup: tuple[CleanupRule, ...] = ()
    inference_precision: Literal["f32", "bf16"] = "f32"
