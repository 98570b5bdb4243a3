from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as opset

from fakes import FakeEngine
from lowres_seg import EngineError, InputError, IntegrityError, Segmenter, Volume, host
from lowres_seg.runtime import networks, openvino_engine
from lowres_seg.runtime.exact_norms import as_one, sum_in_steps
from lowres_seg.runtime.networks import LeanEngine
from lowres_seg.runtime.openvino_engine import OpenVinoEngine, cpu_capabilities
from lowres_seg.runtime.probe import convolution_seconds
from stages import Content, bright, build, noise, predict, stage


@pytest.fixture
def xml(tiny: Path) -> Path:
    return tiny / "networks" / "net.xml"


@pytest.mark.parametrize("kind", [OpenVinoEngine, LeanEngine])
def test_runs_a_network(xml: Path, kind: type[OpenVinoEngine]) -> None:
    x = np.random.default_rng(0).random((1, 1, 16, 16, 16), dtype=np.float32)
    scores = kind(xml, threads=1, inference_precision="f32").run(x)
    right = np.concatenate([x[:, :, 1:], np.zeros_like(x[:, :, :1])], axis=2)
    assert np.allclose(scores[:, 1:], 1 / (1 + np.exp(-20 * (right - 0.5))), atol=1e-5)


def test_what_a_lean_engine_gave_outlives_it(xml: Path) -> None:
    engine = LeanEngine(xml, threads=1, inference_precision="f32")
    x = np.random.default_rng(0).random((1, 1, 16, 16, 16), dtype=np.float32)
    first = engine.run(x)
    kept = first.copy()
    for _ in range(3):
        engine.release()
        engine.run(1 - x)
    assert np.array_equal(first, kept)


def test_a_lean_engine_lets_go_of_all_but_its_result(xml: Path) -> None:
    """What a request needs beside its result is many times as large."""
    engine = LeanEngine(xml, threads=1, inference_precision="f32")
    x = np.random.default_rng(0).random((1, 1, 16, 16, 16), dtype=np.float32)
    for _ in range(2):
        result = engine.run(x)
        assert engine._engine is not None
        compiled = weakref.ref(engine._engine._compiled)
        request = engine._engine._requests._last
        assert request is not None
        assert request() is not None
        engine.release()
        assert (compiled(), request()) == (None, None)
        kept = result.copy()
        engine.run(1 - x)
        assert np.array_equal(result, kept)


def test_a_lean_engine_is_compiled_ahead_once(xml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(networks, "OpenVinoEngine", lambda *a, **k: made.append(a) or OpenVinoEngine(*a, **k))
    engine = LeanEngine(xml, threads=1, inference_precision="f32")
    x = np.random.default_rng(0).random((1, 1, 16, 16, 16), dtype=np.float32)
    expected = OpenVinoEngine(xml, threads=1).run(x)
    for count in (1, 2):
        for _ in range(3):
            engine.prepare()
        assert np.array_equal(engine.run(x), expected)
        assert len(made) == count
        engine.release()
        assert not [thread for thread in threading.enumerate() if thread.name == "lowres-seg compiles"]


def test_what_goes_wrong_ahead_is_told_when_it_runs(tmp_path: Path) -> None:
    engine = LeanEngine(tmp_path / "gone.xml", threads=1, inference_precision="f32")
    engine.prepare()
    with pytest.raises(IntegrityError, match="cannot be read"):
        engine.run(np.zeros((1, 1, 16, 16, 16), np.float32))
    engine.release()


def test_precision_and_threads_are_what_was_asked_for(xml: Path) -> None:
    engine = OpenVinoEngine(xml, threads=1, inference_precision="f32")
    assert engine._compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert engine._compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert engine._compiled.get_property("ENABLE_CPU_PINNING") is False


def test_norms_in_steps_give_the_same_with_any_number_of_threads(tmp_path: Path) -> None:
    x = opset.parameter([1, 1, 48, 48, 48], np.float32)
    kernel = np.random.default_rng(0).standard_normal((2, 1, 3, 3, 3)).astype(np.float32)
    y = opset.convolution(x, opset.constant(kernel), [1] * 3, [1] * 3, [1] * 3, [1] * 3)
    y = opset.mvn(y, np.array([2, 3, 4]), normalize_variance=True, eps=1e-5, eps_mode="inside_sqrt")
    openvino.save_model(openvino.Model([opset.relu(y)], [x], "norm"), tmp_path / "n.xml", compress_to_fp16=False)
    image = np.random.default_rng(1).random((1, 1, 48, 48, 48), dtype=np.float32) * 1000
    found: dict[bool, set[bytes]] = {}
    for in_steps in (False, True):
        rewrite = sum_in_steps if in_steps else None
        engines = [OpenVinoEngine(tmp_path / "n.xml", threads=n, rewrite=rewrite) for n in (1, 2, 3, 4)]
        found[in_steps] = {engine.run(image).tobytes() for engine in engines}
    assert len(found[True]) == 1
    if host.inspect().affinity > 1:  # OpenVINO takes no more threads than there are processors
        assert len(found[False]) > 1


def normed(shape: list[int], axes: list[int]) -> openvino.Model:
    x = opset.parameter(shape, np.float32)
    y = opset.relu(opset.multiply(x, np.float32(2)))
    y = opset.mvn(y, np.array(axes), normalize_variance=True, eps=1e-4, eps_mode="inside_sqrt")
    y.set_friendly_name("norm")
    return openvino.Model([opset.relu(y)], [x], "normed")


@pytest.mark.parametrize(
    ("shape", "axes", "back"),
    [
        ([1, 3, 20, 16, 18], [2, 3, 4], True),
        ([1, 1, 16, 16, 16], [-1, -2, -3], True),
        ([1, 3, 1, 40, 44], [2, 3, 4], False),  # a slice
        ([1, 2, 16, 16, 5000], [2, 3, 4], False),  # summed in pieces
    ],
)
def test_norms_in_steps_become_openvinos_again(shape: list[int], axes: list[int], back: bool) -> None:
    image = np.random.default_rng(1).random(shape, dtype=np.float32)
    scores = {}
    for kind in ("own", "in steps", "as one"):
        model = normed(shape, axes)
        if kind != "own":
            sum_in_steps(model)
        steps = model.clone()
        if kind == "as one":
            as_one(model)
        types = [node.get_type_name() for node in model.get_ordered_ops()]
        assert types.count("MVN") == (kind == "own" or (kind == "as one" and back))
        assert len(types) == len(steps.get_ordered_ops()) or back
        scores[kind] = OpenVinoEngine.of_model(model, threads=1).run(image)
    assert np.array_equal(scores["as one"], scores["own" if back else "in steps"])
    assert np.allclose(scores["own"], scores["in steps"], atol=1e-4)


def test_bf16_is_computed_in_bf16_or_refused(xml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "BF16" in cpu_capabilities():
        engine = OpenVinoEngine(xml, threads=1, inference_precision="bf16")
        assert engine._compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.bf16
    monkeypatch.setattr(openvino_engine, "cpu_capabilities", lambda: ("FP32", "INT8"))
    with pytest.raises(EngineError, match="computes in bf16, which this CPU does not support"):
        OpenVinoEngine(xml, threads=1, inference_precision="bf16")


def test_a_wrong_shape_is_an_engine_error_in_one_line(xml: Path) -> None:
    engine = OpenVinoEngine(xml, threads=1, inference_precision="f32")
    with pytest.raises(EngineError, match=r"cannot run it on \(1, 1, 8, 8, 8\)") as caught:
        engine.run(np.zeros((1, 1, 8, 8, 8), np.float32))
    assert "\n" not in str(caught.value)


def test_a_damaged_ir_is_an_engine_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<net")
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(EngineError, match="cannot read") as caught:
        OpenVinoEngine(tmp_path / "a.xml", threads=1, inference_precision="f32")
    assert "\n" not in str(caught.value)


def test_precisions_are_timed() -> None:
    seconds = convolution_seconds(threads=1, rounds=1)
    assert {"f32", "int8"} <= set(seconds) <= {"f32", "bf16", "int8"}
    assert all(0 < value < 60 for value in seconds.values())


BOTH_AT_ONCE = """
import sys, threading
import numpy as np
from lowres_seg.runtime.probe import fixed_workload

sys.setswitchinterval(1e-6)
both = threading.Barrier(2)


def first_run(engine, x):
    both.wait()
    engine.run(x)


threads = [threading.Thread(target=first_run, args=fixed_workload(threads=1)) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("done")
"""


@pytest.mark.parametrize("_attempt", range(3))
def test_two_threads_may_run_their_first_network_at_once(_attempt: int) -> None:
    """OpenVINO's binding fills a table at the first run, and two threads that race for it hang: see engine.py."""
    done = subprocess.run([sys.executable, "-c", BOTH_AT_ONCE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "done\n"


def test_openvinos_converter_waits_until_somebody_asks_for_it() -> None:
    code = """
import sys
import lowres_seg.runtime.openvino_engine
assert not [name for name in sys.modules if name.startswith("openvino.tools.ovc")]
import openvino
from openvino import convert_model
assert openvino.convert_model is convert_model and "openvino.tools.ovc" in sys.modules
assert not hasattr(openvino, "convert_models")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_converter_that_is_there_already_stays() -> None:
    code = "import openvino; f = openvino.convert_model; import lowres_seg.runtime.openvino_engine; assert openvino.convert_model is f"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def write_leaning(path: Path, shift: int, shape: Sequence[int]) -> Path:
    """IR of a network of two scores, of which one looks at a neighbour along the first axis."""
    x = opset.parameter([1, 1, *shape], np.float32)
    kernel = np.zeros((2, 1, 3, 1, 1), np.float32)
    kernel[0, 0, 1], kernel[1, 0, 1 + shift], kernel[1, 0, 1] = 0.9, 0.8, 0.1
    scores = opset.convolution(x, opset.constant(kernel), [1] * 3, [1, 0, 0], [1, 0, 0], [1] * 3)
    openvino.save_model(openvino.Model([scores], [x], path.stem), path, compress_to_fp16=False)
    return path


@pytest.mark.parametrize("ensemble", ["mean-scores", "mean-probabilities", "vote"])
@pytest.mark.parametrize("windows", [None, {"rules": "nnunet"}, {"rules": "monai", "overlap": 0.25}])
def test_lean_and_resident_engines_give_the_same(
    content: Content, tmp_path: Path, windows: dict[str, Any] | None, ensemble: str
) -> None:
    size = [6, 5, 8]
    one = stage(
        networks=["up", "down"],
        conform={} if windows else {"shape": size},
        windows={"roi_size": size, **windows} if windows else None,
        ensemble=ensemble,
        mirror_axes=[1],
        decode={"kind": "argmax", "labels": [0, 1], "activation": "softmax"},
        restore={"what": "labels", "interpolation": "nearest"},
    )
    manifest = build(content, one)
    xmls = [write_leaning(tmp_path / f"{name}.xml", shift, size) for name, shift in (("up", 1), ("down", -1))]
    data = noise((11, 12, 13))
    found = {}
    for kind in (OpenVinoEngine, LeanEngine):
        engines = [kind(xml, threads=1, inference_precision="f32") for xml in xmls]
        found[kind] = predict(manifest, {"only": engines}, data).labels.data
        assert kind is OpenVinoEngine or all(engine._engine is None for engine in engines)
    assert np.array_equal(found[OpenVinoEngine], found[LeanEngine])
    assert 0.05 < found[OpenVinoEngine].mean() < 0.95


def test_the_next_network_is_prepared_when_those_before_it_have_run(content: Content) -> None:
    order: list[str] = []

    def noted(name: str) -> FakeEngine:
        class Noted(FakeEngine):
            def prepare(self) -> None:
                order.append(f"prepare {name}")

            def release(self) -> None:
                order.append(f"release {name}")

        return Noted(lambda x: order.append(f"run {name}") or bright(x), lean=True)

    names = {"one": ["a", "b"], "two": ["c"], "three": ["d"]}
    shape = {"conform": {"shape": [16, 16, 16]}}
    stages = [stage(name, networks=networks, **shape) for name, networks in names.items()]
    engines = {name: [noted(network) for network in networks] for name, networks in names.items()}
    segmenter = Segmenter(build(content, *stages), engines)
    segmenter.predict(Volume.from_array(noise((16, 16, 16)), np.eye(4)))
    first = ["prepare a", "run a", "release a", "run b", "release b"]
    assert order == [*first, "prepare c", "run c", "release c", "prepare d", "run d", "release d"]
    order.clear()
    with pytest.raises(InputError):
        segmenter.predict(Volume.from_array(np.zeros((16, 16, 16)), np.eye(4)))  # nothing stays behind
    assert order == ["prepare a", "release a", "release b", "release c", "release d"]
