"""ONNX files that other tools wrote, made to graphs in float32, of one size, channels first. All of it is exact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lowres_seg.errors import ExportError
from lowres_seg.export.frameworks.parts import Parts, Taken

Shape = tuple[int, ...]
#: First opset whose Squeeze takes its axes as an input.
_AXES_ARE_INPUTS = 13
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
#: Permutations of an array with channels first to one with channels last, and back, by its number of axes.
_TO_LAST = {4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
_TO_FIRST = {4: (0, 3, 1, 2), 5: (0, 4, 1, 2, 3)}


def fit(graph: onnx.ModelProto, shape: Shape, path: Path, parts: Parts | None = None) -> list[str]:
    """Change a graph in place, so that it takes one tensor (1, C, D, H, W) in float32.

    Parameters
    ----------
    graph : onnx.ModelProto
    shape : tuple of int
        (1, C, D, H, W). Sizes that the graph leaves open become these.
    path : pathlib.Path
        The file, for messages.
    parts : sequence of sequence of int, optional
        Places of the channels of each tensor that the graph takes, in the order of its inputs.

    Returns
    -------
    list of str
        What was changed, in words.

    Raises
    ------
    ExportError
        If the graph takes another number of tensors, another size or another kind of number.
    """
    changes = []
    given = inputs(graph)
    if not given:
        raise ExportError(f"{path}: takes nothing, expected one input or several")
    try:
        Taken(tuple(value.name for value in given), len(given)).check(parts)
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error
    if _widened(graph.graph):
        changes.append("half precision became float32")
    thin = _thin_axis(given, shape)
    if thin is not None:
        shape = shape[:thin] + shape[thin + 1 :]
    shapes = [shape] if parts is None else [(1, len(part), *shape[2:]) for part in parts]
    are_last = []
    for value, size in zip(given, shapes, strict=True):
        last = _channels_last(graph, value, size, path)
        _check_kind(value, path)
        own = tuple(size[axis] for axis in _TO_LAST[len(size)]) if last else size
        sizes = _sizes(value)
        if sizes is None or None in sizes:
            changes.append(f"open sizes became {own}")
        set_sizes(value, own)
        are_last.append(last)
    outputs = output_shapes(graph)
    last = all(are_last)
    for value, size, moved in zip(given, shapes, are_last, strict=True):
        if moved:
            _transpose_input(graph, value, size)
            changes.append("input: channels moved first" if len(given) == 1 else f"{value.name}: channels moved first")
    if parts is not None:
        _join_inputs(graph, given, shape, parts)
        changes.append(f"inputs {', '.join(value.name for value in given)} became one tensor")
    for value in graph.graph.output:
        found = outputs[value.name]
        if (found is None or len(found) == len(shape)) and _is_last(found, shape, assumed=last):
            _transpose_output(graph, value, len(shape))
            changes.append(f"output {value.name}: channels moved first")
            found = None if found is None else tuple(found[axis] for axis in _TO_FIRST[len(found)])
        set_sizes(value, found or (None,) * len(shape))
    if thin is not None:
        _add_axis(graph, thin)
        changes.append("an axis of length 1 was added, because it takes slices")
    del graph.graph.value_info[:]  # of other sizes, or of half precision
    return changes


def _check_kind(given: onnx.ValueInfoProto, path: Path) -> None:
    kind = given.type.tensor_type.elem_type
    if kind != TensorProto.FLOAT:
        found = TensorProto.DataType.Name(kind).lower()
        raise ExportError(f"{path}: takes {found}, expected float32 or float16; save the network with such an input")


def inputs(graph: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs of a graph that are no weights."""
    weights = {tensor.name for tensor in graph.graph.initializer}
    return [value for value in graph.graph.input if value.name not in weights]


def _sizes(value: onnx.ValueInfoProto) -> list[int | None] | None:
    """Sizes of a tensor, None for one that is open; None if not even their number is known."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else None for size in kind.shape.dim]


def set_sizes(value: onnx.ValueInfoProto, shape: Sequence[int | None]) -> None:
    """Set the sizes of a tensor, None for one that is open."""
    kind = value.type.tensor_type
    kind.ClearField("shape")
    for size in shape:
        added = kind.shape.dim.add()
        if size is not None:
            added.dim_value = size


def _channels_last(graph: onnx.ModelProto, given: onnx.ValueInfoProto, shape: Shape, path: Path) -> bool:
    """True if the graph takes (1, D, H, W, C)."""
    sizes = _sizes(given)
    if sizes is None:
        return False
    first = _fits(sizes, shape)
    last = _fits(sizes, [shape[axis] for axis in _TO_LAST[len(shape)]])
    if not first and not last:
        found = ", ".join("open" if size is None else str(size) for size in sizes)
        raise ExportError(
            f"{path}: takes ({found}), and the recipe's input is {shape}; set conform.shape, or windows.roi_size, "
            "and the channels to those of the network"
        )
    if first and last:  # sizes do not tell, and what reads the input may
        readers = [node for node in graph.graph.node if given.name in node.input]
        return bool(readers) and all(_permutation(node) == _TO_FIRST[len(shape)] for node in readers)
    return last


def _fits(sizes: Sequence[int | None], shape: Sequence[int]) -> bool:
    return len(sizes) == len(shape) and all(a in (None, b) for a, b in zip(sizes, shape, strict=True))


def _is_last(found: Shape | None, shape: Shape, *, assumed: bool) -> bool:
    """True if an output is (1, D, H, W, C); as `assumed` where its shape does not tell."""
    if found is None:
        return assumed
    first, last = found[2:] == shape[2:], found[1:-1] == shape[2:]
    return assumed if first == last else last


def _permutation(node: onnx.NodeProto) -> tuple[int, ...]:
    return next((tuple(one.ints) for one in node.attribute if node.op_type == "Transpose" and one.name == "perm"), ())


def _transpose_input(graph: onnx.ModelProto, given: onnx.ValueInfoProto, shape: Shape) -> None:
    inner = f"{given.name}/channels_last"
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            if name == given.name:
                node.input[place] = inner
    graph.graph.node.insert(0, helper.make_node("Transpose", [given.name], [inner], perm=_TO_LAST[len(shape)]))
    set_sizes(given, shape)


def _join_inputs(graph: onnx.ModelProto, given: Sequence[onnx.ValueInfoProto], shape: Shape, parts: Parts) -> None:
    """Make the inputs of a graph channels of one input (1, C, D, H, W)."""
    taken = {name for node in graph.graph.node for name in (*node.input, *node.output)}
    joined = "input"
    while joined in taken:
        joined += "/joined"
    for value, part in zip(given, parts, strict=True):
        places = f"{value.name}/places"
        graph.graph.initializer.append(numpy_helper.from_array(np.array(part, np.int64), places))
        graph.graph.node.insert(0, helper.make_node("Gather", [joined, places], [value.name], axis=1))
        graph.graph.input.remove(value)
    graph.graph.input.append(helper.make_tensor_value_info(joined, TensorProto.FLOAT, shape))


def _thin_axis(given: Sequence[onnx.ValueInfoProto], shape: Shape) -> int | None:
    """Axis of length 1 of (1, C, D, H, W) that a graph of slices (1, C, H, W) does not have; None for other graphs."""
    axes = {len(_sizes(value) or shape) for value in given}
    return 2 + shape[2:].index(1) if axes == {len(shape) - 1} and 1 in shape[2:] else None


def _add_axis(graph: onnx.ModelProto, axis: int) -> None:
    """Give the input and the outputs of a graph of slices an axis of length 1."""
    (given,) = inputs(graph)
    inner = f"{given.name}/slice"
    for node in graph.graph.node:
        node.input[:] = [inner if name == given.name else name for name in node.input]
    graph.graph.node.insert(0, _of_one_axis(graph, "Squeeze", given.name, inner, axis))
    for value in graph.graph.output:
        inner = renamed(graph, value.name, f"{value.name}/slice")
        graph.graph.node.append(_of_one_axis(graph, "Unsqueeze", inner, value.name, axis))
    for value in (given, *graph.graph.output):
        sizes = _sizes(value) or []
        set_sizes(value, [*sizes[:axis], 1, *sizes[axis:]])


def _of_one_axis(graph: onnx.ModelProto, kind: str, name: str, made: str, axis: int) -> onnx.NodeProto:
    """A Squeeze or an Unsqueeze; the axis is an input from opset 13 on."""
    if next(one.version for one in graph.opset_import if one.domain in ("", "ai.onnx")) < _AXES_ARE_INPUTS:
        return helper.make_node(kind, [name], [made], axes=[axis])
    axes = f"{made}/axis"
    graph.graph.initializer.append(numpy_helper.from_array(np.array([axis], np.int64), axes))
    return helper.make_node(kind, [name, axes], [made])


def _transpose_output(graph: onnx.ModelProto, value: onnx.ValueInfoProto, axes: int) -> None:
    inner = renamed(graph, value.name, f"{value.name}/channels_last")
    graph.graph.node.append(helper.make_node("Transpose", [inner], [value.name], perm=_TO_FIRST[axes]))


def renamed(graph: onnx.ModelProto, name: str, new: str) -> str:
    """Give a tensor another name wherever a node makes or reads it, and return that name."""
    for node in graph.graph.node:
        for names in (node.input, node.output):
            for place, found in enumerate(names):
                if found == name:
                    names[place] = new
    return new


def reshape_output(graph: onnx.ModelProto, value: onnx.ValueInfoProto, shape: Shape) -> None:
    """Give an output of a graph another shape, in place."""
    inner = renamed(graph, value.name, f"{value.name}/as_given")
    target = numpy_helper.from_array(np.array(shape, np.int64), f"{value.name}/shape")
    graph.graph.initializer.append(target)
    graph.graph.node.append(helper.make_node("Reshape", [inner, target.name], [value.name]))
    set_sizes(value, shape)


def output_shapes(graph: onnx.ModelProto) -> dict[str, Shape | None]:
    """Shape of each output; None where the graph does not tell it."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(graph)
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    try:
        fixed = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError):
        return dict.fromkeys([value.name for value in graph.graph.output])
    found: dict[str, Shape | None] = {}
    for value in fixed.graph.output:
        sizes = _sizes(value) or [None]
        known = [size for size in sizes if size is not None]
        found[value.name] = tuple(known) if len(known) == len(sizes) else None
    return found


def _widened(graph: Any) -> bool:
    """Turn tensors in half precision to float32, in a graph and those within it. True if there were any."""
    found = False
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            found = True
    for tensor in _constants(graph):
        if tensor.data_type in _HALVES:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            found = True
    for node in graph.node:
        for one in node.attribute:
            if one.name in ("to", "dtype") and one.i in _HALVES:
                one.i = TensorProto.FLOAT
                found = True
            for inner in (*one.graphs, one.g) if one.HasField("g") else one.graphs:
                found |= _widened(inner)
    return found


def _constants(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for one in node.attribute:
            if one.HasField("t"):
                yield one.t
            yield from one.tensors
