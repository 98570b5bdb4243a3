"""No command writes over what it reads, inside of a bundle that it reads, or around it; not by another name either."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lowres_seg import InputError, Volume
from lowres_seg.bench import Plan, bench
from lowres_seg.cli import app


@pytest.fixture
def place(tiny: Path, tmp_path: Path, lopsided: Callable[..., Volume]) -> Path:
    """A bundle, two labelled cases in a table, a plan, and links to the first scan."""
    for seed, name in enumerate("ab"):
        scan = lopsided(seed=seed)
        scan.save(tmp_path / f"{name}.nii.gz")
        Volume((scan.data > 0.5).astype("uint8"), scan.grid).save(tmp_path / f"{name}_label.nii.gz")
    (tmp_path / "cases.csv").write_text("t1,label\na.nii.gz,a_label.nii.gz\n")
    (tmp_path / "other.csv").write_text("t1,label\nb.nii.gz,b_label.nii.gz\n")
    (tmp_path / "plan.toml").write_text('cases = "cases.csv"\n[[bundles]]\npath = "tiny"\n')
    (tmp_path / "symbolic").symlink_to(tmp_path / "a.nii.gz")
    (tmp_path / "hard").hardlink_to(tmp_path / "a.nii.gz")
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


BENCH = "bench {}/tiny --cases {}/cases.csv --no-pictures"
QUANTIZE = "quantize {}/tiny --calibrate {}/cases.csv --validate {}/other.csv"


@pytest.mark.parametrize(
    ("words", "output", "message"),
    [
        (BENCH, "cases.csv", "is the input"),
        (BENCH, "a.nii.gz", "is the input"),
        (BENCH, "tiny/../symbolic", "is the input"),
        (BENCH, "hard", "is the input"),
        (BENCH, "a_label.nii.gz", "is the input"),
        (f"{BENCH} --calibrate {{}}/other.csv --backend onnxruntime-int8", "other.csv", "is the input"),
        (f"{BENCH} --calibrate {{}}/other.csv --backend onnxruntime-int8", "b.nii.gz", "is the input"),
        (BENCH, "tiny/suite.json", "lies inside the input"),
        (BENCH, "tiny/manifest.json", "lies inside the input"),
        ("bench --plan {}/plan.toml", "plan.toml", "is the input"),
        ("bench --plan {}/plan.toml", "a.nii.gz", "is the input"),
        ("bench {}/tiny --scan {}/a.nii.gz", "hard", "is the input"),
        (QUANTIZE, "tiny", "is the input"),
        (QUANTIZE, "tiny/int8", "lies inside the input"),
        (QUANTIZE, "../{}", "holds the input"),
        (QUANTIZE, "cases.csv", "is the input"),
        (QUANTIZE, "b_label.nii.gz", "is the input"),
        (QUANTIZE, "plan.toml", "is a file, expected the path of a folder"),
    ],
)
def test_refused_before_anything_runs(place: Path, words: str, output: str, message: str) -> None:
    before = contents(place)
    target = str(place / output.format(place.name))
    done = CliRunner().invoke(app, [*words.replace("{}", str(place)).split(), "-o", target, "--force"])
    assert message in str(done.exception)
    assert isinstance(done.exception, InputError)
    assert contents(place) == before


def test_a_page_is_not_written_over_its_suite(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("PIL")
    suite = tmp_path / "suite.json"
    plan: Any = {"bundles": [{"path": tiny}], "what": ("network",), "passes": 1, "rounds": 1, "turn_s": 0}
    bench(Plan.build("test", plan)).write(suite)
    shutil.copy(suite, tmp_path / "before")
    (tmp_path / "link").symlink_to("suite.json")
    for target in ("suite.json", "link"):
        done = CliRunner().invoke(app, ["report", str(suite), "-o", str(tmp_path / target), "--force"])
        assert "is the input" in str(done.exception)
    assert suite.read_bytes() == (tmp_path / "before").read_bytes()
