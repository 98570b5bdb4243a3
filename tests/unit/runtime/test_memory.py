"""What a prediction takes, and bounds on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13 as opset

from lowres_seg import InputError, Segmenter, Volume
from lowres_seg.runtime import memory
from lowres_seg.volumes.grid import Grid


def saved(path: Path, node: openvino.Node, parameter: openvino.Node) -> Path:
    openvino.save_model(openvino.Model([node], [parameter], "m"), path, compress_to_fp16=False)
    return path


def test_tensors_count_as_long_as_somebody_reads_them(tmp_path: Path) -> None:
    """In, two convolutions with a skip over both: three tensors of four channels at a time."""
    x = opset.parameter([1, 4, 8, 8, 8], np.float32)
    kernel = opset.constant(np.ones((4, 4, 3, 3, 3), np.float32))
    a = opset.relu(opset.convolution(x, kernel, [1] * 3, [1] * 3, [1] * 3, [1] * 3))
    b = opset.convolution(a, kernel, [1] * 3, [1] * 3, [1] * 3, [1] * 3)
    c = opset.concat([x, b], 1)
    found = memory.working_bytes(saved(tmp_path / "m.xml", c, x), "f32")
    tensor, weights = 4 * 4 * 8**3, 4 * 4 * 4 * 27
    assert found - weights == tensor * (1 + 1 + 2)  # x, b and the two of them together
    assert memory.working_bytes(tmp_path / "m.xml", "bf16") - weights == 2 * 4 * 8**3 * 4


def test_what_only_feeds_a_quantizer_is_a_byte(tmp_path: Path) -> None:
    x = opset.parameter([1, 4, 8, 8, 8], np.float32)
    ends = [np.float32(v) for v in (0, 1, 0, 1)]
    wide = memory.working_bytes(
        saved(
            tmp_path / "f.xml", opset.max_pool(x, [2] * 3, [1] * 3, [0] * 3, [0] * 3, [2] * 3).output(0).get_node(), x
        ),
        "f32",
    )
    x = opset.parameter([1, 4, 8, 8, 8], np.float32)
    quantized = opset.fake_quantize(x, *ends, levels=256)
    narrow = memory.working_bytes(
        saved(
            tmp_path / "q.xml",
            opset.max_pool(quantized, [2] * 3, [1] * 3, [0] * 3, [0] * 3, [2] * 3).output(0).get_node(),
            x,
        ),
        "f32",
    )
    assert narrow < wide


def test_a_larger_scan_takes_more_and_labels_as_many_bytes_as_voxels(tiny: Path) -> None:
    manifest = Segmenter.load(tiny).manifest
    sizes = [memory.of_scan(manifest, Grid((n, n, n), np.eye(4)), lean=True) for n in (32, 64, 128)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[2] - sizes[1] >= 5 * (128**3 - 64**3)


def test_a_bound_that_does_not_reach_is_refused_before_a_network_runs(tiny: Path) -> None:
    scan = Volume.from_array(np.random.default_rng(0).random((32, 32, 32), dtype=np.float32), np.eye(4))
    with pytest.raises(InputError, match=r"needs about 0\.\d GB, the bound is 0\.1 GB; raise --max-ram"):
        Segmenter.load(tiny, max_ram_bytes=10**8).predict(scan)
    bounded = Segmenter.load(tiny, max_ram_bytes=10**9).predict(scan)
    assert np.array_equal(bounded.labels.data, Segmenter.load(tiny).predict(scan).labels.data)


def test_networks_that_exceed_the_bound_alone_are_refused_at_once(tiny: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"its largest network alone needs about 0\.\d GB, the bound is 1e-09 GB; raise --max-ram or use",
    ):
        Segmenter.load(tiny, max_ram_bytes=1)


def test_networks_are_compiled_in_turn_where_the_bound_asks_for_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []
    real: Callable[..., int] = memory.of_networks

    def large(*args: object, lean: bool) -> int:
        found.append(lean)
        return real(*args, lean=lean) if lean else 10**9

    monkeypatch.setattr(memory, "of_networks", large)
    Segmenter.load(tiny, max_ram_bytes=10**9)
    assert found == [False, True]
