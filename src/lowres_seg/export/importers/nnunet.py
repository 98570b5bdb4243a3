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

from lowres_seg.bundle.rules import LargestComponent
from lowres_seg.bundle.stage import Stage
from lowres_seg.errors import ExportError
from lowres_seg.export.importers import nnunet_folder, nnunet_labels, nnunet_postprocessing
from lowres_seg.export.importers.nnunet_stages import NETWORK, Treatment, stage
from lowres_seg.export.importers.nnunet_stages import networks as sources
from lowres_seg.export.importers.nnunet_trained import Trained, Wanted, told_of
from lowres_seg.export.recipe import About, Imported, NetworkSource
from lowres_seg.volumes.orientations import ORIENTATIONS

#: Kinds of checkpoints for each value of the option, the preferred one first.
_KINDS = {"": ("final", "best"), "any": nnunet_folder.KINDS} | {kind: (kind,) for kind in nnunet_folder.KINDS}

#: Between the configuration of an ensemble and the rest of the name of its network.
_OF = "."

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
    previous : str or None
        Results folder whose labels a cascade refines. Without it the folder beside it is taken that nnU-Net's own
        names mean.
    previous_folds : sequence of str
        Folds of that folder; `folds` if none is named.
    postprocessing : str or None
        A postprocessing.pkl or .json, or ``none``. Without it the file of the cross-validation of the same folds is
        taken, if the folder has one.
    configurations : sequence of str
        Configurations of the folder of a data set, whose probabilities are averaged on the scan's grid.
    """

    folds: Sequence[str] = ()
    checkpoint: str | None = None
    mirror: bool = True
    orientation: str | None = None
    plans_network: bool = False
    previous: str | None = None
    previous_folds: Sequence[str] = ()
    postprocessing: str | None = None
    configurations: Sequence[str] = ()


def matches(path: Path) -> bool:
    """Tell whether `path` looks like a folder or a checkpoint of nnU-Net, of any version."""
    return nnunet_folder.matches(path)


def home(path: Path) -> Path:
    """The results folder that `path` means, or a folder with several. Raises ExportError if there is none."""
    return path if len(nnunet_folder.several(path)) > 1 else nnunet_folder.find(path).folder


def files(path: Path, options: Options) -> list[Path]:  # noqa: ARG001 - they change none
    """Files that say what a recipe says."""
    folders = nnunet_folder.several(path) or [home(path)]
    return [folder / name for folder in folders for name in ("plans.json", "dataset.json")]


def options_again(networks: Sequence[str]) -> Options:
    """Options with which a bundle with these networks was read: its folds, and its trainer taken for nnU-Net's own."""
    folds: dict[str, list[str]] = {}
    for name in networks:
        start, _, fold = name.rpartition(NETWORK)
        folds.setdefault(start, []).append(fold)
    last = list(folds)[-1]
    if _OF in last:
        members = {start.partition(_OF)[0]: own for start, own in folds.items() if start.endswith(_OF)}
        before = [fold for start, own in folds.items() if not start.endswith(_OF) for fold in own]
        return Options(
            folds=next(iter(members.values())),
            previous_folds=before,
            configurations=list(members),
            checkpoint="any",
            plans_network=True,
        )
    before = [fold for start, own in folds.items() if start != last for fold in own]
    return Options(folds=folds[last], previous_folds=before, checkpoint="any", plans_network=True)


def network(name: str, arguments: Mapping[str, Any]) -> Any:
    """Build a U-Net of plans.json; see `nnunet_network.network`."""
    from lowres_seg.export.importers import nnunet_network

    return nnunet_network.network(name, **arguments)


def recipe(path: Path, options: Options) -> Imported:
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
    if options.orientation is not None and options.orientation not in ORIENTATIONS:
        raise ExportError(f"orientation: {options.orientation!r} is none; expected three letters such as RAS or LPS")
    folders, folds, kinds = _chosen(path, options)
    wanted = Wanted(folds, kinds, options.plans_network)
    previous = None if options.previous is None else Path(options.previous)
    members = [Trained.read(folder, wanted, previous, options.previous_folds) for folder in folders]
    for other in members[1:]:
        members[0].check_alike(other)
    cleanup, notes = _cleanup(members, options)
    how = Treatment(options.mirror, options.orientation, averaged=len(members) > 1)
    stages: list[Stage] = []
    networks: dict[str, NetworkSource] = {}
    ends: list[str] = []
    for member in members:
        before = None
        for one in _line(member):
            name, prefix = _names(one, member, alone=len(members) == 1)
            rules = cleanup if one is members[-1] else ()
            averaged = tuple(ends) if one is members[-1] else ()
            stages.append(
                stage(one, name, prefix, before, how).model_copy(update={"cleanup": rules, "mean_with": averaged})
            )
            networks |= sources(one, prefix, home(path))
            before = name
        ends.append(stages[-1].name)
    return _recipe(members[0], stages, networks, notes)


def _names(one: Trained, member: Trained, *, alone: bool) -> tuple[str, str]:
    """Name of the stage of a configuration that is a member, or that a member refines; and prefix of its networks."""
    short = nnunet_labels.name_of(one.plan.name.removeprefix("3d_").removeprefix("cascade_"))
    if alone:  # lowres of 3d_lowres, and fullres of 3d_cascade_fullres
        return ("segment", "") if member.previous is None else (short, f"{short}-")
    whole = nnunet_labels.name_of(member.plan.name)
    return (whole, f"{whole}{_OF}") if one is member else (f"{whole}-{short}", f"{whole}{_OF}{short}-")


def _line(trained: Trained) -> list[Trained]:
    """A configuration and those that it refines, the first one first."""
    return [*(_line(trained.previous) if trained.previous is not None else ()), trained]


def _cleanup(members: Sequence[Trained], options: Options) -> tuple[tuple[LargestComponent, ...], tuple[str, ...]]:
    """Clean-up rules of the file of postprocessing, and what to tell of it."""
    given = options.postprocessing
    if given == nnunet_postprocessing.NONE:
        return (), ()
    folders, folds = [one.folder for one in members], list(members[0].checkpoints)
    file = nnunet_postprocessing.find(folders, folds) if given is None else Path(given)
    if file is None:
        return (), ()
    rules = nnunet_postprocessing.read(file)
    kept = "; ".join(f"the largest component of labels {', '.join(map(str, rule.labels))}" for rule in rules)
    found = file if given is not None else f"{file.parent.name}/{file.name}"
    return rules, (f"{found}: postprocessing {f'keeps {kept}' if kept else 'changes nothing'}",)


def _chosen(path: Path, options: Options) -> tuple[list[Path], Sequence[str], Sequence[str]]:
    """Results folders, folds and kinds of checkpoints that a path and the options name."""
    if options.checkpoint is not None and options.checkpoint not in _KINDS:
        raise ExportError(f"checkpoint: {options.checkpoint!r} is none; expected final, best or latest")
    folds, kinds = options.folds, _KINDS[options.checkpoint or ""]
    if options.configurations:
        return nnunet_folder.of_configurations(path, options.configurations), folds, kinds
    results = nnunet_folder.find(path)
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
    return [results.folder], folds, kinds


def _recipe(
    trained: Trained, stages: Sequence[Stage], networks: Mapping[str, NetworkSource], notes: Sequence[str]
) -> Imported:
    folder, plans, dataset = trained.folder, trained.plan.plans, trained.dataset
    _, labels, regions = nnunet_labels.decoding(folder, dataset)
    about = About(
        name=nnunet_labels.name_of(str(dataset.get("name") or plans.get("dataset_name") or folder.absolute().name)),
        version="1.0.0",
        description=str(dataset.get("description") or f"nnU-Net, {plans.get('dataset_name', folder.name)}"),
        license=str(dataset.get("licence") or dataset.get("license") or "unknown"),
        source=str(dataset.get("reference") or f"nnU-Net v2 results folder {folder.absolute().name}"),
        intended_use="Research on scans like those it was trained on. Not a medical device.",
    )
    with told_of(folder, trained.plan.name):
        return Imported(
            bundle=about,
            channels=trained.channels,
            labels=labels,
            regions=regions,
            networks=dict(networks),
            stages=tuple(stages),
            notes=tuple(notes),
        )
