"""Where the time of a bundle's networks goes: milliseconds by kind of kernel, and of the slowest nodes.

    .venv-dev/bin/python benchmarks/counters.py BUNDLE [--runs 9] [--nodes 8]

Each network runs on seeded noise of its own input shape. Counters are OpenVINO's, the median of the runs. The last line
compares the rate of its convolutions with that of plain ones, as `bench` measures the peak of this CPU.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np

from lowres_seg import Bundle, host
from lowres_seg.runtime import probe
from lowres_seg.runtime.openvino_engine import OpenVinoEngine, macs, read_graph


def main() -> None:
    """Count the time of each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--nodes", type=int, default=8)
    arguments = parser.parse_args()
    bundle, threads = Bundle.open(arguments.bundle), host.inspect().threads
    for name, files in bundle.network_files().items():
        shape = bundle.manifest.networks[name].input_shape
        model = read_graph(files)
        engine = OpenVinoEngine.of_model(model, threads=threads, counters=True)
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        engine.run(x)
        runs = []
        for _ in range(arguments.runs):
            engine.run(x)
            runs.append(engine.counters())
        nodes = [(kind, kernel, median(run[at][2] for run in runs)) for at, (kind, kernel, _) in enumerate(runs[0])]
        total = sum(ms for _, _, ms in nodes)
        print(f"{name}: {total:.0f} ms on {threads} threads")
        kinds: dict[str, float] = defaultdict(float)
        for kind, kernel, ms in nodes:
            kinds[f"{kind}, {kernel}"] += ms
        for key, ms in sorted(kinds.items(), key=lambda item: -item[1])[: arguments.nodes]:
            print(f"  {key:<44}{ms:9.1f} ms  {ms / total:6.1%}")
        for kind, kernel, ms in sorted(nodes, key=lambda node: -node[2])[: arguments.nodes]:
            print(f"    one {kind}, {kernel:<36}{ms:9.1f} ms")
        convolved = sum(ms for kind, _, ms in nodes if "Convolution" in kind)
        rate = 2 * macs(model) / convolved / 1e6
        precision = "int8" if bundle.manifest.networks[name].precision == "int8" else "f32"
        peak = 2 * probe.convolution_macs() / probe.convolution_seconds(threads=threads)[precision] / 1e9
        print(f"  convolutions: {rate:.0f} billion operations a second; plain 3×3×3 ones in {precision}: {peak:.0f}")


if __name__ == "__main__":
    main()
