"""ONNX files that other tools wrote, made to graphs in float32, of one size, channels first. All of it is exact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lowres_seg.errors import ExportError

Shape = tuple[int, ...]
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TO_LAST, _TO_FIRST = (0, 2, 3, 4, 1), (0, 4, 1, 2, 3)


def fit(graph: onnx.ModelProto, shape: Shape, path: Path) -> list[str]:
    """Change a graph of one input in place, so that it takes (1, C, D, H, W) in float32.

    Parameters
    ----------
    graph : onnx.ModelProto
    shape : tuple of int
        (1, C, D, H, W). Sizes that the graph leaves open become these.
    path : pathlib.Path
        The file, for messages.

    Returns
    -------
    list of str
        What was changed, in words.

    Raises
    ------
    ExportError
        If the graph takes another size or another kind of number.
    """
    changes = []
    if _widened(graph.graph):
        changes.append("half precision became float32")
    (given,) = inputs(graph)
    kind = given.type.tensor_type.elem_type
    if kind != TensorProto.FLOAT:
        found = TensorProto.DataType.Name(kind).lower()
        raise ExportError(f"{path}: takes {found}, expected float32 or float16; save the network with such an input")
    last = _channels_last(graph, given, shape, path)
    own = tuple(shape[axis] for axis in _TO_LAST) if last else shape
    sizes = _sizes(given)
    if sizes is None or None in sizes:
        changes.append(f"open sizes became {own}")
    _set_sizes(given, own)
    outputs = output_shapes(graph)
    if last:
        _transpose_input(graph, given, shape)
        changes.append("input: channels moved first")
    for value in graph.graph.output:
        found = outputs[value.name]
        if (found is None or len(found) == 5) and _is_last(found, shape, assumed=last):
            _transpose_output(graph, value)
            changes.append(f"output {value.name}: channels moved first")
            found = None if found is None else tuple(found[axis] for axis in _TO_FIRST)
        _set_sizes(value, found or (None,) * 5)
    del graph.graph.value_info[:]  # of other sizes, or of half precision
    return changes


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


def _set_sizes(value: onnx.ValueInfoProto, shape: Sequence[int | None]) -> None:
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
    last = _fits(sizes, [shape[axis] for axis in _TO_LAST])
    if not first and not last:
        found = ", ".join("open" if size is None else str(size) for size in sizes)
        raise ExportError(
            f"{path}: takes ({found}), and the recipe's input is {shape}; set conform.shape, or windows.roi_size, "
            "and the channels to those of the network"
        )
    if first and last:  # sizes do not tell, and what reads the input may
        readers = [node for node in graph.graph.node if given.name in node.input]
        return bool(readers) and all(_permutation(node) == _TO_FIRST for node in readers)
    return last


def _fits(sizes: Sequence[int | None], shape: Sequence[int]) -> bool:
    return len(sizes) == len(shape) and all(a in (None, b) for a, b in zip(sizes, shape, strict=True))


def _is_last(found: Shape | None, shape: Shape, *, assumed: bool) -> bool:
    """True if an output is (1, D, H, W, C); as `assumed` where its shape does not tell."""
    if found is None:
        return assumed
    first, last = found[2:] == shape[2:], found[1:4] == shape[2:]
    return assumed if first == last else last


def _permutation(node: onnx.NodeProto) -> tuple[int, ...]:
    return next((tuple(one.ints) for one in node.attribute if node.op_type == "Transpose" and one.name == "perm"), ())


def _transpose_input(graph: onnx.ModelProto, given: onnx.ValueInfoProto, shape: Shape) -> None:
    inner = f"{given.name}/channels_last"
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            if name == given.name:
                node.input[place] = inner
    graph.graph.node.insert(0, helper.make_node("Transpose", [given.name], [inner], perm=_TO_LAST))
    _set_sizes(given, shape)


def _transpose_output(graph: onnx.ModelProto, value: onnx.ValueInfoProto) -> None:
    inner = _renamed(graph, value, "channels_last")
    graph.graph.node.append(helper.make_node("Transpose", [inner], [value.name], perm=_TO_FIRST))


def reshape_output(graph: onnx.ModelProto, value: onnx.ValueInfoProto, shape: Shape) -> None:
    """Give an output of a graph another shape, in place."""
    inner = _renamed(graph, value, "as_given")
    target = numpy_helper.from_array(np.array(shape, np.int64), f"{value.name}/shape")
    graph.graph.initializer.append(target)
    graph.graph.node.append(helper.make_node("Reshape", [inner, target.name], [value.name]))
    _set_sizes(value, shape)


def _renamed(graph: onnx.ModelProto, value: onnx.ValueInfoProto, end: str) -> str:
    """Free the name of an output for a further node, and return the name that its tensor has now."""
    inner = f"{value.name}/{end}"
    for node in graph.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == value.name:
                    names[place] = inner
    return inner


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
