"""Every recipe under export/: it loads, and its network exports at reduced width."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from lowres_seg import Bundle, Segmenter
from lowres_seg.export import export, importers, loading

from .conftest import Demo, seeded

RECIPES = sorted((Path(__file__).parents[2] / "export").glob("*/recipe.toml"))
#: Arguments that make a network narrower.
NARROW = {"brainmage": "{ filters = 2 }"}
#: Largest side of a network's input, and of a window; multiples of what any network needs.
SIDES = {"shape": 16, "roi_size": 64}


def reduced(recipe: Path, folder: Path) -> Path:
    """Copy of a recipe with small inputs and narrow networks, and seeded checkpoints of those."""
    home = folder / recipe.parent.name
    shutil.copytree(recipe.parent, home)
    text = recipe.read_text(encoding="utf-8")
    text = re.sub(r"^(sha256|convert) = .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(
        r"(shape|roi_size) = \[(.*?)\]",
        lambda m: f"{m[1]} = [{', '.join(str(min(int(n), SIDES[m[1]])) for n in m[2].split(','))}]",
        text,
    )
    text = re.sub(r'checkpoint = "(.*?)\.npz"', r'checkpoint = "\1.pt"', text)
    if recipe.parent.name in NARROW:
        text = re.sub(r"^(factory = .*)$", rf"\1\narguments = {NARROW[recipe.parent.name]}", text, flags=re.MULTILINE)
    (home / "recipe.toml").write_text(text, encoding="utf-8")
    source = importers.read(home / "recipe.toml", {})
    for entry in source.recipe.networks.values():
        network = seeded(loading._function(home, entry.factory or "")(**entry.arguments))
        state = network.state_dict()
        torch.save({entry.checkpoint_key: state} if entry.checkpoint_key else state, home / entry.file)
    return home / "recipe.toml"


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 4


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_a_recipe_exports(recipe: Path, tmp_path: Path, demo: Demo) -> None:
    source = importers.read(recipe, {})
    if any(entry.torchscript for entry in source.recipe.networks.values()):
        # TorchScript cannot be made narrower: the demo exported this recipe as it is.
        assert Bundle.open(demo.fp32).manifest.lineage.recipe == source.digest
        return
    bundle = export(reduced(recipe, tmp_path), tmp_path / "bundle")
    assert set(bundle.manifest.networks) == set(source.recipe.networks)
    assert [stage.name for stage in bundle.manifest.stages] == [stage.name for stage in source.recipe.stages]
    assert Segmenter.load(bundle, lean=True).self_test().passed
