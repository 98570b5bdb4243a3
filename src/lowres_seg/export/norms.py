"""Norms whose statistics were never updated: re-estimated on scans, as they are in training but without a label.

Stage after stage, each network runs over every case with norms that measure their input, and keeps the mean of what
they measured. What it then finds is where the next stage looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.stage import Stage
from lowres_seg.cohort.cases import Case
from lowres_seg.errors import ExportError
from lowres_seg.export.frameworks.torch_network import TorchNetwork
from lowres_seg.export.recipe import Recipe
from lowres_seg.runtime import stage_run
from lowres_seg.runtime.conform import Fit
from lowres_seg.runtime.decode import labels_of, select
from lowres_seg.runtime.engine import Recorder
from lowres_seg.volumes.grid import Reorientation

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Moved:
    """What re-estimation did to one network.

    Attributes
    ----------
    network : str
    norms : int
        Norms with running statistics.
    inputs : int
        How often it ran.
    mean_abs_diff : float
        Of its scores, before and after.
    flipped : float
        Share of the voxels that it alone would now label differently.
    """

    network: str
    norms: int
    inputs: int
    mean_abs_diff: float
    flipped: float


def reestimate(
    plan: Recipe,
    networks: Mapping[str, TorchNetwork],
    cases: Sequence[Case],
    *,
    threads: int,
    notify: Callable[[str], None],
) -> list[Moved]:
    """Re-estimate the running statistics of every network, in place.

    A scan is seen in one piece, and not in windows padded to a fixed shape: what it is padded with would be measured.

    Parameters
    ----------
    plan : Recipe
    networks : mapping of str to TorchNetwork
    cases : sequence of Case
        Without labels.
    threads : int
    notify : callable

    Raises
    ------
    ExportError
        If there is no such norm, or a stage sees nothing of any case.
    """
    if not any(network.statistics() for network in networks.values()):
        raise ExportError("no network has norms with running statistics, so there is nothing to re-estimate")
    scans = []
    for case in cases:
        volumes = case.load()
        scans.append(stage_run.Scan.of([volumes[name] for name in plan.channels], plan.channels, plan.stages))
    moved = []
    for stage in plan.stages:
        notify(f"re-estimating the norms of stage {stage.name}")
        pieces = [_in_one_piece(stage, scan, plan.multiple_of) for scan in scans]
        before = _recorded(stage, pieces, networks, scans, threads)
        if not before[0].inputs:
            raise ExportError(f"stage {stage.name} sees nothing of any case, so its norms cannot be re-estimated")
        for name, recorder in zip(stage.networks, before, strict=True):
            networks[name].measure(recorder.inputs)
        # Once more, for what the next stage is to look at.
        after = _recorded(stage, pieces, networks, scans, threads)
        for name, old, new in zip(stage.networks, before, after, strict=True):
            moved.append(_moved(name, stage, networks[name], old.outputs, new.outputs))
    return moved


def _in_one_piece(stage: Stage, scan: stage_run.Scan, multiple_of: int) -> Stage:
    """A stage whose one window holds all that it sees of a scan."""
    oriented = Reorientation(scan.volumes[0].grid, stage.conform.orientation, stage.conform.axes)
    box = stage_run.region(stage, oriented, scan)
    if stage.windows is None or box is None:
        return stage
    seen = Fit.of(box.shape, oriented.result.spacing_mm, stage.conform, (1, 1, 1)).resampled
    roi = tuple(-(-n // multiple_of) * multiple_of for n in seen)
    return stage.model_copy(update={"windows": stage.windows.model_copy(update={"roi_size": roi})})


def _recorded(
    stage: Stage,
    pieces: Sequence[Stage],
    networks: Mapping[str, TorchNetwork],
    scans: Sequence[stage_run.Scan],
    threads: int,
) -> list[Recorder]:
    """Run a stage on every scan, and keep what went through each of its networks."""
    recorders = [Recorder(networks[name]) for name in stage.networks]
    for piece, scan in zip(pieces, scans, strict=True):
        scan.results[stage.name] = stage_run.run(piece, recorders, scan, threads=threads)
    return recorders


def _moved(name: str, stage: Stage, network: TorchNetwork, before: Sequence[Array], after: Sequence[Array]) -> Moved:
    differences = [float(np.abs(a - b).mean(dtype=np.float64)) for a, b in zip(after, before, strict=True)]
    pairs = [(_labels(a, stage), _labels(b, stage)) for a, b in zip(after, before, strict=True)]
    flipped = sum(int(np.count_nonzero(a != b)) for a, b in pairs) / sum(a.size for a, _ in pairs)
    norms = len({key.rpartition(".")[0] for key in network.statistics()})
    return Moved(name, norms, len(before), float(np.mean(differences)), flipped)


def _labels(scores: Array, stage: Stage) -> NDArray[np.uint8]:
    return labels_of(select(scores[0], stage.decode), stage.decode)
