"""`predict --provenance` and `--anonymous`: what an auditor finds, and what leaves no trace."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from typer.testing import CliRunner

from lowres_seg import Bundle, InputError, Segmenter, Volume, __version__
from lowres_seg.cli import app
from lowres_seg.cohort.listing import Job

NAME = "DOE^JANE_1970"


def here(*words: object) -> Any:
    done = CliRunner().invoke(app, ["predict", *(str(word) for word in words)])
    assert isinstance(done.exception, (SystemExit, type(None), InputError)), done.exception
    return done


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without_times(content: dict[str, Any]) -> dict[str, Any]:
    content = copy.deepcopy(content)
    assert content.pop("created").endswith("+00:00")
    assert content.pop("timings")
    return content


@pytest.fixture
def scan(tmp_path: Path, lopsided: Callable[..., Volume]) -> Path:
    (tmp_path / NAME).mkdir()
    lopsided().save(tmp_path / NAME / f"{NAME}.nii.gz")
    return tmp_path / NAME / f"{NAME}.nii.gz"


def test_it_says_what_ran_on_what_and_what_came_out(tiny: Path, scan: Path, tmp_path: Path) -> None:
    words = [tiny, scan, "-o", tmp_path / "m.nii.gz", "--apply-mask", "--provenance", tmp_path / "p.json"]
    assert here(*words, "--threads", 1, "--max-ram", "2GB").exit_code == 0
    found = json.loads((tmp_path / "p.json").read_text())
    bundle = Bundle.open(tiny)
    assert found["bundle"] == {
        "name": "tiny",
        "version": "1",
        "digest": bundle.digest,
        "signed_by": None,
        "path": str(tiny),
    }
    assert found["versions"] == {
        "lowres-seg": __version__,
        "openvino": openvino.__version__,
        "numpy": np.__version__,
        "nibabel": found["versions"]["nibabel"],
        "python": platform.python_version(),
    }
    assert found["machine"]["cpu"]
    assert "sse4_1" in found["machine"]["instruction_sets"] or platform.machine() != "x86_64"
    assert found["host"] == platform.node()
    assert found["threads"] == 1
    assert found["precision"] == {"only": {"inference": "f32", "networks": {"net": "fp32"}}}
    assert found["options"] == {"apply_mask": True, "reproducible": False, "max_ram_bytes": 2 * 10**9}
    (case,) = found["cases"]
    assert case["scan"] == {"t1": str(scan)}
    assert case["inputs"] == {"t1": sha256(scan)}
    assert case["outputs"] == {
        "mask": sha256(tmp_path / "m.nii.gz"),
        "masked t1": sha256(tmp_path / "m_masked.nii.gz"),
    }
    assert case["doubts"] == []
    assert set(found["timings"][0]) >= {"load", "only.network", "save"}


def test_the_same_run_gives_the_same_mask_and_provenance(tiny: Path, scan: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        words = ["-o", tmp_path / name / "m.nii.gz", "--provenance", tmp_path / name / "p.json", "--threads", 1]
        assert here(tiny, scan, *words).exit_code == 0
    masks = [(tmp_path / name / "m.nii.gz").read_bytes() for name in "ab"]
    assert masks[0] == masks[1]
    assert masks[0][3] == 0  # no name of a file and no comment in the stream
    assert masks[0][4:8] == bytes(4)  # and no time
    first, second = (json.loads((tmp_path / name / "p.json").read_text()) for name in "ab")
    assert without_times(first) == without_times(second)
    scan.write_bytes(scan.read_bytes() + b"\0")  # of another digest, with the same voxels
    here(tiny, scan, "-o", tmp_path / "m.nii.gz", "--provenance", tmp_path / "p.json", "--threads", 1)
    third = json.loads((tmp_path / "p.json").read_text())
    assert without_times(third) != without_times(first)


def test_a_batch_has_one_file_with_its_cases(
    tiny: Path, scan: Path, tmp_path: Path, lopsided: Callable[..., Volume]
) -> None:
    (tmp_path / "bad.nii").write_text("x")
    lopsided(seed=3).save(tmp_path / "b.nii.gz")
    words = [tiny, scan, tmp_path / "bad.nii", tmp_path / "b.nii.gz", "-o", tmp_path / "out"]
    words += ["--provenance", tmp_path / "p.json"]
    assert here(*words).exit_code == 1
    found = json.loads((tmp_path / "p.json").read_text())
    assert [case["outcome"] for case in found["cases"]] == ["done", "failed", "done"]
    assert [case["case"] for case in found["cases"]] == [1, 2, 3]
    assert "cannot be read as NIfTI" in found["cases"][1]["error"]
    assert found["cases"][2]["outputs"]["mask"] == sha256(tmp_path / "out" / "b_mask.nii.gz")
    assert here(*words, "--resume").exit_code == 1
    again = json.loads((tmp_path / "p.json").read_text())
    assert [case["outcome"] for case in again["cases"]] == ["skipped", "failed", "skipped"]
    for index in (0, 2):
        assert {**again["cases"][index], "outcome": "done"} == found["cases"][index]


def test_doubts_keep_their_names_through_a_ledger(
    make_bundle: Callable[..., Path], content: Any, scan: Path, tmp_path: Path
) -> None:
    stage = content()["stages"][0]
    stage["decode"] = {"kind": "regions", "regions": [{"channel": 1, "threshold": 2.0, "label": 1}]}
    words = [make_bundle(stages=[stage]), scan, "-o", f"{tmp_path}/out/", "--provenance", tmp_path / "p.json"]
    for more in ([], ["--resume"]):
        assert here(*words, *more).exit_code == 0
        (case,) = json.loads((tmp_path / "p.json").read_text())["cases"]
        (doubt,) = case["doubts"]
        assert doubt["name"] == "empty"
        assert "the result is empty" in doubt["text"]
    assert case["outcome"] == "skipped"


def test_ledger_and_json_have_the_threads(tiny: Path, scan: Path, tmp_path: Path) -> None:
    done = here(tiny, scan, "-o", f"{tmp_path}/out/", "--json", "--threads", 1)
    assert json.loads(done.stdout)["threads"] == 1
    (line,) = (tmp_path / "out" / ".lowres-seg.jsonl").read_text().splitlines()
    assert json.loads(line)["threads"] == 1
    older = {key: value for key, value in json.loads(line).items() if key not in ("threads", "doubt_names")}
    (tmp_path / "out" / ".lowres-seg.jsonl").write_text(json.dumps(older) + "\n")
    done = json.loads(here(tiny, scan, "-o", f"{tmp_path}/out/", "--json", "--resume").stdout)
    assert done["summary"]["skipped"] == 1
    assert done["cases"][0]["threads"] is None  # nobody knows


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not let a process choose")
@pytest.mark.parametrize("processors", [1, 2])
def test_the_threads_that_are_recorded_are_those_that_run(
    tiny: Path, scan: Path, tmp_path: Path, processors: int
) -> None:
    before = os.sched_getaffinity(0)
    if len(before) < processors:
        pytest.skip("too few processors")
    os.sched_setaffinity(0, sorted(before)[:processors])
    try:
        words = ["-o", f"{tmp_path}/out/", "--json", "--provenance", tmp_path / "p.json"]
        done = here(tiny, scan, *words, "--threads", processors + 1)
        segmenter = Segmenter.load(tiny, threads=processors + 1)
        engine = segmenter._engines["only"][0]
        assert engine._compiled.get_property("INFERENCE_NUM_THREADS") == processors
    finally:
        os.sched_setaffinity(0, before)
    found, ran = json.loads(done.stdout), json.loads((tmp_path / "p.json").read_text())
    (line,) = (tmp_path / "out" / ".lowres-seg.jsonl").read_text().splitlines()
    recorded = [found["threads"], found["cases"][0]["threads"], ran["threads"], ran["cases"][0]["threads"]]
    assert [*recorded, json.loads(line)["threads"], segmenter.threads] == [processors] * 6
    assert (
        done.stderr
        == f"note: --threads {processors + 1}: {processors} {'run' if processors > 1 else 'runs'}, one for each "
        "processor that this process may use\n"
    )


def test_a_case_that_was_done_with_other_threads_says_so(
    tiny: Path, scan: Path, tmp_path: Path, lopsided: Callable[..., Volume]
) -> None:
    words = ["-o", f"{tmp_path}/out/", "--json", "--provenance", tmp_path / "p.json"]
    here(tiny, scan, *words, "--threads", 1)
    ledger = tmp_path / "out" / ".lowres-seg.jsonl"
    ledger.write_text(json.dumps({**json.loads(ledger.read_text()), "threads": 7}) + "\n")
    lopsided(seed=3).save(tmp_path / "b.nii.gz")
    done = here(tiny, scan, tmp_path / "b.nii.gz", *words, "--threads", 1, "--resume")
    for cases in (json.loads(done.stdout)["cases"], json.loads((tmp_path / "p.json").read_text())["cases"]):
        assert [(case["outcome"], case["threads"]) for case in cases] == [("skipped", 7), ("done", 1)]


@pytest.mark.parametrize(
    ("change", "words", "why"),
    [
        ({"bundle": "0" * 64}, [], "with another bundle"),
        ({"version": "0.0.9"}, [], "by version 0.0.9"),
        ({"version": "0.0\n9"}, [], r"by version 0.0\n9"),
        ({}, ["--apply-mask"], "without --apply-mask"),
        ({"options": {"apply_mask": True, "reproducible": True}}, [], "with --apply-mask, with --reproducible"),
        ({"bundle": "0" * 64}, ["--reproducible"], "with another bundle, without --reproducible"),
    ],
)
def test_why_a_case_is_done_again_is_said(
    tiny: Path, scan: Path, tmp_path: Path, change: dict[str, Any], words: list[str], why: str
) -> None:
    here(tiny, scan, "-o", f"{tmp_path}/out/")
    ledger = tmp_path / "out" / ".lowres-seg.jsonl"
    ledger.write_text(json.dumps({**json.loads(ledger.read_text()), **change}) + "\n")
    done = here(tiny, scan, "-o", f"{tmp_path}/out/", "--resume", *words)
    assert done.stderr == f"note: {scan}: was done again, because it was done {why}\n"


def test_whether_networks_came_from_the_cache_is_recorded(
    tiny: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWRES_SEG_CACHE", str(tmp_path / "cache"))
    taken = []
    for more in (["--no-cache"], [], [], ["--no-cache"]):
        words = ["-o", tmp_path / "m.nii", "--provenance", tmp_path / "p.json", "--force", "--threads", 1]
        assert here(tiny, scan, *words, *more).exit_code == 0
        taken.append(json.loads((tmp_path / "p.json").read_text())["timings"][0]["networks_from_cache"])
    assert taken == [False, False, True, False]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("{scan}", "is the input"),
        ("{tiny}/p.json", "lies inside the input"),
        ("{dir}/m.nii.gz", "two outputs have this name"),
        ("{dir}/v.csv", "two outputs have this name"),
        ("{dir}/no/p.json", "does not exist"),
        ("{dir}", "holds the input"),
    ],
)
def test_it_is_never_written_over_something_else(
    tiny: Path, scan: Path, tmp_path: Path, target: str, message: str
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    words = [tiny, scan, "-o", tmp_path / "m.nii.gz", "--volume-table", tmp_path / "v.csv", "--force"]
    done = here(*words, "--provenance", target.format(scan=scan, tiny=tiny, dir=tmp_path))
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_it_replaces_nothing_without_force(tiny: Path, scan: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("{}")
    for more in ([], ["--resume"]):  # which goes on with a provenance of its own only
        done = here(tiny, scan, "-o", f"{tmp_path}/out/", "--provenance", tmp_path / "p.json", *more)
        assert "exists already" in str(done.exception)
    ledger = tmp_path / "out" / ".lowres-seg.jsonl"
    ledger.parent.mkdir()
    done = here(tiny, scan, "-o", ledger.parent, "--provenance", ledger)
    assert "two outputs have this name" in str(done.exception)


def test_anonymous_leaves_out_paths_and_host(tiny: Path, scan: Path, tmp_path: Path) -> None:
    """Of scans that are done, that fail, and that have doubts, under names with spaces and as relative paths."""
    noted = scan.with_name(f"{NAME} noted.nii")
    volume = Volume.load(scan)
    volume.header["sform_code"], volume.header["qform_code"] = 0, 0
    volume.save(noted)
    bad = scan.with_name(f"{NAME} bad.nii")
    bad.write_text("x")
    gone = scan.with_name(f"{NAME}\ngone.nii.gz")
    out, provenance, table = tmp_path / "out", tmp_path / "p.json", tmp_path / "v.csv"
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        words = [scan.relative_to(tmp_path), noted, bad, gone, "-o", out, "--json", "--anonymous"]
        done = here(tiny, *words, "--provenance", provenance, "--volume-table", table)
    finally:
        os.chdir(before)
    assert done.exit_code == 1
    ledger = [json.loads(line) for line in (out / ".lowres-seg.jsonl").read_text().splitlines()]
    assert all(entry["scan"] == {} for entry in ledger)
    said = {
        "json": done.stdout,
        "provenance": provenance.read_text(),
        "table": table.read_text(),
        "ledger": json.dumps([entry if entry["outcome"] == "failed" else {**entry, "files": {}} for entry in ledger]),
    }
    for text in said.values():
        for private in (NAME, str(tmp_path), str(tiny), platform.node()):
            assert private not in text, (private, text)
    cases = json.loads(done.stdout)["cases"]
    assert [case["outcome"] for case in cases] == ["done", "done", "failed", "failed"]
    assert cases[1]["doubts"][0].startswith("(t1): its header names no orientation")
    assert cases[2]["error"].startswith("(t1): cannot be read as NIfTI")
    assert cases[3]["error"].startswith("(t1): does not exist")
    assert json.loads(provenance.read_text())["cases"][0]["inputs"] == {"t1": sha256(scan)}
    rows = list(csv.DictReader(said["table"].splitlines()))
    assert [(row["scan"], row["mask"]) for row in rows] == [(f"case {n}", "") for n in (1, 2, 3, 4)]
    again = here(tiny, scan, noted, "-o", out, "--json", "--anonymous", "--resume")
    assert json.loads(again.stdout)["summary"] == {"done": 0, "failed": 0, "skipped": 2}


def test_a_ledger_of_failures_without_names_is_read_again(tiny: Path, scan: Path, tmp_path: Path) -> None:
    bad = scan.with_name("bad.nii")
    bad.write_text("x")
    words = [tiny, bad, scan, "-o", f"{tmp_path}/out/", "--json", "--anonymous"]
    here(*words)
    summary = json.loads(here(*words, "--resume").stdout)["summary"]
    assert summary == {"done": 0, "failed": 1, "skipped": 1}
    lines = [json.loads(line) for line in (tmp_path / "out" / ".lowres-seg.jsonl").read_text().splitlines()]
    assert [list(line["files"]) for line in lines] == [[], [f"{NAME}_mask.nii.gz"], []]
    (tmp_path / "out" / "bad_mask.nii.gz").write_text("of another tool")
    here(*words, "--force")
    lines = [json.loads(line) for line in (tmp_path / "out" / ".lowres-seg.jsonl").read_text().splitlines()]
    assert [list(line["files"]) for line in lines[-2:]] == [["bad_mask.nii.gz"], [f"{NAME}_mask.nii.gz"]]


def test_without_it_they_are_there(tiny: Path, scan: Path, tmp_path: Path) -> None:
    done = here(tiny, scan, "-o", tmp_path / "m.nii", "--json", "--provenance", tmp_path / "p.json")
    for text in (done.stdout, (tmp_path / "p.json").read_text()):
        assert str(scan) in text


def test_outputs_are_named_by_what_they_hold() -> None:
    scan = {"flair": Path("f.nii"), "t1": Path("t.nii")}
    masked = {channel: Path(f"m_{channel}_masked.nii.gz") for channel in scan}
    assert list(Job(scan, Path("m.nii.gz"), masked).outputs) == ["mask", "masked flair", "masked t1"]
    assert list(Job(scan, Path("out/c.json")).outputs) == ["classes"]
