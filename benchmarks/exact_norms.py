"""What norms that sum in steps cost and give: error against float64 torch, and time, beside OpenVINO's own norms.

    .venv-dev/bin/python benchmarks/exact_norms.py [--threads 2]

The networks are MONAI's, with seeded weights. Both graphs are of one trace, and take turns in one process, in f32.
Needs lowres-seg[all].
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from monai.networks.nets import SegResNet, UNet

from lowres_seg.export.frameworks import ir
from lowres_seg.export.frameworks.torch_network import TorchNetwork
from lowres_seg.runtime import exact_norms
from lowres_seg.runtime.openvino_engine import OpenVinoEngine

warnings.simplefilter("ignore")
SEGRESNET = {"init_filters": 16, "in_channels": 4, "out_channels": 3, "blocks_down": [1, 2, 2, 4], "blocks_up": [1] * 3}


def unet() -> torch.nn.Module:
    """A UNet with instance norms."""
    return UNet(3, 1, 2, (16, 32, 64, 128), (2, 2, 2), num_res_units=2)


NETWORKS = {
    "UNet, instance norm, 96³": (unet, (1, 1, 96, 96, 96)),
    "UNet, instance norm, 160³": (unet, (1, 1, 160, 160, 160)),
    "SegResNet, group norm, 96³": (lambda: SegResNet(**SEGRESNET), (1, 4, 96, 96, 96)),
    "SegResNet, group norm, 160×160×128": (lambda: SegResNet(**SEGRESNET), (1, 4, 160, 160, 128)),
}


def main() -> None:
    """Compare each network, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    in_steps = exact_norms.sum_in_steps
    print("| network | torch f32 | OpenVINO's norms | norms in steps | time in steps / OpenVINO's |")
    print("|---|---|---|---|---|")
    for title, (build, shape) in NETWORKS.items():
        torch.manual_seed(0)
        network = TorchNetwork(build().eval(), 0)
        x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        exact, scores = network.run_in_double(x), network.run(x)
        with tempfile.TemporaryDirectory() as folder:
            engines = []
            for name, rewrite in (("own", lambda _: None), ("steps", in_steps)):
                exact_norms.sum_in_steps = rewrite
                ir.convert(network.script(shape), shape, Path(folder) / f"{name}.xml")
                engines.append(OpenVinoEngine(Path(folder) / f"{name}.xml", threads=threads, inference_precision="f32"))
            errors = [np.abs(scores - exact).max(), *(np.abs(engine.run(x) - exact).max() for engine in engines)]
            seconds: list[list[float]] = [[], []]
            for _ in range(7):
                for taken, engine in zip(seconds, engines, strict=True):
                    start = perf_counter()
                    engine.run(x)
                    taken.append(perf_counter() - start)
        own, steps = map(median, seconds)
        shares = " | ".join(f"{error / np.ptp(exact):.1e}" for error in errors)
        print(f"| {title} | {shares} | {steps / own:.2f} |", flush=True)


if __name__ == "__main__":
    main()
