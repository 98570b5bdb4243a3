"""`predict` with what is made of a result: labels, border, crop, another grid; in files, tables, ledger and record."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from lowres_seg import Segmenter, Volume
from lowres_seg.cli import app

LABELS = [{"value": 1, "name": "brain"}, {"value": 2, "name": "vessel"}]


def run(*words: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.exception)
    return done


def said(done: Any) -> str:
    """What a person reads, in one line: `main` prints an error that ends here as it is."""
    return " ".join(f"{done.output} {done.exception}".split())


@pytest.fixture
def bundle(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(labels=LABELS)


@pytest.fixture
def scan(tmp_path: Path, lopsided: Callable[..., Volume]) -> Path:
    lopsided().save(tmp_path / "head.nii.gz")
    return tmp_path / "head.nii.gz"


def test_labels_border_and_crop_are_in_all_that_is_written(bundle: Path, scan: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "out", ("--labels", "whole=brain+vessel", "--border", "1", "--crop", "--apply-mask")
    files = ("--volume-table", tmp_path / "v.csv", "--provenance", tmp_path / "p.json")
    done = run("predict", bundle, scan, "-o", f"{out}/", *words, *files, "--json")
    plain = Segmenter.load(bundle, threads=1).predict(scan)
    expected = plain.choose("whole=brain+vessel").border(1)
    mask = Volume.load(out / "head_mask.nii.gz")
    assert np.array_equal(mask.data, expected.crop().labels.data)
    assert mask.grid.same_space(expected.crop().labels.grid)
    assert mask.data.size < expected.labels.data.size
    masked = Volume.load(out / "head_mask_masked.nii.gz")
    assert masked.grid.same_space(mask.grid)
    place = np.argwhere(expected.labels.data).min(axis=0)
    box = tuple(slice(a, a + n) for a, n in zip(place, mask.data.shape, strict=True))
    whole = Volume.load(scan).data[box]
    assert np.array_equal(masked.data, np.where(mask.data != 0, whole, 0))
    (case,) = json.loads(done.stdout)["cases"]
    assert case["voxels"] == {"whole": int(mask.data.sum())} == expected.voxels()
    assert "finish" in case["timings_s"]
    (row,) = csv.DictReader((tmp_path / "v.csv").read_text().splitlines())
    assert (row["label"], row["name"], row["voxels"]) == ("1", "whole", str(case["voxels"]["whole"]))
    record = json.loads((tmp_path / "p.json").read_text())
    chosen = {"labels": "whole=brain+vessel", "border": 1.0, "crop": True}
    assert chosen.items() <= record["options"].items()
    (entry,) = map(json.loads, (out / ".lowres-seg.jsonl").read_text().splitlines())
    assert chosen.items() <= entry["options"].items()
    again = run("predict", bundle, scan, "-o", f"{out}/", *words, "--resume")
    assert "done before" in again.output
    other = run("predict", bundle, scan, "-o", f"{out}/", *words[:-2], "--border", "2", "--apply-mask", "--resume")
    assert "was done again, because it was done with --border 1, with --crop" in said(other)
    none = run("predict", bundle, scan, "-o", f"{out}/", "--apply-mask", "--resume")
    assert "because it was done with --border 2, with --labels 'whole=brain+vessel'" in said(none)


def test_the_mask_lies_on_the_grid_of_another_scan(bundle: Path, scan: Path, tmp_path: Path) -> None:
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    affine[:3, 3] = 0.2
    other = Volume.from_array(np.ones((8, 8, 6), np.float32), affine)
    other.save(tmp_path / "other.nii")
    done = run("predict", bundle, scan, "-o", tmp_path / "m.nii", "--like", tmp_path / "other.nii", "--strict", code=3)
    mask = Volume.load(tmp_path / "m.nii")
    assert mask.grid == Volume.load(tmp_path / "other.nii").grid
    assert np.array_equal(mask.data, Segmenter.load(bundle, threads=1).predict(scan).like(other).labels.data)
    assert "of what is labelled lies outside of" in said(done)
    away = np.diag([1.0, 1, 1, 1])
    away[:3, 3] = 500
    Volume.from_array(np.ones((8, 8, 6), np.float32), away).save(tmp_path / "away.nii")
    found = run("predict", bundle, scan, "-o", tmp_path / "n.nii", "--like", tmp_path / "away.nii", code=1)
    assert "no voxel of" in said(found)
    same = run(
        "predict", bundle, scan, "-o", tmp_path / "other.nii", "--like", tmp_path / "other.nii", "--force", code=1
    )
    assert "other.nii: is the input" in said(same)
    assert Volume.load(tmp_path / "other.nii").data.all()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--labels", "csf"), 1, "labels: 'csf' is none of the bundle's, which has brain (1), vessel (2)"),
        (("--labels", "vessel", "--crop"), 1, "its result is empty, and there is no box around it; leave --crop out"),
        (("--crop", "--like", "SCAN"), 2, "gives the mask the whole grid of the other scan; leave --crop out"),
        (("--border", "wide"), 2, "Invalid value for '--border': "),
        (("--border", "nan"), 1, "--border: found nan (float), expected a finite number of millimetres"),
        (("--like", "none.nii"), 1, "none.nii: does not exist"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    words: tuple[str, ...], code: int, text: str, bundle: Path, scan: Path, tmp_path: Path
) -> None:
    given = [scan if word == "SCAN" else word for word in words]
    found = run("predict", bundle, scan, "-o", tmp_path / "m.nii", *given, code=code)
    assert text in said(found)
    assert "\n" not in str(found.exception)
    assert not (tmp_path / "m.nii").exists()


def test_a_border_that_takes_all_is_a_doubt(bundle: Path, scan: Path, tmp_path: Path) -> None:
    done = run("predict", bundle, scan, "-o", tmp_path / "m.nii", "--border", "-50", "--strict", code=3)
    assert "brain is gone: a border of -50 mm has left no voxel of it" in said(done)
    assert not Volume.load(tmp_path / "m.nii").data.any()


def test_scores_are_written_beside_the_mask(bundle: Path, scan: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "out", ("--scores", "uint8", "--labels", "brain", "--crop")
    done = run("predict", bundle, scan, "-o", f"{out}/", *words, "--json", "--provenance", tmp_path / "p.json")
    result = Segmenter.load(bundle, threads=1).predict(scan, scores="uint8").choose("brain").crop()
    written = nib.load(out / "head_mask_score_brain.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), result.scores["brain"].data)
    assert written.get_data_dtype() == np.uint8
    assert written.affine == pytest.approx(nib.load(out / "head_mask.nii.gz").affine)
    (case,) = json.loads(done.stdout)["cases"]
    assert case["scores"] == {"brain": str(out / "head_mask_score_brain.nii.gz")}
    (told,) = json.loads((tmp_path / "p.json").read_text())["cases"]
    assert set(told["outputs"]) == {"mask", "score brain"}
    assert "done before" in run("predict", bundle, scan, "-o", f"{out}/", *words, "--resume").output
    (out / "head_mask_score_brain.nii.gz").unlink()
    again = run("predict", bundle, scan, "-o", f"{out}/", *words, "--resume")
    assert "not all of its files are there" in said(again)
    run("predict", bundle, scan, "-o", tmp_path / "m.mgz", "--scores", "float16")
    half = Volume.load(tmp_path / "m_score_brain.mgz").data
    assert half.max() > 0.9
    assert np.array_equal(half, half.astype(np.float16))
    wrong = run("predict", bundle, scan, "-o", tmp_path / "n.nii", "--scores", "float32", code=2)
    assert "expected float16 or uint8" in said(wrong)


def test_scores_count_for_the_bound_on_memory(bundle: Path, scan: Path) -> None:
    segmenter = Segmenter.load(bundle, threads=1, max_ram_bytes=10**9)
    bound = segmenter.bound
    assert bound is not None
    grid = Volume.read_grid(scan)
    need = [bound.scan_bytes(segmenter.pipeline, grid, scores=scores) for scores in (False, True)]
    assert need[1] - need[0] >= (4 * 1 + 2) * 16**3
