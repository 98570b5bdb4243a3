"""The systems of the papers under export/: each is found, has the parameters that it states, and exports."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lowres_seg.export import export, importers, loading, recipes
from lowres_seg.export.frameworks.slices import takes_slices
from lowres_seg.export.importers import Source

IDS = recipes.ids()
WIDTH = 0.0625
#: Sides of the windows that a system is tried on, where they are not those of most. Two voxels are left at the last
#: stage, because a norm of one voxel is refused.
SIDES = {
    "S07": (32, 32, 108),
    "S08": (16, 32, 16),
    "S09": (16, 32, 16),
    "S16": (1, 45, 53),
    "S19": (1, 64, 128),
    "S21b": (16, 32, 16),
}
#: What a stage of one network says in place of four.
ONE = {"networks": '["t1"]', "inputs": '{ t1 = ["t1"] }'}
#: A system of each family, and both kinds of network of ACS convolutions.
EXPORTED = ["S02", "S06", "S07", "S08", "S09", "S16", "S19", "S21b"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Layers as narrow as these take longer in two threads, which wait for each other, than in one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def source_of(system: str) -> Source:
    return importers.read(recipes.named(system), {})


def built(source: Source, name: str) -> torch.nn.Module:
    entry = source.recipe.networks[name]
    network: Any = loading._function(source.home, entry.factory or "")(**entry.arguments)
    return network


def reduced(system: str, folder: Path) -> Path:
    """Copy of a system's family with narrow networks and small windows."""
    recipe = recipes.named(system)
    family = folder / recipe.parents[1].name
    shutil.copytree(recipe.parents[1], family)
    path = family / recipe.parent.name / recipe.name
    for file in (family / "family.toml", path):
        text = file.read_text(encoding="utf-8").replace("width = 1.0", f"width = {WIDTH}")
        sides = list(SIDES.get(system, (32, 64, 32)))
        text = re.sub(r"\[networks\.(?:t1c|t2|flair)\]\n(?:.+\n)+", "", text)  # one of four alike is enough
        text = re.sub(r"(networks|inputs) = .*flair.*", lambda m: f"{m[1]} = {ONE[m[1]]}", text)
        file.write_text(re.sub(r"(shape|roi_size) = \[.*?\]", rf"\1 = {sides}", text), encoding="utf-8")
    return path


def trained(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state with statistics of norms that are not 0 and 1, so that leaving them out would show."""
    generator = torch.Generator().manual_seed(0)
    state = network.state_dict()
    for name, value in state.items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1, generator=generator)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2.0, generator=generator)
    return state


def with_weights(path: Path) -> Source:
    """The recipe at a path, beside whose file its checkpoints are written."""
    source = importers.read(path, {})
    torch.manual_seed(0)
    for name, entry in source.recipe.networks.items():
        torch.save({"state_dict": trained(built(source, name))}, source.home / entry.file)
    return source


def test_every_system_of_the_papers_is_there() -> None:
    wanted = ["S01", "S02", "S03", "S04", "S05", "S06", "S07", "S08", "S09", "S10", "S16", "S19", "S21b", "S21c"]
    assert list(IDS) == wanted


@pytest.mark.parametrize("system", IDS)
def test_a_system_has_the_parameters_that_it_states(system: str) -> None:
    source = source_of(system)
    assert source.recipe.system is not None
    for name in source.recipe.networks:
        with torch.device("meta"):
            network = built(source, name)
        count = sum(value.numel() for value in network.parameters())
        assert count == source.recipe.system.parameters
    card = (source.home.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith(f"| {system} | "))
    assert f"`{recipes.named(system).parent.name}`" in row
    assert f" {count:,} " in row
    stated = source.recipe.system.published_parameters
    assert stated is None or f" {stated / 1e6:g} M " in row


@pytest.mark.parametrize("system", IDS)
def test_a_narrow_network_gives_scores_of_its_shape(system: str, tmp_path: Path) -> None:
    source = importers.read(reduced(system, tmp_path), {})
    name = next(iter(source.recipe.networks))
    stage = source.recipe.stages[0]
    shape = source.recipe.input_shape(name)
    network = takes_slices(built(source, name)) if source.recipe.networks[name].slices else built(source, name)
    with torch.inference_mode():
        scores = network.eval()(torch.zeros(shape))
    heads = 1 if system == "S16" else {"regions": 3, "classes": 1}.get(stage.decode.kind, 4)
    assert tuple(scores.shape) == (1, heads, *((1, 1, 1) if stage.decode.kind == "classes" else shape[2:]))


@pytest.mark.parametrize("system", EXPORTED)
def test_a_system_exports_with_parity(system: str, tmp_path: Path) -> None:
    source = with_weights(reduced(system, tmp_path))
    bundle = export(source.home / "recipe.toml", tmp_path / "bundle", threads=1)
    assert set(bundle.manifest.networks) == set(source.recipe.networks)
    assert bundle.manifest.stages == source.recipe.stages
    assert bundle.manifest.lineage.recipe == source.digest
