"""An exact rewrite of scores: a softmax of two classes of which one is kept is the sigmoid of one logit.

The last tensors of a network are its largest. With one channel in place of two, and no layer of logits beside that of
scores, a network whose field is a whole head takes 200 MB less.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lowres_seg.runtime import openvino_engine  # noqa: F401 - before OpenVINO, whose telemetry it keeps out

from openvino import opset13 as opset  # isort: skip

#: Axis of the channels of the weights of each convolution that they give.
_GIVES = {"Convolution": 0, "ConvolutionBackpropData": 1}


def softmax_of_two(model: Any) -> None:
    """Replace a softmax over two channels of which one is kept by the sigmoid of their difference.

    Where a convolution gives the two, it gives the difference: its weights and its bias are subtracted.
    """
    for node in model.get_ordered_ops():
        kept = _kept(node)
        if kept is None:
            continue
        slices, channel = kept
        y = opset.sigmoid(_difference(node.input_value(0), channel))
        y.set_friendly_name(slices.get_friendly_name())
        slices.set_friendly_name(f"{slices.get_friendly_name()}/replaced")
        for reader in slices.output(0).get_target_inputs():
            reader.replace_source_output(y.output(0))
    model.validate_nodes_and_infer_types()


def _kept(node: Any) -> tuple[Any, int] | None:
    """The one node that reads a softmax of two channels, and the channel that it keeps; None if it is otherwise."""
    if node.get_type_name() != "Softmax" or node.input_value(0).partial_shape.is_dynamic:
        return None
    shape = list(node.input_value(0).shape)
    readers = [port.get_node() for port in node.output(0).get_target_inputs()]
    if len(shape) != 5 or shape[1] != 2 or node.get_attributes()["axis"] not in (1, -4) or len(readers) != 1:
        return None
    (reader,) = readers
    if list(reader.output(0).shape) != [shape[0], 1, *shape[2:]]:
        return None
    ports = [reader.input_value(port).get_node() for port in range(1, reader.get_input_size())]
    if any(port.get_type_name() != "Constant" for port in ports):
        return None
    values = [np.ravel(port.data).tolist() for port in ports]
    match reader.get_type_name():
        case "Slice":
            start, _, step, *axes = values
            channel = start[0] if axes in ([[1]], [[-4]]) and step == [1] else None
        case "StridedSlice":
            masked = list(reader.get_attributes()["begin_mask"])
            channel = values[0][1] if len(masked) > 1 and not masked[1] and set(values[2]) == {1} else None
        case "Gather":
            channel = values[0][0] if values[1] in ([1], [-4]) else None
        case _:
            channel = None
    return (reader, channel % 2) if channel in (0, 1, -1, -2) else None


def _difference(logits: Any, channel: int) -> Any:
    """The logit of a channel less that of the other one, (1, 1, D, H, W)."""
    add = logits.get_node()
    node = add.input_value(0).get_node() if add.get_type_name() == "Add" else add
    bias = add.input_value(1) if add is not node else None
    axis = _GIVES.get(node.get_type_name())
    if (
        axis is None
        or node.input_value(1).get_node().get_type_name() != "Constant"
        or node.get_input_size() > 2
        or node.get_attributes()["auto_pad"] != "explicit"
        or any(len(one.output(0).get_target_inputs()) != 1 for one in {node, add})
        or (bias is not None and (bias.get_node().get_type_name() != "Constant" or bias.get_node().data.size != 2))
    ):
        one, other = (opset.gather(logits, np.array([n]), np.array(1)) for n in (channel, 1 - channel))
        return opset.subtract(one, other)
    weights = opset.constant(_less(node.input_value(1).get_node().data, channel, axis))
    attributes = node.get_attributes()
    geometry = [attributes[name] for name in ("strides", "pads_begin", "pads_end", "dilations")]
    if axis == 0:
        y = opset.convolution(node.input_value(0), weights, *geometry)
    else:
        strides, *rest = geometry
        padding = attributes["output_padding"]
        y = opset.convolution_backprop_data(node.input_value(0), weights, strides, None, *rest, output_padding=padding)
    y.set_friendly_name(node.get_friendly_name())
    node.set_friendly_name(f"{node.get_friendly_name()}/replaced")
    if bias is None:
        return y
    values = bias.get_node().data
    return opset.add(y, opset.constant(_less(values.reshape(1, 2, 1, 1, 1), channel, 1)))


def _less(values: Any, channel: int, axis: int) -> Any:
    """One channel less the other one. Subtracted in float64, so that only the result is rounded."""
    one, other = (np.take(values, [n], axis).astype(np.float64) for n in (channel, 1 - channel))
    return (one - other).astype(np.float32)
