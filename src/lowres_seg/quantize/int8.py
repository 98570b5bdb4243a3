"""One network in INT8: calibrated by NNCF, within a bound of memory. This is the home of NNCF.

Quantization inserts a FakeQuantize before each operator that is to compute in INT8. A **layer** here is such an
operator. It is **reverted** when it gets its original input and weights back.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.dropout import DropoutMask
from lowres_seg.errors import QuantizationError, one_line
from lowres_seg.quantize.norm_nodes import NORMS, nodes_of_norms
from lowres_seg.quantize.settings import Preset
from lowres_seg.runtime import openvino_engine  # before OpenVINO and NNCF, whose telemetry it keeps out
from lowres_seg.runtime.sampling import drawn

import nncf  # isort: skip
import openvino  # isort: skip
from openvino._offline_transformations import compress_quantize_weights_transformation  # isort: skip

Array = NDArray[np.float32]
#: The version of NNCF whose private method `_few_points_at_a_time` replaces.
NNCF_VERSION = "3.4"


def check_version(installed: str) -> None:
    """Check that NNCF is the version that this module was written for.

    Raises
    ------
    QuantizationError
        If it is another one.
    """
    if installed.split(".")[:2] != NNCF_VERSION.split("."):
        raise QuantizationError(
            f"NNCF {installed} is installed, INT8 needs {NNCF_VERSION}: pip install 'nncf=={NNCF_VERSION}.*'"
        )


check_version(nncf.__version__)
# Modules that are private to this version.
from nncf.common import factory  # noqa: E402
from nncf.common.tensor_statistics.statistic_point import StatisticPointsContainer  # noqa: E402
from nncf.openvino.quantization.backend_parameters import BackendParameters  # noqa: E402
from nncf.openvino.statistics.aggregator import OVStatisticsAggregator  # noqa: E402
from nncf.quantization.range_estimator import RangeEstimatorParameters, RangeEstimatorParametersSet  # noqa: E402

#: Ranges that hold every value of the calibration scans.
_LARGEST = RangeEstimatorParametersSet.MINMAX
#: Memory of a pass that gathers statistics, in units of the network's largest tensor: for the network itself, and for
#: each point at which statistics are gathered. Larger than measured: see the peak in docs/results.md.
_PASS, _POINT = 4.0, 1.4
#: Largest negative slope of a leaky activation whose values below zero fit into two steps of a signed INT8 range.
_SLIGHT = 0.015
#: Memory of the process before any network runs.
_BASE_BYTES = 700 << 20


@dataclass(frozen=True)
class Layer:
    """An operator that computes in INT8.

    Attributes
    ----------
    name, type : str
    saved_ms : float
        Milliseconds that INT8 saves on it. Estimated by a roofline and not measured, so that the search is the same on
        every run.
    """

    name: str
    type: str
    saved_ms: float


def needed_bytes(model: Any) -> int:
    """Least memory in which the statistics of a network can be gathered."""
    return _BASE_BYTES + int((_PASS + _POINT) * _largest_tensor(model))


def quantize_network(
    name: str,
    model: Any,
    inputs: Sequence[Array],
    *,
    preset: Preset,
    reverted: Sequence[str],
    max_ram_bytes: int,
    dropout: Sequence[DropoutMask] = (),
    classifies: bool = False,
) -> Any:
    """Quantize all layers of a network but those in `reverted`.

    Parameters
    ----------
    name : str
        Of the network, for messages.
    model : openvino.Model
        In fp32.
    inputs : sequence of (1, C, D, H, W) ndarray
        Inputs that the runtime gives it.
    preset : {"performance", "mixed"}
        NNCF's: symmetric activations, or asymmetric ones.
    reverted : sequence of str
        Names of operators that keep their precision.
    max_ram_bytes : int
        Bound on the memory of the process while statistics are gathered.
    dropout : sequence of DropoutMask
        Masks that the network takes behind its input. They are drawn, as they are when it runs.
    classifies : bool
        The network ends in a mean over all voxels, which keeps what a voxel's label would not show. Then ranges are the
        largest of the calibration scans, because NNCF's mean over them cuts a bright class off. And biases stay: NNCF
        compares means of channels on a constant input, which a padding borders otherwise than a head.

    Returns
    -------
    openvino.Model
        With fp32 weights behind FakeQuantize; `save` compresses them.

    Raises
    ------
    QuantizationError
        If NNCF fails.
    """
    points = max(1, int(((max_ram_bytes - _BASE_BYTES) / _largest_tensor(model) - _PASS) / _POINT))
    parameters = nncf.AdvancedQuantizationParameters(
        # A bundle runs on other CPUs too. Without VNNI, sums of two products saturate at 16 bits unless weights keep to
        # 7 bits.
        overflow_fix=nncf.OverflowFix.ENABLE,
        disable_bias_correction=classifies,
        activations_range_estimator_params=_LARGEST if classifies else RangeEstimatorParameters(),
        backend_params={BackendParameters.COMPRESS_WEIGHTS: False},
    )
    kept = {*reverted, *_interpolations(model), *nodes_of_norms(model)}
    ignored = nncf.IgnoredScope(names=sorted(kept), types=list(NORMS), validate=False)
    try:
        with _quiet(), _few_points_at_a_time(points):
            quantized = nncf.quantize(
                model,
                nncf.Dataset([[x, *drawn(dropout, [place])] if dropout else x for place, x in enumerate(inputs)]),
                preset=nncf.QuantizationPreset(preset),
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(inputs),
                ignored_scope=ignored,
                advanced_parameters=parameters,
            )
    except (RuntimeError, ValueError, nncf.InternalError, nncf.ValidationError) as error:
        raise QuantizationError(f"network {name}: NNCF cannot quantize it ({one_line(error)})") from error
    _make_slight_leaks_unsigned(quantized)
    return quantized


def save(model: Any, xml: Path) -> None:
    """Write a quantized network with its weights in INT8."""
    compressed = model.clone()
    compress_quantize_weights_transformation(compressed)
    openvino_engine.write_graph(compressed, xml)


def layers(model: Any) -> list[Layer]:
    """Layers of a quantized network in the order in which they run."""
    return [
        Layer(node.get_friendly_name(), node.get_type_name(), _saved_ms(node))
        for node in model.get_ordered_ops()
        if _data_quantizers(node) or _has_quantized_weights(node)
    ]


def without(model: Any, names: Sequence[str]) -> Any:
    """Copy of a quantized network with the quantizers before the named layers bypassed.

    This is cheaper than quantizing again, and nearly the same: good enough to rank layers by.
    """
    copy = model.clone()
    for node in copy.get_ops():
        if node.get_friendly_name() in names:
            for port in _quantized_ports(node):
                quantizer = node.input_value(port).get_node()
                node.input(port).replace_source_output(quantizer.input_value(0))
            # The input of the layer may have been quantized further up, before a Concat for example, for this layer
            # alone.
            source = node.input_value(0).get_node()
            for reader, port in _origins(source) if _has_one_reader(source) else []:
                quantizer = reader.input_value(port).get_node()
                if quantizer.get_type_name() == "FakeQuantize":
                    reader.input(port).replace_source_output(quantizer.input_value(0))
    copy.validate_nodes_and_infer_types()
    return copy


def reshaped(model: Any, shape: Sequence[int]) -> Any:
    """Copy of a network for inputs of another shape; None if it has none."""
    copy = model.clone()
    try:
        copy.reshape(list(shape))
    except RuntimeError:
        return None
    return copy


def versions() -> dict[str, str]:
    """Versions of NNCF and OpenVINO."""
    return {"nncf": str(nncf.__version__), "openvino": openvino_engine.version()}


def _largest_tensor(model: Any) -> int:
    """Bytes of the largest activation of a network in f32."""
    return max(
        4 * int(np.prod(output.shape))
        for node in model.get_ops()
        if node.get_type_name() != "Constant"
        for output in node.outputs()
        if output.partial_shape.is_static
    )


def _quantized_ports(node: Any) -> list[int]:
    """Input ports of a node behind a FakeQuantize."""
    if node.get_type_name() in ("FakeQuantize", "Result", "ShapeOf"):
        return []
    kinds = [node.input_value(port).get_node().get_type_name() for port in range(node.get_input_size())]
    return [port for port, kind in enumerate(kinds) if kind == "FakeQuantize"]


def _data_quantizers(node: Any) -> list[int]:
    """Input ports of a node with quantized activations. Weights are quantized constants."""
    return [
        port
        for port in _quantized_ports(node)
        if node.input_value(port).get_node().input_value(0).get_node().get_type_name() != "Constant"
    ]


def _has_quantized_weights(node: Any) -> bool:
    """True if a node has quantized weights. Its input may then be quantized further up, before a Concat for example."""
    kind = node.get_type_name()
    return ("Convolution" in kind or kind == "MatMul") and 1 in _quantized_ports(node)


def _has_one_reader(source: Any) -> bool:
    """True if one node alone reads what a passing node passes on, and the same holds for the passing nodes above it."""
    readers = [port.get_node().get_type_name() for port in source.output(0).get_target_inputs()]
    if source.get_type_name() not in _PASSING or len(readers) - readers.count("ShapeOf") != 1:
        return False
    above = (source.input_value(port).get_node() for port in _data_ports(source))
    return all(_has_one_reader(node) for node in above if node.get_type_name() in _PASSING)


def _origins(source: Any) -> list[tuple[Any, int]]:
    """Nodes and input ports through which values enter a chain of passing nodes that ends in `source`."""
    found = []
    for port in _data_ports(source):
        above = source.input_value(port).get_node()
        found += _origins(above) if above.get_type_name() in _PASSING else [(source, port)]
    return found


def _data_ports(node: Any) -> range:
    """Input ports whose values a passing node passes on."""
    return range(node.get_input_size() if node.get_type_name() == "Concat" else 1)


def _interpolations(model: Any) -> list[str]:
    """Names of the interpolations that are not by nearest. OpenVINO computes them in f32 in any case."""
    return [
        node.get_friendly_name()
        for node in model.get_ops()
        if node.get_type_name() == "Interpolate" and node.get_attributes()["mode"] != "nearest"
    ]


def _make_slight_leaks_unsigned(model: Any) -> None:
    """Give activations with a near-zero negative slope an unsigned range.

    A signed range spends half of its codes on values below zero, and rounds most of them to zero. With an unsigned
    range the steps above zero are half as wide, and convolutions have no zero point to correct, which makes them a few
    percent faster. The inputs of a Concat need one range, so they change together or not at all.
    """
    slight = {
        node.get_friendly_name(): node
        for node in model.get_ordered_ops()
        if node.get_type_name() == "FakeQuantize" and _has_signed_slight_leak(node)
    }
    joins = [
        [reader.input_value(port).get_node() for reader, port in _origins(node)]
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Concat"
    ]
    for _ in joins:  # two Concats may share an input, so that keeping one of its inputs keeps those of the other
        for sources in joins:
            names = [source.get_friendly_name() for source in sources]
            if not all(name in slight for name in names):
                for name in names:
                    slight.pop(name, None)
    for node in slight.values():
        for port in (1, 3):
            zero = openvino.op.Constant(np.zeros(node.input_value(port).get_node().data.shape, np.float32))
            node.input(port).replace_source_output(zero.output(0))


def _has_signed_slight_leak(quantizer: Any) -> bool:
    """True if a PReLU with a near-zero negative slope was given a symmetric (signed) range."""
    activation = quantizer.input_value(0).get_node()
    if activation.get_type_name() != "PRelu":
        return False
    slope = activation.input_value(1).get_node()
    low, high = (quantizer.input_value(port).get_node().data for port in (1, 2))
    return (
        slope.get_type_name() == "Constant"
        and bool((slope.data >= 0).all() and (slope.data <= _SLIGHT).all())
        and low.size == high.size == 1
        and bool(np.isclose(-low.item(), high.item(), rtol=0.02))
    )


#: Passing nodes: their output holds values of their input, quantized if the input is.
_PASSING = ("Concat", "Interpolate", "MaxPool", "Reshape", "Slice", "StridedSlice", "Transpose")
#: Nominal speed of one core per second: multiply-accumulates in f32 and in INT8, and bytes of memory.
_MACS_F32, _MACS_INT8, _BYTES = 30e9, 120e9, 5e9


def _saved_ms(node: Any) -> float:
    """Milliseconds saved, by a roofline: faster multiply-accumulates, and an input of one byte a value, not four."""
    read = int(np.prod(node.input_value(0).shape))
    macs = openvino_engine.node_macs(node) if "Convolution" in node.get_type_name() else 0
    return 1000 * (macs * (1 / _MACS_F32 - 1 / _MACS_INT8) + 3 * read / _BYTES)


@contextmanager
def _few_points_at_a_time(points: int) -> Iterator[None]:
    """Make NNCF gather statistics in several passes, each over at most `points` tensors.

    In one pass OpenVINO keeps every tensor that statistics are taken of until the end: 26 layers of 15 channels at 256³
    take 51 GB. Several passes gather the same statistics.
    """

    def collect(self: Any, model: Any, graph: Any) -> None:
        if not self.statistic_points:
            return
        self._name_to_node_mapping = {op.get_friendly_name(): op for op in model.get_ops()}
        merged = self._get_merged_statistic_points(self.statistic_points, model, graph)
        every = [point for group in merged.data.values() for point in group]
        own = {end.get_friendly_name() for end in model.get_results()}
        for start in range(0, len(every), points):
            part = StatisticPointsContainer()
            for point in every[start : start + points]:
                part.add_statistic_point(point)
            layout = self._get_transformation_layout_extra_outputs(part)
            whole = factory.ModelTransformerFactory.create(model).transform(layout)
            # Without the network's own result, the nodes behind the statistics are left out.
            ends = [end for end in whole.get_results() if end.get_friendly_name() not in own]
            runner = factory.EngineFactory.create(openvino.Model(ends, whole.get_parameters(), "statistics"))
            for item in self.dataset.get_inference_data():
                self._register_statistics(self._process_outputs(runner.infer(item)), part)
            del runner

    original = OVStatisticsAggregator.collect_statistics
    OVStatisticsAggregator.collect_statistics = collect
    try:
        yield
    finally:
        OVStatisticsAggregator.collect_statistics = original


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence NNCF's messages and progress bars."""
    level = logging.getLogger("nncf").level
    nncf.set_log_level(logging.ERROR)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        nncf.set_log_level(level or logging.INFO)
