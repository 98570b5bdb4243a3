"""Recipes and plans with faults: all of them at once, in words, with what was probably meant."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lowres_seg import BenchmarkError, ExportError
from lowres_seg.bench.measuring.plan import Plan
from lowres_seg.export import faults
from lowres_seg.export.importers import recipe_file
from lowres_seg.export.recipe import Recipe, json_schema

Content = dict[str, Any]


def content() -> Content:
    return {
        "channels": ["t1", "flair"],
        "bundle": dict.fromkeys(("version", "description", "license", "source", "intended_use"), "x") | {"name": "b"},
        "labels": [{"value": 1, "name": "brain"}, {"value": 2, "name": "lesion"}],
        "networks": {"net": {"factory": "network.py:build", "checkpoint": "net.pt"}},
        "stages": [
            {
                "name": "find",
                "networks": ["net"],
                "conform": {"orientation": "RAS", "spacing_mm": [1.0, 1.0, 1.0]},
                "normalise": {"rules": [{"rule": "z-score", "voxels": "nonzero"}]},
                "windows": {"roi_size": [32, 32, 32], "overlap": 0.5},
                "decode": {"kind": "argmax", "labels": [0, 1, 2]},
                "restore": {"what": "scores"},
            }
        ],
    }


def stage(recipe: Content) -> Content:
    found: Content = recipe["stages"][0]
    return found


def told(recipe: Content) -> list[str]:
    with pytest.raises(ExportError) as error:
        recipe_file.checked("recipe.toml", recipe)
    return str(error.value).split("\n")


def test_the_recipe_of_these_tests_is_valid() -> None:
    assert recipe_file.checked("recipe.toml", content()).multiple_of == 32


def test_five_planted_faults_are_shown_at_once() -> None:
    recipe = content()
    recipe["bundle"]["lisence"] = recipe["bundle"].pop("license")
    recipe["networks"]["net"]["sha256"] = "abc"
    stage(recipe)["networks"] = ["nett"]
    stage(recipe)["windows"]["roi_size"] = [32, 32]
    stage(recipe)["decode"]["labels"] = [0, 1, 3]
    head, *lines = told(recipe)
    assert head == "recipe.toml: 5 faults"
    assert lines == [
        "  bundle.lisence: no such key; did you mean license?",
        "  networks.net.sha256: is 'abc', expected 64 hexadecimal digits, as sha256sum prints them",
        "  stages.find.windows.roi_size: has 2 items, expected 3 of them",
        "  stages.find.networks: names network nett, the networks are net; did you mean net?",
        "  stages.find.decode.labels: writes label 3, the labels are 1, 2; add it to labels",
    ]


#: A change, and the one line that it gives.
SINGLE: dict[str, tuple[Callable[[Content], object], str]] = {
    "key in the stage": (lambda r: stage(r).update(spacing_mm=[1, 1, 1]), "stages.find.spacing_mm: no such key; did you mean conform.spacing_mm?"),
    "key below a table": (lambda r: r["bundle"].update(channels=["t1"]), "bundle.channels: no such key; channels belongs to the top of the file, before the first [table]"),
    "key like no other": (lambda r: r["labels"][0].update(zzz=1), "labels.brain.zzz: no such key, expected some of value, name, volume_ml, codes"),
    "key of a network": (lambda r: r["networks"]["net"].update(checkpont="x"), "networks.net.checkpont: no such key; did you mean checkpoint?"),
    "two labels of one value": (lambda r: r["labels"][1].update(value=1), "label value 1 is there twice"),
    "key in capitals": (lambda r: stage(r).update(Onto="x"), "stages.find.Onto: no such key; did you mean onto?"),
    "missing": (lambda r: r["bundle"].pop("source"), "bundle.source: is missing"),
    "missing kind": (lambda r: stage(r)["decode"].pop("kind"), "stages.find.decode.kind: is missing, expected argmax, classes or regions"),
    "kind": (lambda r: stage(r).update(region={"kind": "boxof"}), "stages.find.region.kind: is 'boxof', expected above, box-of, nonzero or volume; did you mean box-of?"),
    "rule": (lambda r: stage(r)["normalise"]["rules"][0].update(rule="zscore"), "stages.find.normalise.rules.0.rule: is 'zscore'"),
    "choice": (lambda r: stage(r)["normalise"]["rules"][0].update(voxels="non-zero"), "stages.find.normalise.rules.0.voxels: is 'non-zero', expected all, nonzero or inside; did you mean nonzero?"),
    "whole number": (lambda r: stage(r)["windows"].update(roi_size=[32, 32, "a"]), "stages.find.windows.roi_size.2: is 'a', expected a whole number"),
    "bound": (lambda r: r["labels"][0].update(value=256), "labels.brain.value: is 256, expected at most 255"),
    "number or list": (lambda r: stage(r)["windows"].update(overlap="half"), "stages.find.windows.overlap: is 'half', expected a number or a list"),
    "table": (lambda r: r.update(bundle="b"), "bundle: is 'b', expected a table"),
    "list of tables": (lambda r: r.update(stages=stage(r)), "stages: is a table, expected a list of tables, each under [[stages]]"),
    "name": (lambda r: r["labels"][0].update(name="White Matter"), "labels.White Matter.name: is 'White Matter', expected lower-case letters, digits"),
    "factory": (lambda r: r["networks"]["net"].update(factory="network.build"), "networks.net.factory: is 'network.build', expected FILE.py:FUNCTION, or a class such as monai:UNet"),
    "importer of a factory": (lambda r: r["networks"]["net"].update(factory="monia:UNet"), "networks.net.factory: found monia:UNet, expected FILE.py:FUNCTION or monai:NAME or nnunet:NAME"),
    "no network": (lambda r: r.update(networks={}), "networks: has 0 items, expected at least 1"),
    "channel of a rule": (lambda r: stage(r)["normalise"]["rules"][0].update(channels=["t11"]), "stages.find.normalise.rules.0.channels: names channel t11, the channels are t1, flair; did you mean t1?"),
    "stage of a box": (lambda r: stage(r).update(region={"kind": "box-of", "stage": "locate"}), "stages.find.region.stage: refers to stage locate, no stage comes before it"),
    "view": (lambda r: stage(r).update(views={"nets": "axial"}), "has a view for network nets, which the stage does not run; did you mean net?"),
    "inputs": (lambda r: stage(r).update(inputs={"nets": ["t1"]}), "stages.find.inputs: has inputs for network nets, which the stage does not run; did you mean net?"),
    "channel of inputs": (lambda r: stage(r).update(inputs={"net": ["flare"]}), "stages.find.inputs.net: names channel flare, the channels are t1, flair; did you mean flair?"),
    "unused network": (lambda r: r["networks"].update(more={"onnx": "more.onnx"}), "networks that no stage runs: more"),
    "evaluated region": (lambda r: r.update(regions=[{"name": "wt", "labels": [4]}]), "regions.wt.labels: are [4], the labels are 1, 2; name one of them"),
    "label of a clean-up": (lambda r: stage(r).update(cleanup=[{"rule": "small-label", "label": 2, "fewer_than": 9, "becomes": 7}]), "stages.find.cleanup: writes label 7, the labels are 1, 2"),
    "sources": (lambda r: r["networks"]["net"].update(onnx="x.onnx"), "networks.net: expected exactly one of torchscript, onnx and checkpoint"),
    "published": (lambda r: r.update(weights={"folder": "data"}), "weights: expected exactly one of pypi and where"),
    "package": (lambda r: r.update(weights={"pypi": "deepbet"}), "weights.pypi: is 'deepbet', expected NAME==VERSION"),
    "version": (lambda r: r["bundle"].update(version=1.0), "bundle.version: is 1.0, expected a text"),
}  # fmt: skip


@pytest.mark.parametrize("case", SINGLE)
def test_a_fault_is_told_in_words(case: str) -> None:
    change, expected = SINGLE[case]
    recipe = content()
    change(recipe)
    lines = told(recipe)
    assert len(lines) == 1, lines
    assert expected in lines[0]
    assert lines[0].startswith("recipe.toml: ")


def test_a_name_that_is_a_key_is_told_with_its_uses() -> None:
    recipe = content()
    recipe["networks"]["My Net"] = recipe["networks"].pop("net")
    stage(recipe)["networks"] = ["My Net"]
    expected = "is 'My Net', expected lower-case letters, digits, '_', '.' and '-', with a letter or a digit first"
    assert told(recipe) == [
        "recipe.toml: 2 faults",
        f"  networks.My Net: {expected}",
        f"  stages.find.networks.0: {expected}",
    ]


def test_names_are_checked_whatever_else_is_wrong() -> None:
    recipe = content()
    del recipe["bundle"]
    recipe["labels"] = "brain"
    stage(recipe).update(networks=["other"], views=3, cleanup=[1], mask_channels={"stage": "x"}, onto="nowhere")
    head, *lines = told(recipe)
    assert head == f"recipe.toml: {len(lines)} faults"
    assert "  bundle: is missing" in lines
    assert any("names network other, the networks are net" in line for line in lines)
    assert any("onto: refers to stage nowhere" in line for line in lines)


def _values(part: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield where
    for key, one in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        yield from _values(one, (*where, key))


@pytest.mark.parametrize("wrong", [None, 3, "x", [], {}, [[]], [None], {"a": {}}], ids=str)
def test_anything_in_any_place_is_a_fault_and_no_accident(wrong: Any) -> None:
    """What is read is another's file: each value of a recipe is replaced, and is taken or told, never a traceback."""
    for place in list(_values(content()))[1:]:
        recipe: Any = copy.deepcopy(content())
        inner = recipe
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = wrong
        with suppress(ExportError):
            recipe_file.checked("recipe.toml", recipe)


def test_labels_are_restored_by_nearest_unless_said_otherwise() -> None:
    recipe = content()
    stage(recipe)["restore"] = {"what": "labels"}
    assert recipe_file.checked("r", recipe).stages[0].restore.interpolation == "nearest"
    stage(recipe)["restore"] = {"what": "labels", "rounding": "nearest"}
    assert recipe_file.checked("r", recipe).stages[0].restore.interpolation == "linear"
    stage(recipe)["restore"] = {"what": "labels", "interpolation": "linear"}
    assert "labels can only be restored with nearest interpolation" in told(recipe)[0]
    stage(recipe)["restore"] = {}
    assert recipe_file.checked("r", recipe).stages[0].restore.interpolation == "linear"


def test_the_faults_of_a_plan_are_shown_at_once() -> None:
    with pytest.raises(BenchmarkError) as error:
        Plan.build("plan.toml", {"bundles": [{"path": "b", "recepie": "r"}], "backend": ["openvino"], "rounds": "ten"})
    assert str(error.value).split("\n") == [
        "plan.toml: 3 faults",
        "  bundles.0.recepie: no such key; did you mean recipe?",
        "  backend: no such key; did you mean backends?",
        "  rounds: is 'ten', expected a whole number",
    ]


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for one in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _nodes(one)


def test_every_pattern_of_a_recipe_has_words() -> None:
    assert {node["pattern"] for node in _nodes(json_schema()) if isinstance(node.get("pattern"), str)} <= set(faults.PATTERNS)  # fmt: skip


def test_the_published_schema_is_that_of_the_code(checkout: Path) -> None:
    published = json.loads((checkout / "docs" / "recipe.schema.json").read_text(encoding="utf-8"))
    assert published == json_schema(), "run: scripts/schema"
    jsonschema.validate(content(), published)
    wrong = content()
    wrong["stages"][0]["surprise"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, published)


def test_the_page_has_every_key_and_every_choice(checkout: Path) -> None:
    page = (checkout / "docs" / "recipes.md").read_text(encoding="utf-8")
    words = {word for found in re.findall(r"```toml\n(.*?)```|`([^`\n]+)`", page, re.DOTALL) for word in re.findall(r"[\w-]+", " ".join(found))}  # fmt: skip
    schema = Recipe.model_json_schema()
    keys = {key for node in _nodes(schema) for key in node.get("properties", {})}
    choices = {one for node in _nodes(schema) for one in (*node.get("enum", ()), node.get("const")) if isinstance(one, str)}  # fmt: skip
    splines = {"spline-3", "spline-4"}  # the page has them as a range
    assert (keys | choices) - splines - words == set()
