"""Norms whose running statistics were never updated: re-estimated on scans, without labels.

Stage after stage, each network runs over every case while its norms measure their input, and keeps the mean of these
measurements. The next stage then works on the region that the network finds with them.
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
from lowres_seg.runtime.decode import labels_of, select
from lowres_seg.runtime.engine import Recorder
from lowres_seg.runtime.scan_state import ScanState

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Reestimated:
    """What re-estimation changed in one network.

    Attributes
    ----------
    network : str
    norms : int
        Number of norms with running statistics.
    inputs : int
        Number of inputs that they were measured on.
    mean_abs_diff : float
        Mean difference of its scores, before and after.
    flipped : float
        Share of voxels whose label differs, before and after.
    """

    network: str
    norms: int
    inputs: int
    mean_abs_diff: float
    flipped: float


def reestimate(
    recipe: Recipe,
    networks: Mapping[str, TorchNetwork],
    cases: Sequence[Case],
    *,
    threads: int,
    notify: Callable[[str], None],
) -> list[Reestimated]:
    """Re-estimate the running statistics of every network, in place.

    A network runs on a whole region at a time, not on windows of a fixed shape: their padding would be measured too.

    Parameters
    ----------
    recipe : Recipe
    networks : mapping of str to TorchNetwork
    cases : sequence of Case
        Their labels are not used.
    threads : int
    notify : callable

    Raises
    ------
    ExportError
        If no network has such a norm, or a stage has nothing to work on in any case.
    """
    if not any(network.statistics() for network in networks.values()):
        raise ExportError("no network has norms with running statistics, so there is nothing to re-estimate")
    scans = []
    for case in cases:
        volumes = case.load()
        scans.append(ScanState.before(recipe.stages, [volumes[name] for name in recipe.channels], recipe.channels))
    changes = []
    for stage in recipe.stages:
        notify(f"re-estimating the norms of stage {stage.name}")
        pieces = [_in_one_window(stage, scan, recipe.multiple_of) for scan in scans]
        before = _recorded(stage, pieces, networks, scans, threads)
        if not before[0].inputs:
            raise ExportError(f"stage {stage.name} sees nothing of any case, so its norms cannot be re-estimated")
        for name, recorder in zip(stage.networks, before, strict=True):
            networks[name].measure(recorder.inputs)
        # The second run gives the region of the next stage.
        after = _recorded(stage, pieces, networks, scans, threads)
        for name, old, new in zip(stage.networks, before, after, strict=True):
            changes.append(_change(name, stage, networks[name], old.outputs, new.outputs))
    return changes


def _in_one_window(stage: Stage, scan: ScanState, multiple_of: int) -> Stage:
    """Copy of a stage whose one window holds its whole region of a scan."""
    placement = None if stage.windows is None else stage_run.place(stage, scan)
    if placement is None:
        return stage
    if not stage.windows_alike:
        raise ExportError(
            f"stage {stage.name}: norms are re-estimated on whole regions, and its members see windows of different "
            "shapes; expected windows that all of them share"
        )
    windows = stage.windows_of(stage.networks[0])
    assert windows is not None  # noqa: S101 - there is a placement
    # A window of one voxel is a slice, and its network takes slices.
    roi = tuple(
        1 if size == 1 else -(-n // multiple_of) * multiple_of
        for n, size in zip(placement.fit.resampled, windows.roi_size, strict=True)
    )
    return stage.model_copy(update={"windows": windows.model_copy(update={"roi_size": roi})})


def _recorded(
    stage: Stage,
    pieces: Sequence[Stage],
    networks: Mapping[str, TorchNetwork],
    scans: Sequence[ScanState],
    threads: int,
) -> list[Recorder]:
    """Run a stage on every scan, and keep the inputs and outputs of each of its networks."""
    recorders = [Recorder(networks[name]) for name in stage.networks]
    for piece, scan in zip(pieces, scans, strict=True):
        # Masks of dropout are those of one window, and norms are measured without them.
        plain = piece.model_copy(update={"samples": None})
        scan.results[stage.name] = stage_run.run(plain, recorders, scan, threads=threads)
    return recorders


def _change(
    name: str, stage: Stage, network: TorchNetwork, before: Sequence[Array], after: Sequence[Array]
) -> Reestimated:
    differences = [float(np.abs(a - b).mean(dtype=np.float64)) for a, b in zip(after, before, strict=True)]
    pairs = [(_labels(a, stage), _labels(b, stage)) for a, b in zip(after, before, strict=True)]
    flipped = sum(int(np.count_nonzero(a != b)) for a, b in pairs) / sum(a.size for a, _ in pairs)
    norms = len({key.rpartition(".")[0] for key in network.statistics()})
    return Reestimated(name, norms, len(before), float(np.mean(differences)), flipped)


def _labels(scores: Array, stage: Stage) -> NDArray[np.uint8]:
    return labels_of(select(scores[0], stage.decode), stage.decode)
