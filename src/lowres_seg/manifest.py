"""The manifest: everything needed to run a bundle and to check it, and nothing that executes.

A bundle runs its stages in order; the last one's result is the bundle's.

The JSON Schema of this module is published as ``docs/manifest.schema.json``; a test compares the two.

Schema versions
---------------
1   the first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from lowres_seg.errors import ManifestError
from lowres_seg.stage import BoxOf, LabelValue, Name, Part, PercentileScale, Regions, Stage

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Label(Part):
    """A value of the label map and what it means."""

    value: LabelValue
    name: Name


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
