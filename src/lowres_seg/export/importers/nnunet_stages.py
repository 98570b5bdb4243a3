"""The stages and networks of a bundle from a configuration that was trained."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowres_seg.bundle.grids import Conform, Restore
from lowres_seg.bundle.stage import Argmax, MaskOf, NonZero, Normalise, Stage
from lowres_seg.bundle.windows import Windows
from lowres_seg.errors import ExportError
from lowres_seg.export.importers import nnunet_labels
from lowres_seg.export.importers.nnunet_plans import Plan, intensities
from lowres_seg.export.importers.nnunet_resampling import Resampling, alike
from lowres_seg.export.importers.nnunet_trained import Trained, told_of
from lowres_seg.export.recipe import NetworkSource
from lowres_seg.volumes.orientations import STORED

#: Name of a network, before its fold.
NETWORK = "fold-"
READERS = {"SimpleITKIO": STORED, "NibabelIO": STORED, "NibabelIOWithReorient": "RAS"}
PICTURE_READERS = ("NaturalImage2DIO", "Tiff3DIO")


@dataclass(frozen=True)
class Treatment:
    """What the user chose for every configuration.

    Attributes
    ----------
    mirror : bool
    orientation : str or None
        Orientation of the files that it was trained on, if that is known.
    averaged : bool
        Whether probabilities of several configurations are averaged.
    """

    mirror: bool
    orientation: str | None
    averaged: bool = False


def stage(trained: Trained, name: str, prefix: str, previous: str | None, how: Treatment) -> Stage:
    """The stage of a configuration.

    Parameters
    ----------
    trained : Trained
    name : str
    prefix : str
        Of the names of its networks.
    previous : str or None
        Stage whose labels are further channels.
    how : Treatment

    Raises
    ------
    ExportError
        If it has no counterpart in a manifest.
    """
    plan = trained.plan
    with told_of(trained.folder, plan.name):
        decode, _, _ = nnunet_labels.decoding(trained.folder, trained.dataset)
        if how.averaged and isinstance(decode, Argmax):
            decode = decode.model_copy(update={"activation": "softmax"})
        flat = 3 - len(plan.patch_size)
        scores = Resampling.of(plan, "probabilities")
        return Stage(
            name=name,
            networks=tuple(prefix + NETWORK + fold for fold in trained.checkpoints),
            mirror_axes=tuple(axis + flat for axis in trained.mirror_axes) if how.mirror else (),
            region=NonZero(),
            conform=_conform(plan, how.orientation),
            normalise=Normalise(when="before-conform", rules=intensities(plan, trained.channels, previous)),
            mask_channels=() if previous is None else _masks(trained, previous),
            windows=Windows(roi_size=(*[1] * flat, *plan.patch_size)),
            decode=decode,
            restore=Restore.model_validate(
                {
                    "what": "scores",
                    "activated": "after",
                    "interpolation": scores.interpolation or "linear",
                    "separate_interpolation": scores.across,
                    "precision": "single" if scores.single else "windows",
                }
            ),
        )


def networks(trained: Trained, prefix: str, home: Path) -> dict[str, NetworkSource]:
    """Source of each of its networks, by name.

    Parameters
    ----------
    trained : Trained
    prefix : str
        Of the names.
    home : pathlib.Path
        Folder that the paths of checkpoints are relative to. One of another data set's folder is absolute.
    """
    with told_of(trained.folder, trained.plan.name):
        decode, _, _ = nnunet_labels.decoding(trained.folder, trained.dataset)
        kind, arguments = trained.plan.network(batch_norm=trained.batch_norm)
    channels = len(trained.channels) + len(trained.foreground)
    heads = len(decode.labels) if isinstance(decode, Argmax) else len(decode.regions)
    return {
        prefix + NETWORK + fold: NetworkSource(
            checkpoint=_relative(file, home),
            checkpoint_key="network_weights",
            factory=f"nnunet:{kind}",
            arguments={**arguments, "channels": channels, "heads": heads},
        )
        for fold, file in trained.checkpoints.items()
    }


def _relative(file: Path, home: Path) -> str:
    """Path below a folder or beside it; else the whole path."""
    if file.is_relative_to(home):
        return file.relative_to(home).as_posix()
    whole, beside = file.absolute(), home.absolute().parent
    return Path(os.path.relpath(whole, home.absolute())).as_posix() if whole.is_relative_to(beside) else str(whole)


def _masks(trained: Trained, previous: str) -> tuple[MaskOf, ...]:
    """A channel for each label of the previous stage, resampled as nnU-Net resamples label maps."""
    plan = trained.plan
    scans, labels = Resampling.of(plan, "data"), Resampling.of(plan, "seg")
    alike(plan, ("data", scans), ("seg", labels))
    how: dict[str, Any] = {}
    if labels.interpolation not in (None, "nearest"):
        how = {"interpolation": labels.interpolation, "ties": labels.ties, "outside_apart": True}
    return tuple(MaskOf(stage=previous, labels=(label,), **how) for label in trained.foreground)


def _conform(plan: Plan, orientation: str | None) -> Conform:
    """The grid of a configuration's network.

    Parameters
    ----------
    plan : Plan
    orientation : str or None
        Orientation of the files that it was trained on, if that is known.

    Raises
    ------
    ExportError
        If files are read, or scans resampled, in another way than a bundle does.
    """
    reader = str(plan.plans.get("image_reader_writer"))
    if reader not in READERS:
        kind = "a reader of pictures" if reader in PICTURE_READERS else "no reader of scans that nnU-Net has"
        raise ExportError(
            f"{plan.file}: images are read by {reader}, {kind}; expected {', '.join(READERS)}, for NIfTI files"
        )
    fixed = READERS[reader]
    if orientation is not None and fixed not in (STORED, orientation):
        raise ExportError(f"{plan.file}: {reader} turns every scan to {fixed}; leave out --orientation {orientation}")
    order = list(plan.plans["transpose_forward"])
    if sorted(order) != [0, 1, 2]:
        raise ExportError(f"{plan.file}: transpose_forward is {order}, expected an order of the axes 0, 1 and 2")
    scans, scores = Resampling.of(plan, "data"), Resampling.of(plan, "probabilities")
    alike(plan, ("data", scans), ("probabilities", scores))
    # nnU-Net's arrays are (z, y, x), before it reorders them.
    axes = tuple((2, 1, 0)[axis] for axis in order)
    letters = orientation or fixed
    known = (
        {"orientation": STORED, "axes": axes}
        if letters == STORED
        else {"orientation": "".join(letters[a] for a in axes)}
    )
    spacing = plan.content["spacing"]
    return Conform.model_validate(
        {
            **known,
            "spacing_mm": [*[None] * (3 - len(spacing)), *spacing] if scans.interpolation else None,
            "interpolation": scans.interpolation or "nearest",
            "separate_above": scans.apart.above,
            "separate_spacing": scans.apart.spacing,
            "separate_interpolation": scans.across,
            "pad": "zero",
        }
    )
