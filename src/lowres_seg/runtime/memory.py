"""How much memory a segmentation takes, so that a bound on it is kept, or refused before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from lowres_seg.bundle.bundle import Bundle, NetworkFiles
from lowres_seg.bundle.pipeline import Pipeline, averaged_stages
from lowres_seg.errors import InputError
from lowres_seg.runtime import kept_scores
from lowres_seg.runtime.openvino_engine import InferencePrecision, Rewrite, read_graph
from lowres_seg.runtime.placement import Placement
from lowres_seg.volumes.grid import Grid
from lowres_seg.wording import sizes

#: Memory of the process with everything imported.
_BASE_BYTES = 180 << 20
#: Memory of a compiled network, relative to its tensors and weights: it also has packed weights, borders and scratch
#: memory. Measured by benchmarks/memory.py.
_OVERHEAD = 1.3
#: Share of a bound that resident networks may take. The rest is for the scan, which is not known yet.
_SHARE_OF_NETWORKS = 0.67

#: Nodes that the CPU computes in the memory of their first input, or as part of the node before.
_IN_PLACE = ("Add", "Clamp", "Elu", "Gelu", "Multiply", "PRelu", "Relu", "Sigmoid", "Subtract", "Swish", "Divide")
#: Transpositions that move no bytes, because OpenVINO keeps the channels of a voxel together: to last, and back.
_MOVES_NO_BYTES = ([0, 2, 3, 1], [0, 3, 1, 2], [0, 2, 3, 4, 1], [0, 4, 1, 2, 3])
#: Nodes whose output has the width of their input.
_KEEPS_WIDTH = ("Concat", "MaxPool", "Reshape", "Transpose")


@dataclass(frozen=True)
class MemoryBound:
    """A bound on the memory of the process.

    Attributes
    ----------
    most_bytes : int
    networks_bytes : int
        Share of it that the compiled networks take.
    lean : bool
        Whether networks are compiled when their turn comes and dropped after.
    heads : dict of str to int
        Number of score channels of each network.
    ports_bytes : int
        Inputs and outputs of all networks, of which each prediction that runs at once has its own.
    """

    most_bytes: int
    networks_bytes: int
    lean: bool
    heads: Mapping[str, int]
    ports_bytes: int = 0

    @property
    def room_bytes(self) -> int:
        """Part of the bound that scans may take."""
        return self.most_bytes - self.networks_bytes - _BASE_BYTES

    def scan_bytes(self, pipeline: Pipeline, grid: Grid, *, scores: bool = False) -> int:
        """Part of the bound that a scan on `grid` takes."""
        need = bytes_of_scan(pipeline, grid, self.heads, lean=self.lean, scores=scores)
        return need - _BASE_BYTES + self.ports_bytes

    @classmethod
    def of_bundle(
        cls,
        bundle: Bundle,
        files: Mapping[str, NetworkFiles],
        most_bytes: int,
        *,
        lean: bool,
        rewrite: Rewrite | None = None,
    ) -> MemoryBound:
        """Bound for the networks of a bundle, as `choose` makes it.

        Raises
        ------
        InputError
            If the largest network alone needs more.
        """
        manifest = bundle.manifest
        heads = {name: network.output_shape[1] for name, network in manifest.networks.items()}
        bound = cls.choose(manifest, files, heads, most_bytes, lean=lean, rewrite=rewrite)
        if bound.networks_bytes > most_bytes:
            wide = any(network.precision == "fp32" for network in manifest.networks.values())
            need, most = sizes(bound.networks_bytes, most_bytes)
            raise InputError(
                f"{bundle.path}: its largest network alone needs about {need}, the bound is {most}; raise "
                f"--max-ram (max_ram_bytes){' or use a bundle in INT8' if wide else ''}"
            )
        ports = sum(4 * prod(shape) for one in manifest.networks.values() for shape in one.shapes)
        return replace(bound, ports_bytes=ports)

    @classmethod
    def choose(
        cls,
        pipeline: Pipeline,
        files: Mapping[str, NetworkFiles],
        heads: Mapping[str, int],
        most_bytes: int,
        *,
        lean: bool,
        rewrite: Rewrite | None = None,
    ) -> MemoryBound:
        """Keep networks resident if the bound has room for them, and make them lean if it has not.

        Parameters
        ----------
        pipeline : Pipeline
        files : mapping of str to NetworkFiles
        heads : mapping of str to int
        most_bytes : int
        lean : bool
            Make them lean in any case.
        rewrite : callable, optional
            Changes each openvino.Model before it is compiled.
        """
        sizes = bytes_of_networks(pipeline, files, rewrite)
        lean = lean or sum(sizes) > _SHARE_OF_NETWORKS * most_bytes
        return cls(most_bytes, max(sizes) if lean else sum(sizes), lean, heads)

    def check(self, pipeline: Pipeline, grid: Grid, where: str, *, scores: bool = False, held_bytes: int = 0) -> None:
        """Check that a scan on `grid` can be segmented within the bound, beside what the caller holds.

        Raises
        ------
        InputError
            If it cannot. The message begins with `where`.
        """
        need = self.networks_bytes + bytes_of_scan(pipeline, grid, self.heads, lean=self.lean, scores=scores)
        need += held_bytes
        if need > self.most_bytes:
            found, most = sizes(need, self.most_bytes)
            raise InputError(
                f"{where}: segmenting {'×'.join(map(str, grid.shape))} voxels needs about {found}, the bound is "
                f"{most}; raise --max-ram (max_ram_bytes) or crop the scan"
            )


def bytes_of_networks(
    pipeline: Pipeline, files: Mapping[str, NetworkFiles], rewrite: Rewrite | None = None
) -> list[int]:
    """Estimate the bytes of each compiled network, in the order of the stages."""
    found = []
    for stage in pipeline.stages:
        for name in stage.networks:
            model = read_graph(files[name])
            if rewrite is not None:
                rewrite(model)
            found.append(int(_OVERHEAD * working_bytes(model, stage.inference_precision)))
    return found


def bytes_of_scan(pipeline: Pipeline, grid: Grid, heads: Mapping[str, int], *, lean: bool, scores: bool = False) -> int:
    """Estimate the bytes of the process and of all arrays from a scan on `grid` to its labels, at their peak.

    A stage whose region is found while it runs is counted for the whole scan. With `scores` those of labels are kept.
    """
    placements = {stage.name: Placement.of(stage, grid) for stage in pipeline.stages}
    voxels = prod(grid.shape)
    # The scan as it was read, a label map for each stage, and the masks from which one is made.
    held = voxels * (4 * len(pipeline.channels) + 2 * len(pipeline.stages) + 2)
    # Activated scores of a stage that a later one averages, and its scores before they were.
    averaged = averaged_stages(pipeline.stages)
    held += sum(
        8 * voxels * max(heads[name] for name in stage.networks) for stage in pipeline.stages if stage.name in averaged
    )
    held += 4 * voxels * any(stage.samples is not None for stage in pipeline.stages)  # the spread
    held += kept_scores.bytes_of(pipeline.stages, placements, heads, voxels) if scores else 0
    stages = [
        placements[stage.name].array_bytes(
            len(pipeline.channels),
            max(heads[name] for name in stage.networks),
            in_turn=lean and len(stage.networks) > 1,
        )
        for stage in pipeline.stages
    ]
    return _BASE_BYTES + held + max(stages)


def working_bytes(model: Any, inference_precision: InferencePrecision) -> int:
    """Estimate the memory of a compiled network while it runs, from its tensors and weights.

    A tensor is held from the node that makes it to the last node that reads it. A tensor that only a quantizer reads is
    in INT8, and so is a quantizer's output.
    """
    nodes = model.get_ordered_ops()
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
        if data and ((kind in _IN_PLACE and same) or _moves_no_bytes(node)):
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
        elif kind in _KEEPS_WIDTH and data:
            wide = max(width[owner[source.get_friendly_name()]] for source in data)
        width[name] = wide
        size[name] = wide * int(np.prod(node.output(0).shape))
    held = np.zeros(len(nodes) + 1, np.int64)
    for name, count in size.items():
        held[place[name]] += count
        held[last[name] + 1] -= count
    return int(np.cumsum(held).max()) + weights


def _moves_no_bytes(node: Any) -> bool:
    """Tell whether a node gives the same bytes in the same order under another shape."""
    kind = node.get_type_name()
    if kind == "Transpose":
        order = node.input_value(1).get_node()
        return order.get_type_name() == "Constant" and order.data.tolist() in _MOVES_NO_BYTES
    return bool(kind == "Reshape")
