"""Norms that sum in steps: the same function as OpenVINO's MVN, with the rounding of torch.

OpenVINO sums the values of a norm one after the other in float32. Over the millions of values of a large window the sum
of squares is off by 1e-4 and more, and labels flip. Here mean and deviation are taken along one axis after the other,
so that no sum is long, and from the median, so that equal values add no rounding.
OpenVINO's own norms also split their sums by threads, so that another number of threads rounds otherwise.
Most networks take about as long (benchmarks/exact_norms.py); those with few channels in large windows take longer, and
more memory (ADR 13).
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from lowres_seg.runtime import openvino_engine  # noqa: F401 - before OpenVINO, whose telemetry it keeps out
from lowres_seg.runtime.norms_in_steps import CENTRED, norms_in_steps

from openvino import opset13 as opset  # isort: skip

#: Norms of fewer values are left alone. In slices that are nearly constant, sums of a few thousand are off already.
FROM_VALUES = 1 << 8
#: Longest axis that is summed at a time.
_LONGEST = 4096
#: Number of axes of a volume.
_VOLUME = 3
#: Number of values, about, whose median values are first taken from.
_SAMPLES = 128


def sum_in_steps(model: Any) -> None:
    """Replace each MVN of many values by nodes that take its mean and deviation in steps.

    The last of them has the name of the MVN, and the names of the others begin with it.
    """
    for node in model.get_ordered_ops():
        grouped = node.get_type_name() == "GroupNormalization"
        if not grouped and not (node.get_type_name() == "MVN" and _is_plain(node)):
            continue
        if node.input_value(0).partial_shape.is_dynamic:
            continue
        name, shape = node.get_friendly_name(), list(node.input_value(0).shape)
        apart, axes = _of_groups(shape, node) if grouped else (shape, _axes(node))
        count = prod(apart[axis] for axis in axes)
        split = _split(apart, axes)
        if count < FROM_VALUES or split is None:
            continue
        readers = node.output(0).get_target_inputs()
        node.set_friendly_name(f"{name}/replaced")
        y = _in_steps(node.input_value(0), *split, _epsilon(node), name)
        if y.output(0).shape != node.input_value(0).shape:
            _named(y, f"{name}/scaled")
            y = opset.reshape(y, np.array(shape), special_zero=False)
        if grouped:
            by_channel = [1, shape[1], *([1] * (len(shape) - 2))]
            for operation, port in ((opset.multiply, 1), (opset.add, 2)):
                _named(y, f"{name}/before{port}")
                y = operation(y, opset.reshape(node.input_value(port), np.array(by_channel), special_zero=False))
        _named(y, name)
        for reader in readers:
            reader.replace_source_output(y.output(0))
    model.validate_nodes_and_infer_types()


def as_one(model: Any) -> None:
    """Replace norms of volumes that sum in steps by OpenVINO's MVN, with the rounding that comes with it.

    That takes less time and memory, and many fewer nodes to compile. Norms of slices, of groups and of axes that are
    summed in pieces stay as they are.
    """
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    for name in norms_in_steps(list(nodes)):
        last, centred, scale = nodes.get(name), nodes[f"{name}{CENTRED}"], nodes.get(f"{name}/scale")
        if last is None or scale is None or f"{name}/pieces" in nodes:
            continue
        x, kept = centred.input_value(0), list(scale.output(0).shape)
        axes = [axis for axis, (n, left) in enumerate(zip(x.shape, kept, strict=True)) if n != left]
        if len(axes) < _VOLUME:
            continue
        epsilon = scale.input_value(1).get_node().input_value(0).get_node().input_value(1).get_node().data
        y = opset.mvn(x, np.array(axes), True, float(np.asarray(epsilon).item()), "inside_sqrt")
        readers = last.output(0).get_target_inputs()
        last.set_friendly_name(f"{name}/replaced")
        y.set_friendly_name(name)
        for reader in readers:
            reader.replace_source_output(y.output(0))
    model.validate_nodes_and_infer_types()


def _in_steps(x: Any, shape: list[int], axes: list[int], epsilon: float, name: str) -> Any:
    """Centred values over their deviation along some axes, in a shape.

    Values are first taken from their median, about: equal values, such as air, then add nothing to a sum, and no
    rounding. The mean is at most a deviation from the median, so that the difference of squares cancels little.
    """
    if list(x.shape) != shape:
        x = _named(opset.reshape(x, np.array(shape), special_zero=False), f"{name}/pieces").output(0)
    from_median = _named(opset.subtract(x, _median(x, shape, axes, name)), f"{name}{CENTRED}").output(0)
    mean = _mean(from_median, shape, axes, f"{name}/mean")
    *others, last = axes
    length = _named(opset.reduce_l2(from_median, np.array([last]), keep_dims=True), f"{name}/length").output(0)
    squares = opset.multiply(opset.multiply(length, length), np.float32(1 / shape[last])).output(0)
    variance = opset.subtract(_mean(squares, shape, others, f"{name}/variance"), opset.multiply(mean, mean))
    deviation = opset.sqrt(opset.add(opset.relu(variance), np.float32(epsilon)))
    centred = _named(opset.subtract(from_median, mean), f"{name}/values")
    return opset.multiply(centred, _named(opset.divide(np.float32(1), deviation), f"{name}/scale"))


def _median(x: Any, shape: list[int], axes: list[int], name: str) -> Any:
    """Median along some axes of values at even distances."""
    each = round(_SAMPLES ** (1 / len(axes)))
    steps = [max(1, -(-length // each)) if axis in axes else 1 for axis, length in enumerate(shape)]
    start = [0] * len(shape)
    some = opset.strided_slice(x, np.array(start), np.array(shape), np.array(steps), start, start)
    found = list(_named(some, f"{name}/some").output(0).shape)
    apart = [length for axis, length in enumerate(found) if axis not in axes]
    count = prod(found[axis] for axis in axes)
    flat = opset.reshape(some, np.array([*apart, count]), special_zero=False)
    lower = opset.topk(_named(flat, f"{name}/flat"), np.int32(count // 2 + 1), len(apart), "min", "value")
    middle = opset.gather(_named(lower, f"{name}/lower").output(0), np.array([count // 2]), np.int32(len(apart)))
    kept = np.array([1 if axis in axes else length for axis, length in enumerate(shape)])
    return _named(opset.reshape(_named(middle, f"{name}/middle"), kept, special_zero=False), f"{name}/median").output(0)


def _mean(x: Any, shape: list[int], axes: list[int], name: str) -> Any:
    """Mean along one axis after the other. OpenVINO would merge neighbouring nodes of one type into one long sum."""
    for place, axis in enumerate(reversed(axes)):
        if place % 2:
            x = opset.multiply(opset.reduce_sum(x, np.array([axis]), keep_dims=True), np.float32(1 / shape[axis]))
        else:
            x = opset.reduce_mean(x, np.array([axis]), keep_dims=True)
        x = _named(x, f"{name}{axis}").output(0)
    return x


def _axes(node: Any) -> list[int]:
    """Axes of an MVN."""
    rank = len(node.input_value(0).shape)
    return sorted(int(axis) % rank for axis in np.atleast_1d(node.input_value(1).get_node().data))


def _of_groups(shape: list[int], node: Any) -> tuple[list[int], list[int]]:
    """Shape in which each group of channels is apart, and the axes of its values."""
    groups = int(node.get_attributes()["num_groups"])
    return [shape[0], groups, shape[1] // groups, *shape[2:]], list(range(2, len(shape) + 1))


def _epsilon(node: Any) -> float:
    attributes = node.get_attributes()
    return float(attributes["eps"] if "eps" in attributes else attributes["epsilon"])


def _is_plain(node: Any) -> bool:
    """True if a norm divides by the deviation, and its shape and axes are known."""
    attributes = node.get_attributes()
    return (
        attributes["normalize_variance"]
        and attributes["eps_mode"].lower() == "inside_sqrt"
        and node.input_value(1).get_node().get_type_name() == "Constant"
    )


def _split(shape: list[int], axes: list[int]) -> tuple[list[int], list[int]] | None:
    """Shape in which no axis that is summed is long, and its axes; None if there is none."""
    new_shape: list[int] = []
    new_axes: list[int] = []
    for axis, length in enumerate(shape):
        pieces = [length]
        while axis in axes and pieces[-1] > _LONGEST:
            last = pieces.pop()
            piece = next((n for n in range(_LONGEST, 15, -1) if last % n == 0), None)
            if piece is None:
                return None
            pieces += [piece, last // piece]
        if axis in axes:
            new_axes += range(len(new_shape), len(new_shape) + len(pieces))
        new_shape += pieces
    return new_shape, new_axes


def _named(node: Any, name: str) -> Any:
    node.set_friendly_name(name)
    return node
