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

from lowres_seg.bundle.grids import Restore
from lowres_seg.bundle.part import first_problem
from lowres_seg.bundle.stage import Argmax, NonZero, Normalise, Stage, Windows
from lowres_seg.errors import ExportError, one_line
from lowres_seg.export.importers import nnunet_folder, nnunet_labels
from lowres_seg.export.importers.nnunet_plans import Plan, conform, intensities
from lowres_seg.export.importers.nnunet_trainers import BATCH_NORM, PLANS_NETWORK
from lowres_seg.export.recipe import About, NetworkSource, Parity, Recipe
from lowres_seg.volumes.orientations import ORIENTATIONS

#: Name of a network, before its fold.
_NETWORK = "fold-"
#: Kinds of checkpoints for each value of the option, the preferred one first.
_KINDS = {"": ("final", "best"), "any": nnunet_folder.KINDS} | {kind: (kind,) for kind in nnunet_folder.KINDS}

TITLE = "a results folder of nnU-Net v2 (plans.json, dataset.json, fold_0)"


@dataclass(frozen=True)
class Options:
    """How to read a results folder.

    Attributes
    ----------
    folds : sequence of str
        Such as ``0`` or ``all``; every fold of the folder if none is named.
    checkpoint : str or None
        ``final``, ``best`` or ``latest``; or ``any``, the first of these that a fold has. Without it the final one is
        taken, else the best.
    mirror : bool
        Whether to mirror as nnU-Net does at inference.
    orientation : str or None
        Orientation of the files that it was trained on, such as ``LPS``. Scans of any other orientation are then turned
        to it. Without it scans are taken as they are stored, as nnU-Net takes them.
    plans_network : bool
        Assume that a trainer that is not nnU-Net's own trains the network of plans.json.
    """

    folds: Sequence[str] = ()
    checkpoint: str | None = None
    mirror: bool = True
    orientation: str | None = None
    plans_network: bool = False


def matches(path: Path) -> bool:
    """Tell whether `path` looks like a folder or a checkpoint of nnU-Net, of any version."""
    return nnunet_folder.matches(path)


def home(path: Path) -> Path:
    """The results folder that `path` means. Raises ExportError if there is none, or several."""
    return nnunet_folder.find(path).folder


def files(path: Path, options: Options) -> list[Path]:  # noqa: ARG001 - they change none
    """Files that say what a recipe says."""
    folder = home(path)
    return [folder / "plans.json", folder / "dataset.json"]


def options_again(networks: Sequence[str]) -> Options:
    """Options with which a bundle with these networks was read: its folds, and its trainer taken for nnU-Net's own."""
    return Options(folds=[name.removeprefix(_NETWORK) for name in networks], checkpoint="any", plans_network=True)


def network(name: str, arguments: Mapping[str, Any]) -> Any:
    """Build a U-Net of plans.json; see `nnunet_network.network`."""
    from lowres_seg.export.importers import nnunet_network

    return nnunet_network.network(name, **arguments)


def recipe(path: Path, options: Options) -> Recipe:
    """Read a results folder of nnU-Net v2.

    Parameters
    ----------
    path : pathlib.Path
        The folder, a fold of it, a checkpoint of a fold, or the folder of the data set.
    options : Options

    Raises
    ------
    ExportError
        If it is a folder of another version, a fold is missing, or something has no counterpart in a bundle.
    """
    from lowres_seg.export.frameworks import torch_network

    if options.orientation is not None and options.orientation not in ORIENTATIONS:
        raise ExportError(f"orientation: {options.orientation!r} is none; expected three letters such as RAS or LPS")
    folder, folds, kinds = _chosen(path, options)
    plans, dataset = nnunet_folder.read(folder, "plans.json"), nnunet_folder.read(folder, "dataset.json")
    checkpoints = nnunet_folder.checkpoints(folder, folds, kinds)
    heads = {fold: torch_network.checkpoint(file) for fold, file in checkpoints.items()}
    trainer, name = _training(folder, list(heads.values()))
    if trainer not in PLANS_NETWORK | BATCH_NORM and not options.plans_network:
        raise ExportError(
            f"{folder}: was trained by {trainer}, which may build another network than plans.json says. If it does "
            "not, say --plans-network; if it does, export it with a recipe.toml whose factory builds that network"
        )
    axes = next(iter(heads.values())).get("inference_allowed_mirroring_axes") or ()
    try:
        plan = Plan.of(folder, plans, name)
        stage = _stage(plan, dataset, tuple(checkpoints), axes if options.mirror else (), options.orientation)
        return _recipe(plan, dataset, stage, checkpoints, batch_norm=trainer in BATCH_NORM)
    except KeyError as error:
        raise ExportError(f"{folder / 'plans.json'}: configuration {name} has no {error}") from error
    except ValidationError as error:
        raise ExportError(f"{folder}: {first_problem(error)}") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ExportError(f"{folder}: its plans.json is none that nnU-Net v2 writes ({one_line(error)})") from error


def _chosen(path: Path, options: Options) -> tuple[Path, Sequence[str], Sequence[str]]:
    """Results folder, folds and kinds of checkpoints that a path and the options name."""
    results = nnunet_folder.find(path)
    if options.checkpoint is not None and options.checkpoint not in _KINDS:
        raise ExportError(f"checkpoint: {options.checkpoint!r} is none; expected final, best or latest")
    folds, kinds = options.folds, _KINDS[options.checkpoint or ""]
    if results.fold is not None:
        if list(folds) not in ([], [results.fold]):
            raise ExportError(
                f"{path}: is of fold {results.fold}, and the folds named are {', '.join(folds)}; name the folder "
                f"{results.folder} for other folds"
            )
        folds = [results.fold]
    if results.checkpoint is not None:
        if options.checkpoint not in (None, "any", results.checkpoint):
            raise ExportError(
                f"{path}: is the checkpoint {results.checkpoint}, and the one named is {options.checkpoint}; "
                "leave out one of them"
            )
        kinds = (results.checkpoint,)
    return results.folder, folds, kinds


def _training(folder: Path, heads: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Trainer and configuration of checkpoints."""
    try:
        trained = {(str(head["trainer_name"]), str(head["init_args"]["configuration"])) for head in heads}
    except (KeyError, TypeError) as error:
        raise ExportError(
            f"{folder}: a checkpoint does not say how it was trained ({error}), expected one that nnU-Net v2 saved"
        ) from error
    if len(trained) != 1:
        listed = "; ".join(f"{trainer} in {name}" for trainer, name in sorted(trained))
        raise ExportError(f"{folder}: its folds were trained differently ({listed}); export them one by one")
    return trained.pop()


def _stage(
    plan: Plan, dataset: Mapping[str, Any], folds: Sequence[str], mirror_axes: Sequence[int], orientation: str | None
) -> Stage:
    folder = plan.file.parent
    decode, _, _ = nnunet_labels.decoding(folder, dataset)
    flat = 3 - len(plan.patch_size)
    return Stage(
        name="segment",
        networks=tuple(_NETWORK + fold for fold in folds),
        mirror_axes=tuple(axis + flat for axis in mirror_axes),
        region=NonZero(),
        conform=conform(plan, orientation),
        normalise=Normalise(when="before-conform", rules=intensities(plan, nnunet_labels.channels(folder, dataset))),
        windows=Windows(roi_size=(*[1] * flat, *plan.patch_size)),
        decode=decode,
        restore=Restore(what="scores", activated="after", interpolation="linear"),
    )


def _recipe(
    plan: Plan, dataset: Mapping[str, Any], stage: Stage, files: Mapping[str, Path], *, batch_norm: bool
) -> Recipe:
    folder, plans = plan.file.parent, plan.plans
    decode, labels, regions = nnunet_labels.decoding(folder, dataset)
    channels = nnunet_labels.channels(folder, dataset)
    heads = len(decode.labels) if isinstance(decode, Argmax) else len(decode.regions)
    kind, arguments = plan.network(batch_norm=batch_norm)
    one = NetworkSource(
        checkpoint="",
        checkpoint_key="network_weights",
        factory=f"nnunet:{kind}",
        arguments={**arguments, "channels": len(channels), "heads": heads},
    )
    about = About(
        name=nnunet_labels.name_of(str(dataset.get("name") or plans.get("dataset_name") or folder.absolute().name)),
        version="1.0.0",
        description=str(dataset.get("description") or f"nnU-Net, {plans.get('dataset_name', folder.name)}"),
        license=str(dataset.get("licence") or dataset.get("license") or "unknown"),
        source=str(dataset.get("reference") or f"nnU-Net v2 results folder {folder.absolute().name}"),
        intended_use="Research on scans like those it was trained on. Not a medical device.",
    )
    return Recipe(
        bundle=about,
        channels=channels,
        labels=labels,
        regions=regions,
        networks={
            _NETWORK + fold: one.model_copy(update={"checkpoint": file.relative_to(folder).as_posix()})
            for fold, file in files.items()
        },
        stages=(stage,),
        # Deep stacks of instance norms: float32 sums in another order move scores by some hundredths, labels hardly.
        parity=Parity(max_abs_diff=0.1, max_flipped=1e-3),
    )
