"""The commands of a workstation, each run as a user runs it: a process of its own."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from lowres_seg import Bundle, Volume
from lowres_seg.cli import app


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lowres_seg", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def scan(tmp_path: Path, lopsided: Callable[..., Volume]) -> Path:
    lopsided().save(tmp_path / "head.nii.gz")
    return tmp_path / "head.nii.gz"


def test_predict_writes_a_mask(tiny: Path, scan: Path, tmp_path: Path) -> None:
    done = run("predict", tiny, scan, "-o", tmp_path / "mask.nii.gz")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(mask.affine, nib.load(scan).affine)
    voxels = np.count_nonzero(np.asanyarray(mask.dataobj))
    assert done.stdout.startswith(f"{tmp_path / 'mask.nii.gz'}: brain {voxels / 1000:.1f} ml (")


def test_predict_several_with_table_and_masked_scans(
    tiny: Path, scan: Path, tmp_path: Path, lopsided: Callable[..., Volume]
) -> None:
    data = (lopsided(seed=5).data * 1000).astype(np.int16)
    nib.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / "other.nii")
    table = tmp_path / "t.csv"
    out = tmp_path / "out"
    done = run("predict", tiny, scan, tmp_path / "other.nii", "-o", out, "--volume-table", table, "--apply-mask")
    assert done.returncode == 0, done.stderr
    names = ["head_mask.nii.gz", "head_mask_masked.nii.gz", "other_mask.nii.gz", "other_mask_masked.nii.gz"]
    assert sorted(p.name for p in out.iterdir()) == [".lowres-seg.jsonl", *names]
    masked = nib.load(out / "other_mask_masked.nii.gz")
    mask = np.asanyarray(nib.load(out / "other_mask.nii.gz").dataobj) > 0
    assert masked.get_data_dtype() == np.int16
    assert np.array_equal(np.asanyarray(masked.dataobj), np.where(mask, data, 0))
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(Path(r["scan"]).name, r["label"], r["name"], int(r["voxels"])) for r in rows][1] == (
        "other.nii", "1", "brain", mask.sum(),
    )  # fmt: skip
    assert float(rows[1]["millilitres"]) == pytest.approx(mask.sum() / 1000, abs=1e-3)


def test_a_case_that_fails_does_not_end_the_others_and_is_not_lost(tiny: Path, scan: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.nii").write_text("x")
    out, table = tmp_path / "out", tmp_path / "t.csv"
    done = run("predict", tiny, tmp_path / "bad.nii", scan, "-o", out, "--volume-table", table)
    assert done.returncode == 1
    error, summary = done.stderr.splitlines()
    assert error.startswith(f"error: {tmp_path / 'bad.nii'}: cannot be read as NIfTI")
    assert summary.startswith(f"summary: 1 done, 1 failed ({tmp_path / 'bad.nii'}: cannot be read as NIfTI")
    assert sorted(p.name for p in out.iterdir()) == [".lowres-seg.jsonl", "head_mask.nii.gz"]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [Path(r["scan"]).name for r in rows] == ["bad.nii", "head.nii.gz"]
    assert "cannot be read" in rows[0]["error"]
    assert rows[0]["voxels"] == ""


def test_json_has_all_a_program_needs(tiny: Path, scan: Path, tmp_path: Path) -> None:
    done = run("predict", tiny, scan, "-o", tmp_path / "m.nii", "--json", "--threads", 1)
    found = json.loads(done.stdout)
    assert found["threads"] == 1
    assert 10 << 20 < found["peak_rss_bytes"] < 4 << 30
    (case,) = found["cases"]
    assert case["error"] is None
    assert case["voxels"]["brain"] > 0
    assert {"load", "only.network", "save"} <= set(case["timings_s"])


def test_channels_are_named_words(make_bundle: Callable[..., Path], content: Any, scan: Path, tmp_path: Path) -> None:
    networks = {"net": {**content()["networks"]["net"], "input_shape": [1, 2, 16, 16, 16]}}
    bundle = make_bundle(channels=["flair", "t1"], networks=networks)
    good = run("predict", bundle, f"t1={scan}", f"flair={scan}", "-o", tmp_path / "m.nii")
    assert good.returncode == 0, good.stderr
    for words, message in [
        ([scan], "give flair=PATH t1=PATH"),
        ([f"t1={scan}"], "channels given: t1; the bundle takes flair, t1"),
        ([f"t1={scan}", f"t1={scan}"], "channels given: t1, t1; the bundle takes flair, t1, each once"),
        ([f"t1={scan}", scan], "name the channel of all or of none"),
        ([f"t1={scan}", f"flair={scan}", f"t2={scan}"], "channels given: t1, flair, t2"),
    ]:
        done = run("predict", bundle, *words, "-o", tmp_path / "n.nii")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert message in done.stderr
        assert not (tmp_path / "n.nii").exists()


def test_predict_keeps_the_part_as_a_folder(tiny: Path, scan: Path, tmp_path: Path) -> None:
    for name in ("s1", "s2"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "t1.nii.gz").write_bytes(scan.read_bytes())
    (tmp_path / "in" / "head.nii.gz").write_bytes(scan.read_bytes())
    inputs = [tmp_path / "in" / name for name in ("s1/t1.nii.gz", "s2/t1.nii.gz", "head.nii.gz")]
    done = run("predict", tiny, *inputs, "-o", tmp_path / "out", "--apply-mask")
    assert done.returncode == 0, done.stderr
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    stems = ["head", "s1/t1", "s2/t1"]
    assert written == sorted(
        [".lowres-seg.jsonl", *(f"{s}_mask{end}.nii.gz" for s in stems for end in ("", "_masked"))]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{tiny}", "{scan}", "-o", "{dir}/no/mask.nii.gz"], 1, "does not exist; create it first"),
        (["{tiny}", "{scan}", "-o", "{scan}"], 1, "is the input"),
        (["{tiny}", "{scan}", "-o", "{scan}", "--force"], 1, "an input is never an output"),
        (["{tiny}", "{scan}", "-o", "{dir}/m.nii", "--volume-table", "{scan}", "--force"], 1, "is the input"),
        (["{tiny}", "{scan}", "-o", "{tiny}/m.nii"], 1, "lies inside the input"),
        (
            ["{tiny}", "{scan}", "-o", "{dir}/m.mha"],
            1,
            "files that end in .mha are not written, expected .nii.gz or .nii or .mgz or .mgh or .nrrd",
        ),
        (["{tiny}", "{scan}", "-o", "{dir}/m.foo"], 1, "put a slash behind it"),
        (["{tiny}", "{scan}", "-o", "{dir}/m.json"], 1, "files that end in .json are not written"),
        (["{tiny}", "{scan}", "-o", "{dir}/M.NII.GZ"], 1, "files that end in .GZ are not written"),
        (["{tiny}", "{scan}", "-o", "{dir}/m.nii", "--resume"], 2, "--resume"),
        (["{tiny}", "{scan}", "-o", "{dir}/a.txt/b"], 1, "does not exist; create it first"),
        (["{tiny}", "{dir}/none.nii", "-o", "{dir}/m.nii"], 1, "none.nii: does not exist"),
        (["{tiny}", "{dir}/n:brain:[x].nii", "-o", "{dir}/m.nii"], 1, "n:brain:[x].nii: does not exist"),
        (["{dir}/none", "{scan}", "-o", "{dir}/m.nii"], 1, "expected a bundle"),
        (["{tiny}", "{scan}", "{scan}", "-o", "{dir}/m.nii"], 1, "is one file for 2 scans; name a folder"),
        (["{tiny}", "{scan}", "{scan}", "-o", "{dir}/out"], 1, "two scans would both be written to"),
        (["{tiny}", "{scan}"], 2, "predict: missing option '-o' / '--output'; see "),
        (["{tiny}", "{scan}", "-o", "{dir}/m.nii", "--threads", "0"], 2, "--threads"),
        (["{tiny}", "{scan}", "-o", "{dir}/m.nii", "--max-ram", "²GB"], 2, "--max-ram"),
        (["{tiny}", "{scan}", "-o", "{dir}/m.nii", "--surprise"], 2, "predict: no such option"),
    ],
)
def test_bad_words_give_one_line_and_nothing_written(
    tiny: Path, scan: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    done = run("predict", *(a.format(tiny=tiny, scan=scan, dir=tmp_path) for a in arguments))
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_brackets_in_a_path_are_shown_as_they_are(tiny: Path, tmp_path: Path) -> None:
    done = run("predict", tiny, tmp_path / "[bold]none.nii", "-o", tmp_path / "m.nii")
    assert "[bold]none.nii: does not exist" in done.stderr


def test_debug_shows_the_traceback_of_a_scan(tiny: Path, scan: Path, tmp_path: Path) -> None:
    done = run("--debug", "predict", tiny, tmp_path / "none.nii", scan, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().splitlines()[-2].startswith("error: ")
    assert (tmp_path / "out" / "head_mask.nii.gz").is_file()


def test_on_a_terminal_results_stand_in_lines_of_their_own(tiny: Path, scan: Path, tmp_path: Path) -> None:
    """The bar is drawn on the same terminal."""
    words = ["predict", tiny, scan, tmp_path / "none.nii", "-o", tmp_path / "out"]
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "lowres_seg", *map(str, words)]
    process = subprocess.Popen(
        command, stdout=child, stderr=child, env=os.environ | {"TERM": "xterm", "COLUMNS": "500"}
    )
    os.close(child)
    shown = b""
    with contextlib.suppress(OSError):  # which a terminal gives at its end
        while piece := os.read(parent, 1 << 16):
            shown += piece
    os.close(parent)
    assert process.wait(timeout=120) == 1
    assert b"segmenting" in shown
    for text in (b"head_mask.nii.gz: ", b"none.nii: does not exist"):
        line = re.split(rb"\n|\x1b\[2K", shown[: shown.index(text)])[-1]
        assert b"segmenting" not in line, shown


def test_debug_shows_the_traceback(tiny: Path, tmp_path: Path) -> None:
    done = run("--debug", "predict", tmp_path / "none", tmp_path / "none.nii", "-o", tmp_path / "m.nii")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "BundleError" in done.stderr


def test_an_empty_result_is_noted(make_bundle: Callable[..., Path], content: Any, scan: Path, tmp_path: Path) -> None:
    stage = content()["stages"][0]
    stage["decode"] = {"kind": "regions", "regions": [{"channel": 1, "threshold": 2.0, "label": 1}]}
    done = run("predict", make_bundle(stages=[stage]), scan, "-o", tmp_path / "m.nii")
    assert done.returncode == 0
    assert "note:" in done.stderr
    assert "the result is empty" in done.stderr


def test_verify_passes_and_fails(tiny: Path) -> None:
    done = run("verify", tiny)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 files as listed" in done.stdout
    assert done.stdout.endswith("passed\n")
    weights = tiny / "networks" / "net.bin"
    weights.write_bytes(bytes(len(weights.read_bytes())))
    broken = run("verify", tiny)
    assert broken.returncode == 1
    assert "net.bin: has changed" in broken.stderr


def test_verify_exits_3_when_this_machine_gives_other_numbers(tiny: Path) -> None:
    from lowres_seg.bundle.bundle import file_sha256

    path = tiny / "reference.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["only.0.scores"] = arrays["only.0.scores"] + 0.1
    np.savez(path, **arrays)
    manifest = json.loads((tiny / "manifest.json").read_text())
    manifest["files"]["reference.npz"] = file_sha256(path)
    (tiny / "manifest.json").write_text(json.dumps(manifest))
    done = run("verify", tiny)
    assert done.returncode == 3
    assert "failed" in done.stdout
    assert json.loads(run("verify", tiny, "--json").stdout)["passed"] is False


def test_doctor_says_what_the_machine_offers() -> None:
    shown = run("doctor")
    assert (shown.returncode, shown.stderr) == (0, "")
    for word in ("CPU", "cores", "quota", "memory", "instruction sets", "openvino", "convolutions in int8"):
        assert word in shown.stdout
    found = json.loads(run("doctor", "--json").stdout)
    lines = shown.stdout.splitlines()
    assert f"kept in               {found['cache']['folder']}" in lines
    assert [line for line in lines if len(line) > 80 and not line.startswith(("doubt: ", "kept in"))] == []
    assert found["threads"] >= 1
    assert found["gain_over_f32"]["f32"] == 1


def test_a_missing_extra_is_named_with_its_cure(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from importlib import util; real = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'torch' else real(name, *a)\n"
        "import lowres_seg.extras as e; e.find_spec = util.find_spec\n"
        "sys.argv = ['lowres-seg', 'export', 'x.pt', '-o', 'b']; from lowres_seg.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "torch" in done.stderr
    assert re.search(r"pip install .*\[export\]", done.stderr)
    assert done.stderr.count("\n") == 1


def test_an_ended_command_leaves_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((400, 400, 300), dtype=np.float32)
    nib.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / "large.nii")
    words = ["predict", str(tiny), str(tmp_path / "large.nii"), "-o", str(tmp_path / "m.nii.gz")]
    child = subprocess.Popen([sys.executable, "-m", "lowres_seg", *words])
    time.sleep(1.5)
    child.send_signal(signal.SIGTERM)
    child.wait(timeout=60)
    assert sorted(p.name for p in tmp_path.iterdir()) in (["large.nii", "tiny"], ["large.nii", "m.nii.gz", "tiny"])


@pytest.mark.parametrize("command", ["predict", "verify"])
def test_a_command_opens_its_bundle_once(
    tiny: Path, tmp_path: Path, lopsided: Callable[..., Volume], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Opening hashes every file of the bundle."""
    opened: list[str] = []
    check = Bundle._check
    monkeypatch.setattr(Bundle, "_check", lambda self, name, digest: (opened.append(name), check(self, name, digest)))
    lopsided().save(tmp_path / "scan.nii.gz")
    words = [command, str(tiny)]
    if command == "predict":
        words += [str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "mask.nii.gz")]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert sorted(opened) == ["networks/net.bin", "networks/net.xml", "reference.npz"]


def test_a_scan_is_read_once_also_with_its_mask_applied(
    tiny: Path, tmp_path: Path, lopsided: Callable[..., Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    load = Volume.load.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(Volume, "load", classmethod(lambda cls, path: (read.append(str(path)), load(cls, path))[1]))
    scan = tmp_path / "scan.nii.gz"
    lopsided().save(scan)
    done = CliRunner().invoke(app, ["predict", str(tiny), str(scan), "-o", str(tmp_path / "m.nii.gz"), "--apply-mask"])
    assert done.exit_code == 0
    assert read == [str(scan)]
    monkeypatch.undo()
    masked, mask, whole = (Volume.load(tmp_path / f"{name}.nii.gz").data for name in ("m_masked", "m", "scan"))
    assert mask.any()
    assert np.array_equal(masked, np.where(mask > 0, whole, 0))
