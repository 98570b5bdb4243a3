"""Links: nodes behind a Concat that scale, shift or activate each channel by itself, and may move before it."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from lowres_seg.runtime import openvino_engine  # noqa: F401 - before OpenVINO, whose telemetry it keeps out

from openvino import opset13 as opset  # isort: skip

#: Nodes that may lie between a Concat and a convolution. Their second input, if any, is a constant.
LINKS = {"Multiply": opset.multiply, "Add": opset.add, "PRelu": opset.prelu, "Relu": opset.relu}


def is_link(node: Any, channels: int) -> bool:
    """True for a node whose constant is one value, or one value for each channel."""
    kind = node.get_type_name()
    if kind not in LINKS or kind == "Relu":
        return kind == "Relu"
    constant = node.input_value(1)
    by_channel = kind == "PRelu" and list(constant.shape) == [channels]
    if not (by_channel or prod(constant.shape) == 1 or is_by_channel(node, channels)):
        return False
    return bool(constant.get_node().get_type_name() == "Constant")


def is_by_channel(node: Any, channels: int) -> bool:
    """True if the second input has one value for each channel of (1, C, D, H, W)."""
    return list(node.input_value(1).shape)[-4:] == [channels, 1, 1, 1] and prod(node.input_value(1).shape) == channels


def part_of(link: Any, channels: slice) -> list[Any]:
    """Constant of a link for some of the channels; empty if it has none."""
    if link.get_input_size() == 1:
        return []
    values = link.input_value(1).get_node().data
    if values.size > 1:
        values = np.ascontiguousarray(values[channels] if values.ndim == 1 else values[..., channels, :, :, :])
    return [opset.constant(values)]


def linked(source: Any, links: list[tuple[Any, list[Any]]]) -> Any:
    """Output of links with these constants behind a source."""
    for link, constants in links:
        source = LINKS[link.get_type_name()](source, *constants).output(0)
    return source


def readers(node: Any) -> list[Any]:
    """Nodes that read the output of a node."""
    return [port.get_node() for port in node.output(0).get_target_inputs()]
