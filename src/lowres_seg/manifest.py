"""The manifest: everything needed to run a bundle and to check it, and nothing that executes.

A **bundle** runs its **stages** in order; the last one's result is the bundle's. A stage takes a **region** of
the scan, **conforms** it to the grid that its networks expect, **normalises** the intensities, runs the
networks, **decodes** their scores to labels, **restores** those to the scan's own grid and **cleans** them up.

The JSON Schema of this module is published as ``docs/manifest.schema.json``; a test compares the two.

Schema versions
---------------
1   the first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import permutations, product
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lowres_seg.errors import ManifestError

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Shape = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Millimetres = Annotated[float, Field(gt=0, le=50)]
LabelValue = Annotated[int, Field(ge=1, le=255)]
ORIENTATIONS = frozenset(
    "".join(pair[axis] for pair, axis in zip(axes, ends, strict=True))
    for axes in permutations(("LR", "PA", "IS"))
    for ends in product((0, 1), repeat=3)
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Label(_Part):
    """A value of the label map and what it means."""

    value: LabelValue
    name: Name


class Conform(_Part):
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


class WholeVolume(_Part):
    """The whole scan."""

    kind: Literal["volume"] = "volume"


class BoxOf(_Part):
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


class PercentileScale(_Part):
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


class ZScore(_Part):
    """``(x - mean) / std``, over ``all`` voxels or the ``nonzero`` ones (the others then stay 0)."""

    rule: Literal["z-score"] = "z-score"
    voxels: Literal["all", "nonzero"] = "all"
    ddof: Literal[0, 1] = 0


class Affine(_Part):
    """``scale · x + shift``."""

    rule: Literal["affine"] = "affine"
    scale: float = 1.0
    shift: float = 0.0


IntensityRule = Annotated[PercentileScale | ZScore | Affine, Field(discriminator="rule")]


class Normalise(_Part):
    """Intensity rules, applied in order, before or after the region is conformed."""

    when: Literal["before-conform", "after-conform"] = "after-conform"
    rules: tuple[IntensityRule, ...] = ()


class PaintedRegion(_Part):
    """Where the score of `channel` exceeds `threshold`, `label` is written."""

    channel: int = Field(ge=0)
    threshold: float = 0.5
    label: LabelValue


class Regions(_Part):
    """Each region is thresholded and painted in the order given; later ones overwrite earlier ones."""

    kind: Literal["regions"] = "regions"
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    regions: tuple[PaintedRegion, ...] = Field(min_length=1)


class Argmax(_Part):
    """Each voxel gets the label of its highest score; ``labels[c]`` is channel c's, 0 is background."""

    kind: Literal["argmax"] = "argmax"
    labels: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(min_length=2)


Decode = Annotated[Regions | Argmax, Field(discriminator="kind")]


class Restore(_Part):
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


class LargestComponent(_Part):
    """Keep the largest connected component of the foreground."""

    rule: Literal["largest-component"] = "largest-component"
    connectivity: Literal[6, 18, 26] = 26


class FillHoles(_Part):
    """Fill holes of `label`: cavities in 3D, or holes within each slice along an axis of the orientation."""

    rule: Literal["fill-holes"] = "fill-holes"
    label: LabelValue = 1
    slices_along: Literal[0, 1, 2] | None = None


CleanupRule = Annotated[LargestComponent | FillHoles, Field(discriminator="rule")]


class Stage(_Part):
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


class Network(_Part):
    """One network in IR: its files, its input and output, and the precision of its weights and activations."""

    xml: str
    bin: str
    onnx: str | None = None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    precision: Literal["fp32", "int8"] = "fp32"


class Reference(_Part):
    """One input and its expected results, to be run again at the workstation.

    `max_abs_diff` bounds the scores, `max_flipped` the share of voxels whose label may differ.
    """

    file: str
    max_abs_diff: float = Field(gt=0)
    max_flipped: float = Field(ge=0, lt=1)


class Lineage(_Part):
    """Where a bundle comes from.

    `parent` is the digest of the manifest that this bundle was made from, null for an export. `sources` are
    the files of weights by name, `tools` the versions that made it.
    """

    parent: Sha256 | None = None
    sources: dict[str, Sha256]
    recipe: Sha256
    tools: dict[str, str]


class Manifest(_Part):
    """The contract of a bundle."""

    schema_version: Literal[1] = 1
    name: Name
    version: str = Field(min_length=1, max_length=64)
    description: str
    license: str
    source: str = Field(description="Where the trained network was published")
    intended_use: str
    channels: tuple[Name, ...] = Field(min_length=1)
    labels: tuple[Label, ...] = Field(min_length=1)
    stages: tuple[Stage, ...] = Field(min_length=1)
    networks: dict[Name, Network] = Field(min_length=1)
    reference: Reference
    lineage: Lineage
    files: dict[str, Sha256] = Field(description="sha256 of every file but the manifest itself")

    @model_validator(mode="after")
    def _hangs_together(self) -> Manifest:
        check_stages(self.stages, self.networks, [label.value for label in self.labels])
        for path in [*self.files, *self._named_files()]:
            parts = PurePosixPath(path).parts
            if not re.fullmatch(r"[A-Za-z0-9_.\-/]+", path) or path.startswith("/") or ".." in parts or not parts:
                msg = f"file {path!r} points outside the bundle; expected a relative path below it"
                raise ValueError(msg)
        unlisted = sorted(set(self._named_files()) - set(self.files))
        if unlisted:
            msg = f"files without a digest: {', '.join(unlisted)}"
            raise ValueError(msg)
        for name, network in self.networks.items():
            if len(network.input_shape) != 5 or network.input_shape[:2] != (1, len(self.channels)):
                msg = f"network {name} takes {network.input_shape}, expected (1, {len(self.channels)}, D, H, W)"
                raise ValueError(msg)
        return self

    def _named_files(self) -> list[str]:
        files = [self.reference.file]
        for network in self.networks.values():
            files += [f for f in (network.xml, network.bin, network.onnx) if f is not None]
        return files

    @property
    def label_names(self) -> dict[int, str]:
        """Name of each label value."""
        return {label.value: label.name for label in self.labels}

    @classmethod
    def parse(cls, text: str | bytes, *, where: str) -> Manifest:
        """Read a manifest from JSON.

        Raises
        ------
        ManifestError
            If it is no JSON, of another schema version, or not valid; the message begins with `where`.
        """
        try:
            content = json.loads(text)
        except (ValueError, UnicodeDecodeError) as error:
            raise ManifestError(f"{where}: is not JSON ({error})") from error
        if not isinstance(content, dict):
            raise ManifestError(f"{where}: is {type(content).__name__}, expected a JSON object")
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            newer = isinstance(version, int) and version > SCHEMA_VERSION
            raise ManifestError(
                f"{where}: has schema version {version!r}, this lowres-seg reads {SCHEMA_VERSION}; "
                + ("install a newer lowres-seg" if newer else "export the bundle again")
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ManifestError(f"{where}: {first_problem(error)}") from error

    def to_json(self) -> str:
        """Text of the manifest as it stands in a bundle."""
        return self.model_dump_json(indent=2) + "\n"


def check_stages(stages: Iterable[Stage], networks: Mapping[str, Any], labels: Iterable[int]) -> None:
    """Check that stages name only what exists before them.

    Raises
    ------
    ValueError
        With the first reference that leads nowhere.
    """
    labels = set(labels)
    done: list[str] = []
    stages = list(stages)
    for stage in stages:
        where = f"stage {stage.name}"
        if stage.name in done:
            msg = f"{where} is there twice"
            raise ValueError(msg)
        missing = [name for name in stage.networks if name not in networks]
        if missing:
            msg = f"{where} names network {missing[0]}, the networks are {', '.join(networks)}"
            raise ValueError(msg)
        named = [rule.statistics_of for rule in stage.normalise.rules if isinstance(rule, PercentileScale)]
        if isinstance(stage.region, BoxOf):
            named.append(stage.region.stage)
        for other in named:
            if other is not None and other not in done:
                msg = f"{where} refers to stage {other}, which does not come before it"
                raise ValueError(msg)
        painted = (
            {region.label for region in stage.decode.regions}
            if isinstance(stage.decode, Regions)
            else {label for label in stage.decode.labels if label}
        )
        if stage.restore.what != "nothing" and not painted <= labels:
            msg = f"{where} writes labels {sorted(painted - labels)}, which the manifest does not name"
            raise ValueError(msg)
        done.append(stage.name)
    if stages and stages[-1].restore.what == "nothing":
        msg = f"stage {stages[-1].name} is the last one and must restore its result to the scan's grid"
        raise ValueError(msg)


def first_problem(error: ValidationError) -> str:
    """One line for the first problem of a pydantic error: where, what, and what was found."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    found = problem.get("input")
    if problem["type"] in ("missing", "value_error") or isinstance(found, (dict, list)):
        return f"{where}: {message}" if where else message
    return f"{where}: {message}, found {found!r}"


def json_schema() -> dict[str, Any]:
    """JSON Schema of `Manifest`, as published under docs/."""
    schema = Manifest.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"lowres-seg bundle manifest, schema version {SCHEMA_VERSION}"
    return schema
