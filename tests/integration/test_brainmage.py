"""The BrainMaGe recipe: the network of the paper, with seeded weights in a checkpoint of its shape."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lowres_seg import Volume
from lowres_seg.export import export, importers

from .conftest import Command, factory, seeded


@pytest.fixture(scope="session")
def bundle(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network in its full width, on inputs of 32³: its weights do not depend on the size of its input."""
    folder = tmp_path_factory.mktemp("brainmage")
    recipe = shutil.copytree(checkout / "export" / "brainmage", folder / "recipe") / "recipe.toml"
    text = recipe.read_text(encoding="utf-8")
    assert "[128, 128, 128]" in text
    recipe.write_text(text.replace("[128, 128, 128]", "[32, 32, 32]"), encoding="utf-8")
    network = factory(recipe)()
    for module in network.modules():
        if isinstance(module, torch.nn.InstanceNorm3d):
            seeded(module)
    torch.save({"model_state_dict": network.state_dict(), "epoch": 1}, folder / "seeded.pt")
    return export(folder / "seeded.pt", folder / "bundle", recipe=recipe).path


def test_it_is_the_network_of_the_paper(bundle: Path) -> None:
    """8.288 million parameters; the published IR of its weights has 33 152 004 bytes."""
    report = json.loads((bundle / "reports" / "export.json").read_text())["networks"]["brain"]
    assert abs(report["parameters"] - 8.288e6) < 1000
    assert (bundle / "networks" / "brain.bin").stat().st_size == pytest.approx(33_152_004, rel=1e-3)
    assert report["operators"]["Convolution"] == 32


def test_no_norm_is_left_to_compute(bundle: Path) -> None:
    report = json.loads((bundle / "reports" / "export.json").read_text())["networks"]["brain"]
    assert report["rewrites"]["running_statistics_norms_made_constant"] == 27
    assert report["rewrites"]["operators_removed"]["Sqrt"] > 0
    assert not {"Tile", "Divide", "Sqrt", "MVN"} & set(report["operators"])


def test_it_verifies_and_segments_any_grid(bundle: Path, tmp_path: Path, command: Command) -> None:
    assert command("verify", bundle).returncode == 0
    data = np.random.default_rng(0).random((48, 60, 20), dtype=np.float32)
    scan = Volume.from_array(data, np.diag([-3.0, 3.0, -6.0, 1.0]))
    scan.save(tmp_path / "scan.nii.gz")
    done = command("predict", bundle, tmp_path / "scan.nii.gz", "-o", tmp_path / "mask.nii.gz")
    assert done.returncode == 0, done.stderr
    assert Volume.load(tmp_path / "mask.nii.gz").grid == scan.grid


def test_the_published_checkpoint_is_the_one_the_recipe_means(checkout: Path, tmp_path: Path, command: Command) -> None:
    torch.save({"model_state_dict": {}}, tmp_path / "resunet_ma.pt")
    recipe = checkout / "export" / "brainmage" / "recipe.toml"
    done = command("export", recipe, "--weights", tmp_path, "-o", tmp_path / "bundle")
    assert done.returncode == 1
    assert "the recipe means the file with 7eff7f10d541" in done.stderr


def test_the_recipe_says_what_the_paper_does(checkout: Path) -> None:
    stage = importers.read(checkout / "export" / "brainmage" / "recipe.toml", {}).recipe.stages[0]
    assert stage.conform.shape == (128, 128, 128)
    assert [rule.rule for rule in stage.cleanup] == ["fill-holes", "largest-component"]
    assert stage.inference_precision == "f32"
