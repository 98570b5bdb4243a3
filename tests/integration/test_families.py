"""The systems of the papers under export/: each is found, has the parameters that it states, and exports."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from lowres_seg.export import export, importers, loading, recipes
from lowres_seg.export.importers import Source

from .conftest import seeded

IDS = recipes.ids()
#: Sides of windows and grids are cut to this, but for the depth that one network asks for.
SIDE, FIXED = 32, 108
WIDTH = 0.0625


def source_of(system: str) -> Source:
    return importers.read(recipes.named(system), {})


def reduced(system: str, folder: Path) -> Path:
    """Copy of a system's family with narrow networks and small windows, and seeded checkpoints."""
    recipe = recipes.named(system)
    family = folder / recipe.parents[1].name
    shutil.copytree(recipe.parents[1], family)
    path = family / recipe.parent.name / recipe.name
    for file in (family / "family.toml", path):
        text = file.read_text(encoding="utf-8").replace("width = 1.0", f"width = {WIDTH}")
        file.write_text(re.sub(r"(shape|roi_size) = \[(.*?)\]", _smaller, text), encoding="utf-8")
    source = importers.read(path, {})
    for entry in source.recipe.networks.values():
        network = loading._function(source.home, entry.factory or "")(**entry.arguments)
        torch.save({"state_dict": seeded(network).state_dict()}, source.home / entry.file)
    return path


def _smaller(found: re.Match[str]) -> str:
    sides = [int(side) for side in found[2].split(",")]
    small = [side if side in (1, FIXED) else SIDE for side in sides]
    small[1] *= 2  # six stages leave two voxels, and a norm needs more than one
    return f"{found[1]} = {small}"


def test_every_system_of_the_issue_is_there() -> None:
    wanted = ["S01", "S02", "S03", "S04", "S05", "S06", "S07", "S08", "S09", "S10", "S19", "S21b", "S21c"]
    assert set(wanted) <= set(IDS)


@pytest.mark.parametrize("system", IDS)
def test_a_system_has_the_parameters_that_it_states(system: str) -> None:
    source = source_of(system)
    assert source.recipe.system is not None
    for entry in source.recipe.networks.values():
        with torch.device("meta"):
            network = loading._function(source.home, entry.factory or "")(**entry.arguments)
        count = sum(value.numel() for value in network.parameters())
        assert count == source.recipe.system.parameters
        assert f"{count:,}" in (source.home.parent / "MODEL_CARD.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("system", IDS)
def test_a_system_exports_with_parity(system: str, tmp_path: Path) -> None:
    path = reduced(system, tmp_path)
    bundle = export(path, tmp_path / "bundle")
    recipe = source_of(system).recipe
    assert set(bundle.manifest.networks) == set(recipe.networks)
    assert [stage.decode for stage in bundle.manifest.stages] == [stage.decode for stage in recipe.stages]
