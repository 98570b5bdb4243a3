"""Rules that a stage of a manifest may apply: to intensities before its networks run, to labels after."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)]
LabelValue = Annotated[int, Field(ge=1, le=255)]


class Part(BaseModel):
    """Base of every part of a manifest: frozen, and nothing unknown in it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Rule(Part):
    """A rule for some channels of the scan, by name; for all of them if it names none."""

    channels: tuple[Name, ...] = ()


class PercentileScale(_Rule):
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


class ZScore(_Rule):
    """``(x - mean) / std``, over ``all`` voxels or some of them, of which alone it is then taken.

    Those are the ones ``nonzero`` in the channel itself, or those ``inside`` of what is not zero in any channel of the
    scan, with its cavities, as nnU-Net has it. With `statistics_of` mean and deviation are those of another stage's
    conformed input, of the same channel.
    """

    rule: Literal["z-score"] = "z-score"
    voxels: Literal["all", "nonzero", "inside"] = "all"
    ddof: Literal[0, 1] = 0
    statistics_of: Name | None = None

    @model_validator(mode="after")
    def _one_place(self) -> ZScore:
        if self.statistics_of is not None and self.voxels == "inside":
            msg = "what is inside is known of the stage's own input alone; take all or nonzero voxels of another's"
            raise ValueError(msg)
        return self


class Affine(_Rule):
    """``scale · x + shift``."""

    rule: Literal["affine"] = "affine"
    scale: float = 1.0
    shift: float = 0.0


class Clip(_Rule):
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


class Noise(_Rule):
    """Voxels that are zero in the scan's own channel get noise of mean 0 and variance 1, the same on every run."""

    rule: Literal["noise"] = "noise"
    seed: int = Field(default=0, ge=0)


IntensityRule = Annotated[PercentileScale | ZScore | Affine | Clip | Noise, Field(discriminator="rule")]


class LargestComponent(Part):
    """Keep the largest connected component of the foreground."""

    rule: Literal["largest-component"] = "largest-component"
    connectivity: Literal[6, 18, 26] = 26


class FillHoles(Part):
    """Fill holes of `label`: cavities in 3D, or holes within each slice along an axis of the orientation."""

    rule: Literal["fill-holes"] = "fill-holes"
    label: LabelValue = 1
    slices_along: Literal[0, 1, 2] | None = None


class SmallComponents(Part):
    """Connected components of `label` with fewer voxels than that become another label, or background."""

    rule: Literal["small-components"] = "small-components"
    label: LabelValue
    fewer_than: float = Field(gt=0)
    becomes: Annotated[int, Field(ge=0, le=255)] = 0
    connectivity: Literal[6, 18, 26] = 26


class SmallLabel(Part):
    """If `label` has fewer voxels than that in all, it becomes another label, or background.

    So small enhancing tumor becomes necrosis. With `beside` only if that other label has more than `beside_more_than`.
    """

    rule: Literal["small-label"] = "small-label"
    label: LabelValue
    fewer_than: float = Field(gt=0)
    becomes: Annotated[int, Field(ge=0, le=255)] = 0
    beside: LabelValue | None = None
    beside_more_than: float = Field(default=0, ge=0)


CleanupRule = Annotated[LargestComponent | FillHoles | SmallComponents | SmallLabel, Field(discriminator="rule")]
