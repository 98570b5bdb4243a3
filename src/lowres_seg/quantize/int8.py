"""One network in INT8: calibrated by NNCF, within a bound of memory. This is the home of NNCF.

Quantization inserts a FakeQuantize before each operator that is to compute in INT8. A **layer** here is such an
operator; it is **reverted** when it gets its original input and weights back.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lowres_seg.errors import QuantizationError
from lowres_seg.runtime import engine  # before OpenVINO and NNCF: it keeps their usage events out

import nncf  # isort: skip
import openvino  # isort: skip
from nncf.common import factory  # isort: skip
from nncf.common.tensor_statistics.statistic_point import StatisticPointsContainer  # isort: skip
from nncf.openvino.quantization.backend_parameters import BackendParameters  # isort: skip
from nncf.openvino.statistics.aggregator import OVStatisticsAggregator  # isort: skip
from openvino._offline_transformations import compress_quantize_weights_transformation  # isort: skip

Preset = Literal["performance", "mixed"]
Array = NDArray[np.float32]
#: Memory of a pass that gathers statistics, in units of the network's largest tensor: what the network itself
#: takes, and what each point at which statistics are gathered adds. Cautious: see the peak in docs/quantize.md.
_PASS, _POINT = 4.0, 1.4
#: Norms keep their input in f32. They compute in f32 whatever they read, so INT8 saves them reading time alone, and
#: it costs more agreement than all of the convolutions (docs/adr/0005-norms-keep-f32.md).
NORMS = ("MVN", "GroupNormalization")
#: A leaky activation with at most this slope leaves less below zero than two steps of a signed INT8 range.
_SLIGHT = 0.015
#: Of the process before any network runs.
_BASE_BYTES = 700 << 20


@dataclass(frozen=True)
class Layer:
    """An operator that computes in INT8.

    Attributes
    ----------
    name, type : str
    saved_ms : float
        What INT8 saves on it, by a roofline and not by the clock, so that the search is the same on every run.
    """

    name: str
    type: str
    saved_ms: float


def needed_bytes(xml: Path) -> int:
    """Least memory in which the statistics of a network can be gathered."""
    return _BASE_BYTES + int((_PASS + _POINT) * _largest_tensor(_read(xml)))


def quantize_network(
    xml: Path, inputs: Sequence[Array], *, preset: Preset, reverted: Sequence[str], max_ram_bytes: int
) -> Any:
    """Quantize a network, all layers but those in `reverted`.

    Parameters
    ----------
    xml : pathlib.Path
        IR in fp32.
    inputs : sequence of (1, C, D, H, W) ndarray
        What the runtime feeds it.
    preset : {"performance", "mixed"}
        NNCF's: symmetric activations, or asymmetric ones.
    reverted : sequence of str
        Names of operators that keep their precision.
    max_ram_bytes : int
        Bound on the memory of the process while statistics are gathered.

    Returns
    -------
    openvino.Model
        With fp32 weights behind FakeQuantize; `save` compresses them.

    Raises
    ------
    QuantizationError
        If NNCF fails.
    """
    model = _read(xml)
    points = max(1, int(((max_ram_bytes - _BASE_BYTES) / _largest_tensor(model) - _PASS) / _POINT))
    parameters = nncf.AdvancedQuantizationParameters(
        # A bundle travels: on CPUs without VNNI pairs of products saturate at 16 bits unless weights keep to 7.
        overflow_fix=nncf.OverflowFix.ENABLE,
        backend_params={BackendParameters.COMPRESS_WEIGHTS: False},
    )
    ignored = nncf.IgnoredScope(names=sorted({*reverted, *_interpolations(model)}), types=list(NORMS), validate=False)
    try:
        with _quiet(), _few_points_at_a_time(points):
            quantized = nncf.quantize(
                model,
                nncf.Dataset(list(inputs)),
                preset=nncf.QuantizationPreset(preset),
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(inputs),
                ignored_scope=ignored,
                advanced_parameters=parameters,
            )
    except (RuntimeError, ValueError, nncf.InternalError, nncf.ValidationError) as error:
        reason = " ".join(str(error).split())[:300]
        raise QuantizationError(f"network {xml.stem}: NNCF cannot quantize it ({reason})") from error
    _spend_codes_above_zero(quantized)
    return quantized


def save(model: Any, xml: Path) -> None:
    """Write a quantized network with its weights in INT8."""
    compressed = model.clone()
    compress_quantize_weights_transformation(compressed)
    engine.write_ir(compressed, xml)


def layers(model: Any) -> list[Layer]:
    """Layers of a quantized network, in the order in which they run."""
    return [
        Layer(node.get_friendly_name(), node.get_type_name(), _saved_ms(node))
        for node in model.get_ordered_ops()
        if _data_quantizers(node) or _has_quantized_weights(node)
    ]


def norms(model: Any) -> list[str]:
    """Names of the norms, which are not quantized."""
    return [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() in NORMS]


def without(model: Any, names: Sequence[str]) -> Any:
    """Copy of a quantized network in which the named layers read what their quantizers read.

    Cheaper than quantizing again, and nearly the same; good enough to rank layers by.
    """
    copy = model.clone()
    for node in copy.get_ops():
        if node.get_friendly_name() in names:
            for port in _quantized_ports(node):
                quantizer = node.input_value(port).get_node()
                node.input(port).replace_source_output(quantizer.input_value(0))
            # What it reads may have been quantized before it was put together, for it alone.
            source = node.input_value(0).get_node()
            for reader, port in _handed_on(source) if _is_for_one(source) else []:
                quantizer = reader.input_value(port).get_node()
                if quantizer.get_type_name() == "FakeQuantize":
                    reader.input(port).replace_source_output(quantizer.input_value(0))
    copy.validate_nodes_and_infer_types()
    return copy


def read(xml: Path) -> Any:
    """Network of an IR."""
    return _read(xml)


def reshaped(model: Any, shape: Sequence[int]) -> Any:
    """Copy of a network for inputs of another shape; None if it cannot be."""
    copy = model.clone()
    try:
        copy.reshape(list(shape))
    except RuntimeError:
        return None
    return copy


def versions() -> dict[str, str]:
    """Versions of NNCF and OpenVINO."""
    return {"nncf": str(nncf.__version__), "openvino": engine.version()}


def _read(xml: Path) -> Any:
    return openvino.Core().read_model(xml)


def _largest_tensor(model: Any) -> int:
    """Bytes of the largest activation in f32."""
    return max(
        4 * int(np.prod(output.shape))
        for node in model.get_ops()
        if node.get_type_name() != "Constant"
        for output in node.outputs()
        if output.partial_shape.is_static
    )


def _quantized_ports(node: Any) -> list[int]:
    if node.get_type_name() in ("FakeQuantize", "Result"):
        return []
    kinds = [node.input_value(port).get_node().get_type_name() for port in range(node.get_input_size())]
    return [port for port, kind in enumerate(kinds) if kind == "FakeQuantize"]


def _data_quantizers(node: Any) -> list[int]:
    """Ports at which a node reads quantized activations; weights are quantized constants."""
    return [
        port
        for port in _quantized_ports(node)
        if node.input_value(port).get_node().input_value(0).get_node().get_type_name() != "Constant"
    ]


def _has_quantized_weights(node: Any) -> bool:
    """Whether a node computes in INT8 though what it reads was quantized further up, before a Concat, say."""
    kind = node.get_type_name()
    return ("Convolution" in kind or kind == "MatMul") and 1 in _quantized_ports(node)


def _is_for_one(source: Any) -> bool:
    """Whether a node hands on what it reads, and all on the way is read by one alone."""
    readers = [port.get_node().get_type_name() for port in source.output(0).get_target_inputs()]
    if source.get_type_name() not in _PASSING or len(readers) - readers.count("ShapeOf") != 1:
        return False
    above = (source.input_value(port).get_node() for port in _data_ports(source))
    return all(_is_for_one(node) for node in above if node.get_type_name() in _PASSING)


def _handed_on(source: Any) -> list[tuple[Any, int]]:
    """What a node hands on was put together from: the ports, its own or further up, that read something new."""
    found = []
    for port in _data_ports(source):
        above = source.input_value(port).get_node()
        found += _handed_on(above) if above.get_type_name() in _PASSING else [(source, port)]
    return found


def _data_ports(node: Any) -> range:
    """Ports at which a node reads what it hands on."""
    return range(node.get_input_size() if node.get_type_name() == "Concat" else 1)


def _interpolations(model: Any) -> list[str]:
    """Names of the interpolations that compute, in f32 whatever they read; those that pick the nearest do not."""
    return [
        node.get_friendly_name()
        for node in model.get_ops()
        if node.get_type_name() == "Interpolate" and node.get_attributes()["mode"] != "nearest"
    ]


def _spend_codes_above_zero(model: Any) -> None:
    """Give all codes of a slightly leaky activation to what is above zero.

    A signed range spends half of its codes on the one hundredth of it that the activation leaves below zero, and
    rounds most of that to zero all the same. Unsigned, steps above zero are half as wide, and convolutions are a few
    percent faster, as they have no zero point to make up for. A Concat needs one range for all that it joins, so what
    it reads changes together or stays as it is.
    """
    slight = {
        node.get_friendly_name(): node
        for node in model.get_ordered_ops()
        if node.get_type_name() == "FakeQuantize" and _quantizes_slight_leak(node)
    }
    joins = [
        [reader.input_value(port).get_node() for reader, port in _handed_on(node)]
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Concat"
    ]
    for _ in joins:  # one may be read by two, so that what keeps one of them as it is keeps the other
        for sources in joins:
            names = [source.get_friendly_name() for source in sources]
            if not all(name in slight for name in names):
                for name in names:
                    slight.pop(name, None)
    for node in slight.values():
        for port in (1, 3):
            zero = openvino.op.Constant(np.zeros(node.input_value(port).get_node().data.shape, np.float32))
            node.input(port).replace_source_output(zero.output(0))


def _quantizes_slight_leak(quantizer: Any) -> bool:
    """Whether it gives an activation with next to nothing below zero a range that is as wide below as above."""
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


#: Nodes that hand on what they read: quantized if that was.
_PASSING = ("Concat", "Interpolate", "MaxPool", "Reshape", "Slice", "StridedSlice", "Transpose")
#: Nominal speed of one core: multiply-accumulates in f32 and INT8, and bytes of memory, each per second.
_MACS_F32, _MACS_INT8, _BYTES = 30e9, 120e9, 5e9


def _saved_ms(node: Any) -> float:
    """Roofline: work at the speed of each precision, plus its input read in one byte a value and not four."""
    read = int(np.prod(node.input_value(0).shape))
    macs = engine.node_macs(node) if "Convolution" in node.get_type_name() else 0
    return 1000 * (macs * (1 / _MACS_F32 - 1 / _MACS_INT8) + 3 * read / _BYTES)


@contextmanager
def _few_points_at_a_time(points: int) -> Iterator[None]:
    """Let NNCF gather statistics in several passes.

    In one pass, OpenVINO keeps every tensor that statistics are taken of until the end: 26 layers of 15 channels
    at 256³ want 51 GB. Passes over a few points each gather the very same statistics.
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
            # Only as far as the statistics need: without the network's own result, what lies behind them goes.
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
    """Keep NNCF's notes and bars off the user's screen; the command that runs this has its own."""
    level = logging.getLogger("nncf").level
    nncf.set_log_level(logging.ERROR)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        nncf.set_log_level(level or logging.INFO)
