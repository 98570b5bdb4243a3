"""What the rewrites of decoders and unsigned leaky activations save: the paper's network, seeded, 1x1x128^3.

    .venv-dev/bin/python benchmarks/decoders.py
    ONEDNN_MAX_CPU_ISA=AVX2 .venv-dev/bin/python benchmarks/decoders.py

All variants take turns in one process. Scores are compared with those of the network as OpenVINO converts it, in f32,
on the input that INT8 was calibrated on. Needs lowres-seg[all].
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from suites import brainmage_network

from lowres_seg.bundle import NetworkFiles
from lowres_seg.export import rewrites
from lowres_seg.export.frameworks import ir
from lowres_seg.quantize import int8
from lowres_seg.runtime.openvino_engine import OpenVinoEngine, cpu_capabilities, read_graph

SHAPE = (1, 1, 128, 128, 128)
ROUNDS = 15
#: In the order of what they save.
STEPS = ("narrow_before_upsampling", "upsample_rows_first", "join_by_planes")
ALL, SIGNED = "… joined by planes", "… signed leaky"


def main() -> None:
    """Convert, quantize, time in turn."""
    script = traced()
    x = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = {
            label: converted(script, folder / f"{count}.xml", STEPS[:count])
            for count, label in enumerate(("as converted", "narrow first", "… by rows", "… joined by planes"))
        }
        engines = {}
        for label, xml in made.items():
            for precision in ("f32", "bf16") if "BF16" in cpu_capabilities() else ("f32",):
                engines[precision, label] = OpenVinoEngine(xml, threads=2, inference_precision=precision)
            engines["int8", label] = quantized(xml, x)
        with patch.object(int8, "_SLIGHT", -1.0):
            engines["int8", SIGNED] = quantized(made[ALL], x)
        report(engines, x)


def traced() -> Any:
    """The network of BrainMaGe's recipe."""
    torch.manual_seed(0)
    with torch.no_grad():
        return torch.jit.trace(brainmage_network().eval(), torch.zeros(SHAPE))


def converted(script: Any, xml: Path, steps: tuple[str, ...]) -> Path:
    """IR with some of the rewrites."""
    with ExitStack() as stack:
        for left_out in set(STEPS) - set(steps):
            stack.enter_context(patch.object(rewrites, left_out, id))
        ir.convert(script, SHAPE, xml)
    return xml


def quantized(xml: Path, x: np.ndarray[Any, Any]) -> OpenVinoEngine:
    """INT8 of an IR, compiled."""
    graph = read_graph(NetworkFiles.written(xml))
    model = int8.quantize_network("brain", graph, [x], preset="performance", reverted=(), max_ram_bytes=16 << 30)
    target = xml.with_name(f"{xml.stem}-{int8._SLIGHT}-int8.xml")  # noqa: SLF001 - it is what is varied
    int8.save(model, target)
    return OpenVinoEngine(target, threads=2, inference_precision="f32")


def report(engines: dict[tuple[str, str], OpenVinoEngine], x: np.ndarray[Any, Any]) -> None:
    """Print a table."""
    expected = engines["f32", "as converted"].run(x).copy()
    off = {key: float(np.abs(engine.run(x) - expected).mean()) for key, engine in engines.items()}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in engines}
    for _ in range(ROUNDS):
        for key, engine in engines.items():
            start = perf_counter()
            engine.run(x)
            seconds[key].append(perf_counter() - start)
    print("| | | ms | f32 as fast | mean difference |\n|---|---|---|---|---|")
    for key in sorted(engines, key=lambda k: ("f32", "bf16", "int8").index(k[0])):
        precision, label = key
        like = median(seconds["f32", ALL if label == SIGNED else label])
        mine = median(seconds[key])
        print(f"| {precision} | {label} | {1000 * mine:.0f} | {like / mine:.2f} | {off[key]:.2g} |")


if __name__ == "__main__":
    main()
