"""Exact rewrites of a network's graph: the same function of the input, up to rounding, in less time.

OpenVINO's own rewrites do not change how a decoder upsamples, and how it joins the result with the encoder's features.
These do. None is slower in any precision, or on older instruction sets (benchmarks/decoders.py).
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from lowres_seg.export.links import LINKS, is_by_channel, is_link, linked, part_of, readers
from lowres_seg.runtime import openvino_engine  # noqa: F401 - before OpenVINO, whose telemetry it keeps out

from openvino import opset13 as opset  # isort: skip

#: Smaller outputs are left alone: more nodes take time to compile.
_WORTH_VALUES = 1 << 20
#: The same for outputs of a Concat, where a rewrite saves less.
_WORTH_JOINED_VALUES = 1 << 23
#: With fewer channels OpenVINO does not keep the channels of a voxel together, and transpositions would move bytes.
_TOGETHER_CHANNELS = 8


def narrow_before_upsampling(model: Any) -> None:
    """Move 1×1×1 convolutions, with their bias, from behind an upsampling to before it.

    The weights of an interpolation add up to 1 at each voxel, so the two commute. The convolution then computes an
    eighth of the voxels, and the upsampling has no more channels than before.
    """
    for node in model.get_ordered_ops():
        up = node.input_value(0).get_node() if node.get_type_name() == "Convolution" else None
        if up is None or not _upsamples(up) or not _is_pointwise(node) or len(readers(up)) != 1:
            continue
        last = node
        if [reader.get_type_name() for reader in readers(node)] == ["Add"]:
            (add,) = readers(node)
            bias = add.input_value(1)
            by_channel = is_by_channel(add, node.output(0).shape[1])
            if bias.get_node().get_type_name() == "Constant" and (by_channel or prod(bias.shape) == 1):
                last = add
        ports = last.output(0).get_target_inputs()
        node.input(0).replace_source_output(up.input_value(0))
        up.input(0).replace_source_output(last.output(0))
        for port in ports:
            port.replace_source_output(up.output(0))
    model.validate_nodes_and_infer_types()


def join_by_planes(model: Any) -> None:
    """Join the inputs of a Concat by planes, not by channels, where a convolution reads the result.

    OpenVINO joins channels by one copy for each voxel of each input. Here plane d of the first input is followed by
    plane d of the second, which takes one copy for each plane. The stride of the convolution along planes becomes the
    number of inputs, and its products are the same. Scales, shifts and activations between Concat and convolution move
    to each input.
    """
    for node in model.get_ordered_ops():
        if not _joins_large_parts(node):
            continue
        sources = [node.input_value(port) for port in range(node.get_input_size())]
        links = _links_to_convolution(node)
        if not links or not all(_takes(source.get_node(), links[:-1]) for source in sources):
            continue
        *links, convolution = links
        count, channels = len(sources), sources[0].shape[1]
        parts = []
        for index, source in enumerate(sources):
            mine = slice(index * channels, (index + 1) * channels)
            part = _linked(source, [(link, part_of(link, mine)) for link in links])
            parts.append(opset.transpose(part, np.array([0, 2, 3, 4, 1])))
        # (1, D, HWC) each to (1, D, parts × HWC), which in memory is (1, D × parts, H, W, C).
        plane = opset.gather(opset.shape_of(parts[0]), np.array([2, 3, 4]), np.array(0))
        flat = [opset.reshape(part, np.array([0, 0, -1]), special_zero=True) for part in parts]
        target = opset.concat([np.array([1, -1]), plane], 0)
        y = opset.reshape(opset.concat(flat, 2), target, special_zero=False)
        y = opset.transpose(y, np.array([0, 4, 1, 2, 3]))
        old = convolution.input_value(1).get_node().data
        weights = np.concatenate(np.split(old[:, :, :, None], count, axis=1), axis=3)
        attributes = convolution.get_attributes()
        y = opset.convolution(
            y,
            opset.constant(np.ascontiguousarray(weights.reshape(len(old), channels, -1, *old.shape[3:]))),
            *(
                [count * first, *others]
                for first, *others in map(attributes.get, ("strides", "pads_begin", "pads_end"))
            ),
            attributes["dilations"],
        )
        y.set_friendly_name(convolution.get_friendly_name())
        for reader in convolution.output(0).get_target_inputs():
            reader.replace_source_output(y.output(0))
    model.validate_nodes_and_infer_types()


def upsample_rows_first(model: Any) -> None:
    """Upsample large tensors along rows first, then along the other axes with whole rows as channels.

    Trilinear interpolation is separable. OpenVINO's kernel is called once for each output position with all channels,
    so there is one call for each row in place of one for each voxel. The transpositions between move no bytes, because
    the channels of a voxel lie together in memory. An activation behind the upsampling moves before the last
    transposition, because a node that reads a transposition computes with channels apart.
    """
    for node in model.get_ordered_ops():
        if not _goes_by_rows(node):
            continue
        channels = node.output(0).shape[1]
        rows = _resized(node, node.input_value(0), (4,))
        # (1, C, D, H, W) to (1, WC, D, H) and back.
        y = opset.transpose(rows, np.array([0, 2, 3, 4, 1]))
        y = opset.reshape(y, np.array([0, 0, 0, -1]), special_zero=True)
        y = opset.transpose(y, np.array([0, 3, 1, 2]))
        y, last = _resized(node, y.output(0), (2, 3)), node
        while len(readers(last)) == 1 and _is_activation(readers(last)[0]):
            (last,) = readers(last)
            y = LINKS[last.get_type_name()](y, *(last.input_value(port) for port in range(1, last.get_input_size())))
        y = opset.transpose(y, np.array([0, 2, 3, 1]))
        y = opset.reshape(y, np.array([0, 0, 0, -1, channels]), special_zero=True)
        y = opset.transpose(y, np.array([0, 4, 1, 2, 3]))
        y.set_friendly_name(last.get_friendly_name())
        for reader in last.output(0).get_target_inputs():
            reader.replace_source_output(y.output(0))
    model.validate_nodes_and_infer_types()


def _joins_large_parts(node: Any) -> bool:
    """True for a large Concat whose inputs have one number of channels."""
    if (
        node.get_type_name() != "Concat"
        or len(node.output(0).shape) != 5
        or node.get_attributes()["axis"] not in (1, -4)
    ):
        return False
    widths = {node.input_value(port).shape[1] for port in range(node.get_input_size())}
    return len(widths) == 1 and min(widths) >= _TOGETHER_CHANNELS and prod(node.output(0).shape) >= _WORTH_JOINED_VALUES


def _links_to_convolution(node: Any) -> list[Any]:
    """Nodes from a Concat to the one convolution that reads it, the convolution last; empty if there is none."""
    width, links = node.output(0).shape[1], []
    while len(readers(node)) == 1:
        (node,) = readers(node)
        links.append(node)
        if node.get_type_name() == "Convolution":
            attributes = node.get_attributes()
            plain = attributes["auto_pad"] == "explicit" and attributes["dilations"][0] == 1
            return links if plain and node.input_value(1).get_node().get_type_name() == "Constant" else []
        if not is_link(node, width):
            break
    return []


def _is_activation(node: Any) -> bool:
    """True for an activation that is the same for all channels."""
    kind = node.get_type_name()
    return bool(kind == "Relu" or (kind == "PRelu" and prod(node.input_value(1).shape) == 1))


def _takes(part: Any, links: list[Any]) -> bool:
    """True if the links can move to an input of the Concat at no cost.

    The channels of an upsampling by rows do not lie together, so links by channel cannot follow it.
    """
    if not _goes_by_rows(part):
        return True
    while links and links[0].get_type_name() in ("Multiply", "Add"):
        links = links[1:]
    return len(readers(part)) == 1 and all(_is_activation(link) for link in links)


def _linked(source: Any, links: list[tuple[Any, list[Any]]]) -> Any:
    """Output of links with these constants. Scales and shifts move before an upsampling."""
    up = source.get_node()
    early = 0
    if _upsamples(up) and len(readers(up)) == 1:
        while early < len(links) and links[early][0].get_type_name() in ("Multiply", "Add"):
            link, constants = links[early]
            up.input(0).replace_source_output(LINKS[link.get_type_name()](up.input_value(0), *constants).output(0))
            early += 1
    return linked(source, links[early:])


def _upsamples(node: Any) -> bool:
    """True for an interpolation to more voxels that leaves channels alone and whose weights add up to 1."""
    if node.get_type_name() != "Interpolate" or len(node.output(0).shape) != 5:
        return False
    attributes = node.get_attributes()
    if any(attributes["pads_begin"]) or any(attributes["pads_end"]) or attributes["antialias"]:
        return False
    targets = _targets(node)
    if not targets or (attributes["shape_calculation_mode"] == "sizes" and min(targets) < 2):
        return False  # ONNX also names the number of channels, which a rewrite would change
    before, after = node.input_value(0).shape, node.output(0).shape
    return list(before)[:2] == list(after)[:2] and prod(after) > prod(before)


def _is_trilinear(node: Any) -> bool:
    """True for a linear upsampling along all three axes."""
    if not _upsamples(node) or node.get_attributes()["mode"] != "linear_onnx":
        return False
    before, after = node.input_value(0).shape, node.output(0).shape
    return all(after[axis] > before[axis] for axis in (2, 3, 4)) and set(_targets(node)) >= {2, 3, 4}


def _goes_by_rows(node: Any) -> bool:
    """True for an upsampling that is faster along rows first."""
    shape = list(node.output(0).shape) if _is_trilinear(node) else []
    return bool(shape) and shape[1] >= _TOGETHER_CHANNELS and prod(shape) >= _WORTH_VALUES


def _targets(node: Any) -> dict[int, Any]:
    """Scale or size of each interpolated axis; empty if they are not constant."""
    values = [node.input_value(port).get_node() for port in range(1, node.get_input_size())]
    if node.get_type_info().version_id != "opset11" or any(v.get_type_name() != "Constant" for v in values):
        return {}
    axes = values[1].data.tolist() if len(values) > 1 else range(values[0].data.size)
    return dict(zip(axes, values[0].data, strict=True))


def _resized(node: Any, source: Any, axes: tuple[int, ...]) -> Any:
    """Interpolate some of the axes of `source` as `node` does."""
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
    """True for a 1×1×1 convolution with constant weights and no more output channels than input channels."""
    weights, attributes = node.input_value(1), node.get_attributes()
    return (
        weights.get_node().get_type_name() == "Constant"
        and tuple(weights.shape)[2:] == (1, 1, 1)
        and weights.shape[0] <= weights.shape[1]
        and all(step == 1 for step in attributes["strides"])
        and not any(attributes["pads_begin"])
        and not any(attributes["pads_end"])
    )
