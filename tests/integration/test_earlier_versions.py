"""Journals and bundles that earlier versions wrote go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lowres_seg import Bundle, InputError
from lowres_seg.cohort import Cases
from lowres_seg.quantize import Settings, quantize

VERSIONS = ["3b2aec7"]


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest, checkout: Path, tmp_path: Path) -> Path:
    """A copy of the files of a version, with its journal where a run for `int8` looks for it."""
    folder = tmp_path / "old"
    shutil.copytree(checkout / "tests" / "data" / str(request.param), folder)
    shutil.move(folder / "journal", folder / ".int8.quantize")
    return folder


def tables(old: Path) -> tuple[Cases, Cases]:
    return Cases.read(old / "calibrate.csv", ["t1"]), Cases.read(old / "validate.csv", ["t1"])


def test_a_run_that_an_earlier_version_began_is_resumed(old: Path) -> None:
    steps: list[str] = []
    done = quantize(old / "bundle-fp32", old / "int8", *tables(old), resume=True, notify=steps.append)
    # Everything that the journal holds is taken from there.
    assert not any(step.startswith(("segmenting case", "ranking layers", "cutting windows")) for step in steps)
    report = json.loads(done.bundle.read("reports/quantize.json"))
    before = json.loads((old / "bundle-int8" / "reports" / "quantize.json").read_text(encoding="utf-8"))
    assert report["attempts"] == before["attempts"]
    assert report["result"] == before["result"]
    reverted = [
        {(layer["network"], layer["layer"]) for layer in found["layers"] if layer["precision"] == "fp32"}
        for found in (report, before)
    ]
    assert reverted[0] == reverted[1] != set()
    assert done.bundle.manifest.lineage.parent == Bundle.open(old / "bundle-fp32").digest
    assert not (old / ".int8.quantize").exists()


def test_a_journal_of_other_settings_is_not_resumed(old: Path) -> None:
    with pytest.raises(InputError, match="the earlier run differs in: settings; leave out --resume"):
        quantize(old / "bundle-fp32", old / "int8", *tables(old), Settings(preset="mixed"), resume=True)
