"""A recipe: a pipeline, the sources of its networks, and bounds of parity.

It says everything about an export that no file of weights says. It is read from a ``recipe.toml``, or by an importer
from a framework's own files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lowres_seg.bundle.bounds import CHANNELS
from lowres_seg.bundle.part import Name, Part, Sha256
from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.bundle.stage import Classes
from lowres_seg.errors import ExportError
from lowres_seg.export.frameworks.sizes import Resize
from lowres_seg.export.packages import Package


class About(Part):
    """Name, version and provenance of the bundle."""

    name: Name
    version: str
    description: str
    license: str
    source: str
    intended_use: str


class System(Part):
    """The published system that a recipe rebuilds, by the `id` that it has in the gallery.

    `paper` is where it is described. `parameters` are those of one network as the recipe builds it, in full width, and
    `published_parameters` those that the paper states. `assumed` says in words what the paper leaves open, and what
    the recipe takes for it.
    """

    id: Annotated[str, Field(pattern=r"^S[0-9]{2}[a-z]?$")]
    task: Annotated[str, Field(min_length=1, max_length=40)]
    paper: Annotated[str, Field(min_length=1)]
    parameters: int = Field(ge=1)
    published_parameters: Annotated[int, Field(ge=1)] | None = None
    assumed: tuple[Annotated[str, Field(min_length=1)], ...] = ()


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


class PublishedWeights(Part):
    """Where the recipe's files of weights are published.

    `pypi` is a package on PyPI and its version, ``NAME==VERSION``, with the `sha256` of its wheel; the files lie in
    `folder` of the wheel. `export` downloads it where the files are not beside the recipe. `where` says in words where
    weights are that no package holds.
    """

    pypi: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+!]*$")] | None = None
    sha256: Sha256 | None = None
    folder: str = ""
    where: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _says_where(self) -> PublishedWeights:
        if (self.pypi is None) == (self.where is None):
            msg = "expected exactly one of pypi and where"
            raise ValueError(msg)
        if (self.pypi is None) != (self.sha256 is None):
            msg = "pypi goes with the sha256 of the package's wheel"
            raise ValueError(msg)
        return self

    @property
    def package(self) -> Package:
        """The package on PyPI. It is asked for where `pypi` is given."""
        name, _, version = (self.pypi or "").partition("==")
        return Package(name, version, self.sha256 or "")

    @property
    def words(self) -> str:
        """Where the weights are, for a message."""
        if self.where is not None:
            return self.where
        return f"in {self.folder or 'the wheel'} of {self.package.name} {self.package.version} on PyPI"


#: Factories that are functions of a file.
_OWN_CODE = re.compile(r"(\.\./)?[\w-]+\.py:")
_Tensor = Annotated[tuple[Name, ...], Field(min_length=1, max_length=CHANNELS)]


class NetworkSource(Part):
    """The source of a network: a TorchScript file, an ONNX file, or a checkpoint with a factory.

    `factory` is ``file.py:function``, where the file lies in the recipe's folder, or in that of the file which it
    extends, or ``importer:NAME`` for a network that an importer builds, such as ``monai:UNet``. It is called with
    `arguments` and returns the network. The checkpoint holds the network's state, under `checkpoint_key` if that is
    given; else it is found. `convert`, of the form ``file.py:function``, turns the content of another framework's
    checkpoint into that state. With two parameters it is given the network as well; a checkpoint that it gives back as
    it is holds the network's own state. `output` is the name or the index of the output that holds the scores.
    `channels` are those of its channels that are kept, in a row, such as the second of two classes; the rest of the
    recipe counts among them. With `sha256` the file must have that digest. Without `exact_norms` the network keeps
    OpenVINO's own instance and group norms. They are faster in networks of few channels and large windows, and off by
    1e-4 of the range and more; `[parity]` says how much is borne.

    `inputs` are the channels of each tensor that the network takes, in the order of its arguments. A network of one
    tensor needs it where its channels are in another order than the scan's. A mask channel has the name of the stage
    that it shows. With `slices` the network takes (1, C, H, W), and its window has one side of 1; networks of importers
    and ONNX files say so themselves. Scores of another resolution than the input are resized to it as `resize_scores`
    says: sampled at the centres of its voxels, as torch's ``trilinear`` and ``nearest-exact`` do. With `dropout` the
    network's dropout layers are kept on, and a stage that runs it has `samples`.
    """

    torchscript: str | None = None
    onnx: str | None = None
    checkpoint: str | None = None
    checkpoint_key: str | None = None
    factory: Annotated[str, Field(pattern=r"^((\.\./)?[\w-]+\.py|[a-z]\w*):[A-Za-z_]\w*$")] | None = None
    arguments: dict[str, Any] = Field(default={})
    convert: Annotated[str, Field(pattern=r"^(\.\./)?[\w-]+\.py:[A-Za-z_]\w*$")] | None = None
    output: Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)] | None = None
    inputs: Annotated[tuple[_Tensor, ...], Field(min_length=1, max_length=CHANNELS)] | None = None
    channels: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    slices: bool = False
    resize_scores: Resize | None = None
    dropout: bool = False
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
        if self.dropout and self.factory is None:
            msg = "dropout goes with a checkpoint and a factory; a graph that was saved has no dropout layers"
            raise ValueError(msg)
        if self.slices and self.factory is not None and not _OWN_CODE.match(self.factory):
            msg = f"slices goes with networks of your own; {self.factory} says itself whether it takes slices"
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

    def of_file(self, kind: Literal["torchscript", "onnx"], file: Path) -> NetworkSource:
        """The same network from a file that holds all of it."""
        kept = {
            key: getattr(self, key)
            for key in ("output", "inputs", "slices", "channels", "resize_scores", "exact_norms")
        }
        return NetworkSource.model_validate({kind: str(file), **kept})


class Recipe(Pipeline):
    """What to export, and how to check it.

    Attributes
    ----------
    bundle
        Name, version and provenance of the bundle.
    networks
        Source of each network, by name.
    weights
        Where the files of weights are published.
    system
        The published system that it rebuilds.
    parity
        How far the converted networks may be from their sources.
    multiple_of
        The sides of a network's input must be multiples of it.
    """

    bundle: About
    networks: dict[Name, NetworkSource] = Field(min_length=1)
    weights: PublishedWeights | None = None
    system: System | None = None
    parity: Parity = Parity()
    multiple_of: int = Field(default=32, ge=1, description="The sides of a network's input must be multiples of it")

    @model_validator(mode="before")
    @classmethod
    def _labels_by_nearest(cls, content: Any) -> Any:
        """A recipe that restores labels means nearest, unless it says otherwise."""
        stages = content.get("stages") if isinstance(content, dict) else None
        if not isinstance(stages, list):
            return content
        return {**content, "stages": [_with_nearest(stage) for stage in stages]}

    @model_validator(mode="after")
    def _networks_fit(self) -> Recipe:
        self.check_networks(self.networks)
        unused = set(self.networks) - {name for stage in self.stages for name in stage.networks}
        if unused:
            msg = f"networks that no stage runs: {', '.join(sorted(unused))}"
            raise ValueError(msg)
        for name in self.networks:
            self.input_shape(name)
            self.parts(name)
        for stage in self.stages:
            unlike = [name for name in stage.networks if self.networks[name].dropout != (stage.samples is not None)]
            if unlike:
                msg = (
                    f"network {unlike[0]} keeps dropout on, or stage {stage.name} has samples; expected both or none: "
                    "dropout = true in the network's entry, and samples in the stage"
                )
                raise ValueError(msg)
            resized = [name for name in stage.networks if self.networks[name].resize_scores is not None]
            if resized and isinstance(stage.decode, Classes):
                msg = (
                    f"network {resized[0]} resizes its scores, and stage {stage.name} decodes classes, one number each"
                )
                raise ValueError(msg)
        return self

    def parts(self, network: str) -> list[list[int]] | None:
        """Places of the channels of each tensor that a network takes; None if its source does not say `inputs`.

        Raises
        ------
        ValueError
            If `inputs` name another channel than its stages give it.
        """
        inputs = self.networks[network].inputs
        if inputs is None:
            return None
        stages = [stage for stage in self.stages if network in stage.networks]
        given = {tuple(stage.names_of(network, self.channels)) for stage in stages}
        if len(given) != 1:
            msg = f"network {network} has inputs, and its stages give it other channels: {sorted(given)}"
            raise ValueError(msg)
        (names,) = given
        known = list(dict.fromkeys(name for _, name in names))
        strange = [name for tensor in inputs for name in tensor if name not in known]
        if strange:
            msg = f"network {network} has channel {strange[0]} in its inputs; its stage gives it {', '.join(known)}"
            raise ValueError(msg)
        by_channel = stages[0].windows is not None and stages[0].windows.neighbours_by == "channel"
        return [_places(tensor, names, by_channel=by_channel) for tensor in inputs]


def _places(tensor: Sequence[str], names: Sequence[tuple[int, str]], *, by_channel: bool) -> list[int]:
    """Places of the channels of a tensor among `names`, slice by slice, or with all slices of a channel together."""
    found = [
        (rank, slice_, at) for rank, name in enumerate(tensor) for at, (slice_, own) in enumerate(names) if own == name
    ]
    return [at for rank, slice_, at in sorted(found, key=lambda one: one if by_channel else (one[1], one[0], one[2]))]


def _with_nearest(stage: Any) -> Any:
    restore = stage.get("restore") if isinstance(stage, dict) else None
    if not isinstance(restore, dict) or restore.get("what") != "labels" or {"interpolation", "rounding"} & set(restore):
        return stage
    return {**stage, "restore": {**restore, "interpolation": "nearest"}}


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
        new = old.of_file("onnx" if kind == "onnx" else "torchscript", file.resolve())
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


def json_schema() -> dict[str, Any]:
    """JSON Schema of `Recipe`, as published under docs/."""
    schema = Recipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "lowres-seg recipe.toml"
    schema["$defs"]["Restore"]["properties"]["interpolation"]["description"] = "nearest by default where what is labels"
    return schema
