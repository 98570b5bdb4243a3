"""The harness: real bundles, real child processes, and faults planted in them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

from lowres_seg import BenchmarkError, InputError, MissingExtraError, Segmenter, Volume, extras, host
from lowres_seg.bench import Plan, Suite, bench
from lowres_seg.bench.backends import Subject, backend
from lowres_seg.bench.measuring.plan import cells
from lowres_seg.bench.measuring.process import Child
from lowres_seg.bench.suite import json_schema
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.cli import app
from lowres_seg.volumes.grid import Grid, Reorientation

QUICK = {"cores": (1,), "passes": 2, "rounds": 3, "warm_up": 1, "turn_s": 0, "pictures": False}


def plan(*bundles: Path, **changes: Any) -> Plan:
    return Plan.build("test", {"bundles": [{"path": path} for path in bundles], **QUICK, **changes})


@pytest.fixture
def table(tmp_path: Path, tiny: Path, lopsided: Callable[..., Volume]) -> Path:
    """A case whose label map is what the bundle itself finds."""
    scan = lopsided()
    scan.save(tmp_path / "scan.nii.gz")
    Segmenter.load(tiny, threads=1).predict(scan).labels.save(tmp_path / "label.nii.gz")
    path = tmp_path / "cases.csv"
    path.write_text("id,t1,label\none,scan.nii.gz,label.nii.gz\n", encoding="utf-8")
    return path


def test_everything_is_measured(tiny: Path, table: Path, checkout: Path, tmp_path: Path) -> None:
    suite = bench(plan(tiny, what=("network", "end-to-end", "throughput"), cases=table))
    assert [b.workload for b in suite.benchmarks] == ["network", "end-to-end", "throughput"]
    assert not suite.partial
    assert suite.timed == "case one"
    for b in suite.benchmarks:
        assert b.status == "measured"
        assert len(b.runs) == 2
        assert all(len(run.values_s) == len(run.reference_s) == 3 for run in b.runs)
        assert all(len(run.warm_up_s) == 1 for run in b.runs)
        assert b.latency_s is not None
        assert b.latency_s.min <= b.latency_s.p50 <= b.latency_s.p90 <= b.latency_s.p99
        assert b.latency_s.ci95[0] <= b.latency_s.p50 <= b.latency_s.ci95[1]
        # A process that starts Python, reads and compiles takes longer than a network of one convolution.
        assert b.cold_start_s is not None
        assert b.cold_start_s > 5 * b.latency_s.p50
        assert b.peak_rss_bytes is not None
        assert 20e6 < b.peak_rss_bytes < 2e9
        for run in b.runs:
            times, held = zip(*run.memory, strict=True)
            assert list(times) == sorted(times)
            assert 0 <= times[0] < run.cold_start_s
            assert 20e6 < max(held) <= run.peak_rss_bytes
        assert b.accuracy[0].model_dump() == {"case": "one", "region": "brain", "dice": 1.0, "hd95_mm": 0.0}
        assert any("only 6 values" in doubt for doubt in b.doubts)
    network, whole, throughput = suite.benchmarks
    assert network.macs == 16**3 * 3
    assert network.peak_share is not None
    assert 0 < network.peak_share < 1
    assert list(whole.stages_s) == ["load", "only.conform", "only.normalise", "only.network", "only.decode", "only.restore", "only.cleanup", "save"]  # fmt: skip
    assert whole.latency_s is not None
    assert sum(whole.stages_s.values()) < 1.2 * whole.latency_s.p90
    assert throughput.throughput_per_s == pytest.approx(1 / throughput.latency_s.p50)  # type: ignore[union-attr]
    assert set(suite.peaks[0].macs_per_s) >= {"f32", "int8"}
    assert suite.host.cores == host.inspect().threads
    suite.write(tmp_path / "suite.json")
    content = json.loads((tmp_path / "suite.json").read_text(encoding="utf-8"))
    jsonschema.validate(content, json.loads((checkout / "docs" / "suite.schema.json").read_text(encoding="utf-8")))
    assert Suite.read(tmp_path / "suite.json") == suite


def test_the_published_schema_is_the_code(checkout: Path) -> None:
    published = json.loads((checkout / "docs" / "suite.schema.json").read_text(encoding="utf-8"))
    assert published == json_schema()


def children(on_ask: Callable[[Child, str, Any], None]) -> type[Child]:
    """Real child processes. The function is called with the child, the word and the spec before each word is sent."""

    class Watched(Child):
        def __init__(self, spec: Any, **options: Any) -> None:
            self.spec = spec
            super().__init__(spec, **options)

        def ask(self, word: str) -> dict[str, Any]:
            on_ask(self, word, self.spec)
            return super().ask(word)

    return Watched


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, int]]:
    """Each word that the children of three bundles are sent, with the child's process and its number of cores."""
    from conftest import manifest_content, write_bundle

    folder = tmp_path_factory.mktemp("three")
    three = [write_bundle(folder / name, manifest_content()).path for name in ("tiny", "other", "third")]
    found: list[tuple[str, int, int]] = []
    watched = children(lambda child, word, _: found.append((word, child.pid, cores_of(child.pid))))
    before = cores_of(0)
    bench(plan(*three, what=("network",), passes=1, rounds=6), start_child=watched)
    assert cores_of(0) == before
    return found


def cores_of(pid: int) -> int:
    """Number of processors that a process may run on; 0 where the system does not let it choose."""
    return len(os.sched_getaffinity(pid)) if hasattr(os, "sched_getaffinity") else 0


def test_all_take_turns(asked: list[tuple[str, int, int]]) -> None:
    """In every round each process gives one value, and no round has the order of all others."""
    turns = [pid for word, pid, _ in asked if word == "go"]
    rounds = [turns[i : i + 4] for i in range(0, len(turns), 4)]
    assert len(rounds) == 6
    assert all(set(turn) == set(rounds[0]) for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 1


def test_short_values_fill_their_turn(tiny: Path) -> None:
    (only,) = bench(plan(tiny, what=("network",), passes=1, rounds=2, turn_s=0.1)).benchmarks
    assert len(only.values_s) > 10
    assert 0.15 < sum(only.values_s) < 0.5
    assert len(only.runs[0].stages_s["only.network"]) == len(only.values_s)
    assert sum(only.runs[0].reference_s) >= 0.15


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not let processes choose cores")
def test_a_child_runs_on_its_cores(asked: list[tuple[str, int, int]]) -> None:
    assert {cores for _, _, cores in asked} == {1}


@pytest.mark.parametrize("gone", [False, True], ids=["while the word is sent", "before the word is sent"])
def test_a_killed_child_is_a_result_and_the_rest_go_on(
    tiny: Path, make_bundle: Callable[..., Path], *, gone: bool
) -> None:
    def kill(child: Child, word: str, spec: Any) -> None:
        if word == "go" and spec.bundle.endswith("tiny"):
            os.kill(child.pid, signal.SIGKILL)
            if gone:
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    two = plan(tiny, make_bundle("other"), what=("network",), passes=1)
    suite = bench(two, start_child=children(kill))
    first, second = suite.benchmarks
    assert first.status == "failed"
    assert first.reason.startswith("was killed (signal 9), most likely because memory ran out")
    assert second.status == "measured"
    assert len(second.values_s) == 3
    assert suite.partial


@pytest.mark.parametrize(
    ("file", "reason"), [("net.xml", "net.xml: has changed: sha256"), ("net.bin", "net.bin: has changed: sha256")]
)
def test_a_network_that_is_swapped_after_the_check_does_not_run(tiny: Path, file: str, reason: str) -> None:
    """The bundle was opened and checked by the parent; the child compiles what it reads later."""

    class Swapping(Child):
        def __init__(self, spec: Any, **options: Any) -> None:
            if spec.task == "measure":
                (tiny / "networks" / file).write_bytes(b"<net/>")
            super().__init__(spec, **options)

    (only,) = bench(plan(tiny, what=("network",), passes=1), start_child=Swapping).benchmarks
    assert only.status == "failed"
    assert reason in only.reason


def test_a_silent_child_is_ended(tiny: Path) -> None:
    with pytest.raises(BenchmarkError, match="gave no answer within 0.01 s"):
        bench(plan(tiny, what=("network",), timeout_s=0.01))


def test_what_was_measured_is_kept_when_the_fixed_workload_ends(tiny: Path) -> None:
    """In the second pass: the first stands. In the first: there is nothing to keep, and the error is said."""
    started: list[int] = []

    def kill(child: Child, word: str, _: Any) -> None:
        if word == "go" and child.pid not in started:
            started.append(child.pid)
            if len(started) == fatal:
                os.kill(child.pid, signal.SIGKILL)

    fatal = 3  # fixed workload and network of the first pass, then the fixed workload of the second
    suite = bench(plan(tiny, what=("network",)), start_child=children(kill))
    assert suite.partial
    assert any("ended early: the fixed workload was killed" in doubt for doubt in suite.doubts)
    assert len(suite.benchmarks[0].values_s) == 3
    started.clear()
    fatal = 1
    with pytest.raises(BenchmarkError, match="the fixed workload was killed"):
        bench(plan(tiny, what=("network",)), start_child=children(kill))


def test_a_scan_in_which_a_network_sees_nothing_is_refused(
    make_bundle: Callable[..., Path], content: Callable[..., Any], tmp_path: Path
) -> None:
    first = content()["stages"][0]
    first["name"], first["decode"] = (
        "first",
        {**first["decode"], "regions": [{"channel": 1, "threshold": 2, "label": 1}]},
    )
    second = {
        **content()["stages"][0],
        "name": "second",
        "networks": ["late"],
        "region": {"kind": "box-of", "stage": "first"},
    }
    net = content()["networks"]["net"]
    late = {**net, "xml": "networks/late.xml", "bin": "networks/late.bin"}
    two = make_bundle("two", stages=[first, second], networks={"net": net, "late": late})
    with pytest.raises(BenchmarkError, match="preparing two: network late of .* sees nothing of the scan"):
        bench(plan(two, what=("network",)))


def test_an_interrupted_suite_is_marked(tiny: Path) -> None:
    calls: list[str] = []

    def interrupt(_: Child, word: str, __: Any) -> None:
        calls.append(word)
        if len(calls) > 12:
            raise KeyboardInterrupt

    suite = bench(plan(tiny, what=("network",), passes=3), start_child=children(interrupt))
    assert suite.partial
    assert any("interrupted" in doubt for doubt in suite.doubts)
    assert len(suite.benchmarks[0].runs) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cores": (4096,)}, "--cores 4096: this process may use"),
        ({"cores": (1, 1)}, "1 is there twice"),
        ({"backends": ("tensorrt",)}, "backends.0: expected one of openvino, .*torch-compile, found 'tensorrt'"),
        ({"isa": ("sse",)}, "isa.0: is 'sse', expected native, avx2"),
        ({"what": ()}, "at least 1"),
        ({"hd95": "mine"}, "hd95"),
    ],
)
def test_a_plan_that_cannot_be(tiny: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        bench(plan(tiny, **changes))


def test_an_instruction_set_this_cpu_has_not(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lowres_seg.bench.measuring.runner as runner

    old = host.inspect()
    monkeypatch.setattr(runner.host, "inspect", lambda: type(old)(**{**vars(old), "features": ("avx", "avx2")}))
    with pytest.raises(BenchmarkError, match="--isa avx512: this CPU has no avx512f"):
        bench(plan(tiny, isa=("avx512",)))


def test_two_bundles_of_one_name(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="two bundles are called tiny"):
        plan(tiny, tiny)


def test_a_case_without_a_label_is_refused(tiny: Path, table: Path) -> None:
    table.write_text("id,t1,label\none,scan.nii.gz,label.nii.gz\ntwo,scan.nii.gz,\n", encoding="utf-8")
    with pytest.raises(InputError, match="case two has no label"):
        bench(plan(tiny, cases=table))


def no_child(*_: Any, **__: Any) -> Child:
    pytest.fail("a child process was started")


def write_case(folder: Path, what: str) -> None:
    """A scan and a label map of a second case, with a fault."""
    scan, label = Volume.load(folder / "scan.nii.gz"), Volume.load(folder / "label.nii.gz")
    grey, marked, grid = scan.data.copy(), label.data.astype(np.float32), label.grid
    match what:
        case "unknown":
            marked[0, 0, 0] = 9
        case "half":
            marked[0, 0, 0] = 0.5
        case "grid":
            marked, grid = np.ones((3, 3, 3), np.float32), Grid((3, 3, 3), np.eye(4))
        case "nan":
            grey[0, 0, 0] = np.nan
        case "flat":
            grey[:] = 7
    Volume(grey, scan.grid).save(folder / "scan2.nii.gz")
    Volume(marked, grid).save(folder / "label2.nii.gz")
    if what in ("scan2", "label2"):
        file = folder / f"{what}.nii.gz"
        file.write_bytes(file.read_bytes()[:-200])
    if what == "header":
        (folder / "scan2.nii.gz").write_bytes(b"no scan")


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("unknown", r"case two: .*label2.nii.gz holds values that the bundle does not know: 9 in 1 voxel; it writes 1"),
        ("half", r"case two: .*label2.nii.gz is no label map: it holds 0.5 in 1 voxel"),
        ("grid", r"case two: .*label2.nii.gz lies on another grid than its scan"),
        ("nan", r"case two: .*scan2.nii.gz: 1 of 4096 voxels are NaN or infinite"),
        ("flat", r"case two: .*scan2.nii.gz: every voxel is 7, expected a scan with contrast"),
        ("scan2", r"case two: .*scan2.nii.gz"),
        ("label2", r"case two: .*label2.nii.gz"),
        ("header", r"case two: .*scan2.nii.gz"),
    ],
)
def test_a_fault_of_a_case_is_told_before_a_process_starts(tiny: Path, table: Path, what: str, says: str) -> None:
    write_case(table.parent, what)
    table.write_text("id,t1,label\none,scan.nii.gz,label.nii.gz\ntwo,scan2.nii.gz,label2.nii.gz\n", encoding="utf-8")
    with pytest.raises(InputError, match=says):
        bench(plan(tiny, cases=table), start_child=no_child)


def test_a_file_that_is_not_there_is_told_before_a_process_starts(tiny: Path, table: Path) -> None:
    table.write_text("id,t1,label\none,scan.nii.gz,absent.nii.gz\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"line 2, column label: .*absent.nii.gz does not exist"):
        bench(plan(tiny, cases=table), start_child=no_child)


def test_a_case_that_cannot_be_judged_leaves_no_mean(tiny: Path, table: Path) -> None:
    """Its label map changes while the networks are measured."""
    table.write_text("id,t1,label\none,scan.nii.gz,label.nii.gz\ntwo,scan.nii.gz,label2.nii.gz\n", encoding="utf-8")
    (table.parent / "label2.nii.gz").write_bytes((table.parent / "label.nii.gz").read_bytes())

    class Changing(Child):
        def __init__(self, spec: Any, **options: Any) -> None:
            if spec.task == "measure":
                small = Volume.from_array(np.ones((3, 3, 3), np.uint8), np.eye(4))
                small.save(table.parent / "label2.nii.gz", force=True)
            super().__init__(spec, **options)

    suite = bench(plan(tiny, cases=table, what=("network",), passes=1, rounds=1), start_child=Changing)
    assert suite.benchmarks[0].accuracy == ()
    assert any("case two could not be judged" in doubt for doubt in suite.benchmarks[0].doubts)
    assert suite.partial


def test_a_scan_that_calibrates_does_not_judge(tiny: Path, table: Path, lopsided: Callable[..., Volume]) -> None:
    """Not by another name, nor stored in another orientation."""
    scan = lopsided()
    there = Reorientation(scan.grid, "PIL")
    Volume(there.apply(scan.data), there.result).save(table.parent / "copy.nii.gz")
    lopsided(seed=1).save(table.parent / "other.nii.gz")
    calibrate = table.parent / "calibrate.csv"
    calibrate.write_text("id,t1\na,other.nii.gz\nb,copy.nii.gz\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"case one of .*cases\.csv is case b of .*calibrate\.csv, whatever its name"):
        bench(plan(tiny, cases=table, calibrate=calibrate))
    calibrate.write_text("id,t1\na,other.nii.gz\n", encoding="utf-8")
    suite = bench(plan(tiny, cases=table, calibrate=calibrate, what=("network",), passes=1, rounds=1))
    assert suite.calibrated_on == ("a",)
    assert not suite.partial


def test_calibration_cases_that_nothing_takes_are_refused(tiny: Path, table: Path) -> None:
    words = ["bench", str(tiny), "--calibrate", str(table), "-o", str(table.parent / "s.json")]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, BenchmarkError)
    assert str(done.exception).startswith(f"{table}: no backend is calibrated, found openvino; add onnxruntime-int8")


def test_an_extra_that_is_not_there(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "missing", lambda extra: ["torch"])
    with pytest.raises(MissingExtraError, match=r"pip install .*\[bench\]"):
        bench(plan(tiny, backends=("torch",)))


@pytest.mark.parametrize(
    ("name", "isa", "message"),
    [
        ("onnxruntime", "native", "no ONNX graph: export it with --onnx"),
        ("onnxruntime", "avx2", "cannot be limited"),
        ("onnxruntime-int8", "native", "no ONNX graph: export it with --onnx"),
        ("openvino-plain", "avx2", "no ONNX graph: export it with --onnx"),
        ("torch", "native", "name it with --recipe"),
        ("openvino", "avx2", ""),
    ],
)
def test_what_cannot_be_served(tiny: Path, name: str, isa: Any, message: str) -> None:
    reason = backend(name).reason_against(Subject(Bundle.open(tiny)), isa, ("avx2",))
    assert (message in reason) if message else reason == ""


def test_bf16_below_bf16_is_not_served(tiny: Path) -> None:
    fp32 = Bundle.open(tiny)
    stage = fp32.manifest.stages[0].model_copy(update={"inference_precision": "bf16"})
    bf16 = replace(fp32, manifest=fp32.manifest.model_copy(update={"stages": (stage,)}))
    has = ("avx2", "avx512f", "avx512_bf16")

    def reason(name: str, isa: Any, features: tuple[str, ...]) -> str:
        return backend(name).reason_against(Subject(bf16), isa, features)

    assert reason("openvino", "native", has) == ""
    assert "bf16" in reason("openvino", "avx512", has)
    assert "bf16" in reason("openvino", "native", ("avx2",))
    assert "fp32 bundle" in reason("torch", "native", has)


def test_a_recipe_of_something_else_is_refused(tiny: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("", encoding="utf-8")
    with pytest.raises(BenchmarkError, match="is not the recipe"):
        backend("torch").check(Subject(Bundle.open(tiny), recipe))
    with pytest.raises(BenchmarkError, match="does not exist, expected the recipe of tiny"):
        bench(Plan.build("test", {"bundles": [{"path": tiny, "recipe": tmp_path / "absent.toml"}]}))


def test_a_plan_file_is_relative_to_itself(tmp_path: Path) -> None:
    folder = tmp_path / "plans"
    folder.mkdir()
    file = folder / "p.toml"
    file.write_text(
        'cores = [1, 2]\nisa = ["native", "avx2"]\ncases = "c.csv"\ncalibrate = "k.csv"\n[[bundles]]\npath = "../b"\nname = "mine"\n'
        '[[bundles]]\npath = "d"\n',
        encoding="utf-8",
    )
    found = Plan.read(file)
    assert [b.name for b in found.bundles] == ["mine", "d"]
    assert found.bundles[0].path == folder / ".." / "b"
    assert found.cases == folder / "c.csv"
    assert found.calibrate == folder / "k.csv"
    assert len(list(cells(found, found.cores))) == 2 * 2 * 2 * 2
    assert [b.name for b in Plan.read(file, [{"path": tmp_path / "z"}]).bundles] == ["z"]
    file.write_text("colour = 3\n", encoding="utf-8")
    with pytest.raises(BenchmarkError, match=r"p\.toml: "):
        Plan.read(file)
    with pytest.raises(BenchmarkError, match="cannot be read"):
        Plan.read(folder / "absent.toml")


def test_the_commands(tiny: Path, tmp_path: Path) -> None:
    suite = tmp_path / "s.json"
    words = [
        "bench",
        str(tiny),
        "--cores",
        "1",
        "--what",
        "network",
        "--passes",
        "2",
        "--rounds",
        "2",
        "-o",
        str(suite),
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "of peak" in done.output
    assert "doubt: " in done.output
    assert suite.is_file()
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, InputError)
    same = CliRunner().invoke(app, ["compare", str(suite), str(suite), "--format", "json"])
    assert same.exit_code == 0
    assert json.loads(same.output)["met"] is True
    # As on a machine without noise, which this one need not be: two passes of equal values.
    content = json.loads(suite.read_text(encoding="utf-8"))
    run, _ = content["benchmarks"][0]["runs"]
    content["benchmarks"][0]["runs"] = [run, run]
    suite.write_text(json.dumps(content), encoding="utf-8")
    run["values_s"] = [1.5 * value for value in run["values_s"]]
    slower = tmp_path / "slower.json"
    slower.write_text(json.dumps(content), encoding="utf-8")
    worse = CliRunner().invoke(app, ["compare", str(suite), str(slower)])
    assert type(worse.exception).__name__ == "RegressionError"
    assert "regression: tiny, openvino f32, 1 core, network: latency" in worse.output
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("", encoding="utf-8")
    other = CliRunner().invoke(app, ["bench", str(tiny), "--recipe", str(recipe), "-o", str(tmp_path / "x.json")])
    assert "none of the bundles was exported from this recipe" in str(other.exception)
    assert CliRunner().invoke(app, ["bench", "-o", str(tmp_path / "x.json")]).exit_code == 2
    assert (
        CliRunner().invoke(app, ["bench", str(tiny), "--cores", "two", "-o", str(tmp_path / "x.json")]).exit_code == 2
    )
    assert not (tmp_path / "x.json").exists()
