"""The reference case of a quantized bundle, and how far other machines may differ from it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from lowres_seg.bundle.bundle import Bundle
from lowres_seg.bundle.manifest import Reference
from lowres_seg.bundle.stage import Classes
from lowres_seg.quantize.candidate import WrittenNetworks
from lowres_seg.runtime import reference
from lowres_seg.runtime.exact_norms import sum_in_steps
from lowres_seg.runtime.networks import compile_networks
from lowres_seg.runtime.segmenter import Segmenter

#: Least bound of a score of classes, as a share of the largest score, or of 1.
_OF_CLASSES = 0.05
#: How many times the difference between two orders of sums on this machine another machine may differ.
_MARGIN = 3.0


def record(
    parent: Bundle, written: WrittenNetworks, folder: Path, least: tuple[float, float], *, threads: int
) -> Reference:
    """Run the reference case with new networks, write it, and give the bounds of its scores and labels.

    OpenVINO's own norms split their sums by threads, and INT8 makes a last digit a step of its grid. So the case runs
    once more with norms that sum in steps. Another number of threads differs about as much. A bound is three times
    that difference, and at least what `least` says. Scores of classes are few and means of many voxels, so that of a
    bundle that only classifies the least bound is a share of the largest score.

    Parameters
    ----------
    parent : Bundle
        The bundle that was quantized. Its case is taken.
    written : WrittenNetworks
    folder : pathlib.Path
        Folder of the networks, where the case is written.
    least : pair of float
        Bound of a score, and of the share of voxels with another label.
    threads : int
    """
    manifest = parent.manifest
    target = folder / manifest.reference.file
    pipeline, files = written.pipeline, written.files(folder)
    engines = compile_networks(pipeline, files, threads=threads, lean=True)
    Segmenter(pipeline, engines, threads=threads).record_reference(reference.read(parent).scan, target)
    in_steps = compile_networks(pipeline, files, threads=threads, lean=True, rewrite=sum_in_steps)
    case = reference.parse(target.read_bytes(), manifest.channels, str(target))
    scores, flips = least
    if all(isinstance(stage.decode, Classes) for stage in pipeline.stages):
        scores = _OF_CLASSES * max(1.0, *(float(np.abs(array).max()) for array in case.scores()))
    bound = Reference(file=manifest.reference.file, max_abs_diff=scores, max_flipped=flips)
    found = Segmenter(pipeline, in_steps, threads=threads).compared(case, bound)
    return bound.model_copy(
        update={
            "max_abs_diff": max(scores, *(_rounded_up(_MARGIN * diff) for diff in found.max_abs_diff.values())),
            "max_flipped": min(max(flips, _rounded_up(_MARGIN * found.flipped)), 0.5),
        }
    )


def _rounded_up(value: float) -> float:
    """The least number of two digits that is not below a value."""
    if value <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / step) * step, 12)
