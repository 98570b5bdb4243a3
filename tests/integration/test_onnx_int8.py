"""ONNX Runtime's own INT8 as a backend of the harness, and the graphs that it makes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_static

from lowres_seg import Bundle, IntegrityError, QuantizationError, Segmenter
from lowres_seg.bench import Plan, Suite, bench, compare
from lowres_seg.bench.backends import Subject, backend
from lowres_seg.bench.measuring import tasks
from lowres_seg.bench.measuring.process import Child
from lowres_seg.bench.spec import Spec
from lowres_seg.bench.suite import Accuracy
from lowres_seg.bundle.bundle import file_sha256
from lowres_seg.cohort import Cases
from lowres_seg.export import export, phantom
from lowres_seg.export.frameworks import onnx_int8
from lowres_seg.export.frameworks.onnx_graph import OrtNetwork

from .conftest import RECIPES, factory

NAME = "onnxruntime-int8"
SIDE = 32
RECIPE = RECIPES / "unet" / "recipe.toml"


@pytest.fixture(scope="module", params=["batch", "instance"])
def unet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MONAI's U-Net as ONNX: with norms that fold into convolutions, and with norms that do not."""
    path = tmp_path_factory.mktemp("unet") / "f32.onnx"
    write(path, SIDE, request.param, torch.rand(1, 1, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    return path


def write(path: Path, side: int, norm: str, x: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = factory(RECIPE)(norm).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x,), path, dynamo=True, external_data=False, verbose=False)


def inputs(number: int = 3, side: int = SIDE) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((1, 1, side, side, side), dtype=np.float32) * (n + 1) for n in range(number)]


def made(graph: Path, target: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {"name": "net", "reduce_range": False, "threads": 2, **changes}
    onnx_int8.quantized(graph.read_bytes(), inputs(), target, **settings)
    return target


def initializers(path: Path) -> dict[str, np.ndarray]:
    """Constants of a graph, by the names that they had before it was quantized."""
    return {one.name.replace("_constant", ""): numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


def test_a_graph_is_the_one_that_a_users_own_call_gives(unet: Path, tmp_path: Path) -> None:
    """With every activation kept until the end of a run, as ONNX Runtime comes."""

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(inputs())

        def get_next(self) -> dict[str, np.ndarray] | None:
            x = next(self.left, None)
            return None if x is None else {onnx.load(unet).graph.input[0].name: x}

    mine = made(unet, tmp_path / "mine.onnx")
    quant_pre_process(str(unet), str(tmp_path / "prepared.onnx"))
    quantize_static(
        str(tmp_path / "prepared.onnx"), str(tmp_path / "theirs.onnx"), Reader(), quant_format=QuantFormat.QDQ,
        per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    found, expected = initializers(mine), initializers(tmp_path / "theirs.onnx")
    assert found.keys() == expected.keys()
    assert len([name for name in found if name.endswith("_scale")]) > 40
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    x = inputs()[1]
    scores = OrtNetwork(mine, threads=2).run(x)
    np.testing.assert_allclose(scores, OrtNetwork(tmp_path / "theirs.onnx", threads=2).run(x), atol=1e-5)


def test_scores_are_near_those_of_f32_and_others(unet: Path, tmp_path: Path) -> None:
    mine = made(unet, tmp_path / "q.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.onnx"]
    for x in inputs():
        f32 = OrtNetwork(unet, threads=2).run(x)
        int8 = OrtNetwork(mine, threads=2).run(x)
        assert int8.shape == f32.shape
        off = np.abs(int8 - f32).max() / np.ptp(f32)
        assert 1e-5 < off < 0.15


def test_most_convolutions_run_in_int8(unet: Path, tmp_path: Path) -> None:
    """In the graph that ONNX Runtime itself says it runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "runs.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(made(unet, tmp_path / "q.onnx"), options, providers=["CPUExecutionProvider"])
    before = Counter(node.op_type for node in onnx.load(unet).graph.node)
    runs = Counter(node.op_type for node in onnx.load(tmp_path / "runs.onnx").graph.node)
    assert before["Conv"] == 19
    assert runs["QLinearConv"] > before["Conv"] / 2
    assert runs["QLinearConv"] + runs["Conv"] + runs["FusedConv"] == before["Conv"]


def test_layers_may_share_a_bias(tmp_path: Path) -> None:
    """ONNX Runtime copies it, and names the first copy ``bias0``, which is an activation here."""
    rng = np.random.default_rng(0)
    kernels = [
        rng.normal(0, 0.2, shape).astype(np.float32) for shape in ((4, 1, 3, 3, 3), (4, 4, 3, 3, 3), (4, 4, 3, 3, 3))
    ]
    steps = ["x", *(f"bias{n}" for n in range(len(kernels)))]
    shapes = [(1, 1, SIDE, SIDE, SIDE), *[(1, 4, SIDE, SIDE, SIDE)] * len(kernels)]
    values = [helper.make_tensor_value_info(step, 1, shape) for step, shape in zip(steps, shapes, strict=True)]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [steps[n], f"k{n}", "bias"], [steps[n + 1]], pads=[1] * 6, name=f"conv{n}")
            for n in range(len(kernels))
        ],
        "shared", [values[0]], [values[-1]],
        [
            *(numpy_helper.from_array(kernel, f"k{n}") for n, kernel in enumerate(kernels)),
            numpy_helper.from_array(rng.normal(0, 1, 4).astype(np.float32), "bias"),
        ],
    )  # fmt: skip
    f32 = tmp_path / "f32.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), f32)
    mine = made(f32, tmp_path / "q.onnx")
    x = inputs()[1]
    expected = OrtNetwork(f32, threads=2).run(x)
    assert np.abs(OrtNetwork(mine, threads=2).run(x) - expected).max() < 0.1 * np.ptp(expected)


def test_weights_keep_to_seven_bits_where_it_is_asked(unet: Path, tmp_path: Path) -> None:
    def largest(path: Path) -> int:
        return max(int(np.abs(v.astype(int)).max()) for v in initializers(path).values() if v.dtype == np.int8)

    assert largest(made(unet, tmp_path / "8.onnx")) == 127
    assert 60 < largest(made(unet, tmp_path / "7.onnx", reduce_range=True)) <= 64


def test_a_graph_that_cannot_be_quantized_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="network net: ONNX Runtime cannot quantize it") as found:
        onnx_int8.quantized(b"no graph", inputs(), tmp_path / "q.onnx", name="net", reduce_range=False, threads=1)
    assert "\n" not in str(found.value)
    assert list(tmp_path.iterdir()) == []


def test_activations_are_dropped_while_ranges_are_found(tmp_path: Path) -> None:
    """Kept until the end of a run, as by default, they take 28 times the largest of them."""
    side = 64
    write(tmp_path / "f32.onnx", side, "instance", torch.zeros(1, 1, side, side, side))
    code = f"""if True:
        import sys
        from pathlib import Path
        import numpy as np
        from lowres_seg.export.frameworks import onnx_int8
        from lowres_seg.host import peak_rss_bytes
        x = np.random.default_rng(0).random((1, 1, {side}, {side}, {side}), dtype=np.float32)
        graph = Path(sys.argv[1]).read_bytes()
        before = peak_rss_bytes()
        onnx_int8.quantized(graph, [x] * 4, Path(sys.argv[2]), name="net", reduce_range=False, threads=2)
        print(peak_rss_bytes() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "f32.onnx", tmp_path / "q.onnx"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    largest = 16 * side**3 * 4  # the concatenation at full size
    assert int(done.stdout) < 12 * largest, f"{int(done.stdout) / largest:.1f} times the largest activation"


@dataclass(frozen=True)
class Place:
    """A bundle with an ONNX graph, two labelled cases and one to calibrate on; and the suite of that."""

    bundle: Path
    cases: Path
    calibrate: Path
    suite: Suite


QUICK: dict[str, Any] = {"what": ["network"], "cores": [1], "passes": 1, "rounds": 1, "warm_up": 0, "turn_s": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    network = factory(RECIPE)().eval()
    with torch.no_grad():  # so that about half of the voxels of a head lie on either side
        head = torch.from_numpy(phantom.head((32, 32, 32), 6.0).data.astype("float32") / 800)[None, None]
        network.final_conv.bias[1] += 0.5 - network(head)[:, 1].median()
    torch.save(network.state_dict(), folder / "unet.pt")
    bundle = export(RECIPE, folder / "unet", weights=folder, keep_onnx=True).path
    segmenter = Segmenter.load(bundle, threads=2)
    for number in range(3):
        scan = phantom.head((40, 44, 36), 5.0, seed=number)
        scan.save(folder / f"head-{number}.nii.gz")
        segmenter.predict(scan).labels.save(folder / f"label-{number}.nii.gz")
    rows = [f"case-{n},head-{n}.nii.gz,label-{n}.nii.gz" for n in range(2)]
    cases, calibrate = folder / "cases.csv", folder / "calibrate.csv"
    cases.write_text("\n".join(["id,t1,label", *rows]) + "\n", encoding="utf-8")
    calibrate.write_text("t1\nhead-2.nii.gz\n", encoding="utf-8")
    content = {"bundles": [{"path": bundle}], "backends": [NAME], "cases": cases, "calibrate": calibrate, **QUICK}
    said: list[str] = []
    suite = bench(Plan.build("test", content), notify=said.append)
    assert said.count(f"quantizing unet for {NAME}") == 1
    return Place(bundle, cases, calibrate, suite)


def test_a_unet_is_judged_in_int8(place: Place) -> None:
    """Against the mask of fp32. Its weights are random, so much of a head lies near the threshold."""
    assert not place.suite.partial
    (one,) = place.suite.benchmarks
    assert (one.status, one.shown_precision) == ("measured", "int8")
    assert [row.case for row in one.accuracy] == ["case-0", "case-1"]
    assert all(0.8 < row.dice < 0.999 for row in one.accuracy)


@pytest.fixture(scope="module")
def graphs(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Spec:
    """What a child is told that judges the first case, with the graphs that the task `quantize` made."""
    subject = Subject(Bundle.open(place.bundle))
    spec = Spec(
        "quantize", str(place.bundle), NAME, threads=2, folder=str(tmp_path_factory.mktemp("graphs")), has_vnni=True,
        networks=backend(NAME).networks(subject),
        calibrate=[{"id": case.id, "scan": {"t1": str(case.scan["t1"])}} for case in Cases.read(place.calibrate, ["t1"])],
    )  # fmt: skip
    networks = tasks.quantize(spec)["networks"]
    first = next(iter(Cases.read(place.cases, ["t1"])))
    case = {"id": first.id, "label": str(first.label), "hd95": "max-directed", "ignore": [], "pictures": False}
    return replace(spec, task="judge", networks=networks, scan={"t1": str(first.scan["t1"])}, case=case)


def test_ranges_four_times_too_wide_are_caught_by_dice(place: Place, graphs: Spec, tmp_path: Path) -> None:
    suite = place.suite

    def judged(spec: Spec) -> Suite:
        """The suite, if the first case had come out as this graph segments it."""
        rows = [
            Accuracy(case="case-0", region=region, dice=score[0], hd95_mm=score[1])
            for region, score in tasks.judge(spec)["scores"].items()
        ]
        ones = [
            b.model_copy(update={"accuracy": (*rows, *b.accuracy[1:])}) if b.backend == NAME and b.accuracy else b
            for b in suite.benchmarks
        ]
        return suite.model_copy(update={"benchmarks": tuple(ones)})

    assert compare(suite, judged(graphs), what=("accuracy",)).met
    faulty = onnx.load(graphs.networks["net"]["path"])
    for one in faulty.graph.initializer:
        if one.name.endswith("_scale"):
            one.CopyFrom(numpy_helper.from_array(4 * numpy_helper.to_array(one), one.name))
    onnx.save(faulty, tmp_path / "net.onnx")
    planted = {"net": {"path": str(tmp_path / "net.onnx"), "sha256": file_sha256(tmp_path / "net.onnx")}}
    found = compare(suite, judged(replace(graphs, networks=planted)), what=("accuracy",))
    assert any(NAME in line and "Dice" in line for line in found.regressions), found.regressions


def test_a_graph_that_changed_after_it_was_made_does_not_run(graphs: Spec, tmp_path: Path) -> None:
    copy = shutil.copy(graphs.networks["net"]["path"], tmp_path)
    Path(copy).write_bytes(Path(copy).read_bytes() + b" ")
    swapped = replace(graphs, networks={"net": {**graphs.networks["net"], "path": str(copy)}})
    with pytest.raises(IntegrityError, match=r"net\.onnx: has changed"):
        backend(NAME).load(swapped)


def test_calibration_that_is_killed_is_a_result(place: Place) -> None:
    """As by a system that runs out of memory: the others go on."""

    class Killed(Child):
        def __init__(self, spec: Spec, **options: Any) -> None:
            super().__init__(spec, **options)
            if spec.task == "quantize":
                os.kill(self.pid, signal.SIGKILL)

    content = {
        "bundles": [{"path": place.bundle}],
        "backends": ["openvino", NAME],
        "calibrate": place.calibrate,
        **QUICK,
    }
    suite = bench(Plan.build("test", content), start_child=Killed)
    assert [(b.backend, b.status) for b in suite.benchmarks] == [("openvino", "measured"), (NAME, "failed")]
    assert suite.partial
    (gap,) = suite.gaps()
    assert f"failed, {NAME} could not quantize it: was killed (signal 9)" in gap
