"""The workflow for users: its own commands, from the first run on main to a pull request that is worse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowres_seg.export import phantom
from lowres_seg.volumes.volume import Volume

from .conftest import Tiny


@pytest.fixture(scope="module")
def workflow(checkout: Path) -> dict[str, Any]:
    return yaml.safe_load((checkout / "docs" / "ci-workflow.yml").read_text(encoding="utf-8"))


@pytest.fixture
def repository(tiny_network: Tiny, tmp_path: Path) -> Path:
    """A repository as the workflow expects it: a recipe, its weights, and labelled cases."""
    for path in (*tiny_network.recipe.parent.glob("*.*"), *tiny_network.weights.glob("tiny.pt")):
        shutil.copy(path, tmp_path)
    head = phantom.head((40, 44, 36), 5.0)
    head.save(tmp_path / "head.nii.gz")
    Volume((head.data > head.data.mean()).astype("uint8"), head.grid).save(tmp_path / "label.nii.gz")
    (tmp_path / "cases.csv").write_text("id,t1,label\none,head.nii.gz,label.nii.gz\n", encoding="utf-8")
    command = tmp_path / "bin" / "lowres-seg"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m lowres_seg "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return tmp_path


def step(workflow: dict[str, Any], repository: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Run a named step of the job, as a runner does."""
    script = next(one["run"] for one in workflow["jobs"]["bundle"]["steps"] if one.get("name") == name)
    environment = {
        **os.environ,
        "PATH": f"{repository / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "BENCH": f"{workflow['env']['BENCH']} --passes 2 --rounds 3 --what network --cores 1",
        "GITHUB_STEP_SUMMARY": str(repository / "summary.md"),
    }
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(shell, cwd=repository, env=environment, capture_output=True, text=True, check=False)


def test_the_workflow_runs_from_the_first_baseline_to_a_worse_change(
    workflow: dict[str, Any], repository: Path
) -> None:
    jobs = workflow["jobs"]["bundle"]["steps"]
    kept = next(step["with"]["path"] for step in jobs if step.get("with", {}).get("name") == "baseline")
    said = ""
    for name in ("make the bundle", "measure", "compare", "draw the report", "keep the baseline"):
        done = step(workflow, repository, name)
        assert done.returncode == 0, done.stderr
        said += done.stdout
    assert "::warning::no baseline yet" in said
    assert (repository / "report.html").is_file()
    (repository / kept).rename(repository / "baseline")  # what upload and download of the artefact do
    (repository / "report.html").unlink()
    (repository / "new").rmdir()

    recipe = repository / "recipe.toml"
    before = recipe.read_text(encoding="utf-8")
    worse = before.replace("channel = 1, label = 1", "channel = 1, threshold = 0.9, label = 1")
    assert worse != before
    recipe.write_text(worse, encoding="utf-8")
    for name in ("make the bundle", "measure"):
        done = step(workflow, repository, name)
        assert done.returncode == 0, done.stderr
    verdict = step(workflow, repository, "compare")
    assert verdict.returncode == 3, verdict.stdout + verdict.stderr
    assert "brain Dice" in verdict.stdout
    assert "regression" in (repository / "summary.md").read_text(encoding="utf-8")
