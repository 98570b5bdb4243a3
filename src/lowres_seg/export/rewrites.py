"""Exact rewrites of a network's graph: the same function of the input, up to rounding, in less time.

They are here for what OpenVINO's own rewrites leave: how a decoder upsamples. Both help every precision, and neither
costs anything on older instruction sets (benchmarks/decoders.py).
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from lowres_seg import engine  # noqa: F401 - before OpenVINO: it keeps the usage events out

from openvino import opset13 as opset  # isort: skip

#: Outputs smaller than this are not worth more nodes, which take time to compile.
_WORTH_VALUES = 1 << 20
#: With fewer channels OpenVINO keeps channels apart in memory, and to bring them together would be work.
_TOGETHER_CHANNELS = 8


def narrow_before_upsampling(model: Any) -> None:
    """Move 1×1×1 convolutions, with their bias, from behind an upsampling to before it.

    The weights of an interpolation add up to 1 at each voxel, so the two commute. The convolution then works on an
    eighth of the voxels, and what is interpolated has no more channels than before.
    """
    for node in model.get_ordered_ops():
        up = node.input_value(0).get_node() if node.get_type_name() == "Convolution" else None
        if up is None or not _upsamples(up) or not _is_pointwise(node) or len(_readers(up)) != 1:
            continue
        last = node
        if [reader.get_type_name() for reader in _readers(node)] == ["Add"]:
            (add,) = _readers(node)
            bias = add.input_value(1)
            by_channel = list(bias.shape)[-4:] == [node.output(0).shape[1], 1, 1, 1]
            if bias.get_node().get_type_name() == "Constant" and (by_channel or prod(bias.shape) == 1):
                last = add
        readers = last.output(0).get_target_inputs()
        node.input(0).replace_source_output(up.input_value(0))
        up.input(0).replace_source_output(last.output(0))
        for reader in readers:
            reader.replace_source_output(up.output(0))
    model.validate_nodes_and_infer_types()


def upsample_rows_first(model: Any) -> None:
    """Upsample large tensors along rows, then along the other axes with whole rows for channels.

    Trilinear interpolation is separable. OpenVINO's kernel is called once for each output position, with all of its
    channels: a call for a row in place of one for a voxel. The transpositions between are changes of name: where
    channels lie together in memory, the row of a tensor is its last axis already.
    """
    for node in model.get_ordered_ops():
        shape = list(node.output(0).shape) if _is_trilinear(node) else []
        if not shape or shape[1] < _TOGETHER_CHANNELS or prod(shape) < _WORTH_VALUES:
            continue
        channels = shape[1]
        rows = _resized(node, node.input_value(0), (4,))
        # (1, C, D, H, W) to (1, WC, D, H) and back.
        y = opset.transpose(rows, np.array([0, 2, 3, 4, 1]))
        y = opset.reshape(y, np.array([0, 0, 0, -1]), special_zero=True)
        y = opset.transpose(y, np.array([0, 3, 1, 2]))
        y = _resized(node, y.output(0), (2, 3))
        y = opset.transpose(y, np.array([0, 2, 3, 1]))
        y = opset.reshape(y, np.array([0, 0, 0, -1, channels]), special_zero=True)
        y = opset.transpose(y, np.array([0, 4, 1, 2, 3]))
        y.set_friendly_name(node.get_friendly_name())
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(y.output(0))
    model.validate_nodes_and_infer_types()


def _upsamples(node: Any) -> bool:
    """Whether it is an interpolation to more voxels, channels left alone, whose weights add up to 1."""
    if node.get_type_name() != "Interpolate" or len(node.output(0).shape) != 5:
        return False
    attributes = node.get_attributes()
    if any(attributes["pads_begin"]) or any(attributes["pads_end"]) or attributes["antialias"]:
        return False
    targets = _targets(node)
    if not targets or (attributes["shape_calculation_mode"] == "sizes" and min(targets) < 2):
        return False  # it may name a number of channels, as ONNX does, which would then be another one
    before, after = node.input_value(0).shape, node.output(0).shape
    return list(before)[:2] == list(after)[:2] and prod(after) > prod(before)


def _is_trilinear(node: Any) -> bool:
    """Whether it is an interpolation of all three axes that can be taken apart."""
    if not _upsamples(node) or node.get_attributes()["mode"] != "linear_onnx":
        return False
    before, after = node.input_value(0).shape, node.output(0).shape
    return all(after[axis] > before[axis] for axis in (2, 3, 4)) and set(_targets(node)) >= {2, 3, 4}


def _targets(node: Any) -> dict[int, Any]:
    """Scale or size of each axis that it interpolates; nothing if that is not constant."""
    values = [node.input_value(port).get_node() for port in range(1, node.get_input_size())]
    if node.get_type_info().version_id != "opset11" or any(v.get_type_name() != "Constant" for v in values):
        return {}
    axes = values[1].data.tolist() if len(values) > 1 else range(values[0].data.size)
    return dict(zip(axes, values[0].data, strict=True))


def _resized(node: Any, source: Any, axes: tuple[int, ...]) -> Any:
    """What `node` does to some of its axes, done to those of `source`."""
    attributes, targets = node.get_attributes(), _targets(node)
    return opset.interpolate(
        source,
        np.array([targets[axis] for axis in axes]),
        mode=attributes["mode"],
        shape_calculation_mode=attributes["shape_calculation_mode"],
        coordinate_transformation_mode=attributes["coordinate_transformation_mode"],
        nearest_mode=attributes["nearest_mode"],
        axes=np.array(axes, np.int64),
    )


def _is_pointwise(node: Any) -> bool:
    """Whether it is a convolution of single voxels that widens nothing, by constant weights."""
    weights, attributes = node.input_value(1), node.get_attributes()
    return (
        weights.get_node().get_type_name() == "Constant"
        and tuple(weights.shape)[2:] == (1, 1, 1)
        and weights.shape[0] <= weights.shape[1]
        and all(step == 1 for step in attributes["strides"])
        and not any(attributes["pads_begin"])
        and not any(attributes["pads_end"])
    )


def _readers(node: Any) -> list[Any]:
    return [port.get_node() for port in node.output(0).get_target_inputs()]
