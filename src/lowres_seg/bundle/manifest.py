"""The manifest: everything needed to run a bundle and to check it, and nothing that executes.

A bundle runs its stages in order; the last one's result is the bundle's.

The JSON Schema of this module is published as ``docs/manifest.schema.json``; a test compares the two.

Schema versions
---------------
1   the first. It is read as it stands: version 2 only adds.
2   windows, views, mirroring, votes, cascades, classes, and regions that are judged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from lowres_seg.bundle.rules import LabelValue, Name, Part, PercentileScale, SmallComponents, SmallLabel, ZScore
from lowres_seg.bundle.stage import Argmax, BoxOf, Classes, Regions, Stage
from lowres_seg.errors import ManifestError

SCHEMA_VERSION = 2
MANIFEST_NAME = "manifest.json"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Label(Part):
    """A value of the label map and what it means."""

    value: LabelValue
    name: Name


class JudgedRegion(Part):
    """Labels that are judged together, such as whole tumor; among them may be some that only others' label maps use."""

    name: Name
    labels: tuple[LabelValue, ...] = Field(min_length=1)


class Network(Part):
    """One network in IR: its files, its input and output, and the precision of its weights and activations."""

    xml: str
    bin: str
    onnx: str | None = None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    precision: Literal["fp32", "int8"] = "fp32"


class Reference(Part):
    """One input and its expected results, to be run again at the workstation.

    `max_abs_diff` bounds the scores, `max_flipped` the share of voxels whose label may differ.
    """

    file: str
    max_abs_diff: float = Field(gt=0)
    max_flipped: float = Field(ge=0, lt=1)


class Lineage(Part):
    """Where a bundle comes from.

    `parent` is the digest of the manifest that this bundle was made from, null for an export. `sources` are
    the files of weights by name, `tools` the versions that made it.
    """

    parent: Sha256 | None = None
    sources: dict[str, Sha256]
    recipe: Sha256
    tools: dict[str, str]


class Manifest(Part):
    """The contract of a bundle."""

    schema_version: Literal[1, 2] = 2
    name: Name
    version: str = Field(min_length=1, max_length=64)
    description: str
    license: str
    source: str = Field(description="Where the trained network was published")
    intended_use: str
    channels: tuple[Name, ...] = Field(min_length=1)
    labels: tuple[Label, ...]
    regions: tuple[JudgedRegion, ...] = Field(default=(), description="What is judged; each label, if there are none")
    stages: tuple[Stage, ...] = Field(min_length=1)
    networks: dict[Name, Network] = Field(min_length=1)
    reference: Reference
    lineage: Lineage
    files: dict[str, Sha256] = Field(description="sha256 of every file but the manifest itself")

    @model_validator(mode="after")
    def _hangs_together(self) -> Manifest:
        check_stages(self.stages, self.networks, [label.value for label in self.labels], self.channels)
        for path in [*self.files, *self._named_files()]:
            parts = PurePosixPath(path).parts
            if not re.fullmatch(r"[A-Za-z0-9_.\-/]+", path) or path.startswith("/") or ".." in parts or not parts:
                msg = f"file {path!r} points outside the bundle; expected a relative path below it"
                raise ValueError(msg)
        unlisted = sorted(set(self._named_files()) - set(self.files))
        if unlisted:
            msg = f"files without a digest: {', '.join(unlisted)}"
            raise ValueError(msg)
        for stage in self.stages:
            for name in stage.networks:
                found, expected = self.networks[name].input_shape, stage.input_shape(name, len(self.channels))
                if found != expected:
                    msg = f"network {name} takes {found}, stage {stage.name} gives it {expected}"
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

    @property
    def judged(self) -> dict[str, tuple[int, ...]]:
        """Label values of what Dice and HD95 are taken of, by name."""
        if self.regions:
            return {region.name: region.labels for region in self.regions}
        return {label.name: (label.value,) for label in self.labels}

    @property
    def known_labels(self) -> list[int]:
        """Label values that a label map to compare with may hold."""
        return sorted({value for values in self.judged.values() for value in values} | set(self.label_names))

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
        if version not in (1, SCHEMA_VERSION) or isinstance(version, bool):
            newer = isinstance(version, int) and version > SCHEMA_VERSION
            raise ManifestError(
                f"{where}: has schema version {version!r}, this lowres-seg reads 1 to {SCHEMA_VERSION}; "
                + ("install a newer lowres-seg" if newer else "export the bundle again")
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ManifestError(f"{where}: {first_problem(error)}") from error

    def to_json(self) -> str:
        """Text of the manifest as it stands in a bundle."""
        return self.model_dump_json(indent=2) + "\n"


def check_stages(
    stages: Iterable[Stage], networks: Mapping[str, Any], labels: Iterable[int], channels: Iterable[str]
) -> None:
    """Check that stages name only what exists before them.

    Raises
    ------
    ValueError
        With the first reference that leads nowhere.
    """
    labels, channels = set(labels), list(channels)
    done: dict[str, Stage] = {}
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
        strange = [name for rule in stage.normalise.rules for name in rule.channels if name not in channels]
        if strange:
            msg = f"{where} names channel {strange[0]}, the channels are {', '.join(channels)}"
            raise ValueError(msg)
        for other in _others(stage):
            if other not in done:
                msg = f"{where} refers to stage {other}, which does not come before it"
                raise ValueError(msg)
        if isinstance(stage.region, BoxOf) and done[stage.region.stage].decode.kind == "classes":
            msg = f"{where} looks where stage {stage.region.stage} found something, which tells classes and no place"
            raise ValueError(msg)
        on_scan = [mask.stage for mask in stage.mask_channels] + ([] if stage.onto is None else [stage.onto])
        for other in on_scan:
            if done[other].restore.what == "nothing":
                msg = f"{where} needs labels of stage {other}, which does not restore its result to the scan's grid"
                raise ValueError(msg)
        painted = _painted(stage)
        if stage.restore.what != "nothing" and not painted <= labels:
            msg = f"{where} writes labels {sorted(painted - labels)}, which the manifest does not name"
            raise ValueError(msg)
        done[stage.name] = stage
    if stages and stages[-1].restore.what == "nothing" and not isinstance(stages[-1].decode, Classes):
        msg = f"stage {stages[-1].name} is the last one and must restore its result to the scan's grid"
        raise ValueError(msg)


def _others(stage: Stage) -> list[str]:
    """Stages that a stage needs."""
    named = [r.statistics_of for r in stage.normalise.rules if isinstance(r, (PercentileScale, ZScore))]
    if isinstance(stage.region, BoxOf):
        named.append(stage.region.stage)
    named += [mask.stage for mask in stage.mask_channels] + [stage.onto]
    return [name for name in named if name is not None]


def _painted(stage: Stage) -> set[int]:
    """Labels that a stage may write."""
    if isinstance(stage.decode, Regions):
        found = {region.label for region in stage.decode.regions}
    else:
        found = set(stage.decode.labels) if isinstance(stage.decode, Argmax) else set()
    found |= {rule.becomes for rule in stage.cleanup if isinstance(rule, (SmallComponents, SmallLabel))}
    return found - {0}


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
