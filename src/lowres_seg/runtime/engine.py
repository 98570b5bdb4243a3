"""A compiled network: array in, array out. This is the home of OpenVINO at run time.

Threads, precision and the handling of denormals are always set, never left to a default: left alone, OpenVINO
computes in bf16 wherever the CPU can.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lowres_seg.errors import EngineError

# `import openvino` sends a usage event and writes to the home folder if it finds this package. A module that
# is None in sys.modules cannot be imported, and OpenVINO then goes without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
# Its converter is half of what the import takes, and the runtime converts nothing: it waits until it is asked for.
_CONVERTER = "openvino.tools.ovc"
_EARLY = _CONVERTER in sys.modules
sys.modules.setdefault(_CONVERTER, None)  # type: ignore[arg-type]

import openvino  # noqa: E402
from openvino import opset13 as opset  # noqa: E402


def _later(name: str) -> Any:
    """What the import left out, for whoever else in this process wants it."""
    if name != "convert_model":
        raise AttributeError(f"module 'openvino' has no attribute {name!r}")
    return importlib.import_module(_CONVERTER).convert_model


if not _EARLY:
    del sys.modules[_CONVERTER]
    if not hasattr(openvino, "convert_model"):
        openvino.__getattr__ = _later

# The first request that OpenVINO's Python binding serves fills a table of dtypes, in a way that two threads that race
# for it never get out of (2026.4). So it is filled here, where there is one thread.
openvino.Type.f32.to_dtype()

InferencePrecision = Literal["f32", "bf16"]
Interpolation = Literal["nearest", "linear"]


class Engine(Protocol):
    """What a `Segmenter` needs of a compiled network; tests may put anything with this method in its place."""

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (1, channels out, D, H, W) of one input (1, channels in, D, H, W)."""
        ...


class OpenVinoEngine:
    """A network compiled for this CPU.

    Parameters
    ----------
    network : pathlib.Path
        Its IR, the .xml beside the .bin.
    threads : int
        Threads that it computes with.
    inference_precision : {"f32", "bf16"}
        What the CPU computes in, apart from what is quantized.

    Raises
    ------
    EngineError
        If OpenVINO cannot read or compile it, or this CPU has no such precision.
    """

    def __init__(self, network: Path, *, threads: int, inference_precision: InferencePrecision) -> None:
        if inference_precision == "bf16" and "BF16" not in cpu_capabilities():
            raise EngineError(
                f"{network}: is to be computed in bf16, which this CPU has not; use a bundle for f32 or int8"
            )
        try:
            model = _core().read_model(network)
        except RuntimeError as error:
            raise EngineError(f"{network}: OpenVINO cannot compile it ({_one_line(error)})") from error
        self._start(model, str(network), threads, inference_precision)

    @classmethod
    def of_model(
        cls, model: Any, *, threads: int, inference_precision: InferencePrecision = "f32", counters: bool = False
    ) -> OpenVinoEngine:
        """Compile an openvino.Model that lies in memory; with `counters`, `run` counts what each layer takes."""
        engine = cls.__new__(cls)
        engine._start(  # noqa: SLF001 - its own class
            model, model.get_friendly_name(), threads, inference_precision, counters=counters
        )
        return engine

    def _start(
        self, model: Any, name: str, threads: int, inference_precision: InferencePrecision, *, counters: bool = False
    ) -> None:
        self._name = name
        try:
            self._compiled = _compile(model, threads, inference_precision, counters=counters)
            self._request = self._compiled.create_infer_request()
        except RuntimeError as error:
            raise EngineError(f"{name}: OpenVINO cannot compile it ({_one_line(error)})") from error

    def counters(self) -> list[tuple[str, str, float]]:
        """Type, kernel and milliseconds of each node that the last run executed."""
        return [
            (node.node_type, node.exec_type, node.real_time.total_seconds() * 1000)
            for node in self._request.get_profiling_info()
            if node.status == openvino.ProfilingInfo.Status.EXECUTED
        ]

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (1, channels out, D, H, W) of one input (1, channels in, D, H, W).

        The result is a view of memory that the next call overwrites.

        Raises
        ------
        EngineError
            If OpenVINO refuses the input or fails.
        """
        try:
            result = self._request.infer([np.ascontiguousarray(x)], share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise EngineError(f"{self._name}: OpenVINO cannot run it on {x.shape} ({_one_line(error)})") from error
        return np.asarray(result[0])


class TransientEngine:
    """A network that is compiled when it first runs, and let go when it is released: leaner where there are several.

    Parameters are those of `OpenVinoEngine`.
    """

    def __init__(self, network: Path, *, threads: int, inference_precision: InferencePrecision) -> None:
        self._network = network
        self._threads = threads
        self._inference_precision: InferencePrecision = inference_precision
        self._engine: OpenVinoEngine | None = None

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (1, channels out, D, H, W) of one input (1, channels in, D, H, W).

        Raises
        ------
        EngineError
            If OpenVINO cannot read, compile or run the network.
        """
        if self._engine is None:
            self._engine = OpenVinoEngine(
                self._network, threads=self._threads, inference_precision=self._inference_precision
            )
        return self._engine.run(x)

    def release(self) -> None:
        """Let the compiled network go. The last result owns a share of its memory, and outlives it."""
        self._engine = None


@dataclass(eq=False)
class Recorder:
    """An engine that keeps what goes through another one.

    Attributes
    ----------
    inputs, outputs : list of (1, C, D, H, W) ndarray
        Copies, in the order of the calls.
    most : int or None
        How many calls are kept at the most: then every second, every fourth …, so that they stay evenly spread.
    """

    engine: Engine
    most: int | None = None
    inputs: list[NDArray[np.float32]] = field(default_factory=list)
    outputs: list[NDArray[np.float32]] = field(default_factory=list)
    _calls: int = 0
    _step: int = 1

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the other engine and keep copies of what it took and gave."""
        keep = self._calls % self._step == 0
        self._calls += 1
        if keep:
            self.inputs.append(x.copy())
        result = self.engine.run(x)
        if keep:
            self.outputs.append(result.copy())
        if self.most is not None and len(self.inputs) > self.most:
            del self.inputs[1::2], self.outputs[1::2]
            self._step *= 2
        return result


def is_transient(engine: Engine) -> bool:
    """Whether an engine is compiled when it first runs and wants to be released."""
    return isinstance(engine.engine if isinstance(engine, Recorder) else engine, TransientEngine)


def release(engine: Engine) -> None:
    """Tell an engine that it will not run again soon."""
    inner = engine.engine if isinstance(engine, Recorder) else engine
    if isinstance(inner, TransientEngine):
        inner.release()


def resize(
    x: NDArray[np.float32], shape: tuple[int, int, int], interpolation: Interpolation, *, threads: int
) -> NDArray[np.float32]:
    """Resample (C, I, J, K) to (C, *shape), sampling at voxel centres.

    ``nearest`` is torch's ``nearest-exact``; ``linear`` is its ``trilinear`` with ``align_corners=False``. No
    smoothing goes before.

    Raises
    ------
    EngineError
        If OpenVINO fails.
    """
    if x.shape[1:] == shape:
        return np.ascontiguousarray(x, dtype=np.float32)
    try:
        request = _resizer(x.shape, shape, interpolation, threads).create_infer_request()
        source = np.ascontiguousarray(x[None], dtype=np.float32)
        result = request.infer([source], share_inputs=True, share_outputs=False)[0]
    except RuntimeError as error:
        raise EngineError(f"resampling {x.shape} to {shape} failed ({_one_line(error)})") from error
    return np.asarray(result)[0]


def convolution_seconds(*, threads: int, rounds: int = 5, channels: int = 32, size: int = 48) -> dict[str, float]:
    """Time four 3D convolutions in each precision that this CPU has, in turn, and take the fastest of each.

    Parameters
    ----------
    threads, rounds : int
    channels, size : int
        The convolutions are 3×3×3, from `channels` to as many, on a cube of `size`: `convolution_macs` of work.

    Returns
    -------
    dict of str to float
        Seconds by precision: ``f32``, ``bf16`` where the CPU has it, and ``int8``.
    """
    x = np.random.default_rng(0).random((1, channels, size, size, size), dtype=np.float32)
    precisions = ["f32", *(["bf16"] if "BF16" in cpu_capabilities() else []), "int8"]
    requests = {}
    for precision in precisions:
        hint: InferencePrecision = "bf16" if precision == "bf16" else "f32"
        model = _convolutions(channels, size, quantized=precision == "int8")
        requests[precision] = _compile(model, threads, hint).create_infer_request()
    best = dict.fromkeys(precisions, float("inf"))
    for turn in range(rounds + 1):
        for precision, request in requests.items():
            start = perf_counter()
            request.infer([x], share_inputs=True, share_outputs=True)
            if turn:  # the first is a warm-up
                best[precision] = min(best[precision], perf_counter() - start)
    return best


def convolution_macs(channels: int = 32, size: int = 48) -> int:
    """Multiply-accumulates of what `convolution_seconds` times, borders not taken off."""
    return 4 * channels**2 * 27 * size**3


def reference_engine(*, threads: int) -> tuple[OpenVinoEngine, NDArray[np.float32]]:
    """A fixed piece of work in f32 and its input: what other timings are compared with on a machine that drifts."""
    engine = OpenVinoEngine.of_model(_convolutions(32, 48, quantized=False), threads=threads)
    return engine, np.random.default_rng(0).random((1, 32, 48, 48, 48), dtype=np.float32)


def _convolutions(channels: int, size: int, *, quantized: bool) -> Any:
    rng = np.random.default_rng(1)
    parameter = opset.parameter([1, channels, size, size, size], np.float32)
    node = parameter
    for _ in range(4):
        weights = opset.constant(rng.uniform(-1, 1, (channels, channels, 3, 3, 3)).astype(np.float32) / 30)
        if quantized:
            node = opset.fake_quantize(node, *(np.float32(v) for v in (0, 4, 0, 4)), levels=256)
            weights = opset.fake_quantize(weights, *(np.float32(v) / 30 for v in (-1, 1, -1, 1)), levels=255)
        node = opset.relu(opset.convolution(node, weights, [1] * 3, [1] * 3, [1] * 3, [1] * 3))
    return openvino.Model([node], [parameter], "convolutions")


def macs(xml: Path) -> int:
    """Multiply-accumulates of a network's convolutions and matrix products, borders not taken off."""
    return sum(node_macs(node) for node in _core().read_model(xml).get_ordered_ops())


def node_macs(node: Any) -> int:
    """Multiply-accumulates of one node; 0 for one that multiplies nothing with weights."""
    kind = node.get_type_name()
    if "Convolution" in kind:
        weights = tuple(node.input_value(1).shape)
        shared = int(weights[0]) * (int(weights[1]) if kind.startswith("Group") else 1)
        side = node.input_value(0).shape if "Backprop" in kind else node.output(0).shape
        return int(np.prod(side)) * int(np.prod(weights)) // shared
    if kind == "MatMul":
        inner = node.input_value(0).shape[-2 if node.get_attributes()["transpose_a"] else -1]
        return int(np.prod(node.output(0).shape)) * int(inner)
    return 0


def read_graph(xml: Path) -> Any:
    """openvino.Model of an IR."""
    return _core().read_model(xml)


def write_ir(model: Any, xml: Path) -> None:
    """Write an openvino.Model as IR, weights as they are: OpenVINO itself would round fp32 to fp16 by default.

    OpenVINO numbers unnamed nodes in the order in which a process makes them. They are numbered anew here, in the
    order of the graph, so that the same network gives the same file in every process.
    """
    for index, node in enumerate(model.get_ordered_ops()):
        kind, _, number = node.get_friendly_name().rpartition("_")
        if number.isdigit() and kind == node.get_type_name():
            node.set_friendly_name(f"{kind}_{index}")
    openvino.save_model(model, xml, compress_to_fp16=False)


def cpu_capabilities() -> tuple[str, ...]:
    """What OpenVINO says this CPU computes well, such as FP32, BF16 and INT8.

    OpenVINO looks at the CPU alone; its kernels also heed ONEDNN_MAX_CPU_ISA, below which there is no BF16.
    """
    found = tuple(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    if limit in ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"):
        return tuple(name for name in found if name != "BF16")
    return found


def version() -> str:
    """Version of OpenVINO."""
    return str(openvino.__version__)


@lru_cache(maxsize=1)
def _core() -> Any:
    return openvino.Core()


def _compile(model: Any, threads: int, inference_precision: InferencePrecision, *, counters: bool = False) -> Any:
    return _core().compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": inference_precision,
            # Pinned, every process on a machine crowds onto the same first cores.
            "ENABLE_CPU_PINNING": False,
            # Scores far below 1 that the CPU handles in microcode slow background-heavy scans down.
            "CPU_DENORMALS_OPTIMIZATION": True,
            "PERF_COUNT": counters,
        },
    )


@lru_cache(maxsize=8)
def _resizer(source: tuple[int, ...], shape: tuple[int, int, int], interpolation: Interpolation, threads: int) -> Any:
    parameter = opset.parameter([1, *source], np.float32)
    node = opset.interpolate(
        parameter,
        np.array(shape, np.int64),
        mode="nearest" if interpolation == "nearest" else "linear_onnx",
        shape_calculation_mode="sizes",
        axes=np.array([2, 3, 4], np.int64),
        coordinate_transformation_mode="half_pixel",
        nearest_mode="round_prefer_ceil",
    )
    return _compile(openvino.Model([node], [parameter], "resize"), threads, "f32")


def _one_line(error: BaseException) -> str:
    """Last line of an OpenVINO message; those before it name source files of OpenVINO."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
