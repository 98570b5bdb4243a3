"""Convolutions to time: what this CPU computes in each precision, and a fixed workload to compare other times with."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np

from lowres_seg.runtime.engine import Array
from lowres_seg.runtime.openvino_engine import InferencePrecision, OpenVinoEngine, compile_model, cpu_capabilities

import openvino  # isort: skip - after openvino_engine, which keeps OpenVINO's telemetry out
from openvino import opset13 as opset  # isort: skip


def convolution_seconds(*, threads: int, rounds: int = 5, channels: int = 32, size: int = 48) -> dict[str, float]:
    """Time four 3D convolutions in each precision of this CPU, in turn, and take the fastest round of each.

    Parameters
    ----------
    threads, rounds : int
    channels, size : int
        The convolutions are 3×3×3, from `channels` to as many, on a cube of `size`³ voxels.

    Returns
    -------
    dict of str to float
        Seconds by precision: ``f32``, ``bf16`` if the CPU supports it, and ``int8``.
    """
    x = np.random.default_rng(0).random((1, channels, size, size, size), dtype=np.float32)
    precisions = ["f32", *(["bf16"] if "BF16" in cpu_capabilities() else []), "int8"]
    requests = {}
    for precision in precisions:
        hint: InferencePrecision = "bf16" if precision == "bf16" else "f32"
        model = _convolutions(channels, size, quantized=precision == "int8")
        requests[precision] = compile_model(model, threads, hint).create_infer_request()
    best = dict.fromkeys(precisions, float("inf"))
    for turn in range(rounds + 1):
        for precision, request in requests.items():
            start = perf_counter()
            request.infer([x], share_inputs=True, share_outputs=True)
            if turn:  # the first round is a warm-up
                best[precision] = min(best[precision], perf_counter() - start)
    return best


def convolution_macs(channels: int = 32, size: int = 48) -> int:
    """Multiply-accumulates of the convolutions of `convolution_seconds`, borders included."""
    return 4 * channels**2 * 27 * size**3


def fixed_workload(*, threads: int) -> tuple[OpenVinoEngine, Array]:
    """Four convolutions in f32 and their input (1, 32, 48, 48, 48), the same in every process."""
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
