"""An ONNX graph in INT8, as ONNX Runtime quantizes one: statically, with QuantizeLinear and DequantizeLinear (QDQ)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_static
from onnxruntime.quantization.calibrate import CalibraterBase

from lowres_seg.bundle.dropout import DropoutMask
from lowres_seg.errors import QuantizationError, last_line
from lowres_seg.runtime.sampling import drawn

Array = NDArray[np.float32]
#: End of the names of constants.
_MARK = "_constant"


def quantized(
    graph: bytes,
    inputs: Sequence[Array],
    target: Path,
    *,
    name: str,
    reduce_range: bool,
    threads: int,
    dropout: Sequence[DropoutMask] = (),
) -> None:
    """Quantize a graph, and write it.

    Weights are in INT8 per channel, activations in unsigned INT8 per tensor. Everything else is as ONNX Runtime has it
    by default: ranges from the least to the largest value, and every operator that it can quantize.

    Parameters
    ----------
    graph : bytes
        In f32, with weights inside and one input, or masks of dropout behind it.
    inputs : sequence of (1, C, D, H, W) ndarray
        Inputs to take the ranges of activations from.
    target : pathlib.Path
        File to write. ONNX Runtime's intermediate files lie beside it while this runs.
    name : str
        Of the network, for messages.
    reduce_range : bool
        Whether weights keep to 7 bits. ONNX Runtime advises it for CPUs without VNNI.
    threads : int
    dropout : sequence of DropoutMask
        Masks that the graph takes. They are drawn, as they are when it runs.

    Raises
    ------
    QuantizationError
        If ONNX Runtime fails.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as work, _files_in(work), _quiet():
        source, prepared = Path(work) / "f32.onnx", Path(work) / "prepared.onnx"
        source.write_bytes(graph)
        try:
            # Sizes of a bundle's graph are fixed, so nothing symbolic is to be inferred.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            _name_constants_apart(prepared)
            with _activations_dropped(threads):
                quantize_static(
                    str(prepared),
                    str(target),
                    _Reader(prepared, inputs, dropout),
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    reduce_range=reduce_range,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                )
        except Exception as error:
            raise QuantizationError(f"network {name}: ONNX Runtime cannot quantize it ({last_line(error)})") from error


def _name_constants_apart(path: Path) -> None:
    """Give each constant of a graph a name that no number behind it makes into that of another tensor.

    ONNX Runtime copies a bias that several layers share, and names the copy by a number behind its name: a copy of
    ``val_28`` was ``val_283``, which was the name of an activation.
    """
    model = onnx.load(str(path))
    names = {one.name: f"{one.name}{_MARK}" for one in model.graph.initializer}
    for one in (*model.graph.initializer, *model.graph.value_info):
        one.name = names.get(one.name, one.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    onnx.save(model, str(path))


class _Reader(CalibrationDataReader):
    """One input at a time."""

    def __init__(self, graph: Path, inputs: Sequence[Array], dropout: Sequence[DropoutMask]) -> None:
        session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self._names = [one.name for one in session.get_inputs()]
        self._left = iter([[x, *drawn(dropout, [place])] for place, x in enumerate(inputs)])

    def get_next(self) -> dict[str, Array] | None:
        given = next(self._left, None)
        return None if given is None else dict(zip(self._names, given, strict=True))


@contextmanager
def _activations_dropped(threads: int) -> Iterator[None]:
    """Make the runs that find ranges drop each activation when its last reader has run.

    The nodes that take the least and the largest value stand behind each activation, but by default ONNX Runtime runs
    them at the end: a U-Net of 16 channels at 96³ then takes 2.2 GB, and 0.3 GB in the order of the graph.
    """

    def create(self: Any) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        options.enable_cpu_mem_arena = False
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.infer_session = onnxruntime.InferenceSession(
            str(self.augmented_model_path), options, providers=self.execution_providers
        )

    original = CalibraterBase.create_inference_session
    CalibraterBase.create_inference_session = create
    try:
        yield
    finally:
        CalibraterBase.create_inference_session = original


@contextmanager
def _files_in(folder: str) -> Iterator[None]:
    """Make temporary files in a folder, which goes when its owner goes, even if this process is killed."""
    before = tempfile.tempdir
    tempfile.tempdir = folder
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's advice, which it gives to the root logger, from being printed."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
