"""What it gives to compute in bf16 what stays between INT8 convolutions: norms, upsampling, joins.

    .venv-dev/bin/python benchmarks/between_int8.py BUNDLE... [--runs 9]

Such layers read and write f32, so their time is that of the memory. Each INT8 network runs on seeded noise of its own
input shape, with the rest in f32 and in bf16, in turn. The last column is the mean difference of its scores from those
of the fp32 bundle, if that is given with --fp32 (as often and in the order of the bundles), in units of their standard
deviation.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from lowres_seg import Bundle, host
from lowres_seg.runtime.openvino_engine import OpenVinoEngine, read_graph


def main() -> None:
    """Print a line for each network."""
    parser = argparse.ArgumentParser(description="bf16 between INT8 convolutions.")
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--fp32", type=Path, nargs="*", default=[], metavar="BUNDLE")
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    threads = host.inspect().threads
    for place, path in enumerate(arguments.bundles):
        bundle = Bundle.open(path)
        exact = Bundle.open(arguments.fp32[place]).network_files() if place < len(arguments.fp32) else {}
        for name, files in bundle.network_files().items():
            x = np.random.default_rng(0).standard_normal(bundle.manifest.networks[name].input_shape).astype(np.float32)
            engines = {
                rest: OpenVinoEngine.of_model(read_graph(files), threads=threads, inference_precision=rest)
                for rest in ("f32", "bf16")
            }
            wanted = OpenVinoEngine.of_model(read_graph(exact[name]), threads=threads).run(x) if name in exact else None
            off = {}
            for rest, engine in engines.items():
                found = engine.run(x)  # also warms it up
                off[rest] = float("nan") if wanted is None else np.abs(found - wanted).mean() / wanted.std()
            times: dict[str, list[float]] = {rest: [] for rest in engines}
            for _ in range(arguments.runs):
                for rest, engine in engines.items():
                    start = perf_counter()
                    engine.run(x)
                    times[rest].append(perf_counter() - start)
            ratio = median(b / a for a, b in zip(times["f32"], times["bf16"], strict=True))
            print(
                f"{path.name} {name}: rest in f32 {1000 * median(times['f32']):.0f} ms, in bf16 "
                f"{1000 * median(times['bf16']):.0f} ms, ratio {ratio:.2f}; off {off['f32']:.4f}, {off['bf16']:.4f}"
            )


if __name__ == "__main__":
    main()
