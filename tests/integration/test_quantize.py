"""`lowres-seg quantize`, as a user runs it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from lowres_seg import Bundle, Segmenter, Volume
from lowres_seg.export import export, phantom
from lowres_seg.metrics.agreement import dice
from lowres_seg.quantize import int8
from lowres_seg.runtime.openvino_engine import read_graph
from lowres_seg.volumes.grid import Reorientation

from .conftest import RECIPES, Command, Tiny, factory, run


@dataclass(frozen=True)
class Outlier:
    """The bundle of a network that plain INT8 ruins, and phantom heads."""

    folder: Path
    bundle: Path

    def table(self, name: str, *rows: str) -> Path:
        path = self.folder / f"{name}.csv"
        path.write_text("\n".join(["id,t1,label", *rows]) + "\n")
        return path


@pytest.fixture(scope="session")
def outlier(tmp_path_factory: pytest.TempPathFactory) -> Outlier:
    folder = tmp_path_factory.mktemp("outlier")
    recipe = RECIPES / "outlier" / "recipe.toml"
    torch.save(factory(recipe, "state")(), folder / "outlier.pt")
    export(recipe, folder / "fp32", weights=folder)
    for seed in range(5):
        head = phantom.head((64, 64, 64), 3.4, seed=seed)
        Volume(np.roll(head.data, seed, axis=1), head.grid).save(folder / f"h{seed}.nii.gz")
    mask = Segmenter.load(folder / "fp32").predict(folder / "h2.nii.gz").labels
    mask.save(folder / "h2_label.nii.gz")
    made = Outlier(folder, folder / "fp32")
    made.table("cal", "h0,h0.nii.gz,", "h1,h1.nii.gz,")
    made.table("val", "h2,h2.nii.gz,h2_label.nii.gz", "h3,h3.nii.gz,")
    return made


def words(outlier: Outlier, target: Path, *more: object, cal: str = "cal", val: str = "val") -> list[object]:
    tables = ["--calibrate", outlier.folder / f"{cal}.csv", "--validate", outlier.folder / f"{val}.csv"]
    return ["quantize", outlier.bundle, *tables, "-o", target, *more]


@pytest.fixture(scope="session")
def repaired(outlier: Outlier) -> Path:
    target = outlier.folder / "int8"
    done = run(*words(outlier, target))
    assert done.returncode == 0, done.stderr
    return target


def test_a_pipe_gets_a_line_for_each_step_and_a_table_of_80_columns(outlier: Outlier, tmp_path: Path) -> None:
    done = run(*words(outlier, tmp_path / "int8", "--max-drop", 1, "--max-hd95-rise", 1000))
    assert done.returncode == 0, done.stderr
    steps = done.stderr.splitlines()
    assert steps[0] == "reading h0"
    assert "preparing 2 calibration scans" in steps
    assert "segmenting case 2 of 2 in fp32" in steps
    assert "measuring the speed" in steps
    shown = done.stdout.splitlines()
    assert shown[0].split() == ["Dice", "fp32", "Dice", "drop", "HD95", "fp32", "HD95", "rise"]
    assert max(map(len, shown[: shown.index("") + 3])) <= 80
    assert any("× the speed of f32, which takes" in line for line in shown)
    quiet = run(*words(outlier, tmp_path / "quiet", "--max-drop", 1, "--max-hd95-rise", 1000, "-q"))
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def report(bundle: Path) -> dict:
    return json.loads((bundle / "reports" / "quantize.json").read_text())


def test_a_ruined_network_is_brought_back_by_few_layers(repaired: Path) -> None:
    found = report(repaired)
    assert found["attempts"][0]["reverted"] == []
    assert found["attempts"][0]["labels"]["brain"]["mean_drop"] > 0.05
    assert found["result"]["labels"]["brain"]["mean_drop"] <= 0.005
    reverted = [layer["layer"] for layer in found["layers"] if layer["precision"] == "fp32"]
    assert any("second" in name for name in reverted)
    assert len(reverted) <= 2
    assert sum(layer["precision"] == "int8" for layer in found["layers"]) >= 7


def test_the_bundle_is_int8_and_segments_as_the_report_says(outlier: Outlier, repaired: Path) -> None:
    assert run("verify", repaired).returncode == 0
    bundle = Bundle.open(repaired)
    assert bundle.manifest.lineage.parent == Bundle.open(outlier.bundle).digest
    row = next(row for row in report(repaired)["result"]["cases"] if row["case"] == "h3")
    a, b = (
        Segmenter.load(path).predict(outlier.folder / "h3.nii.gz").labels.data for path in (outlier.bundle, repaired)
    )
    assert dice(a > 0, b > 0) == pytest.approx(row["dice"])


def test_the_report_says_what_each_case_was_judged_against(repaired: Path) -> None:
    cases = report(repaired)["result"]["cases"]
    assert [(row["case"], row["against"], row["dice_fp32"]) for row in cases] == [
        ("h2", "labels", 1),
        ("h3", "fp32", 1),
    ]
    assert "h2" in (repaired / "reports" / "quantize.txt").read_text()


def test_what_varies_is_not_in_the_digest(repaired: Path) -> None:
    volatile = json.loads((repaired / "reports" / "run.json").read_text())
    assert volatile["seconds"] > 0
    assert set(volatile["gain"]["net"]["latency_s"]) >= {"f32", "candidate"}
    assert "reports/run.json" not in Bundle.open(repaired).manifest.files


def test_killed_three_times_and_resumed_it_gives_the_same_bundle(
    outlier: Outlier, repaired: Path, tmp_path: Path
) -> None:
    target = tmp_path / "int8"
    command = [sys.executable, "-m", "lowres_seg", *map(str, words(outlier, target, "--resume"))]
    journal = tmp_path / ".int8.quantize" / "journal.jsonl"
    moments = random.Random(0)
    # at a random moment after it wrote down its parameters, one fp32 mask, and two scores
    for lines in (1, 2, 5):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while child.poll() is None and not (journal.exists() and journal.read_text().count("\n") >= lines):
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.3))
        child.kill()
        assert child.wait() != 0
        assert not target.exists()
    remembered = journal.read_text()
    done = run(*words(outlier, target, "--resume"))
    assert done.returncode == 0, done.stderr
    assert "scores" in remembered
    assert Bundle.open(target).digest == Bundle.open(repaired).digest
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".int8.")] == ["int8"]


def test_a_run_that_lacked_time_goes_on_from_what_it_has(outlier: Outlier, repaired: Path, tmp_path: Path) -> None:
    target = tmp_path / "int8"
    first = run(*words(outlier, target, "--time-budget", "0.5s"))
    assert first.returncode in (1, 3)
    assert "--resume" in first.stderr
    journal = tmp_path / ".int8.quantize" / "journal.jsonl"
    before = journal.read_text()
    assert '"fp32 h2"' in before
    assert not target.exists()
    assert run(*words(outlier, target, "--resume")).returncode == 0
    assert Bundle.open(target).digest == Bundle.open(repaired).digest


def test_if_nothing_keeps_the_limits_there_is_a_table_and_no_bundle(
    outlier: Outlier, tiny_network: Tiny, tmp_path: Path, command: Command
) -> None:
    """Random weights decide every other voxel by a hair, so any layer in INT8 flips some; none are allowed to."""
    fp32 = tmp_path / "fp32"
    export(tiny_network.recipe, fp32, weights=tiny_network.weights)
    asked = words(outlier, tmp_path / "int8", "--max-drop", 0, "--max-hd95-rise", 0)
    asked[1] = fp32
    done = command(*asked)
    assert done.returncode == 3
    assert "attempts keeps the limits" in done.stderr
    assert "HD95 fp32" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["fp32"]


def test_only_if_faster_writes_only_what_is(outlier: Outlier, tmp_path: Path, command: Command) -> None:
    done = command(*words(outlier, tmp_path / "int8", "--only-if-faster"))
    if done.returncode == 0:
        gain = json.loads((tmp_path / "int8" / "reports" / "run.json").read_text())["gain"]
        assert all(network["faster"] for network in gain.values())
    else:
        assert done.returncode == 3
        assert "not faster" in done.stderr
        assert "ms in candidate" in done.stderr
        assert list(tmp_path.iterdir()) == []


def test_bf16_goes_through_the_same_gate(outlier: Outlier, tmp_path: Path, command: Command) -> None:
    from lowres_seg.runtime.openvino_engine import cpu_capabilities

    done = command(*words(outlier, tmp_path / "bf16", "--precision", "bf16", "--max-drop", 0.02))
    if "BF16" not in cpu_capabilities():
        assert done.returncode == 1
        assert "bf16, which this CPU does not support" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    manifest = Bundle.open(tmp_path / "bf16").manifest
    assert {stage.inference_precision for stage in manifest.stages} == {"bf16"}
    assert report(tmp_path / "bf16")["result"]["labels"]["brain"]["mean_drop"] <= 0.02
    assert command("verify", tmp_path / "bf16").returncode == 0


def test_without_vnni_the_gate_still_holds_and_is_recorded(outlier: Outlier, tmp_path: Path) -> None:
    """OpenVINO honours ONEDNN_MAX_CPU_ISA: on AVX2, INT8 products saturate unless the weights leave room."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-m", "lowres_seg", *map(str, words(outlier, tmp_path / "int8"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = report(tmp_path / "int8")
    assert found["instruction_sets"]["limited_to"] == "AVX2"
    assert found["result"]["labels"]["brain"]["mean_drop"] <= 0.005


def _flat(outlier: Outlier) -> str:
    volume = Volume.load(outlier.folder / "h3.nii.gz")
    Volume(np.zeros_like(volume.data), volume.grid).save(outlier.folder / "flat.nii.gz", force=True)
    return "x,flat.nii.gz,"


def _turned(outlier: Outlier) -> str:
    """A calibration case under another name, in another dtype and orientation."""
    volume = Volume.load(outlier.folder / "h0.nii.gz")
    there = Reorientation(volume.grid, "LPI")
    data = np.ascontiguousarray(there.apply(volume.data)).astype(np.float64)
    Volume(data, there.result).save(outlier.folder / "other.nii.gz", force=True)
    return "x,other.nii.gz,"


def _label(outlier: Outlier, change: Callable[[Volume], Volume]) -> str:
    change(Volume.load(outlier.folder / "h2_label.nii.gz")).save(outlier.folder / "l.nii.gz", force=True)
    return "x,h2.nii.gz,l.nii.gz"


def _corner(volume: Volume, value: int) -> np.ndarray:
    data = volume.data.copy()
    data[0, 0, :4] = value
    return data


BAD: dict[str, tuple[Callable[[Outlier], str], list[str], int, str]] = {
    "no case": (lambda o: "", [], 1, "holds no case"),
    "unreadable": (lambda o: "x,val.csv,", [], 1, "case x: "),
    "calibration = validation": (_turned, [], 1, "case x of the validation set is one of the calibration set"),
    "label on another grid": (
        lambda o: _label(o, lambda v: Volume.from_array(v.data, v.grid.affine @ np.diag([1, 1, 2, 1]))),
        [],
        1,
        "lies on another grid",
    ),
    "label of other things": (lambda o: _label(o, lambda v: Volume(v.data * 9, v.grid)), [], 1, "does not know: 9 in"),
    "a label of 255": (
        lambda o: _label(o, lambda v: Volume(_corner(v, 255), v.grid)),
        [],
        1,
        "does not know: 255 in 4 voxels",
    ),
    "the bundle's label ignored": (
        lambda o: _label(o, lambda v: v),
        ["--ignore-label", "1"],
        1,
        "--ignore-label 1: is a label of the bundle",
    ),
    "flat scan": (_flat, [], 1, "every voxel is 0"),
    "too little memory": (lambda o: "x,h3.nii.gz,", ["--max-ram", "100MB"], 1, "the bound is 0.1 GB"),
    "too little time": (lambda o: "x,h3.nii.gz,", ["--time-budget", "0.01s"], 1, "before one attempt was judged"),
    "no time": (lambda o: "x,h3.nii.gz,", ["--time-budget", "soon"], 2, "expected a number"),
    "no precision": (lambda o: "x,h3.nii.gz,", ["--precision", "int4"], 2, "expected int8 or bf16"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_a_clear_line_and_nothing_written(
    outlier: Outlier, tmp_path: Path, command: Command, case: str
) -> None:
    row, more, code, message = BAD[case]
    outlier.table("bad", *filter(None, [row(outlier)]))
    done = command(*words(outlier, tmp_path / "out", *more, val="bad"))
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [done.stderr.splitlines()[-1]]
    assert not (tmp_path / "out").exists()
    shutil.rmtree(tmp_path / ".out.quantize", ignore_errors=True)
    assert list(tmp_path.iterdir()) == []


def test_voxels_of_an_ignored_label_are_left_out_and_recorded(
    outlier: Outlier, tmp_path: Path, command: Command
) -> None:
    outlier.table("ignored", _label(outlier, lambda v: Volume(_corner(v, 255), v.grid)))
    generous = ["--max-drop", 1, "--max-hd95-rise", 1000, "--ignore-label", 255]
    done = command(*words(outlier, tmp_path / "out", *generous, val="ignored"))
    assert done.returncode == 0, done.stderr
    assert report(tmp_path / "out")["ignore_labels"] == [255]
    assert Bundle.open(tmp_path / "out").manifest.networks["net"].precision == "int8"


def test_an_int8_bundle_is_not_quantized_again(
    outlier: Outlier, repaired: Path, tmp_path: Path, command: Command
) -> None:
    again = words(outlier, tmp_path / "out")
    again[1] = repaired
    done = command(*again)
    assert done.returncode == 1
    assert "is INT8 already" in done.stderr


def test_the_mixed_preset_shifts_what_is_not_symmetric(outlier: Outlier, tmp_path: Path) -> None:
    """NNCF's: activations that lean to one side of zero get a zero point; the performance preset never gives one."""
    ranges = {}
    for preset in ("performance", "mixed"):
        bundle = Bundle.open(outlier.bundle)
        x = np.random.default_rng(0).uniform(-0.2, 1.0, bundle.network("net").input_shape)
        model = int8.quantize_network(
            "net",
            read_graph(bundle.network_files()["net"]),
            [x.astype(np.float32)],
            preset=preset,  # type: ignore[arg-type]
            reverted=(),
            max_ram_bytes=4 << 30,
        )
        (entry,) = [
            node
            for node in model.get_ordered_ops()
            if node.get_type_name() == "FakeQuantize" and node.input_value(0).get_node().get_type_name() == "Parameter"
        ]
        ranges[preset] = [float(entry.input_value(i).get_node().data.ravel()[0]) for i in (1, 2)]
    assert ranges["performance"][0] == pytest.approx(-ranges["performance"][1], rel=0.02)
    assert ranges["mixed"][0] == pytest.approx(-0.2, abs=0.02)


def test_a_mixed_bundle_says_so(outlier: Outlier, tmp_path: Path, command: Command) -> None:
    target = tmp_path / "mixed"
    done = command(*words(outlier, target, "--preset", "mixed"))
    assert done.returncode == 0, done.stderr
    found = report(target)
    assert found["preset"] == "mixed"
    assert found["result"]["labels"]["brain"]["mean_drop"] <= 0.005
    assert run("verify", target).returncode == 0
