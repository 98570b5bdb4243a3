"""A bundle that classifies, from files to a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowres_seg import InputError, Manifest, Segmenter, Volume
from lowres_seg.cohort.jobs import list_jobs, run_jobs

Content = Callable[..., dict[str, Any]]


class Grade:
    """Two scores for the whole of what it sees."""

    def run(self, x: np.ndarray) -> np.ndarray:
        assert x.shape == (1, 1, 16, 16, 16)
        return np.array([0.0, np.log(3.0)], np.float32).reshape(1, 2, 1, 1, 1)


@pytest.fixture
def classifier(content: Content) -> Segmenter:
    stage = {
        "name": "only",
        "networks": ["net"],
        "conform": {"orientation": "RAS", "shape": [16, 16, 16]},
        "decode": {"kind": "classes", "names": ["low", "high"]},
        "restore": {"what": "nothing"},
    }
    manifest = Manifest.model_validate(content(schema_version=2, labels=[], stages=[stage]))
    return Segmenter(manifest, {"only": [Grade()]}, threads=1)


def test_numbers_are_written_as_json(classifier: Segmenter, tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    Volume.from_array(np.random.default_rng(0).random((8, 9, 10), dtype=np.float32), np.eye(4)).save(scan)
    jobs = list_jobs([str(scan)], tmp_path / "out.json", ["t1"], force=False, apply_mask=False, masks=False)
    (outcome,) = run_jobs(classifier, jobs, force=False)
    assert outcome.error is None
    assert json.loads((tmp_path / "out.json").read_text()) == pytest.approx({"low": 0.25, "high": 0.75})
    assert outcome.numbers == pytest.approx({"low": 0.25, "high": 0.75})
    assert outcome.doubts == ()


def test_a_mask_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").touch()
    words = [str(tmp_path / "scan.nii.gz")]
    with pytest.raises(InputError, match="gives no mask to apply"):
        list_jobs(words, tmp_path / "out.json", ["t1"], force=False, apply_mask=True, masks=False)
    jobs = list_jobs(words, tmp_path / "folder", ["t1"], force=False, apply_mask=False, masks=False)
    assert [job.output.name for job in jobs] == ["scan_classes.json"]
