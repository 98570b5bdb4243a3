"""Scores of an ONNX graph, brought to the sides of its input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lowres_seg.errors import ExportError
from lowres_seg.export.frameworks import onnx_inputs
from lowres_seg.export.frameworks.sizes import Resize, nearest

#: First version of ONNX whose Resize names its coordinates.
_OPSET = 13


def resize(graph: onnx.ModelProto, sides: Sequence[int], how: Resize, path: Path) -> list[str]:
    """Resize the scores of a graph of one output, in place.

    Parameters
    ----------
    graph : onnx.ModelProto
    sides : sequence of int
        Those of its input.
    how : {"linear", "nearest"}
    path : pathlib.Path
        The file, for messages.

    Returns
    -------
    list of str
        What was changed, in words.

    Raises
    ------
    ExportError
        If the graph does not tell the shape of its scores, or is of an ONNX too old to resize linearly.
    """
    (value,) = graph.graph.output
    found = onnx_inputs.output_shapes(graph)[value.name]
    if found is None or len(found) != 2 + len(sides):
        told = "scores of unknown shape" if found is None else f"scores {list(found)}"
        raise ExportError(f"{path}: gives {told}, which cannot be resized; expected (1, C, D, H, W)")
    if list(found[2:]) == list(sides):
        return []
    opset = next(one.version for one in graph.opset_import if one.domain in ("", "ai.onnx"))
    if how == "linear" and opset < _OPSET:
        raise ExportError(
            f"{path}: is of ONNX opset {opset}, and scores are resized linearly from {_OPSET} on; save it with "
            'a newer opset, or write resize_scores = "nearest"'
        )
    inner = onnx_inputs.renamed(graph, value.name, f"{value.name}/resized_from")
    if how == "linear":
        graph.graph.initializer.append(
            numpy_helper.from_array(np.array([*found[:2], *sides], np.int64), f"{value.name}/sides")
        )
        options = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        made = [helper.make_node("Resize", [inner, "", "", f"{value.name}/sides"], [value.name], **options)]
    else:
        names = [inner, *(f"{value.name}/axis_{axis}" for axis in range(len(sides) - 1)), value.name]
        made = []
        for axis, (own, side) in enumerate(zip(found[2:], sides, strict=True)):
            places = f"{value.name}/nearest_{axis}"
            graph.graph.initializer.append(numpy_helper.from_array(np.array(nearest(own, side), np.int64), places))
            made.append(helper.make_node("Gather", [names[axis], places], [names[axis + 1]], axis=2 + axis))
    graph.graph.node.extend(made)
    onnx_inputs.set_sizes(value, (*found[:2], *sides))
    return [f"scores {'×'.join(map(str, found[2:]))} resized to {'×'.join(map(str, sides))} ({how})"]
