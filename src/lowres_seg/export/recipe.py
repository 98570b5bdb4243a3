"""A recipe: a pipeline, the sources of its networks, and bounds of parity.

It says everything about an export that no file of weights says. It is read from a ``recipe.toml``, or by an importer
from a framework's own files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from lowres_seg.bundle.bundle import file_sha256
from lowres_seg.bundle.part import Name, Part, Sha256
from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.errors import ExportError


class About(Part):
    """Name, version and provenance of the bundle."""

    name: Name
    version: str
    description: str
    license: str
    source: str
    intended_use: str


class Parity(Part):
    """Bounds on how far the converted network may be from its source.

    `max_abs_diff` bounds the difference of a score, `max_flipped` the share of voxels with another label. If one
    is given, the other is 1e-3 or 1e-4. If neither is given, parity is judged by the range of the scores and by torch
    in float64.
    """

    max_abs_diff: float | None = Field(default=None, gt=0)
    max_flipped: float | None = Field(default=None, ge=0, lt=1)

    @property
    def is_open(self) -> bool:
        """True if no bound is given."""
        return self.max_abs_diff is None and self.max_flipped is None


class NetworkSource(Part):
    """The source of a network: a TorchScript file, an ONNX file, or a checkpoint with a factory.

    `factory` is ``file.py:function``, where the file lies in the recipe's folder, or ``importer:NAME`` for a network
    that an importer builds, such as ``monai:UNet``. It is called with `arguments` and returns the network. The
    checkpoint holds the network's state, under `checkpoint_key` if that is given; else it is found. `convert`, of the
    form ``file.py:function``, turns the content of another framework's checkpoint into that state. `output` is the name
    or the index of the output that holds the scores. `channels` are those of its channels that are kept, in a row, such
    as the second of two classes; the rest of the recipe counts among them. With `sha256` the file must have that
    digest. Without `exact_norms` the network keeps OpenVINO's own instance and group norms. They are faster in networks
    of few channels and large windows, and off by 1e-4 of the range and more; `[parity]` says how much is borne.
    """

    torchscript: str | None = None
    onnx: str | None = None
    checkpoint: str | None = None
    checkpoint_key: str | None = None
    factory: Annotated[str, Field(pattern=r"^([\w-]+\.py|[a-z]\w*):[A-Za-z_]\w*$")] | None = None
    arguments: dict[str, Any] = Field(default={})
    convert: Annotated[str, Field(pattern=r"^[\w-]+\.py:[A-Za-z_]\w*$")] | None = None
    output: Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)] | None = None
    channels: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    sha256: Sha256 | None = None
    exact_norms: bool = True

    @model_validator(mode="after")
    def _one_source(self) -> NetworkSource:
        if sum(source is not None for source in (self.torchscript, self.onnx, self.checkpoint)) != 1:
            msg = "expected exactly one of torchscript, onnx and checkpoint"
            raise ValueError(msg)
        if (self.checkpoint is None) != (self.factory is None):
            msg = "a checkpoint needs a factory, and a factory a checkpoint"
            raise ValueError(msg)
        if self.channels is not None:
            first, last = self.channels[0], self.channels[-1]
            if self.channels != tuple(range(first, last + 1)):
                msg = f"channels {list(self.channels)}, expected some in a row, such as [1] or [0, 1, 2]"
                raise ValueError(msg)
            if self.onnx is not None:
                msg = "channels goes with networks in torch; cut the scores in the ONNX graph itself"
                raise ValueError(msg)
        return self

    @property
    def file(self) -> str:
        """Name of the file of weights."""
        return self.torchscript or self.onnx or self.checkpoint or ""


class Recipe(Pipeline):
    """What to export, and how to check it.

    Attributes
    ----------
    bundle
        Name, version and provenance of the bundle.
    networks
        Source of each network, by name.
    parity
        How far the converted networks may be from their sources.
    multiple_of
        The sides of a network's input must be multiples of it.
    """

    bundle: About
    networks: dict[Name, NetworkSource] = Field(min_length=1)
    parity: Parity = Parity()
    multiple_of: int = Field(default=32, ge=1, description="The sides of a network's input must be multiples of it")

    @model_validator(mode="after")
    def _networks_fit(self) -> Recipe:
        self.check_networks(self.networks)
        unused = set(self.networks) - {name for stage in self.stages for name in stage.networks}
        if unused:
            msg = f"networks that no stage runs: {', '.join(sorted(unused))}"
            raise ValueError(msg)
        for name in self.networks:
            self.input_shape(name)
        return self


class Imported(Recipe):
    """A recipe that an importer made of a framework's own files, and what it tells about that.

    Attributes
    ----------
    notes
        What was passed over, and what was made up.
    trusted_code
        Digests of the files of code that ran because the user trusts them, by path.
    """

    notes: tuple[str, ...] = ()
    trusted_code: dict[str, Sha256] = Field(default={})


def with_source(recipe: Recipe, file: Path, kind: str) -> Recipe:
    """Copy of a recipe with another file of weights in place of its only one.

    The file's digest is recorded and not compared: whoever names a file means that file.

    Raises
    ------
    ExportError
        If the recipe has several networks, or `file` is a checkpoint and the recipe has no factory for its network, or
        ONNX and the recipe keeps some channels of the scores.
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
        if kind == "onnx" and old.channels is not None:
            raise ExportError(
                f"{file}: is ONNX, and the recipe keeps channels {list(old.channels)} of a network in torch; cut the "
                "scores in the graph, and take channels out of the recipe"
            )
        kept = {"output": old.output, "channels": old.channels, "exact_norms": old.exact_norms}
        new = NetworkSource.model_validate({kind: where, **kept})
    return recipe.model_copy(update={"networks": {name: new}})


def with_weights_key(recipe: Recipe, key: str) -> Recipe:
    """Copy of a recipe whose checkpoints hold their states under another key.

    Raises
    ------
    ExportError
        If no network of the recipe comes from a checkpoint.
    """
    if not any(source.checkpoint for source in recipe.networks.values()):
        raise ExportError(f"--weights-key {key}: no network comes from a checkpoint, so leave it out")
    networks = {
        name: source.model_copy(update={"checkpoint_key": key}) if source.checkpoint else source
        for name, source in recipe.networks.items()
    }
    return recipe.model_copy(update={"networks": networks})


def find_weights(source: NetworkSource, folders: list[Path]) -> Path:
    """Find a network's file of weights, and check its digest.

    Raises
    ------
    ExportError
        If it is in none of `folders`, or has another digest than the recipe says.
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
