"""Files that earlier versions wrote stay readable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from lowres_seg import Bundle, Segmenter, Volume
from lowres_seg.bench import Suite, compare
from lowres_seg.bundle.manifest import Manifest

VERSIONS = ["3b2aec7"]


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest, checkout: Path) -> Path:
    return checkout / "tests" / "data" / str(request.param)


@pytest.mark.parametrize("name", ["bundle-fp32", "bundle-int8"])
def test_a_bundle_opens_verifies_and_reads_what_it_writes(old: Path, name: str) -> None:
    bundle = Bundle.open(old / name)
    result = Segmenter.load(bundle, threads=1).self_test()
    assert result.passed, result
    text = (old / name / "manifest.json").read_text(encoding="utf-8")
    again = Manifest.parse(bundle.manifest.to_json(), where="again")
    assert again == bundle.manifest
    # Every key of the old file is written again under its name, with its value.
    assert json.loads(text).items() <= json.loads(bundle.manifest.to_json()).items()


def test_the_published_schema_accepts_an_old_manifest(old: Path, checkout: Path) -> None:
    schema = json.loads((checkout / "docs" / "manifest.schema.json").read_text(encoding="utf-8"))
    for name in ("bundle-fp32", "bundle-int8"):
        jsonschema.validate(json.loads((old / name / "manifest.json").read_text(encoding="utf-8")), schema)


def test_a_bundle_gives_the_mask_that_it_gave(old: Path) -> None:
    found = Segmenter.load(old / "bundle-fp32", threads=1).predict(old / "h2.nii.gz").labels
    assert np.array_equal(found.data, Volume.load(old / "h2_mask.nii.gz").data)
    assert found.data.any()


def test_a_suite_is_read_compared_and_written_as_it_was(old: Path, tmp_path: Path) -> None:
    suite = Suite.read(old / "suite.json")
    assert {b.workload for b in suite.benchmarks} == {"network", "end-to-end"}
    comparison = compare(suite, suite)
    assert comparison.met
    assert len(comparison.changes) >= 2 * len(suite.benchmarks)
    suite.write(tmp_path / "suite.json")
    assert json.loads((tmp_path / "suite.json").read_text()) == json.loads((old / "suite.json").read_text())


def test_a_copy_of_a_bundle_is_the_same_bundle(old: Path, tmp_path: Path) -> None:
    shutil.copytree(old / "bundle-fp32", tmp_path / "copy")
    assert Bundle.open(tmp_path / "copy").digest == Bundle.open(old / "bundle-fp32").digest
