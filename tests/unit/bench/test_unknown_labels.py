"""`bench` on label maps with values that the bundle does not know: an error with their counts, or left out by word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lowres_seg import Segmenter, Volume, extras
from lowres_seg.bench import Suite
from lowres_seg.cli import app

pytestmark = pytest.mark.skipif(bool(extras.missing("bench")), reason="bench needs its extra")
QUICK = ("--cores", "1", "--what", "network", "--passes", "1", "--rounds", "1")


@pytest.fixture
def measure(tiny: Path, tmp_path: Path, lopsided: Callable[..., Volume]) -> Callable[..., Any]:
    """Function that runs `bench` on a case in whose label map some voxels of background have a value."""
    scan = lopsided()
    scan.save(tmp_path / "scan.nii.gz")
    label = Segmenter.load(tiny, threads=1).predict(scan).labels
    (tmp_path / "cases.csv").write_text("id,t1,label\none,scan.nii.gz,label.nii.gz\n", encoding="utf-8")

    def run(value: int, *words: str) -> Any:
        data = label.data.astype(np.int16)
        assert not data[0, 0, :3].any()
        data[0, 0, :3] = value
        Volume(data, label.grid).save(tmp_path / "label.nii.gz", force=True)
        table, suite = tmp_path / "cases.csv", tmp_path / "suite.json"
        return CliRunner().invoke(app, ["bench", str(tiny), "--cases", str(table), "-o", str(suite), *QUICK, *words])

    return run


def test_a_value_that_the_bundle_does_not_know_is_an_error(measure: Callable[..., Any], tmp_path: Path) -> None:
    said = str(measure(255).exception)
    assert "label.nii.gz holds values that the bundle does not know: 255 in 3 voxels; it writes 1;" in said
    assert "--ignore-label 255" in said
    assert not (tmp_path / "suite.json").exists()


def test_an_ignored_label_is_left_out_and_recorded(measure: Callable[..., Any], tmp_path: Path) -> None:
    done = measure(255, "--ignore-label", "255")
    assert done.exit_code == 0, done.output
    suite = Suite.read(tmp_path / "suite.json")
    assert suite.ignore_labels == (255,)
    (accuracy,) = suite.benchmarks[0].accuracy
    assert accuracy.dice == 1


@pytest.mark.parametrize(("value", "words"), [("1", "a label of the bundle"), ("0", "background")])
def test_what_the_bundle_writes_cannot_be_ignored(measure: Callable[..., Any], value: str, words: str) -> None:
    assert words in str(measure(255, "--ignore-label", value).exception)
