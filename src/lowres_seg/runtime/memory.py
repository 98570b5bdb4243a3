"""How much memory segmenting a scan takes, so that a bound on it is kept or refused before anything runs."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from lowres_seg.bundle.manifest import Manifest
from lowres_seg.bundle.stage import Stage
from lowres_seg.runtime import engine
from lowres_seg.runtime.conform import Fit
from lowres_seg.volumes.grid import Grid, Reorientation

#: Of the process itself with everything imported.
_BASE_BYTES = 180 << 20
#: What a compiled network takes beyond its tensors and weights: packed weights, borders, scratch. Measured:
#: benchmarks/memory.py.
_BEYOND = 1.3

#: Nodes that the CPU runs in the memory of their first input, or as part of the node before.
_IN_PLACE = ("Add", "Clamp", "Elu", "Gelu", "Multiply", "PRelu", "Relu", "Sigmoid", "Subtract", "Swish", "Divide")
#: Transpositions that only name the axes anew, as OpenVINO keeps the channels of a voxel together: to last, and back.
_RENAMING = ([0, 2, 3, 1], [0, 3, 1, 2], [0, 2, 3, 4, 1], [0, 4, 1, 2, 3])
#: Nodes whose output is as wide as what they read.
_AS_WIDE = ("Concat", "MaxPool", "Reshape", "Transpose")


def of_networks(manifest: Manifest, folder: Path, *, lean: bool) -> int:
    """Bytes of the compiled networks: all of them, or the largest where each is let go after its turn."""
    found = [
        _BEYOND * working_bytes(folder / manifest.networks[name].xml, stage.inference_precision)
        for stage in manifest.stages
        for name in stage.networks
    ]
    return int(max(found) if lean else sum(found))


def of_scan(manifest: Manifest, grid: Grid, *, lean: bool) -> int:
    """Bytes of the process and of all arrays on the way from a scan on `grid` to its labels, at their peak."""
    voxels = prod(grid.shape)
    # The scan as it was read, a label map for each stage, and the masks that make one.
    held = voxels * (4 * len(manifest.channels) + 2 * len(manifest.stages) + 2)
    return _BASE_BYTES + held + max(_of_stage(manifest, stage, grid, lean=lean) for stage in manifest.stages)


def _of_stage(manifest: Manifest, stage: Stage, grid: Grid, *, lean: bool) -> int:
    there = Reorientation(grid, stage.conform.orientation, stage.conform.axes).result
    fit = Fit.of(there.shape, there.spacing_mm, stage.conform, stage.shape)
    conformed, channels = prod(fit.conformed), len(manifest.channels) + len(stage.mask_channels)
    # Twice while it is resampled or padded.
    given = 4 * channels * conformed * (1 if fit.same else 2)
    heads = max(manifest.networks[name].output_shape[1] for name in stage.networks)
    copies, width = 1, 4
    planes = fit.conformed[0]
    if stage.windows is not None:
        width = 2 if stage.windows.in_half else 4
        if stage.ensemble != "mean-scores" or stage.windows.in_half:
            copies = len(stage.networks)
        if not (lean and len(stage.networks) > 1):
            planes = min(planes, stage.windows.roi_size[0])
    kept = width * (heads * copies + 1) * planes * fit.conformed[1] * fit.conformed[2]
    if not fit.same and stage.restore.what == "scores":
        kept += 4 * heads * conformed
    return given + 2 * kept


def working_bytes(xml: Path, inference_precision: engine.InferencePrecision) -> int:
    """Memory that a compiled network takes while it runs, by its tensors and weights; an estimate.

    A tensor is held from the node that makes it to the last that reads it. What only feeds a quantizer is in INT8, and
    so is what comes of a quantizer's output by moving it.
    """
    nodes = engine.read_graph(xml).get_ordered_ops()
    place = {node.get_friendly_name(): index for index, node in enumerate(nodes)}
    size: dict[str, int] = {}
    width: dict[str, int] = {}
    last: dict[str, int] = {}
    weights = 0
    owner: dict[str, str] = {}
    for index, node in enumerate(nodes):
        name, kind = node.get_friendly_name(), node.get_type_name()
        if kind == "Constant":
            weights += node.get_output_element_type(0).size * int(np.prod(node.output(0).shape))
            continue
        sources = [value.get_node() for value in node.input_values()]
        data = [source for source in sources if source.get_friendly_name() in owner]
        for source in data:
            last[owner[source.get_friendly_name()]] = index
        same = bool(data) and data[0].output(0).shape == node.output(0).shape
        if data and ((kind in _IN_PLACE and same) or _only_renames(node)):
            owner[name] = owner[data[0].get_friendly_name()]
            last[owner[name]] = index
            continue
        if kind == "Result" or not node.get_output_size():
            continue
        readers = {t.get_node().get_type_name() for t in node.output(0).get_target_inputs()}
        wide = 2 if inference_precision == "bf16" else 4
        owner[name], last[name] = name, index
        if kind == "FakeQuantize" or readers == {"FakeQuantize"}:
            wide = 1
        elif kind in _AS_WIDE and data:
            wide = max(width[owner[source.get_friendly_name()]] for source in data)
        width[name] = wide
        size[name] = wide * int(np.prod(node.output(0).shape))
    held = np.zeros(len(nodes) + 1, np.int64)
    for name, count in size.items():
        held[place[name]] += count
        held[last[name] + 1] -= count
    return int(np.cumsum(held).max()) + weights


def _only_renames(node: Any) -> bool:
    """Whether a node gives the same bytes in the same order under another shape."""
    kind = node.get_type_name()
    if kind == "Transpose":
        order = node.input_value(1).get_node()
        return order.get_type_name() == "Constant" and order.data.tolist() in _RENAMING
    return bool(kind == "Reshape")
