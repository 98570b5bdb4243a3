"""Every recipe under export/: it loads, and its networks export at reduced width."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from lowres_seg import Segmenter
from lowres_seg.export import export, importers, loading

from .conftest import seeded

ALL = sorted((Path(__file__).parents[2] / "export").glob("*/recipe.toml"))
#: TorchScript cannot be made narrower. The tests of deepbet export its recipe as it is.
RECIPES = [path for path in ALL if path.parent.name != "deepbet"]
#: What makes a network narrower: a file of the recipe, a text in it, and what replaces that.
NARROW = {
    "brainmage": ("recipe.toml", 'factory = "network.py:build"', 'factory = "network.py:build"\narguments = { filters = 2 }'),
    "meshnet_50": ("network.py", "CHANNELS = 30", "CHANNELS = 4"),
    "msnet": ("network.py", "CHANNELS = 32", "CHANNELS = 8"),
    "sae_robust_tissue": ("network.py", "FILTERS = 16", "FILTERS = 2"),
}  # fmt: skip
#: Largest side of a network's input or of a window; a multiple of what any network needs.
SIDE = 16


def reduced(recipe: Path, folder: Path) -> Path:
    """Copy of a recipe with small inputs and narrow networks, and seeded checkpoints of those."""
    home = folder / recipe.parent.name
    shutil.copytree(recipe.parent, home)
    text = recipe.read_text(encoding="utf-8")
    text = re.sub(r"^(sha256|convert) = .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(
        r"(shape|roi_size) = \[(.*?)\]",
        lambda m: f"{m[1]} = [{', '.join(str(min(int(n), SIDE)) for n in m[2].split(','))}]",
        text,
    )
    text = re.sub(r'checkpoint = "(.*?)\.npz"', r'checkpoint = "\1.pt"', text)
    (home / "recipe.toml").write_text(text, encoding="utf-8")
    if recipe.parent.name in NARROW:
        name, wide, narrow = NARROW[recipe.parent.name]
        content = (home / name).read_text(encoding="utf-8")
        assert wide in content
        (home / name).write_text(content.replace(wide, narrow), encoding="utf-8")
    source = importers.read(home / "recipe.toml", {})
    for entry in source.recipe.networks.values():
        if entry.onnx is not None:
            as_published(home / entry.onnx)
            continue
        network = seeded(loading._function(home, entry.factory or "")(**entry.arguments))
        state = network.state_dict()
        torch.save({entry.checkpoint_key: state} if entry.checkpoint_key else state, home / entry.file)
    return home / "recipe.toml"


def as_published(file: Path) -> None:
    """An ONNX file of a small MeshNet, with an open batch as niivue's has."""
    network = seeded(nn.Sequential(nn.Conv3d(1, 2, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv3d(2, 3, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = torch.zeros(1, 1, SIDE, SIDE, SIDE)
        axes = {"input": {0: "batch_size"}, "output": {0: "batch_size"}}
        names = {"input_names": ["input"], "output_names": ["output"]}
        torch.onnx.export(network, (x,), file, dynamic_axes=axes, dynamo=False, **names)


def test_there_are_recipes() -> None:
    assert len(ALL) >= 7
    assert len(RECIPES) == len(ALL) - 1


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_a_recipe_exports(recipe: Path, tmp_path: Path) -> None:
    source = importers.read(recipe, {})
    bundle = export(reduced(recipe, tmp_path), tmp_path / "bundle")
    assert set(bundle.manifest.networks) == set(source.recipe.networks)
    assert [stage.name for stage in bundle.manifest.stages] == [stage.name for stage in source.recipe.stages]
    assert Segmenter.load(bundle, lean=True).self_test().passed
