"""One network in INT8 by NNCF."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as opset

from lowres_seg import QuantizationError
from lowres_seg.quantize import int8
from lowres_seg.runtime.openvino_engine import OpenVinoEngine


def test_a_convolution_behind_a_concat_is_a_layer_and_can_be_reverted() -> None:
    """Its input is quantized before the Concat, where nothing reads it but the Concat."""
    rng = np.random.default_rng(0)
    x = opset.parameter([1, 2, 8, 8, 8], np.float32)

    def convolution(node: openvino.Node, channels: tuple[int, int], name: str) -> openvino.Node:
        kernel = opset.constant(rng.normal(0, 0.2, (*channels, 3, 3, 3)).astype(np.float32))
        made = opset.convolution(node, kernel, [1] * 3, [1] * 3, [1] * 3, [1] * 3)
        made.set_friendly_name(name)
        return made

    both = opset.concat([opset.relu(convolution(x, (4, 2), name)) for name in ("left", "right")], 1)
    last = convolution(both, (2, 8), "last")
    full = openvino.Model([last], [x], "m")
    inputs = [rng.standard_normal((1, 2, 8, 8, 8), dtype=np.float32)]

    def quantized(*reverted: str) -> Any:
        return int8.quantize_network(
            "net", full.clone(), inputs, preset="performance", reverted=reverted, max_ram_bytes=4 << 30
        )

    names = [layer.name for layer in int8.layers(quantized())]
    assert {"left", "right", "last"} <= set(names)
    assert int8.layers(quantized(*names)) == []
    plain = quantized()
    lost = [np.abs(scores(int8.without(plain, n), inputs[0]) - scores(full, inputs[0])).max() for n in ([], names)]
    assert lost[1] < 1e-5 < lost[0]


def scores(model: Any, x: np.ndarray) -> np.ndarray:
    return OpenVinoEngine.of_model(model, threads=1).run(x).copy()


def test_another_version_of_nncf_is_named() -> None:
    """A private method of NNCF is replaced, so the version must be the one that it is replaced in."""
    int8.check_version("3.4.0")
    for other in ("3.3.1", "3.5.0", "4.0"):
        with pytest.raises(QuantizationError, match=rf"NNCF {other} is installed, INT8 needs 3\.4: pip install"):
            int8.check_version(other)
    code = "import nncf; nncf.__version__ = '9.9'; import lowres_seg.quantize.int8"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith("pip install 'nncf==3.4.*'")
