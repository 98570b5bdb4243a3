"""ACS convolutions in several forms: time of layers with their norms, by shape, precision and instruction set.

    .venv-dev/bin/python benchmarks/acs_layers.py [--rounds 15] [--sets native AVX2]

An ACS convolution gives a third of its output channels to each of the kernels K×K×1, K×1×K and 1×K×K. The forms have
the same numbers:

dense     one kernel K×K×K with zeros
branches  three convolutions and a Concat
widened   branches of multiples of 16 channels; the channels too many are zero, and the next layer reads them
norms     three branches, each with its own norm, activation and quantizer, and a Concat in INT8

Three layers in a row are timed, so that each reads what another one wrote. All forms of a shape take turns in one
process. Writes benchmarks/results/acs_layers.json and prints a table of ratios to dense.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as op

from lowres_seg import host
from lowres_seg.runtime.openvino_engine import OpenVinoEngine

RESULTS = Path(__file__).parent / "results" / "acs_layers.json"
#: Channels and side of the layers of an nnU-Net at 128³, from the first to the deepest.
SHAPES = ((32, 128), (32, 96), (64, 64), (64, 48), (128, 32), (256, 16), (320, 8))
PRECISIONS = ("f32", "int8")
FORMS = ("dense", "branches", "widened", "norms")
LAYERS = 3
_VECTOR = 16


def main() -> None:
    """Time every shape in a process for each instruction set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--sets", nargs="+", default=["native", "AVX2"], help="native, or a value of ONEDNN_MAX_CPU_ISA"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        for channels, side in SHAPES:
            for precision in PRECISIONS:
                print(json.dumps(timed(channels, side, precision, arguments.rounds)), flush=True)
        return
    found = []
    print(f"{'':<28}" + "".join(f"{form:>10}" for form in FORMS))
    for name in arguments.sets:
        limit = {} if name == "native" else {"ONEDNN_MAX_CPU_ISA": name}
        command = [sys.executable, __file__, "--child", "--rounds", str(arguments.rounds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | limit) as child:
            assert child.stdout is not None
            for line in child.stdout:
                row = {"set": name, **json.loads(line)}
                found.append(row)
                ratios = "".join(f"{row['ms'][form] / row['ms']['dense']:>10.2f}" for form in FORMS)
                print(f"{name:<8}{row['channels']:>4} at {row['side']:>3}³  {row['precision']:<6}{ratios}", flush=True)
        if child.returncode:
            sys.exit(child.returncode)
    machine = host.inspect()
    facts = {"cpu": machine.cpu, "threads": machine.threads, "openvino": openvino.__version__}
    RESULTS.write_text(json.dumps({**facts, "rounds": arguments.rounds, "rows": found}, indent=1) + "\n")


def timed(channels: int, side: int, precision: str, rounds: int) -> dict[str, Any]:
    """Median milliseconds of each form, which take turns; and the largest difference of a score from dense."""
    engines = {form: OpenVinoEngine.of_model(model(channels, side, precision, form), threads=2) for form in FORMS}
    x = np.random.default_rng(1).random((1, channels, side, side, side), np.float32)
    scores = {form: engine.run(x).copy() for form, engine in engines.items()}
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(rounds):
        for form, engine in engines.items():
            start = perf_counter()
            engine.run(x)
            seconds[form].append(perf_counter() - start)
    return {
        "channels": channels,
        "side": side,
        "precision": precision,
        "ms": {form: round(1000 * median(values), 2) for form, values in seconds.items()},
        "max_abs_diff": {form: float(np.abs(scores[form] - scores["dense"]).max()) for form in FORMS},
    }


def model(channels: int, side: int, precision: str, form: str) -> Any:
    """Three ACS layers and a head, with seeded weights."""
    generator = np.random.default_rng(0)
    given = op.parameter([1, channels, side, side, side], np.float32)
    y = quantized(given, 0, 1, precision)
    edges = np.cumsum([0, channels // 3, channels // 3, channels - 2 * (channels // 3)])
    parts = [slice(a, b) for a, b in pairwise(edges.tolist())]
    slots = [slice(index * wide, index * wide + (part.stop - part.start)) for index, part, wide in _slots(parts)]
    for layer in range(LAYERS):
        weights = (generator.standard_normal((channels, channels, 3, 3)) / np.sqrt(9 * channels / 2)).astype(np.float32)
        kernels = [np.expand_dims(weights[part], axis) for part, axis in zip(parts, (4, 3, 2), strict=True)]
        if form == "widened" and layer:
            kernels = [_widened_input(kernel, parts, slots) for kernel in kernels]
        if form == "dense":
            y = after(convolution(y, np.concatenate([_dense(kernel) for kernel in kernels]), precision), precision)
        elif form == "branches":
            y = after(op.concat([convolution(y, kernel, precision) for kernel in kernels], 1), precision)
        elif form == "widened":
            y = after(op.concat([convolution(y, _widened(kernel), precision) for kernel in kernels], 1), precision)
        else:
            y = op.concat([after(convolution(y, kernel, precision), precision) for kernel in kernels], 1)
    head = generator.standard_normal((1, channels, 1, 1, 1)).astype(np.float32)
    head = _widened_input(head, parts, slots) if form == "widened" else head
    return openvino.Model([convolution(y, head, precision)], [given], form)


def after(y: Any, precision: str) -> Any:
    """Norm, activation and the quantizer of the next layer."""
    y = op.mvn(y, np.array([2, 3, 4]), True, 1e-5, "inside_sqrt")
    return quantized(op.prelu(y, np.array([0.01], np.float32)), 0, 4, precision)


def quantized(y: Any, low: float, high: float, precision: str) -> Any:
    """Unsigned INT8, with one range for all channels."""
    ends = [np.float32(low), np.float32(high)] * 2
    return op.fake_quantize(y, *ends, 256) if precision == "int8" else y


def convolution(y: Any, weights: Any, precision: str) -> Any:
    """A convolution that keeps the size; in INT8 with symmetric weights and a range for each channel."""
    half = [n // 2 for n in weights.shape[2:]]
    if precision == "int8":
        high = np.maximum(np.abs(weights).max(axis=(1, 2, 3, 4), keepdims=True), np.float32(1e-3))
        weights = op.fake_quantize(op.constant(weights), -high, high, -high, high, 255)
    return op.convolution(y, weights, [1, 1, 1], half, half, [1, 1, 1])


def _dense(kernel: Any) -> Any:
    return np.pad(kernel, [(0, 0), (0, 0), *(((3 - n) // 2, (3 - n) // 2) for n in kernel.shape[2:])])


def _slots(parts: list[slice]) -> list[tuple[int, slice, int]]:
    wide = max(-(-(part.stop - part.start) // _VECTOR) * _VECTOR for part in parts)
    return [(index, part, wide) for index, part in enumerate(parts)]


def _widened(kernel: Any) -> Any:
    wide = -(-len(kernel) // _VECTOR) * _VECTOR
    return np.pad(kernel, [(0, wide - len(kernel)), *[(0, 0)] * 4])


def _widened_input(kernel: Any, parts: list[slice], slots: list[slice]) -> Any:
    wide = np.zeros((len(kernel), slots[-1].start + _slots(parts)[0][2], *kernel.shape[2:]), np.float32)
    for part, slot in zip(parts, slots, strict=True):
        wide[:, slot] = kernel[:, part]
    return wide


if __name__ == "__main__":
    main()
