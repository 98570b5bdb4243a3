"""ONNX graphs: checked, and run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from lowres_seg.bundle.dropout import DropoutMask
from lowres_seg.errors import ExportError, last_line, one_line
from lowres_seg.export.frameworks import onnx_inputs, onnx_scores
from lowres_seg.export.frameworks.outputs import Outputs
from lowres_seg.export.frameworks.parts import Parts
from lowres_seg.export.frameworks.sizes import Resize
from lowres_seg.runtime.engine import ResidentEngine

Shape = tuple[int, ...]


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, weights inside or beside it, and check it.

    Raises
    ------
    ExportError
        If it is missing, or no valid ONNX.
    """
    if not path.is_file():
        raise ExportError(f"{path}: does not exist, expected an ONNX file")
    try:
        graph = onnx.load(str(path))
        onnx.checker.check_model(graph)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ExportError(f"{path}: is no valid ONNX ({one_line(error, most=200)})") from error
    return graph


def with_one_output(graph: onnx.ModelProto, outputs: Outputs, shape: Shape, path: Path) -> onnx.ModelProto:
    """Leave the graph the one output that holds the scores.

    Parameters
    ----------
    graph : onnx.ModelProto
        One whose input has its size. It is changed in place if it has several outputs.
    outputs : Outputs
        The choice. It is told what was taken.
    shape : tuple of int
        (1, C, D, H, W) of the input.
    path : pathlib.Path
        The file, for messages.

    Raises
    ------
    ExportError
        If there is no such output, or it does not follow which one it is.
    """
    names = [value.name for value in graph.graph.output]
    if len(names) == 1 and outputs.key in (None, 0, "0", names[0]):
        return graph
    shapes = onnx_inputs.output_shapes(graph)
    try:
        chosen = outputs.of(shapes, shape)
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error
    kept = next(value for value in graph.graph.output if value.name == chosen)
    del graph.graph.output[:]
    graph.graph.output.append(kept)
    return graph


def fitted(
    path: Path, shape: Shape, outputs: Outputs, parts: Parts | None, resize: Resize | None
) -> tuple[onnx.ModelProto, list[str]]:
    """Read a file, and make it a graph of one input and one output of its sides.

    Parameters
    ----------
    path : pathlib.Path
    shape : tuple of int
        (1, C, D, H, W) of the input.
    outputs : Outputs
        The choice of the scores. It is told what was taken.
    parts : sequence of sequence of int or None
        Places of the channels of each tensor that the file takes, if it takes several.
    resize : {"linear", "nearest"} or None
        How scores of another resolution are resized.

    Returns
    -------
    graph : onnx.ModelProto
    changes : list of str
        What was changed, in words.

    Raises
    ------
    ExportError
        If the file is no valid ONNX, or takes or gives something else.
    """
    graph = load(path)
    changes = onnx_inputs.fit(graph, shape, path, parts)
    graph = with_one_output(graph, outputs, shape, path)
    if resize is not None:
        changes += onnx_scores.resize(graph, shape[2:], resize, path)
    return graph, changes


def save(graph: onnx.ModelProto, path: Path) -> None:
    """Write a graph with its weights inside, and without the metadata of its exporter.

    The metadata holds paths of the machine that wrote it, and no runtime needs it.
    """
    for part in (graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for function in graph.functions:
        del function.metadata_props[:]
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
    onnx.save_model(graph, str(path))


class OrtNetwork(ResidentEngine):
    """A graph run by ONNX Runtime on the CPU.

    Parameters
    ----------
    path : pathlib.Path
    threads : int
    content : bytes, optional
        Content of the file, if it was read already.
    dropout : sequence of DropoutMask
        Masks that it takes behind its input.

    Raises
    ------
    ExportError
        If ONNX Runtime cannot load it.
    """

    def __init__(
        self, path: Path, *, threads: int, content: bytes | None = None, dropout: Sequence[DropoutMask] = ()
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._path, self.masks = path, dropout
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path) if content is None else content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ExportError(f"{path}: ONNX Runtime cannot load it ({last_line(error)})") from error

    def run(self, x: NDArray[np.float32], masks: Sequence[NDArray[np.float32]] = ()) -> NDArray[np.float32]:
        """Compute the scores (1, C, D, H, W) of one input. Without `masks` dropout is off.

        Raises
        ------
        ExportError
            If ONNX Runtime fails.
        """
        first, *others = self._session.get_inputs()
        given = masks or [np.ones(one.shape, np.float32) for one in others]
        try:
            feed = {first.name: x, **{one.name: mask for one, mask in zip(others, given, strict=True)}}
            return np.asarray(self._session.run(None, feed)[0])
        except Exception as error:
            raise ExportError(f"{self._path}: ONNX Runtime cannot run it on {x.shape} ({last_line(error)})") from error


class OpenSizes(ResidentEngine):
    """The graph of a file that leaves sizes open, run on inputs of any size.

    Parameters
    ----------
    path : pathlib.Path
    output : str, int or None
        The output that holds the scores, as a recipe says it.
    parts : sequence of sequence of int, optional
        The tensors that it takes, as `Recipe.parts` gives them.
    resize : {"linear", "nearest"}, optional
        How its scores are resized to its input.
    """

    def __init__(
        self, path: Path, output: str | int | None, parts: Parts | None = None, resize: Resize | None = None
    ) -> None:
        self._path, self._output, self._parts, self._resize = path, output, parts, resize

    def run(self, x: NDArray[np.float32], masks: Sequence[NDArray[np.float32]] = ()) -> NDArray[np.float32]:  # noqa: ARG002
        """Compute the scores of one input (1, C, D, H, W).

        Raises
        ------
        ExportError
            If the graph does not take its size.
        """
        graph, _ = fitted(self._path, x.shape, Outputs(self._output), self._parts, self._resize)
        return OrtNetwork(self._path, threads=1, content=graph.SerializeToString()).run(x)


def versions() -> dict[str, str]:
    """Versions of onnx and onnxruntime."""
    return {"onnx": str(onnx.__version__), "onnxruntime": str(onnxruntime.__version__)}
