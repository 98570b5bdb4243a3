"""nnU-Net v2: from a results folder to a recipe. No code of the folder, and none of nnU-Net, runs.

A results folder holds ``plans.json``, ``dataset.json`` and a ``fold_X`` for each network that was trained. Inference
is that of nnU-Net 2.8: crop to the nonzero region, each channel's normalisation, resampling, windows with a Gaussian,
the mean over mirrored copies and over folds, labels or regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lowres_seg.bundle.part import first_problem
from lowres_seg.bundle.pipeline import EvaluatedRegion, Label
from lowres_seg.bundle.rules import Affine, Clip, IntensityRule, PercentileScale, ZScore
from lowres_seg.bundle.stage import (
    Argmax,
    Conform,
    NonZero,
    Normalise,
    PaintedRegion,
    Regions,
    Restore,
    Stage,
    Windows,
)
from lowres_seg.errors import ExportError
from lowres_seg.export.importers.files import named, read_json
from lowres_seg.export.recipe import About, NetworkSource, Recipe
from lowres_seg.volumes.orientations import ORIENTATIONS, STORED

#: Trainers of nnU-Net 2.8 that train the network of plans.json as it stands: what follows nnUNetTrainer in their names.
# fmt: off
TRAINERS = (
    "", "Adam", "Adam1en3", "Adam3en4", "Adan", "Adan1en1", "Adan1en3", "Adan3en4", "AdanCosAnneal",
    "Benchmark_5epochs", "Benchmark_5epochs_noDataLoading", "CELoss", "CELoss_5epochs", "CosAnneal", "DA5",
    "DA5Segord0", "DA5_10epochs", "DA5ord0", "DiceCELoss_noSmooth", "DiceLoss", "DiceTopK10Loss", "NoDA",
    "NoDeepSupervision", "NoMirroring", "Topk10Loss", "Topk10LossLS01", "VanillaAdam", "VanillaAdam1en3",
    "VanillaAdam3en4", "_100epochs", "_10epochs", "_1epoch", "_2000epochs", "_2000epochs_NoMirroring", "_20epochs",
    "_250epochs", "_250epochs_NoMirroring", "_4000epochs", "_4000epochs_NoMirroring", "_500epochs", "_50epochs",
    "_5epochs", "_750epochs", "_8000epochs", "_8000epochs_NoMirroring", "_DASegOrd0", "_DASegOrd0_NoMirroring",
    "_noDummy2DDA", "_onlyMirror01", "_onlyMirror01_1500ep", "_onlyMirror01_DA5", "_onlyMirror01_DASegOrd0",
    "_probabilisticOversampling", "_probabilisticOversampling_010", "_probabilisticOversampling_033", "_warmup",
)
# fmt: on
_READERS = {"SimpleITKIO": STORED, "NibabelIO": STORED, "NibabelIOWithReorient": "RAS"}
#: Name of a network, before its fold.
_NETWORK = "fold-"
_RESAMPLING = "resample_data_or_seg_to_shape"


TITLE = "a results folder of nnU-Net v2 (plans.json, dataset.json, fold_0)"


@dataclass(frozen=True)
class Options:
    """How to read a results folder.

    Attributes
    ----------
    folds : sequence of str
        Such as ``0`` or ``all``; every fold of the folder if none is named.
    mirror : bool
        Whether to mirror as nnU-Net does at inference.
    orientation : str or None
        Orientation of the files that it was trained on, such as ``LPS``. Scans of any other orientation are then turned
        to it. Without it scans are taken as they are stored, as nnU-Net takes them.
    plans_network : bool
        Assume that a trainer that is not nnU-Net's own trains the network of plans.json.
    """

    folds: Sequence[str] = ()
    mirror: bool = True
    orientation: str | None = None
    plans_network: bool = False


def matches(path: Path) -> bool:
    """Tell whether `path` looks like a folder of nnU-Net, of any version."""
    return path.is_dir() and (
        (path / "plans.json").is_file() or any(path.glob("**/plans.pkl")) or any(path.glob("fold_*"))
    )


def files(path: Path) -> list[Path]:
    """Files that say what a recipe says."""
    return [path / "plans.json", path / "dataset.json"]


def options_again(networks: Sequence[str]) -> Options:
    """Options with which a bundle with these networks was read: its folds, and its trainer taken for nnU-Net's own."""
    return Options(folds=[name.removeprefix(_NETWORK) for name in networks], plans_network=True)


def network(name: str, arguments: Mapping[str, Any]) -> Any:
    """Build a U-Net of plans.json; see `nnunet_network.network`."""
    from lowres_seg.export.importers import nnunet_network

    return nnunet_network.network(name, **arguments)


def recipe(path: Path, options: Options) -> Recipe:
    """Read a results folder of nnU-Net v2.

    Parameters
    ----------
    path : pathlib.Path
    options : Options

    Raises
    ------
    ExportError
        If it is a folder of another version, a fold is missing, or something has no counterpart in a bundle.
    """
    from lowres_seg.export.frameworks import torch_network

    folder, orientation = path, options.orientation
    if orientation is not None and orientation not in ORIENTATIONS:
        raise ExportError(f"orientation: {orientation!r} is none; expected three letters such as RAS or LPS")
    plans, dataset = _json(folder, "plans.json"), _json(folder, "dataset.json")
    checkpoints = _checkpoints(folder, options.folds)
    heads = {name: torch_network.checkpoint(file) for name, file in checkpoints.items()}
    try:
        trained = {(str(head["trainer_name"]), str(head["init_args"]["configuration"])) for head in heads.values()}
    except (KeyError, TypeError) as error:
        raise ExportError(
            f"{folder}: a checkpoint does not say how it was trained ({error}), expected one that nnU-Net v2 saved"
        ) from error
    if len(trained) != 1:
        raise ExportError(f"{folder}: its folds were trained differently ({_listed(trained)}); export them one by one")
    ((trainer, name),) = trained
    if not (trainer[:13] == "nnUNetTrainer" and trainer[13:] in TRAINERS) and not options.plans_network:
        raise ExportError(
            f"{folder}: was trained by {trainer}, which may build another network than plans.json says. If it does "
            "not, say --plans-network; if it does, export it with a recipe.toml whose factory builds that network"
        )
    plan = _configuration(folder, plans, name)
    axes = next(iter(heads.values())).get("inference_allowed_mirroring_axes") or ()
    mirror_axes = tuple(axes) if options.mirror else ()
    channels = _channels(folder, dataset)
    try:
        return _recipe(folder, plans, dataset, plan, channels, checkpoints, mirror_axes, orientation)
    except KeyError as error:
        raise ExportError(f"{folder / 'plans.json'}: configuration {name} has no {error}") from error
    except ValidationError as error:
        raise ExportError(f"{folder}: {first_problem(error)}") from error


def _recipe(
    folder: Path,
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    plan: Mapping[str, Any],
    channels: tuple[str, ...],
    files: Mapping[str, Path],
    mirror_axes: tuple[int, ...],
    orientation: str | None,
) -> Recipe:
    flat = 3 - len(plan["patch_size"])
    decode, labels, regions = _decoding(folder, dataset)
    heads = len(decode.labels) if isinstance(decode, Argmax) else len(decode.regions)
    arguments = {
        "arguments": plan["architecture"]["arch_kwargs"],
        "by_name": plan["architecture"]["_kw_requires_import"],
        "channels": len(channels),
        "heads": heads,
    }
    kind = str(plan["architecture"]["network_class_name"]).rpartition(".")[2]
    networks = {
        name: NetworkSource(
            checkpoint=path.relative_to(folder).as_posix(),
            checkpoint_key="network_weights",
            factory=f"nnunet:{kind}",
            arguments=arguments,
        )
        for name, path in files.items()
    }
    stage = Stage(
        name="segment",
        networks=tuple(networks),
        mirror_axes=tuple(axis + flat for axis in mirror_axes),
        region=NonZero(),
        conform=_conform(folder, plans, plan, orientation),
        normalise=Normalise(when="before-conform", rules=_intensities(folder, plans, plan, channels)),
        windows=Windows(roi_size=(*[1] * flat, *plan["patch_size"])),
        decode=decode,
        restore=Restore(what="scores", activated="after", interpolation="linear"),
    )
    about = About(
        name=_name(str(dataset.get("name") or plans.get("dataset_name") or folder.name)),
        version="1.0.0",
        description=str(dataset.get("description") or f"nnU-Net, {plans.get('dataset_name', folder.name)}"),
        license=str(dataset.get("licence") or dataset.get("license") or "unknown"),
        source=str(dataset.get("reference") or f"nnU-Net v2 results folder {folder.name}"),
        intended_use="Research on scans like those it was trained on. Not a medical device.",
    )
    return Recipe(
        bundle=about,
        channels=channels,
        labels=labels,
        regions=regions,
        networks=networks,
        stages=(stage,),
    )


def _json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        if any(folder.glob("**/plans.pkl")) or any(folder.glob("**/*.model")):
            raise ExportError(f"{folder}: is a folder of nnU-Net v1; train or convert it with v2")
        raise ExportError(
            f"{path}: does not exist, expected a results folder of nnU-Net v2: plans.json, dataset.json, fold_0"
        )
    return read_json(path)


def _checkpoints(folder: Path, folds: Sequence[str]) -> dict[str, Path]:
    """File of weights by name of network: the final one of each fold, else its best."""
    there = sorted(path.name.removeprefix("fold_") for path in folder.glob("fold_*") if path.is_dir())
    if not there:
        raise ExportError(f"{folder}: has no fold, expected fold_0, fold_1, … or fold_all")
    # Networks of all folds together were trained on what the others judge: it is one or the other.
    chosen = list(folds) or ([fold for fold in there if fold != "all"] or there)
    found = {}
    for fold in chosen:
        if fold not in there:
            raise ExportError(f"{folder}: has no fold {fold}, the folds are {', '.join(there)}")
        files = [folder / f"fold_{fold}" / f"checkpoint_{kind}.pth" for kind in ("final", "best")]
        present = [file for file in files if file.is_file()]
        if not present:
            raise ExportError(f"{files[0]}: does not exist, nor {files[1].name}; the training did not end")
        found[_NETWORK + fold] = present[0]
    return found


def _configuration(folder: Path, plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration of plans.json with all that it inherits."""
    every = plans.get("configurations", {})
    if name not in every:
        raise ExportError(
            f"{folder / 'plans.json'}: has no configuration {name}, which its checkpoints were trained in"
        )
    plan, line = dict(every[name]), [name]
    while (parent := plan.pop("inherits_from", None)) is not None:
        if parent not in every or parent in line:
            raise ExportError(
                f"{folder / 'plans.json'}: configuration {line[-1]} inherits from {parent}, which "
                + ("inherits from it" if parent in line else "is not there")
            )
        line.append(parent)
        plan = {**every[parent], **plan}
    if plan.get("previous_stage") is not None:
        raise ExportError(
            f"{folder}: {name} refines the result of {plan['previous_stage']}, another folder; export that one"
        )
    if "architecture" not in plan:
        raise ExportError(
            f"{folder / 'plans.json'}: describes its network as nnU-Net did before 2.4 (no architecture in {name}); "
            "plan again with a newer nnU-Net, or add the architecture"
        )
    return plan


def _conform(folder: Path, plans: Mapping[str, Any], plan: Mapping[str, Any], orientation: str | None) -> Conform:
    reader = str(plans["image_reader_writer"])
    if reader not in _READERS:
        raise ExportError(f"{folder / 'plans.json'}: images are read by {reader}, expected {', '.join(_READERS)}")
    separate = [_separation(folder, plan, kind, order) for kind, order in (("data", 3), ("probabilities", 1))]
    if separate[0] != separate[1]:
        raise ExportError(f"{folder / 'plans.json'}: scans and probabilities are resampled by different rules")
    # nnU-Net's arrays are (z, y, x), before it reorders them.
    axes = tuple((2, 1, 0)[axis] for axis in plans["transpose_forward"])
    letters = orientation or _READERS[reader]
    known = (
        {"orientation": STORED, "axes": axes}
        if letters == STORED
        else {"orientation": "".join(letters[a] for a in axes)}
    )
    spacing = [*[None] * (3 - len(plan["spacing"])), *plan["spacing"]]
    return Conform.model_validate(
        {**known, "spacing_mm": spacing, "interpolation": "cubic", "separate_above": separate[0], "pad": "zero"}
    )


def _separation(folder: Path, plan: Mapping[str, Any], kind: str, order: int) -> float | None:
    """Anisotropy above which an axis is sampled by nearest; None for never."""
    function, given = plan[f"resampling_fn_{kind}"], plan[f"resampling_fn_{kind}_kwargs"]
    expected = {"is_seg": False, "order": order, "order_z": 0}
    found = {key: given.get(key, default) for key, default in expected.items()}
    force = given.get("force_separate_z", False)
    if function != _RESAMPLING or found != expected or force is True:
        raise ExportError(
            f"{folder / 'plans.json'}: {kind} is resampled by {function} with {given}; "
            f"expected {_RESAMPLING} of order {order} and order_z 0"
        )
    return float(given.get("separate_z_anisotropy_threshold", 3)) if force is None else None


def _intensities(
    folder: Path, plans: Mapping[str, Any], plan: Mapping[str, Any], channels: Sequence[str]
) -> tuple[IntensityRule, ...]:
    schemes, masked = plan["normalization_schemes"], plan["use_mask_for_norm"]
    if len(schemes) != len(channels) or len(masked) != len(channels):
        raise ExportError(f"{folder}: plans.json normalises {len(schemes)} channels, dataset.json has {len(channels)}")
    rules: list[IntensityRule] = []
    for index, (channel, scheme, mask) in enumerate(zip(channels, schemes, masked, strict=True)):
        one = (channel,)
        if scheme == "ZScoreNormalization":
            rules.append(ZScore(channels=one, voxels="inside" if mask else "all"))
        elif scheme == "CTNormalization":
            known = plans["foreground_intensity_properties_per_channel"][str(index)]
            scale = 1 / max(known["std"], 1e-8)
            rules.append(Clip(channels=one, lower=known["percentile_00_5"], upper=known["percentile_99_5"]))
            rules.append(Affine(channels=one, scale=scale, shift=-known["mean"] * scale))
        elif scheme == "RescaleTo01Normalization":
            rules.append(PercentileScale(channels=one, lower=0, upper=100, clip="none"))
        elif scheme == "RGBTo01Normalization":
            rules.append(Affine(channels=one, scale=1 / 255))
        elif scheme != "NoNormalization":
            raise ExportError(
                f"{folder / 'plans.json'}: channel {channel} is normalised by {scheme}, unknown here; expected ZScore, "
                "CT, RescaleTo01, RGBTo01 or NoNormalization"
            )
    return tuple(rules)


def _decoding(
    folder: Path, dataset: Mapping[str, Any]
) -> tuple[Argmax | Regions, tuple[Label, ...], tuple[EvaluatedRegion, ...]]:
    """How scores become labels; the labels; the regions that they are trained and evaluated in, if there are any."""
    named = {
        str(name): [int(v) for v in value] if isinstance(value, list) else [int(value)]
        for name, value in dataset.get("labels", {}).items()
        if name != "ignore"
    }
    foreground = {name: values for name, values in named.items() if set(values) != {0}}
    if not foreground:
        raise ExportError(f"{folder / 'dataset.json'}: names no labels beside the background")
    names = dict(zip(foreground, _unique([_name(name) for name in foreground]), strict=True))
    if all(len(values) == 1 for values in foreground.values()):
        by_value = {values[0]: names[name] for name, values in foreground.items()}
        if sorted(by_value) != list(range(1, len(by_value) + 1)):
            raise ExportError(f"{folder / 'dataset.json'}: has the labels {sorted(by_value)}, expected 1, 2, 3, …")
        labels = tuple(Label(value=value, name=by_value[value]) for value in sorted(by_value))
        return Argmax(labels=(0, *sorted(by_value))), labels, ()
    order = dataset.get("regions_class_order")
    if not isinstance(order, list) or len(order) != len(foreground):
        raise ExportError(
            f"{folder / 'dataset.json'}: has {len(foreground)} regions and the regions_class_order {order}; "
            "expected one label for each region"
        )
    painted = [PaintedRegion(channel=channel, label=label) for channel, label in enumerate(order)]
    # A label that later regions overwrite keeps the rest of its region.
    rest = {value: "-rest" if place < len(order) - 1 else "" for place, value in enumerate(order)}
    label_names = {value: names[name] + rest[value] for name, value in zip(foreground, order, strict=True)}
    labels = tuple(Label(value=value, name=label_names[value]) for value in sorted(label_names))
    evaluated = tuple(EvaluatedRegion(name=names[name], labels=tuple(values)) for name, values in foreground.items())
    return Regions(activation="sigmoid", regions=tuple(painted)), labels, evaluated


def _channels(folder: Path, dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of channels, in the order of their numbers."""
    given = dataset.get("channel_names") or dataset.get("modality") or {}
    if not isinstance(given, dict) or sorted(given) != sorted(str(n) for n in range(len(given))) or not given:
        raise ExportError(
            f"{folder / 'dataset.json'}: its channel_names are {given or 'missing'}, expected names of 0, 1, 2, …"
        )
    return tuple(_unique([_name(str(given[str(n)])) for n in range(len(given))]))


def _name(text: str) -> str:
    return named(text) or "unnamed"


def _unique(names: Sequence[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name}-{place}" for place, name in enumerate(names)]


def _listed(pairs: set[tuple[str, str]]) -> str:
    return "; ".join(f"{trainer} in {name}" for trainer, name in sorted(pairs))
