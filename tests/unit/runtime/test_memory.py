"""What a prediction takes, and bounds on it."""

from __future__ import annotations

import os
import re
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import openvino
import pytest
from openvino import opset13 as opset

from fakes import FakeEngine
from lowres_seg import InputError, IntegrityError, Segmenter, Volume
from lowres_seg.bundle import NetworkFiles
from lowres_seg.cohort.jobs import list_jobs, run_jobs
from lowres_seg.runtime import memory
from lowres_seg.runtime.memory import MemoryBound
from lowres_seg.runtime.networks import LeanEngine
from lowres_seg.runtime.openvino_engine import read_graph
from lowres_seg.runtime.placement import Placement
from lowres_seg.volumes.grid import Grid
from stages import Content, build, noise, stage


def graph(node: openvino.Node, parameter: openvino.Node) -> openvino.Model:
    return openvino.Model([node], [parameter], "m")


def test_tensors_count_as_long_as_somebody_reads_them() -> None:
    """In, two convolutions with a skip over both: three tensors of four channels at a time."""
    x = opset.parameter([1, 4, 8, 8, 8], np.float32)
    kernel = opset.constant(np.ones((4, 4, 3, 3, 3), np.float32))
    a = opset.relu(opset.convolution(x, kernel, [1] * 3, [1] * 3, [1] * 3, [1] * 3))
    b = opset.convolution(a, kernel, [1] * 3, [1] * 3, [1] * 3, [1] * 3)
    model = graph(opset.concat([x, b], 1), x)
    tensor, weights = 4 * 4 * 8**3, 4 * 4 * 4 * 27
    # x, b, and the two of them together
    assert memory.working_bytes(model, "f32") == weights + tensor * (1 + 1 + 2)
    assert memory.working_bytes(model, "bf16") == weights + tensor * (1 + 1 + 2) // 2


def pooled(*, quantized: bool) -> int:
    """Bytes of two max-pools of four channels, behind a quantizer or not."""
    x = opset.parameter([1, 4, 8, 8, 8], np.float32)
    node = opset.fake_quantize(x, *[np.float32(v) for v in (0, 1, 0, 1)], levels=256) if quantized else x
    for _ in range(2):
        node = opset.max_pool(node.output(0), [1] * 3, [1] * 3, [0] * 3, [0] * 3, [1] * 3)
    model = openvino.Model([node.output(0)], [x], "m")
    return memory.working_bytes(model, "f32")


def test_what_only_feeds_a_quantizer_is_a_byte_and_stays_one_while_it_is_only_moved() -> None:
    values = 4 * 8**3
    assert pooled(quantized=False) == 2 * 4 * values  # the input of a pool and its output, four bytes each
    ends = 4 * 4  # of the quantizer's range
    assert pooled(quantized=True) == 2 * values + ends


def test_a_larger_scan_takes_more_and_labels_as_many_bytes_as_voxels(tiny: Path) -> None:
    manifest = Segmenter.load(tiny).manifest
    sizes = [memory.bytes_of_scan(manifest, Grid((n, n, n), np.eye(4)), {"net": 2}, lean=True) for n in (32, 64, 128)]
    assert sizes[0] < sizes[1] < sizes[2]
    # Of each voxel more: the scan as it was read, its region, one label map, and the masks that make it.
    assert sizes[2] - sizes[1] >= 4 * 2 * (128**3 - 64**3)


#: Stages, by what decides how much of their scores is kept: ensembles, conventions, restoring, members.
KEPT: dict[str, dict[str, Any]] = {
    "one network": {"networks": ["a"]},
    "mean of scores": {"networks": ["a", "b", "c"]},
    "mean of probabilities": {"networks": ["a", "b", "c"], "ensemble": "mean-probabilities"},
    "half precision": {"networks": ["a", "b"], "windows": {"roi_size": [16, 24, 24], "rules": "nnunet"}},
    "resampled scores": {"networks": ["a", "b"], "conform": {"spacing_mm": [1.6, 1.6, 1.6]}},
    "mirrored": {"networks": ["a"], "mirror_axes": [0, 1]},
    "votes": {
        "networks": ["a", "b"],
        "ensemble": "vote",
        "restore": {"what": "labels", "interpolation": "nearest"},
    },
    "whole volumes": {"networks": ["a", "b", "c"], "windows": None, "conform": {"shape": [40, 40, 40]}},
}


def peak_of_arrays(content: Content, case: str, heads: int, shape: Sequence[int], *, lean: bool) -> tuple[int, int]:
    """Bytes of numpy's arrays at the peak of a run, without the scan; and the estimate for the stage."""
    windows = {"roi_size": [16, 24, 24], "rules": "monai"}
    one = stage(**({"conform": {}, "windows": windows} | KEPT[case]), decode={"kind": "argmax", "labels": range(heads)})
    pipeline = build(content, one, top=heads - 1)
    scores = np.random.default_rng(1).random((heads, *pipeline.stages[0].shape), dtype=np.float32)
    engines = [FakeEngine(lambda _: scores, lean=lean, remember=False) for _ in pipeline.stages[0].networks]
    for engine in engines:
        engine.run(np.zeros((1, 1, *pipeline.stages[0].shape), np.float32))
    scan = Volume.from_array(noise(tuple(shape)), np.eye(4))
    segmenter = Segmenter(pipeline, {"only": engines}, threads=1)
    segmenter.predict(scan)  # what is made once is made now
    tracemalloc.start()
    segmenter.predict(scan)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    placement = Placement.of(pipeline.stages[0], scan.grid)
    return peak, placement.array_bytes(1, heads, in_turn=lean and len(engines) > 1)


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("case", KEPT)
def test_the_estimate_is_above_the_peak_of_a_run_and_near_it(content: Content, case: str, lean: bool) -> None:
    shape = (48, 56, 60)
    peak, estimate = peak_of_arrays(content, case, heads=6, shape=shape, lean=lean)
    labels = 4 * np.prod(shape)  # label maps and the masks that make them are counted with the scan
    assert peak - labels <= estimate
    assert estimate <= 1.6 * peak


#: A second stage, by what it takes of the first one.
SECOND: dict[str, dict[str, Any]] = {
    "an average": {"mean_with": ["first"]},
    "an average on another grid": {"mean_with": ["first"], "conform": {"pad": "zero", "spacing_mm": [1.6, 1.6, 1.6]}},
    "masks label by label": {
        "mask_channels": [{"stage": "first", "labels": [n], "interpolation": "linear"} for n in range(1, 6)],
        "conform": {"pad": "zero", "spacing_mm": [0.8, 0.8, 0.8]},
    },
}


@pytest.mark.parametrize("case", SECOND)
def test_the_estimate_covers_what_a_stage_takes_of_another(content: Content, case: str) -> None:
    heads, shape = 6, (48, 56, 60)
    common: dict[str, Any] = {
        "conform": {"pad": "zero"},
        "windows": {"roi_size": [16, 24, 24], "rules": "nnunet"},
        "decode": {"kind": "argmax", "labels": range(heads), "activation": "softmax"},
        "restore": {"activated": "after"},
    }
    pipeline = build(content, stage("first", **common), stage("second", **common | SECOND[case]), top=heads - 1)
    scores = np.random.default_rng(1).random((heads, 16, 24, 24), dtype=np.float32)
    engines = {name: [FakeEngine(lambda _: scores, remember=False)] for name in ("first", "second")}
    segmenter = Segmenter(pipeline, engines, threads=1)
    scan = Volume.from_array(noise(shape), np.eye(4))
    segmenter.predict(scan)  # what is made once is made now
    tracemalloc.start()
    segmenter.predict(scan)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    numbers = {"first-net": heads, "second-net": heads}
    estimate = memory.bytes_of_scan(pipeline, scan.grid, numbers, lean=False) - memory._BASE_BYTES
    assert peak <= estimate
    assert estimate <= 2 * peak


def test_scores_live_by_planes(content: Content) -> None:
    """ADR 8: twice as many planes take no more memory for scores, unless members run in turn."""
    heads, short, long = 12, (48, 48, 48), (96, 48, 48)
    more = np.prod(long) - np.prod(short)
    grown = {}
    for lean in (False, True):
        peaks = [peak_of_arrays(content, "mean of scores", heads, shape, lean=lean)[0] for shape in (short, long)]
        grown[lean] = (peaks[1] - peaks[0]) / more
    # Bytes of each voxel more: its input and labels; with whole sums also four bytes of each of twelve scores.
    assert grown[False] < 16
    assert grown[True] > 4 * heads


def test_a_bound_that_does_not_reach_is_refused_before_a_network_runs(tiny: Path) -> None:
    scan = Volume.from_array(np.random.default_rng(0).random((32, 32, 32), dtype=np.float32), np.eye(4))
    with pytest.raises(
        InputError, match=r"needs about \d\d0 MB, the bound is 100 MB; raise --max-ram \(max_ram_bytes\)"
    ):
        Segmenter.load(tiny, max_ram_bytes=10**8).predict(scan)
    bounded = Segmenter.load(tiny, max_ram_bytes=10**9).predict(scan)
    assert np.array_equal(bounded.labels.data, Segmenter.load(tiny).predict(scan).labels.data)


def test_a_recorded_run_keeps_the_bound(tiny: Path) -> None:
    scan = Volume.from_array(np.random.default_rng(0).random((32, 32, 32), dtype=np.float32), np.eye(4))
    with pytest.raises(InputError, match=r"the bound is 100 MB"):
        Segmenter.load(tiny, max_ram_bytes=10**8).recorded(scan)
    with pytest.raises(InputError, match=r"the bound is 100 MB"):
        Segmenter.load(tiny, max_ram_bytes=10**8).self_test()


def test_networks_that_exceed_the_bound_alone_are_refused_at_once(tiny: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"its largest network alone needs about [\d.]+ [kM]B, the bound is 1 byte; raise --max-ram \(max_ram_bytes\)",
    ):
        Segmenter.load(tiny, max_ram_bytes=1)


def test_a_need_and_a_bound_that_differ_are_told_apart(tiny: Path) -> None:
    scan = Volume.from_array(np.random.default_rng(0).random((32, 32, 32), dtype=np.float32), np.eye(4))
    segmenter = Segmenter.load(tiny, threads=1, max_ram_bytes=10**9)
    bound = segmenter.bound
    assert bound is not None
    need = bound.networks_bytes + memory.bytes_of_scan(segmenter.pipeline, scan.grid, bound.heads, lean=bound.lean)
    with pytest.raises(InputError, match="needs about") as caught:
        Segmenter.load(tiny, threads=1, max_ram_bytes=need - 1000, lean=bound.lean).predict(scan)
    found, most = re.findall(r"([\d.]+) MB", str(caught.value))
    assert float(found) > float(most)


def test_networks_are_compiled_in_turn_where_the_bound_asks_for_it(
    content: Content, make_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two networks that do not fit together, but one at a time."""
    net = content()["networks"]["net"]
    names = ("net", "other")
    networks = {name: {**net, "xml": f"networks/{name}.xml", "bin": f"networks/{name}.bin"} for name in names}
    (only,) = content()["stages"]
    bundle = make_bundle("two", stages=[{**only, "networks": list(names)}], networks=networks)
    monkeypatch.setattr(memory, "working_bytes", lambda *_: 350 * 10**6)
    lean = Segmenter.load(bundle, max_ram_bytes=10**9)
    assert all(isinstance(engine, LeanEngine) for engine in lean._engines["only"])
    resident = Segmenter.load(bundle, max_ram_bytes=4 * 10**9)
    assert not any(engine.lean for engine in resident._engines["only"])
    bound = MemoryBound.choose(lean.manifest, lean._loaded().network_files(), {}, 10**9, lean=False)
    assert bound.networks_bytes == pytest.approx(455e6)


@pytest.mark.parametrize("file", ["net.xml", "net.bin"])
def test_a_network_that_changes_after_its_bundle_was_opened_does_not_run(tiny: Path, file: str, lopsided: Any) -> None:
    """A lean engine reads its files when its turn comes, long after the digests were checked."""
    segmenter = Segmenter.load(tiny, lean=True)
    good = (tiny / "networks" / file).read_bytes()
    (tiny / "networks" / file).write_bytes(good.replace(b"0", b"1", 1) if file == "net.xml" else good[:-1] + b"\x01")
    with pytest.raises(IntegrityError, match=f"{file}: has changed: sha256"):
        segmenter.predict(lopsided())
    (tiny / "networks" / file).write_bytes(good)
    assert segmenter.predict(lopsided()).labels.data.any()


def test_a_graph_is_read_from_the_bytes_that_were_checked(tiny: Path) -> None:
    files = NetworkFiles.written(tiny / "networks" / "net.xml")
    assert read_graph(files).inputs[0].shape == openvino.Shape([1, 1, 16, 16, 16])


def test_a_scan_beyond_the_bound_is_refused_by_its_header(tiny: Path, tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((1, 1, 1), np.int16), np.eye(4))
    image.header["dim"][1:4] = 1024, 1024, 600
    image.header["vox_offset"] = 352
    scan = tmp_path / "large.nii"
    scan.write_bytes(image.header.binaryblock + bytes(4))
    os.truncate(scan, 352 + 2 * 1024 * 1024 * 600)  # a file of 1.3 GB, which holds nothing yet
    segmenter = Segmenter.load(tiny, threads=1, max_ram_bytes=10**9)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"large.nii: segmenting 1024×1024×600 voxels needs about .*--max-ram"):
        segmenter.predict(scan)
    jobs = list_jobs([str(scan)], tmp_path / "mask.nii", ["t1"], force=False, apply_mask=False)
    (outcome,) = run_jobs(segmenter, jobs, force=False)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert "--max-ram" in str(outcome.error)
