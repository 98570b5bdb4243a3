"""A configuration that was trained: its plan, its data set, its checkpoints, and the one whose labels it refines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lowres_seg.bundle.part import first_problem
from lowres_seg.errors import ExportError, one_line
from lowres_seg.export.importers import nnunet_folder, nnunet_labels
from lowres_seg.export.importers.nnunet_plans import Plan
from lowres_seg.export.importers.nnunet_trainers import BATCH_NORM, PLANS_NETWORK


@dataclass(frozen=True)
class Wanted:
    """Which folds and checkpoints of a results folder are taken.

    Attributes
    ----------
    folds : sequence of str
        Every fold if it is empty.
    kinds : sequence of str
        Kinds of checkpoints, the preferred one first.
    plans_network : bool
        Whether a trainer that is not nnU-Net's own trains the network of plans.json.
    """

    folds: Sequence[str]
    kinds: Sequence[str]
    plans_network: bool


@dataclass(frozen=True)
class Trained:
    """A configuration that was trained.

    Attributes
    ----------
    plan : Plan
    dataset : mapping
        Content of dataset.json.
    checkpoints : mapping of str to pathlib.Path
        By fold.
    mirror_axes : tuple of int
        Axes of the network's input along which nnU-Net mirrors it.
    batch_norm : bool
        Whether the network was trained with batch norm in place of its norm.
    previous : Trained or None
        The one whose labels are further channels.
    """

    plan: Plan
    dataset: Mapping[str, Any]
    checkpoints: Mapping[str, Path]
    mirror_axes: tuple[int, ...]
    batch_norm: bool
    previous: Trained | None = None

    @property
    def folder(self) -> Path:
        """Its results folder."""
        return self.plan.file.parent

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the scan's channels."""
        return nnunet_labels.channels(self.folder, self.dataset)

    @property
    def labels(self) -> tuple[str, ...]:
        """Values and names of its labels, for messages."""
        _, labels, _ = nnunet_labels.decoding(self.folder, self.dataset)
        return tuple(f"{label.value} {label.name}" for label in labels)

    @property
    def foreground(self) -> list[int]:
        """Labels of the previous stage that nnU-Net gives a channel each; none without such a stage."""
        return [] if self.previous is None else nnunet_labels.foreground(self.folder, self.dataset)

    def check_alike(self, other: Trained) -> None:
        """Check that another one has the same channels and labels.

        Raises
        ------
        ExportError
            If it has not.
        """
        ours, theirs = ([("channels", one.channels), ("labels", one.labels)] for one in (self, other))
        for (what, mine), (_, its) in zip(ours, theirs, strict=True):
            if mine != its:
                raise ExportError(
                    f"{other.folder}: its {what} are {', '.join(its)}, those of {self.folder.absolute().name} are "
                    f"{', '.join(mine)}; expected folders of one data set"
                )

    @classmethod
    def read(
        cls,
        folder: Path,
        wanted: Wanted,
        previous: Path | None = None,
        previous_folds: Sequence[str] = (),
        later: Sequence[str] = (),
    ) -> Trained:
        """Read a results folder, and that of the previous stage of a cascade.

        Parameters
        ----------
        folder : pathlib.Path
        wanted : Wanted
        previous : pathlib.Path or None
            Folder of the previous stage, if it is not the one beside `folder` that nnU-Net's own names mean.
        previous_folds : sequence of str
            Folds of the previous stage, if others than `wanted` has.
        later : sequence of str
            Configurations that refine this one's labels.

        Raises
        ------
        ExportError
            If a file is missing, the folds were trained differently, or the previous stage does not fit.
        """
        plans, dataset = nnunet_folder.read(folder, "plans.json"), nnunet_folder.read(folder, "dataset.json")
        checkpoints = nnunet_folder.checkpoints(folder, wanted.folds, wanted.kinds)
        trainer, name, axes = _training(folder, list(checkpoints.values()))
        if trainer not in PLANS_NETWORK | BATCH_NORM and not wanted.plans_network:
            raise ExportError(
                f"{folder}: was trained by {trainer}, which may build another network than plans.json says. If it does "
                "not, say --plans-network; if it does, export it with a recipe.toml whose factory builds that network"
            )
        with told_of(folder, name):
            plan = Plan.of(folder, plans, name)
            if plan.previous is None and previous is not None:
                raise ExportError(f"{folder}: {name} refines no other configuration; leave out --previous {previous}")
            before = None
            if plan.previous is not None:
                line = (*later, name)
                if plan.previous in line:
                    raise ExportError(f"{plan.file}: {name} refines {plan.previous}, which refines {name}")
                where = _folder_before(folder, plan.previous, previous)
                before = cls.read(where, replace(wanted, folds=previous_folds or wanted.folds), later=line)
            found = cls(plan, dataset, checkpoints, axes, trainer in BATCH_NORM, before)
            if before is not None:
                _check_before(found, before)
            return found


@contextmanager
def told_of(folder: Path, name: str) -> Iterator[None]:
    """Translate what goes wrong with a plan that nnU-Net did not write, or that a manifest cannot express."""
    try:
        yield
    except KeyError as error:
        raise ExportError(f"{folder / 'plans.json'}: configuration {name} has no {error}") from error
    except ValidationError as error:
        raise ExportError(f"{folder}: {first_problem(error)}") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ExportError(f"{folder}: its plans.json is none that nnU-Net v2 writes ({one_line(error)})") from error


def _folder_before(folder: Path, name: str, given: Path | None) -> Path:
    """Results folder of the previous stage."""
    if given is not None:
        return nnunet_folder.find(given).folder
    start, _, _ = folder.absolute().name.rpartition("__")
    beside = folder.absolute().parent / f"{start}__{name}"
    if not start or not beside.is_dir():
        raise ExportError(
            f"{folder}: refines the result of {name}, "
            + (f"and {beside.name} is not beside it" if start else "and its name does not say where that one is")
            + "; name its folder with --previous"
        )
    return beside


def _check_before(found: Trained, before: Trained) -> None:
    """Check that a folder is the one whose result another one refines."""
    if before.plan.name != found.plan.previous:
        raise ExportError(
            f"{before.folder}: was trained in {before.plan.name}, expected {found.plan.previous}, whose result "
            f"{found.plan.name} refines"
        )
    found.check_alike(before)


def _training(folder: Path, files: Sequence[Path]) -> tuple[str, str, tuple[int, ...]]:
    """Trainer and configuration of checkpoints, and the axes that the first one is mirrored along."""
    from lowres_seg.export.frameworks import torch_network

    trained, axes = set(), []
    for file in files:
        head = torch_network.checkpoint(file)
        try:
            trained.add((str(head["trainer_name"]), str(head["init_args"]["configuration"])))
        except (KeyError, TypeError) as error:
            raise ExportError(
                f"{folder}: a checkpoint does not say how it was trained ({error}), expected one that nnU-Net v2 saved"
            ) from error
        axes.append(tuple(head.get("inference_allowed_mirroring_axes") or ()))
    if len(trained) != 1:
        listed = "; ".join(f"{trainer} in {name}" for trainer, name in sorted(trained))
        raise ExportError(f"{folder}: its folds were trained differently ({listed}); export them one by one")
    return (*trained.pop(), axes[0])
