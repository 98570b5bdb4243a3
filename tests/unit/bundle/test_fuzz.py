"""Mutated manifests, a few of each kind; `scripts/fuzz_manifests` runs the same code on many."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fuzzed import run
from lowres_seg import Bundle


@pytest.mark.parametrize("first_seed", [0, 1])
def test_nothing_but_errors_of_this_project_comes_out_of_a_mutated_manifest(tiny: Path, first_seed: int) -> None:
    came_out = run(tiny, 200, first_seed=first_seed)
    assert sum(came_out.values()) >= 200
    assert came_out["ManifestError"] > 100
    assert came_out["opened"] > 0
    Bundle.open(tiny)  # it is as it was


def test_manifests_with_all_rules_are_mutated_too(checkout: Path, tmp_path: Path) -> None:
    shutil.copytree(checkout / "tests" / "data" / "3b2aec7" / "bundle-int8", tmp_path / "b")
    assert run(tmp_path / "b", 100)["ManifestError"] > 50
