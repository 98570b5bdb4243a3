"""Bundles that classify, made without torch, and scans whose mean decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lowres_seg import Bundle, Manifest, Segmenter, Volume
from lowres_seg import bundle as bundles
from lowres_seg.bundle import NetworkFiles
from lowres_seg.runtime.networks import compile_networks

# After openvino_engine, which keeps OpenVINO's telemetry out. That forks this process for every conversion.
import openvino  # isort: skip
from openvino import opset13 as opset  # isort: skip

SIDE = 16


def scan(level: float, seed: int = 0) -> Volume:
    """Noise of a mean: the score of the last class is gain·(mean - 0.5), those of the others are 0."""
    noise = np.random.default_rng(seed).uniform(-0.1, 0.1, (SIDE, SIDE, SIDE)).astype(np.float32)
    return Volume.from_array(level + noise - noise.mean(), np.eye(4))


def network(path: Path, classes: int, gain: float = 8.0) -> None:
    """IR of a convolution whose mean is the scores (1, classes, 1, 1, 1)."""
    x = opset.parameter([1, 1, SIDE, SIDE, SIDE], np.float32, name="input")
    kernel = np.zeros((classes, 1, 1, 1, 1), np.float32)
    kernel[-1] = gain
    scores = opset.reduce_mean(opset.convolution(x, opset.constant(kernel), [1] * 3, [0] * 3, [0] * 3, [1] * 3),
                               np.array([2, 3, 4]), keep_dims=True)  # fmt: skip
    middle = np.zeros((1, classes, 1, 1, 1), np.float32)
    middle[0, -1] = gain / 2
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(openvino.Model([opset.subtract(scores, middle)], [x], "grader"), path, compress_to_fp16=False)


def write(folder: Path, content: dict[str, Any], names: Sequence[str] = ("low", "high"), gain: float = 8.0) -> Bundle:
    """A bundle that classifies among some names; of a single one by a sigmoid."""
    only = {
        "name": "only",
        "networks": ["net"],
        "conform": {"orientation": "RAS", "shape": [SIDE] * 3},
        "decode": {"kind": "classes", "activation": "softmax" if len(names) > 1 else "sigmoid", "names": list(names)},
        "restore": {"what": "nothing"},
    }
    content |= {"schema_version": 2, "labels": [], "stages": [only]}
    content["networks"]["net"]["output_shape"] = [1, len(names), 1, 1, 1]
    network(folder / "networks" / "net.xml", len(names), gain)
    content["files"] = {**bundles.digests(folder), "reference.npz": "0" * 64}
    draft = Manifest.model_validate(content)
    files = {"net": NetworkFiles.written(folder / "networks" / "net.xml")}
    segmenter = Segmenter(draft, compile_networks(draft, files, threads=1), threads=1)
    segmenter.record_reference({"t1": scan(0.6)}, folder / "reference.npz")
    content["files"] = bundles.digests(folder)
    (folder / "manifest.json").write_text(Manifest.model_validate(content).to_json(), encoding="utf-8")
    return Bundle.open(folder)
