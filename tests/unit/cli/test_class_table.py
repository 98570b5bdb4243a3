"""`predict --class-table`, and tables of cases as its input."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import graders
from lowres_seg.cli import app
from lowres_seg.cohort.ledger import NAME as LEDGER

#: Level of each scan.
LEVELS = {"a": 0.2, "b": 0.9, "c": 0.55}


def here(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def rows(table: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))


def likely(level: float) -> float:
    return float(1 / (1 + np.exp(-8 * (level - 0.5))))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name, level in LEVELS.items():
        graders.scan(level).save(tmp_path / "in" / f"{name}.nii.gz")
    return tmp_path


@pytest.fixture
def grader(folder: Path, content: Callable[..., dict[str, Any]]) -> Path:
    return graders.write(folder / "grader", content()).path


def scans(folder: Path) -> list[Path]:
    return sorted((folder / "in").glob("*.nii.gz"))


def test_a_row_for_each_case_beside_the_json(grader: Path, folder: Path) -> None:
    bad = folder / "in" / "bad.nii.gz"
    bad.write_bytes(b"no scan")
    done = here("predict", grader, *scans(folder), "-o", folder / "out", "--class-table", folder / "t.csv")
    assert done.exit_code == 1
    found = rows(folder / "t.csv")
    assert list(found[0]) == ["id", "low", "high", "decision", "error"]
    assert [Path(row["id"]).name for row in found] == ["a.nii.gz", "b.nii.gz", "bad.nii.gz", "c.nii.gz"]
    assert [row["decision"] for row in found] == ["low", "high", "", "high"]
    assert [row["low"] + row["high"] for row in found if row["error"]] == [""]
    for row, level in zip([found[0], found[1], found[3]], LEVELS.values(), strict=True):
        assert float(row["high"]) == pytest.approx(likely(level), abs=1e-3)
        written = json.loads((folder / "out" / f"{Path(row['id']).name[0]}_classes.json").read_text())
        assert [float(row[name]) for name in ("low", "high")] == pytest.approx(list(written.values()), rel=1e-5)


@pytest.mark.parametrize(("level", "decision"), [(0.4, "not-high"), (0.6, "high")])
def test_a_single_class_is_decided_on_above_a_half(
    folder: Path, content: Callable[..., dict[str, Any]], level: float, decision: str
) -> None:
    bundle = graders.write(folder / "single", content(), ["high"])
    graders.scan(level).save(folder / "s.nii.gz")
    done = here("predict", bundle.path, folder / "s.nii.gz", "-o", folder / "s.json", "--class-table", folder / "t.csv")
    assert done.exit_code == 0, done.output
    (row,) = rows(folder / "t.csv")
    assert (row["id"], row["decision"], row["error"]) == (str(folder / "s.nii.gz"), decision, "")
    assert float(row["high"]) == pytest.approx(likely(level), abs=1e-3)


def test_resume_keeps_the_rows_that_are_done(grader: Path, folder: Path) -> None:
    words = ["predict", grader, *scans(folder), "-o", folder / "out", "--class-table", folder / "t.csv"]
    assert here(*words).exit_code == 0
    before = rows(folder / "t.csv")
    (folder / "out" / "b_classes.json").unlink()
    assert here(*words).exit_code == 1  # the table exists
    done = here(*words, "--resume")
    assert done.exit_code == 0, done.output
    assert "1 done, 0 failed, 2 skipped" in done.output
    assert rows(folder / "t.csv") == before
    (folder / "t.csv").write_text("somebody's own\n", encoding="utf-8")
    assert "t.csv: exists" in str(here(*words, "--resume").exception)


def test_an_anonymous_table_names_no_path(grader: Path, folder: Path) -> None:
    (folder / "in" / "jane_doe.nii.gz").write_bytes(b"no scan")
    words = ["-o", folder / "out", "--class-table", folder / "t.csv", "--anonymous"]
    assert here("predict", grader, *scans(folder), *words).exit_code == 1
    found = rows(folder / "t.csv")
    assert [row["id"] for row in found] == ["case 1", "case 2", "case 3", "case 4"]
    assert "jane" not in (folder / "t.csv").read_text(encoding="utf-8")
    assert "(t1): " in found[3]["error"]


def table(folder: Path, text: str) -> Path:
    (folder / "cases.csv").write_text(text, encoding="utf-8")
    return folder / "cases.csv"


def test_a_table_of_cases_is_an_input(grader: Path, folder: Path) -> None:
    cases = table(folder, "id,t1,class\none,in/a.nii.gz,what only quantize reads\nsite/two,in/b.nii.gz,\n")
    done = here("predict", grader, cases, "-o", folder / "out", "--class-table", folder / "t.csv", "--json")
    assert done.exit_code == 0, done.output
    assert [(row["id"], row["decision"]) for row in rows(folder / "t.csv")] == [("one", "low"), ("site/two", "high")]
    files = sorted(p.relative_to(folder / "out").as_posix() for p in (folder / "out").rglob("*.json"))
    assert files == ["one_classes.json", "site/two_classes.json"]
    assert [case["id"] for case in json.loads(done.stdout)["cases"]] == ["one", "site/two"]
    assert (folder / "out" / LEDGER).is_file()


def test_a_table_of_cases_serves_masks_of_several_channels(
    make_bundle: Callable[..., Path], content: Callable[..., dict[str, Any]], folder: Path
) -> None:
    networks = content()["networks"]
    networks["net"]["input_shape"][1] = 2
    bundle = make_bundle(channels=["t1", "t2"], networks=networks)
    cases = table(folder, "id,t1,t2\none,in/a.nii.gz,in/b.nii.gz\ntwo.nii.gz,in/b.nii.gz,in/c.nii.gz\n")
    done = here("predict", bundle, cases, "-o", folder / "out")
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (folder / "out").glob("*.nii.gz")) == ["one_mask.nii.gz", "two_mask.nii.gz"]


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ("id,t1\n../out,in/a.nii.gz\n", (), "its id names no file below the output"),
        ("id,t1\n/tmp/out,in/a.nii.gz\n", (), "its id names no file below the output"),
        ("id,t1\na,in/a.nii.gz\na.nii.gz,in/b.nii.gz\n", (), "would both be written to a_classes.json"),
        ("id,t2\na,in/a.nii.gz\n", (), "has the columns id, t2; expected t1"),
        ("id,t1\na,in/a.nii.gz\n", ("in/b.nii.gz",), "is a table of cases beside other inputs"),
    ],
)
def test_tables_that_cannot_be_jobs(grader: Path, folder: Path, text: str, more: tuple[str, ...], message: str) -> None:
    done = here("predict", grader, table(folder, text), *(folder / name for name in more), "-o", folder / "out")
    assert done.exit_code == 1
    assert message in str(done.exception)
    assert not (folder / "out").exists()


def test_no_table_is_written_over_a_scan_of_the_table(grader: Path, folder: Path) -> None:
    cases = table(folder, "id,t1\none,in/a.nii.gz\n")
    before = (folder / "in" / "a.nii.gz").read_bytes()
    for option in ("--class-table", "--provenance"):
        done = here("predict", grader, cases, "-o", folder / "out", option, folder / "in" / "a.nii.gz", "--force")
        assert done.exit_code == 1
    assert (folder / "in" / "a.nii.gz").read_bytes() == before


def test_a_table_of_what_a_bundle_does_not_give_is_refused(grader: Path, tiny: Path, folder: Path) -> None:
    for bundle, option, other in (
        (grader, "--volume-table", "--class-table"),
        (tiny, "--class-table", "--volume-table"),
    ):
        done = here("predict", bundle, *scans(folder), "-o", folder / "out", option, folder / "t.csv")
        assert done.exit_code == 2
        assert other in done.output
        assert not (folder / "t.csv").exists()
