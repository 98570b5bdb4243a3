"""docs/reliability.md is what its script makes of the committed results, and names tests that exist and passed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import faults
import pytest

EVERY = (*faults.INJECTED, *faults.INPUTS)


def results(checkout: Path, name: str) -> Any:
    return json.loads((checkout / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_page_is_the_results(checkout: Path) -> None:
    script = checkout / "scripts" / "reliability.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fault", EVERY, ids=lambda fault: fault.fault)
def test_every_fault_has_tests_that_exist_and_passed(checkout: Path, fault: faults.Fault) -> None:
    outcomes = results(checkout, "faults")["tests"]
    assert fault.tests
    for test in fault.tests:
        file, _, name = test.partition("::")
        tree = ast.parse((checkout / "tests" / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert outcomes[test].get("passed", 0) > 0, test
        assert set(outcomes[test]) <= {"passed", "skipped"}, test


def test_the_page_has_every_fault_and_test(checkout: Path) -> None:
    page = (checkout / "docs" / "reliability.md").read_text(encoding="utf-8")
    for fault in EVERY:
        assert f"| {fault.fault} | {fault.right} |" in page
    named = set(re.findall(r"`(test_\w+)` in `([\w/.]+)`", page))
    assert named == {tuple(reversed(test.split("::"))) for fault in EVERY for test in fault.tests}


def test_the_results_are_of_the_sizes_that_are_asked_for_and_nothing_is_wrong(checkout: Path) -> None:
    fuzz = results(checkout, "fuzz")["kinds"].values()
    assert sum(row["inputs"] for row in fuzz) >= 100_000
    assert sum(row["anything_else"] for row in fuzz) == 0
    kills = results(checkout, "interruptions")["commands"].values()
    assert sum(row["kills"] for row in kills) >= 100
    assert 2 * sum(row["while_writing"] for row in kills) >= sum(row["kills"] for row in kills)
    assert all(row["half_written"] == row["left_after_next"] == row["processes_left"] == 0 for row in kills)
    assert all(row["identical"] == row["completed"] > 0 for row in kills)
    grids = results(checkout, "orientations")
    for row in grids["bundles"].values():
        assert row["codes_equal"] == row["codes"] == 48
        assert row["oblique_equal"] == row["oblique"] > 0
        assert row["dice_least"] >= grids["least_dice"]
    assert max(row["oblique"] for row in grids["bundles"].values()) >= 100
    for row in results(checkout, "soak")["kinds"].values():
        assert row["predictions"] >= 500
        assert row["faults"] == []
    doubts = results(checkout, "doubts")
    assert doubts["false_alarms"] == doubts["missed"] == []
