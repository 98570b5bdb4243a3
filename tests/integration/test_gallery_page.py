"""docs/gallery.md and the figures of the model cards: benchmarks/gallery.py and gallery_page.py."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gallery
import pytest
from gallery_page import Row
from train_gallery import SAME_GRAPH, SYSTEMS

from lowres_seg.export import recipes, toml_file

WORDS = ("torch", "fp32", "bf16", "int8")


@pytest.fixture(scope="module")
def row() -> Row:
    return Row.read(gallery.RESULTS, "S21b")


def test_the_pages_are_made_of_the_results(checkout: Path) -> None:
    command = [sys.executable, checkout / "benchmarks" / "gallery.py", "page", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run: python benchmarks/gallery.py page\n{done.stderr}"


def test_every_system_has_a_plan() -> None:
    assert {plan.stem for plan in gallery.PLANS.glob("*.toml")} == {*SYSTEMS, "acs"}
    for name in SYSTEMS:
        plan = toml_file.read(gallery.PLANS / f"{name}.toml", ValueError)
        assert [Path(one["path"]).name for one in plan["bundles"]] == [f"{name}-{p}" for p in ("fp32", "bf16", "int8")]
        assert Path(plan["bundles"][0]["recipe"]).parent.name == recipes.named(name).parent.name
        assert plan["backends"] == ["openvino", "torch"]


def test_every_result_has_a_row_in_each_table() -> None:
    measured = {file.name.removesuffix("-facts.json") for file in gallery.RESULTS.glob("*-facts.json")}
    assert measured
    assert measured <= set(SYSTEMS)
    page = (gallery.HERE.parent / "docs" / "gallery.md").read_text(encoding="utf-8")
    for name in (*measured, *(twin for twin, of in SAME_GRAPH.items() if of in measured)):
        assert all(Row.read(gallery.RESULTS, SAME_GRAPH.get(name, name)).seconds(word) > 0 for word in WORDS)
        assert page.count(f"\n| {name} |") == 4  # what it is, how fast, what INT8 changes, where the time goes


def test_a_network_that_did_not_learn_gives_no_verdict(row: Row) -> None:
    assert row.judgement().startswith("INT8; ")
    training = row.facts["training"]
    poor = replace(row, facts={**row.facts, "training": {**training, "scores": {"AUC": 0.6}}})
    assert poor.judgement() == "no verdict: fp32 not reached: AUC 0.600 is below 0.90"


def test_a_gate_that_refused_and_a_gain_that_is_none_are_said(row: Row) -> None:
    refused = replace(row, facts={**row.facts, "gate": {"refused": "the mean Dice of wt falls by 0.02"}})
    assert refused.judgement() == "refused by the gate: the mean Dice of wt falls by 0.02"
    as_slow = [
        one.model_copy(update={"latency_s": row.benchmark("fp32").latency_s}) if one.bundle == "S21b-int8" else one
        for one in row.suite.benchmarks
    ]
    same = replace(row, suite=row.suite.model_copy(update={"benchmarks": tuple(as_slow)}))
    assert same.judgement() == "INT8 is not worth it here: 1.00 times the speed of f32"


def test_kernels_of_int8_are_told_by_their_names(row: Row) -> None:
    shares = {"Convolution i8": 0.5, "Eltwise u8": 0.125, "MVN f32": 0.25, "Reorder i32": 0.125}
    assert replace(row, facts={**row.facts, "int8": {"shares": shares}}).in_int8() == 0.625
