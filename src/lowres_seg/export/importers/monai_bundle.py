"""The importer of MONAI bundles. No code of the folder runs, and no expression of its configurations.

A bundle folder holds ``configs/metadata.json``, ``configs/inference.json`` and ``models/model.pt`` or ``model.ts``.
Literal values and plain references such as ``@image_key`` of inference.json are read. Each transform becomes a rule of
the manifest that computes the same, or does not change the result, or is refused by name. This is the home of monai.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lowres_seg.bundle.grids import Conform
from lowres_seg.bundle.part import first_problem
from lowres_seg.bundle.pipeline import EvaluatedRegion, Label
from lowres_seg.bundle.stage import Argmax, Normalise, PaintedRegion, Regions, Stage, Windows
from lowres_seg.errors import ExportError, one_line
from lowres_seg.export.importers.files import named
from lowres_seg.export.importers.monai_config import EXAMPLE, Arguments, Config, leaves, problem, validated
from lowres_seg.export.importers.monai_transforms import AFTER, BEFORE, Effects, SlidingWindowInferer
from lowres_seg.export.recipe import About, NetworkSource, Recipe
from lowres_seg.extras import require

#: Keys under which MONAI saves the network's state. Without one of them, or with both, the state that fits is found.
CHECKPOINT_KEYS = ("model", "state_dict")
IMAGE, PRED = "image", "pred"
_NETS = "monai.networks.nets"
#: BraTS's regions in the order in which they are painted: label, and name of the part that keeps it.
_BRATS = {"wt": (2, "edema"), "tc": (1, "non-enhancing-core"), "et": (4, "enhancing-tumor")}
_BRATS_CALLED = {"whole-tumor": "wt", "tumor-core": "tc", "enhancing-tumor": "et"}
#: Enhancing tumor is 4 in label maps of BraTS up to 2021, 3 in later ones.
_BRATS_YEARS = ([2, 1, 4], [2, 1, 3])


TITLE = "a MONAI bundle (configs/metadata.json, configs/inference.json, models)"


@dataclass(frozen=True)
class Options:
    """A MONAI bundle has no options."""


def matches(path: Path) -> bool:
    """Tell whether `path` looks like a MONAI bundle."""
    return (path / "configs").is_dir()


def home(path: Path) -> Path:
    """The bundle's folder."""
    return path


def files(path: Path) -> list[Path]:
    """Files that say what a recipe says."""
    return [path / "configs" / "metadata.json", path / "configs" / "inference.json"]


def options_again(networks: Sequence[str]) -> Options:  # noqa: ARG001 - there are none
    """Options with which a bundle with these networks was read."""
    return Options()


def recipe(path: Path, options: Options) -> Recipe:  # noqa: ARG001 - there are none
    """Read a MONAI bundle.

    MONAI writes the regions whole tumor, tumor core and enhancing tumor as channels. Here they are painted in that
    order as 2, 1 and 4; enhancing tumor also where neither of the others is. A ``Lambdad`` of such bundles makes the
    same label map.

    Parameters
    ----------
    path : pathlib.Path
    options : Options

    Raises
    ------
    ExportError
        If a file is missing or damaged, or a manifest cannot express exactly what it says.
    """
    folder = path
    metadata = Config(folder / "configs" / "metadata.json")
    config = Config(folder / "configs" / "inference.json")
    channels, scores = _channels(metadata, "inputs", IMAGE), _channels(metadata, "outputs", PRED)
    effects = _transforms(config, channels, len(scores))
    for owner, role, key in (
        ("dataset", "transform", "preprocessing"),
        ("evaluator", "postprocessing", "postprocessing"),
        ("evaluator", "inferer", "inferer"),
    ):
        config.check_used(owner, role, key)
    decode, labels, regions = _decoded(effects, scores, f"{config.path}: postprocessing")
    conform, windows = _inferer(config, metadata, effects.orientation)
    about = metadata.content
    version = str(about.get("version") or "unknown")
    title = str(about.get("name") or folder.resolve().name)
    try:
        return Recipe(
            bundle=About(
                name=_name(title, metadata.path),
                version=version,
                description=str(about.get("description") or about.get("task") or title),
                license=str(about.get("license") or about.get("copyright") or "not stated"),
                source=f"MONAI bundle {title} {version}, by {about.get('authors') or 'unknown authors'}",
                intended_use=str(about.get("intended_use") or "not stated"),
            ),
            channels=channels,
            labels=labels,
            regions=regions,
            networks={"net": _network(config, folder, len(channels), len(scores))},
            stages=(
                Stage(
                    name="segment",
                    networks=("net",),
                    conform=conform,
                    normalise=Normalise(rules=tuple(effects.rules)),
                    windows=windows,
                    decode=decode,
                    cleanup=tuple(effects.cleanup),
                ),
            ),
        )
    except ValidationError as error:
        raise ExportError(f"{folder}: {first_problem(error)}") from error


def network(name: str, arguments: Mapping[str, Any]) -> Any:
    """Build a network of MONAI.

    Parameters
    ----------
    name : str
        Class of ``monai.networks.nets``.
    arguments : mapping
        Arguments of its constructor. ``img_size`` of a SwinUNETR was only checked, and newer versions of MONAI do not
        take it. ``use_checkpoint`` saves memory in training. Neither changes what the network computes.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    MissingExtraError
        If MONAI is not installed.
    ExportError
        If there is no such network, or it takes other arguments.
    """
    require("monai")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks import nets

        kind = getattr(nets, name, None)
        if not (isinstance(kind, type) and kind.__module__.startswith(_NETS) and hasattr(kind, "forward")):
            raise ExportError(f"network_def: {name} is no network of {_NETS}; save it as models/model.ts")
        taken = inspect.signature(kind).parameters
        given = dict(arguments)
        if name == "SwinUNETR" and "img_size" not in taken:
            given.pop("img_size", None)
        if "use_checkpoint" in taken:
            given["use_checkpoint"] = False
        strange = [key for key in given if key not in taken]
        if strange:
            raise ExportError(
                f"network_def: {name} of the installed MONAI takes no {strange[0]}; "
                "install the version that metadata.json names, or save the network as models/model.ts"
            )
        try:
            return kind(**given)
        except Exception as error:
            raise ExportError(f"network_def: {name} cannot be built from its arguments ({one_line(error)})") from error


def _transforms(config: Config, channels: Sequence[str], scores: int) -> Effects:
    """Effects of preprocessing and postprocessing."""
    effects = Effects(channels, scores, config.at("preprocessing"))
    for key, known, item, instead in (
        ("preprocessing", BEFORE, IMAGE, "do it to the scans before"),
        ("postprocessing", AFTER, PRED, "do it to the label map after"),
    ):
        for where, name, given in config.transforms(key):
            if name not in known:
                raise ExportError(f"{where} has no exact counterpart in a bundle; remove it, and {instead}")
            transform = validated(known[name], given, where)
            try:
                transform.check(item)
                transform.apply(effects)
            except ValueError as error:
                raise ExportError(f"{where}: {problem(error)}") from error
    return effects


def _decoded(
    effects: Effects, scores: Sequence[str], where: str
) -> tuple[Argmax | Regions, tuple[Label, ...], tuple[EvaluatedRegion, ...]]:
    """How scores become labels; the labels; the evaluated regions."""
    if effects.argmax:
        if not 2 <= len(scores) <= 256:
            raise ExportError(f"{where}: argmax over {len(scores)} channels, expected 2 to 256")
        labels = tuple(Label(value=c, name=name) for c, name in enumerate(scores) if c)
        return Argmax(activation=effects.activation, labels=tuple(range(len(scores)))), labels, ()
    if effects.threshold is None:
        raise ExportError(f"{where}: has no AsDiscreted, so the result would be scores; add one, argmax or threshold")
    called = [_BRATS_CALLED.get(name.replace("_", "-"), name) for name in scores]
    brats = [called.index(region) for region in _BRATS] if sorted(called) == sorted(_BRATS) else []
    choice = effects.choice
    if choice is None:
        if not brats and len(scores) > 1:
            raise ExportError(
                f"{where}: thresholds {len(scores)} channels, which may overlap, and a bundle writes one label map; "
                "name them whole tumor, tumor core and enhancing tumor in metadata.json, or add after AsDiscreted a "
                f"Lambdad that says which label wins: {EXAMPLE}"
            )
        choice = [(c, label) for c, (label, _) in zip(brats, _BRATS.values(), strict=True)] if brats else [(0, 1)]
    names = dict(enumerate(scores))
    regions: tuple[EvaluatedRegion, ...] = ()
    if brats == [channel for channel, _ in choice]:
        names = {c: left for c, (_, left) in zip(brats, _BRATS.values(), strict=True)}
        values = [label for _, label in choice]
        enhancing = {3, 4} if values in _BRATS_YEARS else set[int]()
        regions = tuple(
            EvaluatedRegion(name=region, labels=tuple(sorted({*values[place:], *enhancing})))
            for place, region in enumerate(_BRATS)
        )
    painted = tuple(PaintedRegion(channel=c, threshold=effects.threshold, label=label) for c, label in choice)
    labels = tuple(Label(value=label, name=names[c]) for c, label in sorted(choice, key=lambda pair: pair[1]))
    return Regions(activation=effects.activation, regions=painted), labels, regions


def _inferer(config: Config, metadata: Config, orientation: str) -> tuple[Conform, Windows | None]:
    """Grid and windows, or the one shape that the network takes."""
    name, given = config.component(config.at("inferer"), "inferer")
    where = f"{config.path}: inferer {name}"
    if name == "SlidingWindowInferer":
        try:
            windows = validated(SlidingWindowInferer, given, where).windows()
        except ValueError as error:
            raise ExportError(f"{where}: {problem(error)}") from error
        return Conform(orientation=orientation, pad="zero"), windows
    if name != "SimpleInferer":
        raise ExportError(f"{where}: has no exact counterpart in a bundle; expected SlidingWindowInferer")
    validated(Arguments, given, where)
    shape = metadata.content["network_data_format"]["inputs"][IMAGE].get("spatial_shape")
    if not (isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)):
        raise ExportError(
            f"{where}: takes scans of any shape, a bundle one shape or windows; use SlidingWindowInferer, or write "
            f"the one shape of the scans into {metadata.path}, inputs.{IMAGE}.spatial_shape, where {shape} was found"
        )
    i, j, k = shape
    return Conform(orientation=orientation, shape=(i, j, k), spacing_mm=(None, None, None), pad="zero"), None


def _network(config: Config, folder: Path, channels: int, scores: int) -> NetworkSource:
    """Source of the network: its class and state, or else TorchScript."""
    from lowres_seg.export.frameworks import torch_network

    checkpoint, script = folder / "models" / "model.pt", folder / "models" / "model.ts"
    if not checkpoint.is_file() and not script.is_file():
        raise ExportError(f"{folder / 'models'}: has neither model.pt nor model.ts; large_files.yml says where it is")
    if checkpoint.is_file() and torch_network.kind_of(checkpoint) == "torchscript":
        return NetworkSource(torchscript="models/model.pt")
    definition = config.at("network_def")
    target = definition.get("_target_") if isinstance(definition, dict) else None
    known = re.fullmatch(rf"(?:{re.escape(_NETS)}\.(?:\w+\.)*)?(\w+)", str(target or ""))
    if known is None or not checkpoint.is_file():
        if script.is_file():
            return NetworkSource(torchscript="models/model.ts")
        found = "no network_def" if target is None else f"network_def {target}, which is not of {_NETS}"
        raise ExportError(f"{config.path}: has {found}; put the network as TorchScript into models/model.ts")
    _, arguments = config.component(definition, "network_def")
    for where, value in leaves(arguments, "network_def"):
        if isinstance(value, str) and value.startswith(("$", "@", "%")):
            raise ExportError(f"{config.path}: {where} is {value!r}, and no code of a bundle is run; write its value")
    expected = {"spatial_dims": 3, "dimensions": 3, "in_channels": channels, "out_channels": scores}
    for argument, value in expected.items():
        if arguments.get(argument, value) != value:
            raise ExportError(f"{config.path}: network_def#{argument} is {arguments[argument]}, expected {value}")
    content = torch_network.checkpoint(checkpoint)
    keys = [key for key in CHECKPOINT_KEYS if isinstance(content.get(key), Mapping)]
    return NetworkSource(
        checkpoint="models/model.pt",
        checkpoint_key=keys[0] if len(keys) == 1 else None,
        factory=f"monai:{known[1]}",
        arguments=arguments,
    )


def _channels(metadata: Config, side: str, item: str) -> tuple[str, ...]:
    """Names of the channels of the network's input or output."""
    where = f"network_data_format.{side}.{item}"
    try:
        entry = metadata.content["network_data_format"][side][item]
        texts = {int(key): str(text) for key, text in entry["channel_def"].items()}
        count = int(entry["num_channels"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ExportError(
            f"{metadata.path}: {where}: expected num_channels, and channel_def with a name for each channel "
            f"({type(error).__name__} {one_line(error)})"
        ) from error
    if not texts or sorted(texts) != list(range(count)):
        raise ExportError(
            f"{metadata.path}: {where}: channel_def names {', '.join(map(str, texts))}, "
            f"expected the channels 0 to {count - 1} of num_channels"
        )
    names = tuple(_name(texts[channel], metadata.path) for channel in range(count))
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ExportError(f"{metadata.path}: two channels are called {twice[0]}; expected a name of its own for each")
    return names


def _name(text: str, where: Path) -> str:
    name = named(text)
    if not name:
        raise ExportError(f"{where}: {text!r} is no name; expected letters or digits")
    return name
