"""A bundle that classifies, from files to a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fakes import FakeEngine
from lowres_seg import EngineError, InputError, Manifest, Segmenter, Volume
from lowres_seg.cohort.jobs import list_jobs, run_jobs
from stages import Content, bright, build, noise, predict, stage


@pytest.fixture
def classifier(content: Content) -> Segmenter:
    only = {
        "name": "only",
        "networks": ["net"],
        "conform": {"orientation": "RAS", "shape": [16, 16, 16]},
        "decode": {"kind": "classes", "names": ["low", "high"]},
        "restore": {"what": "nothing"},
    }
    manifest = Manifest.model_validate(content(schema_version=2, labels=[], stages=[only]))
    grade = FakeEngine(lambda _: np.reshape([0.0, np.log(3.0)], (2, 1, 1, 1)))
    return Segmenter(manifest, {"only": [grade]}, threads=1)


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


def test_classes_give_numbers_and_no_mask(content: Content) -> None:
    decode = {"kind": "classes", "activation": "softmax", "names": ["low", "high"]}
    one = stage(conform={"shape": [4, 4, 4]}, decode=decode, restore={"what": "nothing"}, networks=["a", "b"])
    manifest = build(content, one | {"mirror_axes": [0]}, top=0)
    given = [np.reshape(scores, (2, 1, 1, 1)) for scores in ([1.0, 2.0], [3.0, 0.0])]
    engines = [FakeEngine(lambda x, s=scores: s) for scores in given]
    result = predict(manifest, {"only": engines}, noise((4, 4, 4)))
    high = 1 / (1 + np.exp(2 - 1))  # of the mean scores 2 and 1
    assert result.numbers == {"low": pytest.approx(1 - high), "high": pytest.approx(high)}
    assert not result.labels.data.any()
    assert result.doubts == ()
    assert len(engines[0].seen) == 2
    likely = build(content, one | {"ensemble": "mean-probabilities"}, top=0)
    result = predict(likely, {"only": engines}, noise((4, 4, 4)))
    assert result.numbers["high"] == pytest.approx(np.mean([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(3))]))


def test_classes_stand_beside_a_mask(content: Content) -> None:
    decode = {"kind": "classes", "activation": "none", "names": ["volume"]}
    first = stage("first", conform={"shape": [4, 4, 4]}, decode=decode, restore={"what": "nothing"})
    second = stage("second", conform={"shape": [4, 4, 4]})
    data = noise((4, 4, 4))
    total = FakeEngine(lambda x: x.sum().reshape(1, 1, 1, 1))
    result = predict(build(content, first, second), {"first": [total], "second": [FakeEngine(bright)]}, data)
    assert result.numbers == {"volume": pytest.approx(data.sum(), rel=1e-5)}
    assert np.array_equal(result.labels.data, data > 0.5)


def test_scores_of_voxels_are_no_classes(content: Content) -> None:
    decode = {"kind": "classes", "names": ["low", "high"]}
    one = stage(conform={"shape": [4, 4, 4]}, decode=decode, restore={"what": "nothing"})
    with pytest.raises(EngineError, match=r"gave \(1, 2, 4, 4, 4\)"):
        predict(build(content, one, top=0), {"only": [FakeEngine(bright)]}, noise((4, 4, 4)))
