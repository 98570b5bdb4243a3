"""The manifest of a bundle: a pipeline, its files with their digests, and nothing that executes.

The JSON Schema of this module is published as ``docs/manifest.schema.json``; a test compares the two.
"""

from __future__ import annotations

import json
import re
from itertools import chain
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from lowres_seg.bundle import plain_json
from lowres_seg.bundle.bounds import FILE_BYTES, MASKS, REFERENCE_BYTES, SCORES, SIDE, XML_BYTES
from lowres_seg.bundle.contents import MANIFEST_NAME, is_apart
from lowres_seg.bundle.dropout import DropoutMask
from lowres_seg.bundle.part import Name, Part, Sha256, first_problem
from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.bundle.scores import unfit
from lowres_seg.bundle.versions import NEWEST, OLDEST_WRITTEN, Since, needed, written
from lowres_seg.errors import ManifestError, shown

__all__ = ["EXPORT_REPORT", "MANIFEST_NAME", "NORMS_NAME", "Lineage", "Manifest", "Network", "Reference", "json_schema"]

#: File of a bundle with re-estimated statistics of norms, which torch needs to run the same network.
NORMS_NAME = "norms.npz"
#: Report of an export. No manifest needs to list it.
EXPORT_REPORT = "reports/export.json"
#: Keys that come first in the file, for its readers.
_FIRST_KEYS = ("schema_version", "name", "version", "description", "license", "source", "intended_use")


_FileName = Annotated[str, Field(min_length=1, max_length=255)]
_Side = Annotated[int, Field(ge=1, le=SIDE)]
_Channels = Annotated[int, Field(ge=1, le=SCORES)]
_NetworkShape = tuple[Literal[1], _Channels, _Side, _Side, _Side]


class Network(Part):
    """One network in IR: its files, its input and output, and the precision of its weights and activations.

    `dropout` are masks that it takes behind its input, of layers that are kept on.
    """

    xml: _FileName
    bin: _FileName
    onnx: _FileName | None = None
    input_shape: _NetworkShape
    output_shape: _NetworkShape
    precision: Literal["fp32", "int8"] = "fp32"
    dropout: Annotated[tuple[DropoutMask, ...], Field(max_length=MASKS), Since(3)] = ()

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of its input, of each mask behind it, and of its scores."""
        return (self.input_shape, *(mask.shape for mask in self.dropout), self.output_shape)


class Reference(Part):
    """The file of the reference case, and how far a workstation's results may differ from those in it.

    `max_abs_diff` bounds the difference of a score, `max_flipped` the share of voxels with another label.
    """

    file: _FileName
    max_abs_diff: float = Field(gt=0)
    max_flipped: float = Field(ge=0, lt=1)


class Lineage(Part):
    """What a bundle was made from.

    `parent` is the digest of the bundle that it was quantized from, null for an export. `sources` are the digests of
    the files of weights by name, `recipe` that of the recipe, `tools` the versions of the tools. `trusted_code` are the
    digests of the files of code that built a network because the user said so; without any, none of the source's code
    has run.
    """

    parent: Sha256 | None = None
    sources: dict[str, Sha256]
    recipe: Sha256
    tools: dict[str, str]
    trusted_code: Annotated[dict[str, Sha256], Since(3)] = Field(default={})


class Manifest(Pipeline):
    """The contract of a bundle: a pipeline with its files.

    Attributes
    ----------
    networks
        Files and shapes of each network, by name.
    reference
        The reference case that `verify` runs.
    files
        sha256 of every file but the manifest itself, by path relative to the bundle.
    """

    schema_version: Literal[1, 2, 3] = 2
    name: Name
    version: str = Field(min_length=1, max_length=64)
    description: str
    license: str
    source: str = Field(description="Where the trained network was published")
    intended_use: str
    networks: dict[Name, Network] = Field(min_length=1)
    reference: Reference
    lineage: Lineage
    files: dict[_FileName, Sha256] = Field(description="sha256 of every file but the manifest itself")

    @model_validator(mode="after")
    def _networks_and_files_fit(self) -> Manifest:
        self.check_networks(self.networks)
        for path in [*self.files, *self._named_files()]:
            parts = PurePosixPath(path).parts
            if not re.fullmatch(r"[A-Za-z0-9_.\-/]+", path) or path.startswith("/") or ".." in parts or not parts:
                msg = f"file {shown(path)} points outside the bundle; expected a relative path below it"
                raise ValueError(msg)
            if str(PurePosixPath(path)) != path:
                msg = f"file {shown(path)} is no plain path; expected {shown(str(PurePosixPath(path)))}"
                raise ValueError(msg)
            if is_apart(path):
                msg = f"file {shown(path)} is none that a manifest lists; nothing of a bundle may need it"
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
                if bool(self.networks[name].dropout) != (stage.samples is not None):
                    msg = f"network {name} has dropout masks, or stage {stage.name} has samples; expected both or none"
                    raise ValueError(msg)
        return self

    @property
    def most_bytes(self) -> dict[str, int]:
        """The most bytes that each file may have, by relative path."""
        most = dict.fromkeys(self.files, FILE_BYTES)
        for network in self.networks.values():
            most[network.xml] = XML_BYTES
        return most | {self.reference.file: REFERENCE_BYTES}

    def check_scores(self) -> None:
        """Check that each network gives the channels of scores that its stages decode.

        Raises
        ------
        ValueError
            With the first one that does not.
        """
        for stage, name in chain.from_iterable(((stage, name) for name in stage.networks) for stage in self.stages):
            output = self.networks[name].output_shape
            problem = unfit(stage.decode, output, self.networks[name].input_shape)
            if problem is not None:
                msg = f"network {name} gives scores {list(output)}, and stage {stage.name} {problem}"
                raise ValueError(msg)

    def _named_files(self) -> list[str]:
        files = [self.reference.file]
        for network in self.networks.values():
            files += [f for f in (network.xml, network.bin, network.onnx) if f is not None]
        return files

    @classmethod
    def parse(cls, text: str | bytes, *, where: str) -> Manifest:
        """Read a manifest from JSON.

        Raises
        ------
        ManifestError
            If it is not JSON, has another schema version, or is not valid. The message begins with `where`.
        """
        try:
            content = plain_json.parse(text)
        except ValueError as error:
            raise ManifestError(f"{where}: {error}") from error
        if not isinstance(content, dict):
            raise ManifestError(f"{where}: is {type(content).__name__}, expected a JSON object")
        version = content.get("schema_version")
        if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= NEWEST:
            newer = isinstance(version, int) and version > NEWEST
            raise ManifestError(
                f"{where}: has schema version {shown(version)}, this lowres-seg reads 1 to {NEWEST}; "
                + ("install a newer lowres-seg" if newer else "export the bundle again")
            )
        try:
            manifest = cls.model_validate(content)
        except ValidationError as error:
            raise ManifestError(f"{where}: {first_problem(error)}") from error
        for since, key in needed(manifest):
            if since > max(version, OLDEST_WRITTEN):
                raise ManifestError(
                    f"{where}: {key} needs schema version {since}, found {version}; export the bundle again"
                )
        return manifest

    def to_json(self) -> str:
        """Text of the manifest as it stands in a bundle, in the lowest schema version that can say it."""
        version = max([OLDEST_WRITTEN, *(version for version, _ in needed(self))])
        content = written(self, version) | {"schema_version": version}
        return json.dumps({key: content[key] for key in _FIRST_KEYS} | content, indent=2, ensure_ascii=False) + "\n"


def json_schema() -> dict[str, Any]:
    """JSON Schema of `Manifest`, as published under docs/."""
    schema = Manifest.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"lowres-seg bundle manifest, schema version {NEWEST}"
    return schema
