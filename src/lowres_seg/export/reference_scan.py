"""The scan of a reference case: a phantom head, no larger than a few windows and a bound on memory allow."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from lowres_seg.bundle.bundle import NetworkFiles
from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.export import phantom
from lowres_seg.runtime.memory import MemoryBound, bytes_of_scan
from lowres_seg.runtime.placement import Placement
from lowres_seg.runtime.windows import starts
from lowres_seg.volumes.grid import Grid
from lowres_seg.volumes.volume import Volume

#: Bound on the memory of a reference case if none is given.
MAX_RAM_BYTES = 2 * 10**9
#: Shapes of the phantom at 2 mm: a head, and for windows the middle of a head.
_HEAD, _MIDDLE = (96, 112, 112), (64, 80, 72)
#: Sizes of the middle that are tried.
_SIZES = (1.0, 0.85, 0.75, 0.5, 0.375, 0.25, 0.125)
#: Largest number of runs of all networks together. Each adds to the time of an export and of a self-test.
_MOST_RUNS = 16


def choose(
    pipeline: Pipeline,
    files: Mapping[str, NetworkFiles],
    heads: Mapping[str, int],
    max_ram_bytes: int | None = None,
) -> dict[str, Volume]:
    """Choose the largest phantom that takes few runs and little memory. The smallest is taken if none does.

    Parameters
    ----------
    pipeline : Pipeline
    files : mapping of str to NetworkFiles
        Networks in IR.
    heads : mapping of str to int
        Number of score channels of each network.
    max_ram_bytes : int, optional
        Bound on the memory of a process that segments the phantom.

    Returns
    -------
    dict of str to Volume
        By channel.
    """
    shape = _HEAD
    if any(stage.windows is not None for stage in pipeline.stages):
        most = MAX_RAM_BYTES if max_ram_bytes is None else max_ram_bytes
        bound = MemoryBound.choose(pipeline, files, heads, most, lean=True)
        shapes = [(round(a * size), round(b * size), round(c * size)) for size in _SIZES for a, b, c in [_MIDDLE]]
        room = most - bound.networks_bytes
        few = [shape for shape in shapes if _runs(pipeline, phantom.grid(shape)) <= _MOST_RUNS]
        fits = [shape for shape in few if bytes_of_scan(pipeline, phantom.grid(shape), heads, lean=True) <= room]
        shape = (fits or shapes[-1:])[0]
    return {name: phantom.head(shape, seed=index) for index, name in enumerate(pipeline.channels)}


def _runs(pipeline: Pipeline, grid: Grid) -> int:
    """Number of runs of all networks over a whole scan on `grid`."""
    total = 0
    for stage in pipeline.stages:
        conformed = Placement.of(stage, grid).fit.conformed
        for name in stage.networks:
            windows = stage.windows_of(name)
            along = [] if windows is None else [len(starts(n, axis, windows)) for axis, n in enumerate(conformed)]
            samples = 1 if stage.samples is None else stage.samples.count
            total += prod(along) * 2 ** len(stage.mirror_axes) * samples
    return total
