"""Which runtime is off? deepbet's second network on random input, in each, against a float64 run in torch.

OpenVINO runs it with its own norms and with exact ones.

    .venv-dev/bin/python benchmarks/float64_parity.py

Needs lowres-seg[all]; about 5 GB of memory.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from lowres_seg.demo import fetch
from lowres_seg.export.frameworks import ir, onnx_graph, torch_network
from lowres_seg.runtime.openvino_engine import OpenVinoEngine

SHAPE = (1, 1, 256, 256, 256)


def main() -> None:
    """Run and print."""
    network = torch_network.load_torchscript(fetch().weights / "model.pt")
    x = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    found = {"torch": network.run(x)}
    with tempfile.TemporaryDirectory() as folder:
        onnx, xml = Path(folder) / "n.onnx", Path(folder) / "n.xml"
        network.to_onnx(onnx, SHAPE)
        found["onnxruntime"] = onnx_graph.OrtNetwork(onnx, threads=2).run(x)
        for name, exact_norms in (("openvino", False), ("exact norms", True)):
            ir.convert(network.script(SHAPE), SHAPE, xml, with_exact_norms=exact_norms)
            found[name] = OpenVinoEngine(xml, threads=2, inference_precision="f32").run(x).copy()
    with torch.inference_mode():
        exact = network.module.double()(torch.from_numpy(x).double()).numpy()
    for name, scores in found.items():
        flipped = np.count_nonzero((scores[:, 1] > 0.5) != (exact[:, 1] > 0.5))
        off = np.abs(scores - exact)
        print(f"{name:12} max {off.max():.2e}  mean {off.mean():.2e}  voxels that flip {flipped} of {x.size}")


if __name__ == "__main__":
    main()
