"""Networks compiled by OpenVINO: array in, array out. This is the home of OpenVINO at run time.

Threads, precision and the handling of denormals are always set. With its defaults OpenVINO computes in bf16 wherever
the CPU can.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lowres_seg import host
from lowres_seg.bundle.bundle import NetworkFiles
from lowres_seg.errors import EngineError, last_line
from lowres_seg.logs import log
from lowres_seg.runtime.compiled_cache import CompiledCache, key_of
from lowres_seg.runtime.engine import Array, ResidentEngine
from lowres_seg.runtime.ordering import contiguous
from lowres_seg.runtime.requests import Requests, compiled_by, inside

# `import openvino` sends a usage event, and writes to the home folder, if it finds this package. A module that is None
# in sys.modules cannot be imported, and OpenVINO then goes without it.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
# The converter takes half of the time of the import, and the runtime converts nothing: it is imported on demand.
_CONVERTER = "openvino.tools.ovc"
_EARLY = _CONVERTER in sys.modules
sys.modules.setdefault(_CONVERTER, None)  # type: ignore[arg-type]

try:
    import openvino
    from openvino import opset13 as opset
finally:  # other code of this process may want it, also where the import was interrupted
    if not _EARLY:
        del sys.modules[_CONVERTER]


def _on_demand(name: str) -> Any:
    """Attribute of openvino that its import left out, for other code of this process."""
    if name != "convert_model":
        raise AttributeError(f"module 'openvino' has no attribute {name!r}")
    return importlib.import_module(_CONVERTER).convert_model


if not _EARLY and not hasattr(openvino, "convert_model"):
    openvino.__getattr__ = _on_demand

# The first request of OpenVINO's Python binding fills a table of dtypes. Two threads that race for it wait for each
# other for ever (2026.4). So the table is filled here, where there is one thread.
openvino.Type.f32.to_dtype()

InferencePrecision = Literal["f32", "bf16"]
#: Changes an openvino.Model in place.
Rewrite = Callable[[Any], None]


class OpenVinoEngine(ResidentEngine):
    """A network compiled for this CPU. Several threads may run it; one inference runs at a time.

    Parameters
    ----------
    network : NetworkFiles or pathlib.Path
        Its IR. A path is that of an .xml that this process wrote itself, with the .bin beside it.
    threads : int
        Number of threads.
    inference_precision : {"f32", "bf16"}
        Precision that the CPU computes in, apart from what is quantized.
    rewrite : callable, optional
        Changes the openvino.Model before it is compiled.
    cache : CompiledCache, optional
        Where the compiled network is kept.

    Raises
    ------
    EngineError
        If OpenVINO cannot read or compile the network, or this CPU does not compute in this precision.
    IntegrityError
        If a file has changed since its bundle was opened.
    """

    def __init__(
        self,
        network: NetworkFiles | Path,
        *,
        threads: int,
        inference_precision: InferencePrecision = "f32",
        rewrite: Rewrite | None = None,
        cache: CompiledCache | None = None,
    ) -> None:
        files = NetworkFiles.written(network) if isinstance(network, Path) else network
        self.masks = files.dropout
        if inference_precision == "bf16" and "BF16" not in cpu_capabilities():
            raise EngineError(
                f"{files.xml}: computes in bf16, which this CPU does not support; use a bundle in fp32 or INT8"
            )
        key = None if cache is None else _key(files, threads, inference_precision, rewrite)
        if cache is not None and key is not None:
            compiled = _kept(cache, key, files, threads, inference_precision)
            if compiled is not None:
                self._name, self._requests = str(files.xml), Requests(compiled)
                return
        model = read_graph(files)
        if rewrite is not None:
            with inside():
                rewrite(model)
        self._compile(model, str(files.xml), threads, inference_precision)
        if cache is not None and key is not None:
            stream = io.BytesIO()  # without one, 2025.0 gives bytes and 2026.4 a stream
            with inside():
                self._compiled.export_model(stream)
            cache.keep(key, stream.getvalue())

    @classmethod
    def of_model(
        cls, model: Any, *, threads: int, inference_precision: InferencePrecision = "f32", counters: bool = False
    ) -> OpenVinoEngine:
        """Compile an openvino.Model. With `counters`, `run` also measures the time of each node."""
        engine = cls.__new__(cls)
        engine._compile(  # noqa: SLF001 - its own class
            model, model.get_friendly_name(), threads, inference_precision, counters=counters
        )
        return engine

    def _compile(
        self, model: Any, name: str, threads: int, inference_precision: InferencePrecision, *, counters: bool = False
    ) -> None:
        self._name = name
        try:
            self._requests = Requests(compile_model(model, threads, inference_precision, counters=counters))
        except RuntimeError as error:
            raise EngineError(f"{name}: OpenVINO cannot compile it ({last_line(error)})") from error

    @property
    def _compiled(self) -> Any:
        return self._requests.compiled

    def counters(self) -> list[tuple[str, str, float]]:
        """Type, kernel and milliseconds of each node that the last run executed."""
        return [
            (node.node_type, node.exec_type, node.real_time.total_seconds() * 1000)
            for node in self._requests.profile()
            if node.status == openvino.ProfilingInfo.Status.EXECUTED
        ]

    def drop(self) -> None:
        """Let go what a run needs and its result does not. The next run gets it anew."""
        self._requests.drop()

    def run(self, x: Array, masks: Sequence[Array] = ()) -> Array:
        """Compute the scores (1, channels out, D, H, W) of one input (1, channels in, D, H, W).

        Without `masks` dropout is off: they are ones. The result lies in OpenVINO's memory, and stays as it is for as
        long as something refers to it.

        Raises
        ------
        EngineError
            If OpenVINO refuses the input or fails.
        """
        try:
            given = masks or [np.ones(port.shape, np.float32) for port in self._compiled.inputs[1:]]
            return self._requests.infer(contiguous(x), *given)
        except RuntimeError as error:
            raise EngineError(f"{self._name}: OpenVINO cannot run it on {x.shape} ({last_line(error)})") from error


def resize(x: Array, shape: tuple[int, int, int], *, threads: int) -> Array:
    """Resample (C, I, J, K) to (C, *shape) linearly, sampling at voxel centres, without smoothing.

    That is torch's ``trilinear`` with ``align_corners=False``.

    Raises
    ------
    EngineError
        If OpenVINO fails.
    """
    source = contiguous(x, np.float32)
    if x.shape[1:] == shape:
        return source
    try:
        return _resizer(threads).infer(source[None], np.array(shape, np.int64))[0]
    except RuntimeError as error:
        raise EngineError(f"resampling {x.shape} to {shape} failed ({last_line(error)})") from error


def read_graph(files: NetworkFiles) -> Any:
    """Read an IR as openvino.Model.

    Raises
    ------
    EngineError
        If OpenVINO cannot read it, or its input or output has another shape than the bundle says.
    IntegrityError
        If a file has changed since its bundle was opened.
    """
    xml, weights = files.read()
    try:
        with inside():
            model = core().read_model(xml, weights)
        found = _shapes(model)
    except EngineError:
        raise
    except Exception as error:  # the binding gives errors of several types for files that are damaged
        raise EngineError(f"{files.xml}: OpenVINO cannot read it ({last_line(error)})") from error
    if files.shapes is not None and found != list(files.shapes):
        told, expected = ("open sizes" if one is None else _joined(one) for one in (found, files.shapes))
        raise EngineError(
            f"{files.xml}: the network takes and gives {told[:200]}, the manifest says {expected}; "
            "export the bundle again"
        )
    return model


def write_graph(model: Any, xml: Path) -> None:
    """Write an openvino.Model as IR with its weights as they are. OpenVINO's default would round fp32 to fp16.

    OpenVINO numbers unnamed nodes in the order in which a process makes them. They are numbered anew here, in the order
    of the graph, so that the same network gives the same file in every process.
    """
    for index, node in enumerate(model.get_ordered_ops()):
        kind, _, number = node.get_friendly_name().rpartition("_")
        if number.isdigit() and kind == node.get_type_name():
            node.set_friendly_name(f"{kind}_{index}")
    openvino.save_model(model, xml, compress_to_fp16=False)


def macs(model: Any) -> int:
    """Multiply-accumulates of a network's convolutions and matrix products, borders included."""
    return sum(node_macs(node) for node in model.get_ordered_ops())


def node_macs(node: Any) -> int:
    """Multiply-accumulates of one node, borders included; 0 for a node without weights."""
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


def cpu_capabilities() -> tuple[str, ...]:
    """Precisions that this CPU computes well, as OpenVINO names them: FP32, BF16, INT8.

    OpenVINO looks at the CPU only. Its kernels also obey `host.ISA_VARIABLES`, and below AVX512-BF16 there is no BF16.
    """
    with inside():
        found = tuple(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    limit = host.instruction_set_limit() or "ALL"
    if limit.upper() in ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"):
        return tuple(name for name in found if name != "BF16")
    return found


def version() -> str:
    """Version of OpenVINO."""
    return str(openvino.__version__)


@lru_cache(maxsize=1)
def core() -> Any:
    """The openvino.Core of this process."""
    return openvino.Core()


def compile_model(model: Any, threads: int, inference_precision: InferencePrecision, *, counters: bool = False) -> Any:
    """Compile an openvino.Model for one request at a time, with every setting that matters."""
    settings = _settings(threads, inference_precision) | {"PERF_COUNT": counters}
    return compiled_by(lambda: core().compile_model(model, "CPU", settings))


def _settings(threads: int, inference_precision: InferencePrecision) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": inference_precision,
        # With pinning, all processes of a machine crowd onto the same first cores.
        "ENABLE_CPU_PINNING": False,
        # The CPU handles denormals in microcode, which makes scans with much background slow.
        "CPU_DENORMALS_OPTIMIZATION": True,
    }


def is_kept(
    cache: CompiledCache | None,
    files: NetworkFiles,
    threads: int,
    inference_precision: InferencePrecision,
    rewrite: Rewrite | None,
) -> bool:
    """Tell whether a cache has a network as it would be compiled with these settings."""
    key = None if cache is None else _key(files, threads, inference_precision, rewrite)
    return cache is not None and key is not None and cache.has(key)


def _key(
    files: NetworkFiles, threads: int, inference_precision: InferencePrecision, rewrite: Rewrite | None
) -> str | None:
    """Name of a compiled network in a cache; None for files that this process wrote itself."""
    named = "" if rewrite is None else rewrite.__qualname__
    return key_of(files, openvino=version(), threads=threads, inference_precision=inference_precision, rewrite=named)


def _kept(
    cache: CompiledCache, key: str, files: NetworkFiles, threads: int, inference_precision: InferencePrecision
) -> Any:
    """The compiled network that a cache has; None if it has none that this OpenVINO takes and the manifest fits."""
    blob = cache.read(key)
    if blob is None:
        return None
    try:
        compiled = compiled_by(lambda: core().import_model(blob, "CPU", _settings(threads, inference_precision)))
    except RuntimeError as error:
        log.debug("OpenVINO cannot take a compiled network back (%s); it is compiled anew", last_line(error))
    else:
        if files.shapes is None or _shapes(compiled) == list(files.shapes):
            return compiled
        log.info("%s: a compiled network has other shapes than the manifest says; it is compiled anew", cache.folder)
    cache.drop(key)
    return None


def _joined(shapes: Sequence[tuple[int, ...]]) -> str:
    return " → ".join("×".join(map(str, shape)) for shape in shapes)


def _shapes(model: Any) -> list[tuple[int, ...]] | None:
    """Shapes of the inputs and the first output of an openvino.Model or CompiledModel; None if one is open."""
    ports = [*model.inputs, *model.outputs[:1]]
    if not all(one.partial_shape.is_static for one in ports):
        return None
    return [tuple(one.partial_shape.get_min_shape()) for one in ports]


@lru_cache(maxsize=4)
def _resizer(threads: int) -> Requests:
    """Resampling of any shape to any shape."""
    volume, shape = opset.parameter([1, -1, -1, -1, -1], np.float32), opset.parameter([3], np.int64)
    node = opset.interpolate(
        volume,
        shape,
        mode="linear_onnx",
        shape_calculation_mode="sizes",
        axes=np.array([2, 3, 4], np.int64),
        coordinate_transformation_mode="half_pixel",
    )
    # An idle request would hold a whole scan.
    return Requests(compile_model(openvino.Model([node], [volume, shape], "resize"), threads, "f32"), kept=0)
