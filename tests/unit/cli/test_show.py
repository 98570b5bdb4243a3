"""What `show` says about a bundle, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowres_seg import Bundle

OLD = "tests/data/3b2aec7"


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lowres_seg", *map(str, words)]
    given = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=given)


def copied(source: Path, target: Path) -> Path:
    """A bundle without hard links."""
    return Path(shutil.copytree(source, target))


def joined(text: str) -> str:
    return " ".join(text.split())


def test_show_says_what_a_bundle_is(tiny: Path) -> None:
    done = run("show", tiny)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80
    said = joined(done.stdout)
    for expected in (
        "name tiny 1 for tests",
        "signature none",
        "licence CC0-1.0",
        "intended use tests",
        "channels t1",
        "labels 1 brain",
        "networks net: fp32, computed in f32, 1×16×16×16 in, 2×16×16×16 out",
        "stage 1 only: takes the whole scan; grid RAS of 16×16×16 voxels, stretched to it, nearest",
        "the whole grid at once; no mirroring",
        "label 1 where channel 1 of the scores > 0.5",
        "evidence none: the bundle holds no report of its export",
        "weights net, sha256 000000000000…",
    ):
        assert expected in said, expected


def test_show_has_the_evidence_of_a_quantized_bundle(checkout: Path, tmp_path: Path) -> None:
    bundle = copied(checkout / OLD / "bundle-int8", tmp_path / "int8")
    report = json.loads((bundle / "reports" / "quantize.json").read_text(encoding="utf-8"))
    said = joined(run("show", bundle).stdout)
    (rows,) = [[row for row in report["result"]["cases"] if row["label"] == label] for label in ("brain",)]
    fp32, now = (sum(row[key] for row in rows) / len(rows) for key in ("dice_fp32", "dice"))
    assert f"mean Dice {fp32:.4f} in fp32, {now:.4f} now" in said
    assert f"{len(report['attempts'])} attempts; 2 of {len(report['layers'])} layers keep fp32" in said
    assert "mean Dice may drop by 0.005, mean HD95 rise by 1 mm" in said
    assert (
        "before it was quantized, on random input, openvino gives the scores of torch to within 1.9e-05; 0 of 32768 voxels"
        in said
    )
    latency = json.loads((bundle / "reports" / "run.json").read_text(encoding="utf-8"))["gain"]["net"]["latency_s"]
    assert f"{latency['f32'] / latency['candidate']:.2f} times the speed of f32" in said
    assert "(no digest covers these figures)" in said
    assert f"made from the bundle of sha256 {Bundle.open(bundle).manifest.lineage.parent[:12]}…" in said  # type: ignore[index]


def test_json_has_all_of_it(checkout: Path, tmp_path: Path) -> None:
    bundle = copied(checkout / OLD / "bundle-int8", tmp_path / "int8")
    found = json.loads(run("show", bundle, "--json").stdout)
    opened = Bundle.open(bundle)
    assert found["sha256"] == opened.digest
    assert found["files"] == opened.manifest.files
    assert found["networks"]["net"]["precision"] == "int8"
    assert found["lineage"]["parent"] == opened.manifest.lineage.parent
    assert found["signature"] == {"present": False, "checked_by": None}
    report = json.loads((bundle / "reports" / "quantize.json").read_text(encoding="utf-8"))
    assert found["evidence"]["quantize"]["result"]["cases"] == report["result"]["cases"]
    assert set(found["evidence"]["speed"]["net"]["latency_s"]) == {"f32", "bf16", "candidate"}


STAGES: dict[str, tuple[dict[str, Any], str]] = {
    "windows": (
        {
            "conform": {"spacing_mm": [1, 1, 2.5]},
            "windows": {"roi_size": [16, 16, 16], "overlap": 0.5},
            "mirror_axes": [0, 2],
        },
        "in windows of 16×16×16 voxels as nnU-Net places them, which overlap by 50%, gaussian weights; mirrored along the axes 1 and 3: 4 runs of each network",
    ),
    "box": (
        {"region": {"kind": "nonzero", "margin_voxels": 1}},
        "takes the box of the voxels that are not zero, wider by 1 voxel on each side",
    ),
    "clean-up": (
        {
            "normalise": {"rules": [{"rule": "percentile-scale", "lower": 1, "upper": 99}, {"rule": "z-score"}]},
            "cleanup": [{"rule": "largest-component"}],
        },
        "intensities: percentile-scale, z-score",
    ),
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_told_in_words(make_bundle: Callable[..., Path], content: Any, name: str) -> None:
    changes, expected = STAGES[name]
    stage = {**content()["stages"][0], **changes}
    done = run("show", make_bundle(stages=[stage], schema_version=2))
    assert done.returncode == 0, done.stderr
    assert expected in joined(done.stdout)


def test_a_bundle_that_has_changed_is_refused(tiny: Path) -> None:
    network = tiny / "networks" / "net.bin"
    network.write_bytes(network.read_bytes()[:-1] + b"\1")
    done = run("show", tiny)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "has changed" in done.stderr


def test_what_a_bundle_says_steers_no_terminal(make_bundle: Callable[..., Path]) -> None:
    bundle = make_bundle(description="\x1b[2J\x1b]0;owned\x07 [bold]words[/] " + "w" * 200, intended_use="漢" * 60)
    done = run("show", bundle)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout
    assert "\\x1b[2J\\x1b]0;owned\\x07 [bold]words[/]" in done.stdout
    widths = [len(line) + sum(letter == "漢" for letter in line) for line in done.stdout.splitlines()]
    assert max(widths) <= 80


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("{", encoding="utf-8"), "is not JSON"),
        (lambda path: path.write_text("[]", encoding="utf-8"), "expected"),
        (lambda path: path.write_text('{"seconds": "long"}', encoding="utf-8"), "seconds: "),
        (lambda path: path.symlink_to("/dev/zero"), "is a link, a folder or a device"),
        (lambda path: path.mkdir(), "is a link, a folder or a device"),
        (os.mkfifo, "is a link, a folder or a device"),
    ],
)
def test_a_report_that_no_digest_covers_is_read_with_care(
    checkout: Path, tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    bundle = copied(checkout / OLD / "bundle-int8", tmp_path / "int8")
    (bundle / "reports" / "run.json").unlink()
    make(bundle / "reports" / "run.json")
    done = run("show", bundle)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "reports/run.json: " in done.stderr
    assert message in done.stderr


def test_a_signature_is_told_and_checked_with_its_key(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    assert run("sign", "--new-key", tmp_path / "key.pem").returncode == 0
    assert run("sign", tiny, "--key", tmp_path / "key.pem").returncode == 0
    assert "manifest.sig is there, and was not checked" in joined(run("show", tiny).stdout)
    done = run("show", tiny, "--require-key", tmp_path / "key.pem.pub")
    assert "signature checked, by the key " in joined(done.stdout)
    assert run("show", tiny, LOWRES_SEG_REQUIRE_KEY=str(tmp_path / "none.pub")).returncode == 1
