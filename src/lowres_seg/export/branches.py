"""Branches: convolutions that read one input and whose results are joined, as in an ACS convolution.

ACS convolutions (Yang et al., IEEE JBHI 2021) give a third of their output channels to each view of a volume. They stay
three convolutions, because one with zeros in place of the other views is never faster (ADR 20). What comes of them is
rewritten: views whose kernels are alike become one convolution, and what scales, shifts or activates the joined result
by channel goes into the branches, where it is part of the convolution.
"""

from __future__ import annotations

from itertools import accumulate, groupby
from typing import Any

import numpy as np

from lowres_seg.export.links import is_link, linked, part_of, readers
from lowres_seg.runtime import openvino_engine  # noqa: F401 - before OpenVINO, whose telemetry it keeps out

from openvino import opset13 as opset  # isort: skip


def merge_alike(model: Any) -> None:
    """Merge neighbouring branches of one kernel size into one convolution.

    The views of an ACS convolution of 1×1×1 kernels are alike.
    """
    for node in model.get_ordered_ops():
        branches = _branches(node)
        groups = [list(group) for _, group in groupby(branches, key=_kind)]
        if len(groups) == len(branches):
            continue
        parts = [_merged(group) if len(group) > 1 else group[0].output(0) for group in groups]
        y = parts[0] if len(parts) == 1 else opset.concat(parts, 1).output(0)
        y.get_node().set_friendly_name(node.get_friendly_name())
        for port in node.output(0).get_target_inputs():
            port.replace_source_output(y)
    model.validate_nodes_and_infer_types()


def finish_in_branches(model: Any) -> None:
    """Move what scales, shifts or activates joined branches by channel into each of them."""
    for node in model.get_ordered_ops():
        branches = _branches(node)
        width, links = node.output(0).shape[1] if branches else 0, []
        last = node
        while branches and len(readers(last)) == 1 and is_link(readers(last)[0], width):
            (last,) = readers(last)
            links.append(last)
        if not links:
            continue
        ends = list(accumulate(branch.output(0).shape[1] for branch in branches))
        parts = []
        for branch, start, end in zip(branches, [0, *ends], ends, strict=False):
            parts.append(linked(branch.output(0), [(link, part_of(link, slice(start, end))) for link in links]))
        y = opset.concat(parts, 1)
        y.set_friendly_name(last.get_friendly_name())
        for port in last.output(0).get_target_inputs():
            port.replace_source_output(y.output(0))
    model.validate_nodes_and_infer_types()


def _branches(node: Any) -> list[Any]:
    """Ends of the branches that a Concat of channels joins: convolutions of one input, or their biases; empty if not.

    Nothing else may read them.
    """
    if node.get_type_name() != "Concat" or node.get_attributes()["axis"] not in (1, 1 - len(node.output(0).shape)):
        return []
    ends = [node.input_value(port).get_node() for port in range(node.get_input_size())]
    if len(ends) < 2 or any(len(readers(end)) != 1 for end in ends):
        return []
    convolutions = [_convolution(end) for end in ends]
    sources = {_source(one) for one in convolutions if one is not None}
    return ends if None not in convolutions and len(sources) == 1 else []


def _convolution(end: Any) -> Any:
    """The convolution of a branch with constant weights; None for another node."""
    if end.get_type_name() == "Add" and is_link(end, end.output(0).shape[1]):
        inner = end.input_value(0).get_node()
        end = inner if len(readers(inner)) == 1 else end
    constant = end.get_type_name() == "Convolution" and end.input_value(1).get_node().get_type_name() == "Constant"
    return end if constant else None


def _source(convolution: Any) -> tuple[str, int]:
    value = convolution.input_value(0)
    return value.get_node().get_friendly_name(), value.get_index()


def _kind(end: Any) -> tuple[Any, ...]:
    """What two convolutions must have alike to be one."""
    convolution = _convolution(end)
    attributes = convolution.get_attributes()
    keys = ("strides", "pads_begin", "pads_end", "dilations", "auto_pad")
    return (*(str(attributes[key]) for key in keys), *convolution.input_value(1).shape[2:])


def _merged(ends: list[Any]) -> Any:
    """One convolution, with its bias, in place of several."""
    convolutions = [_convolution(end) for end in ends]
    weights = np.concatenate([one.input_value(1).get_node().data for one in convolutions])
    attributes = convolutions[0].get_attributes()
    y = opset.convolution(
        convolutions[0].input_value(0),
        opset.constant(weights),
        *(attributes[key] for key in ("strides", "pads_begin", "pads_end", "dilations")),
        attributes["auto_pad"],
    )
    y.set_friendly_name(convolutions[0].get_friendly_name())
    if all(end.get_type_name() == "Convolution" for end in ends):
        return y.output(0)
    shape = [1, -1, *[1] * (weights.ndim - 2)]
    biases = []
    for end, one in zip(ends, convolutions, strict=True):
        given = end.input_value(1).get_node().data if end.get_type_name() == "Add" else np.zeros(1, np.float32)
        biases.append(np.broadcast_to(given.reshape(-1), one.output(0).shape[1]))
    return opset.add(y, opset.constant(np.concatenate(biases).reshape(shape).astype(np.float32))).output(0)
