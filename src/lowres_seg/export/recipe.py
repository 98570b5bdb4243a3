"""A recipe: what to export, and everything about it that no file of weights holds.

A recipe is a folder with a ``recipe.toml`` and, where a network is built by code, the module that builds it.
Its ``[[stages]]`` and ``[[labels]]`` are those of the manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lowres_seg.bundle.bundle import file_sha256
from lowres_seg.bundle.manifest import JudgedRegion, Label, Sha256, check_stages, first_problem
from lowres_seg.bundle.rules import Name
from lowres_seg.bundle.stage import Stage
from lowres_seg.errors import ExportError
from lowres_seg.export import toml_file


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class About(_Part):
    """What the bundle is called and where it comes from."""

    name: Name
    version: str
    description: str
    license: str
    source: str
    intended_use: str


class Parity(_Part):
    """How far the converted network may be from its source.

    `max_abs_diff` bounds the scores, `max_flipped` the share of voxels whose label differs.
    """

    max_abs_diff: float = Field(default=1e-3, gt=0)
    max_flipped: float = Field(default=1e-4, ge=0, lt=1)


class NetworkSource(_Part):
    """Where a network comes from: a TorchScript file, an ONNX file, or a checkpoint and a factory.

    `factory` is ``file.py:function``, a file of the recipe's folder; it is called with `arguments` and gives
    the network, whose state the checkpoint holds, under `checkpoint_key` if it names one; `convert`, of the same
    form, takes what a checkpoint of another framework holds, by name, to that state. ``nnunet:NAME`` and
    ``monai:NAME`` are networks that those libraries build. With `sha256` the file must be that very one.
    """

    torchscript: str | None = None
    onnx: str | None = None
    checkpoint: str | None = None
    checkpoint_key: str | None = None
    factory: Annotated[str, Field(pattern=r"^([\w-]+\.py|nnunet|monai):[A-Za-z_]\w*$")] | None = None
    arguments: dict[str, Any] = {}
    convert: Annotated[str, Field(pattern=r"^[\w-]+\.py:[A-Za-z_]\w*$")] | None = None
    sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _one_source(self) -> NetworkSource:
        if sum(source is not None for source in (self.torchscript, self.onnx, self.checkpoint)) != 1:
            msg = "expected exactly one of torchscript, onnx and checkpoint"
            raise ValueError(msg)
        if (self.checkpoint is None) != (self.factory is None):
            msg = "a checkpoint needs a factory, and a factory a checkpoint"
            raise ValueError(msg)
        return self

    @property
    def file(self) -> str:
        """Name of the file of weights."""
        return self.torchscript or self.onnx or self.checkpoint or ""


class Recipe(_Part):
    """What to export and how to check it."""

    bundle: About
    channels: tuple[Name, ...] = Field(min_length=1)
    labels: tuple[Label, ...]
    regions: tuple[JudgedRegion, ...] = ()
    networks: dict[Name, NetworkSource] = Field(min_length=1)
    stages: tuple[Stage, ...] = Field(min_length=1)
    parity: Parity = Parity()
    multiple_of: int = Field(default=32, ge=1, description="What the sides of a network's input must be multiples of")

    @model_validator(mode="after")
    def _hangs_together(self) -> Recipe:
        check_stages(self.stages, self.networks, [label.value for label in self.labels], self.channels)
        unused = set(self.networks) - {name for stage in self.stages for name in stage.networks}
        if unused:
            msg = f"networks that no stage runs: {', '.join(sorted(unused))}"
            raise ValueError(msg)
        for name in self.networks:
            self.input_shape(name)
        return self

    def stage_of(self, network: str) -> Stage:
        """First stage that runs a network."""
        return next(stage for stage in self.stages if network in stage.networks)

    def input_shape(self, network: str) -> tuple[int, int, int, int, int]:
        """(1, channels, D, H, W) that a network is exported for.

        Raises
        ------
        ValueError
            If two stages run it on different shapes.
        """
        shapes = {stage.input_shape(network, len(self.channels)) for stage in self.stages if network in stage.networks}
        if len(shapes) != 1:
            msg = f"network {network} runs on several shapes: {sorted(shapes)}"
            raise ValueError(msg)
        return shapes.pop()


def load(path: Path) -> Recipe:
    """Read a ``recipe.toml``.

    Raises
    ------
    ExportError
        If it is missing, no TOML, or not a valid recipe.
    """
    content = toml_file.read(path, ExportError)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise ExportError(f"{path}: {first_problem(error)}") from error


def named(text: str) -> str:
    """A text of another framework as manifests have names: lower case, without spaces; empty if nothing is left."""
    return re.sub(r"[^a-z0-9_.]+", "-", text.lower()).strip("-_.")[:64]


def read_json(path: Path) -> dict[str, Any]:
    """Object of a JSON file.

    Raises
    ------
    ExportError
        If it cannot be read, or holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ExportError(f"{path}: is {type(content).__name__}, expected a JSON object")
    return content


def digest(source: Path) -> str:
    """Digest of a ``recipe.toml``; of a framework's folder, of the files that say there what a recipe says."""
    if source.is_file():
        return file_sha256(source)
    names = ("plans.json", "dataset.json", "configs/metadata.json", "configs/inference.json")
    files = [source / name for name in names if (source / name).is_file()]
    return hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()


def with_source(recipe: Recipe, file: Path, kind: str) -> Recipe:
    """Put another file of weights in place of the recipe's only one.

    Its digest is recorded, not compared: whoever names a file means that file.

    Raises
    ------
    ExportError
        If the recipe has several networks, or `file` is a checkpoint and the recipe cannot build its network.
    """
    if len(recipe.networks) != 1:
        raise ExportError(
            f"{file}: the recipe has {len(recipe.networks)} networks, so one file cannot stand for all; "
            "put their files in one folder and name it with --weights"
        )
    ((name, old),) = recipe.networks.items()
    where = str(file.resolve())
    if kind == "checkpoint":
        if old.factory is None:
            raise ExportError(f"{file}: is a checkpoint, and the recipe has no factory to build its network with")
        new = old.model_copy(update={"checkpoint": where, "sha256": None})
    else:
        new = NetworkSource(**{kind: where})
    return recipe.model_copy(update={"networks": {name: new}})


def find_weights(source: NetworkSource, folders: list[Path]) -> Path:
    """Find a network's file of weights, and check its digest.

    Raises
    ------
    ExportError
        If it is in none of `folders`, or not the very file the recipe means.
    """
    for folder in folders:
        path = folder / source.file
        if path.is_file():
            break
    else:
        looked = ", ".join(str(folder) for folder in folders)
        raise ExportError(f"{source.file}: not found in {looked}; name its folder with --weights")
    found = file_sha256(path)
    if source.sha256 is not None and found != source.sha256:
        raise ExportError(
            f"{path}: sha256 {found[:12]}…, the recipe means the file with {source.sha256[:12]}…; "
            "to export another checkpoint, name it: lowres-seg export FILE --recipe RECIPE"
        )
    return path
