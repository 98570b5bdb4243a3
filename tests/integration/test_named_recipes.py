"""Recipes that come with the package, by name, and where their weights are found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lowres_seg import Bundle, ExportError
from lowres_seg.demo import Assets
from lowres_seg.export import importers, recipes, toml_file, weights
from lowres_seg.export.recipe import Recipe

from .conftest import Command, Tiny

NAMES = [
    "acs_all_resnet18_nnunet", "acs_resnet18_nnunet", "acs_resnet50_classifier", "acs_resnet50_unet", "brainmage",
    "cnn_idh", "deepbet", "densenet121_idh", "efficientnet_b0_unet", "gandlf_resunet", "grade_nnunet", "jcs_nnunet",
    "meshnet_50", "meshnet_gwm", "mindgrab", "msnet", "multi_annotator_nnunet", "nnunet_brats", "nnunet_grade",
    "sae_robust_tissue", "spin_atlas",
]  # fmt: skip


def test_a_checkout_has_its_own_recipes(checkout: Path) -> None:
    assert recipes.names() == NAMES
    assert recipes.named("MeshNet-50") == checkout / "export" / "meshnet_50" / "recipe.toml"


def test_a_wheel_has_the_same_recipes(checkout: Path, tmp_path: Path) -> None:
    """The package as pyproject.toml maps it into a wheel, away from the checkout."""
    wheel = toml_file.read(checkout / "pyproject.toml", ExportError)["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source in wheel["packages"]:
        shutil.copytree(checkout / source, tmp_path / Path(source).name)
    for source, target in wheel["force-include"].items():
        shutil.copytree(checkout / source, tmp_path / target)
    code = "from lowres_seg.export import recipes; print(*recipes.names(), recipes.named('deepbet').is_file())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.split() == [*NAMES, "True"]
    assert (tmp_path / "lowres_seg" / "recipes" / "msnet" / "network.py").is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deepbeet", "deepbeet: does not exist, and no recipe has this name; expected the path of what was trained, or one of acs_all_resnet18_nnunet, acs_resnet18_nnunet"),
        ("deepbeet", "did you mean deepbet?"),
        ("none.pt", "none.pt: does not exist"),
        ("below/deepbet", "below/deepbet: does not exist"),
    ],
)  # fmt: skip
def test_a_name_of_nothing_lists_the_names(tmp_path: Path, command: Command, name: str, message: str) -> None:
    done = command("export", name, "-o", tmp_path / "b")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr


def test_a_path_comes_before_a_name_unless_it_is_a_bundle(
    tiny_network: Tiny, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mindgrab").mkdir()
    done = command("export", "mindgrab", "-o", "b")
    assert "mindgrab: is a folder that no importer reads" in done.stderr
    assert command("export", tiny_network.recipe, "--weights", tiny_network.weights, "-o", "deepbet").returncode == 0
    assert recipes.chosen(Path("deepbet")) == recipes.named("deepbet")
    shutil.move("deepbet", "mine")
    done = command("export", "mine", "-o", "b")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "mine: is a bundle already; expected what was trained, or one of acs_all_resnet18_nnunet" in done.stderr
    assert recipes.chosen(Path("mine/manifest.json")) == Path("mine/manifest.json")


def test_a_recipe_without_a_package_says_where_its_weights_are(tmp_path: Path, command: Command) -> None:
    for name in NAMES:
        recipe = importers.read(recipes.named(name), {}).recipe
        assert recipe.weights is not None
        if recipe.weights.pypi is None:
            done = command("export", name, "-o", tmp_path / "b")
            assert (done.returncode, done.stderr.count("\n")) == (1, 1)
            assert f"the weights are {recipe.weights.where}; name their folder with --weights" in done.stderr


def test_the_weights_of_deepbet_come_from_its_package(assets: Assets) -> None:
    path = recipes.named("deepbet")
    recipe = importers.read(path, {}).recipe
    found = weights.find(recipe, path.parent, None, lambda _: None)
    assert found == {"locate": assets.weights / "bbox_model.pt", "brain": assets.weights / "model.pt"}
    assert recipe.weights is not None
    with pytest.raises(Exception, match=r"has no data/models/other\.pt"):
        weights.published(recipe.weights, "other.pt")


def test_a_cut_off_extraction_is_made_again(assets: Assets) -> None:
    path = recipes.named("deepbet")
    recipe = importers.read(path, {}).recipe
    kept = assets.weights / "bbox_model.pt"
    whole = kept.read_bytes()
    kept.write_bytes(whole[:100])
    weights.find(recipe, path.parent, None, lambda _: None)
    assert kept.read_bytes() == whole


def _recipe(tiny_network: Tiny, sha256: str | None = None) -> Recipe:
    recipe = importers.read(tiny_network.recipe, {}).recipe
    entry = recipe.networks["net"].model_copy(update={"sha256": sha256})
    return recipe.model_copy(update={"networks": {"net": entry}})


def test_weights_are_found_below_the_folder(tiny_network: Tiny, tmp_path: Path, command: Command) -> None:
    (tmp_path / "up" / "models").mkdir(parents=True)
    shutil.copy(tiny_network.checkpoint, tmp_path / "up" / "models")
    done = command("export", tiny_network.recipe, "--weights", tmp_path / "up", "-o", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    assert list(Bundle.open(tmp_path / "b").manifest.lineage.sources) == ["net/tiny.pt"]


def test_of_several_files_below_the_one_with_the_digest_is_taken(tiny_network: Tiny, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    shutil.copy(tiny_network.checkpoint, tmp_path / "a")
    torch.save({"model_state_dict": {}}, tmp_path / "b" / "tiny.pt")
    with pytest.raises(ExportError, match=f"lies in {tmp_path}/a, {tmp_path}/b: name one of these with --weights"):
        weights.find(_recipe(tiny_network), tiny_network.recipe.parent, tmp_path, lambda _: None)
    digest = weights.file_sha256(tiny_network.checkpoint)
    found = weights.find(_recipe(tiny_network, digest), tiny_network.recipe.parent, tmp_path, lambda _: None)
    assert found == {"net": tmp_path / "a" / "tiny.pt"}


def test_weights_above_the_folder_are_named_and_not_taken(tiny_network: Tiny, tmp_path: Path) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    shutil.copy(tiny_network.checkpoint, tmp_path)
    recipe = _recipe(tiny_network)
    with pytest.raises(ExportError, match=f"a file of that name lies in {tmp_path}: name it with --weights"):
        weights.find(recipe, tiny_network.recipe.parent, tmp_path / "deep" / "deeper", lambda _: None)


def test_other_files_of_the_folder_are_told(tiny_network: Tiny, tmp_path: Path) -> None:
    shutil.copy(tiny_network.checkpoint, tmp_path / "last.ckpt")
    recipe, home = _recipe(tiny_network), tiny_network.recipe.parent
    with pytest.raises(ExportError, match=r"tiny.pt: not found in .*; found there last.ckpt; name their folder"):
        weights.find(recipe, home, tmp_path, lambda _: None)
    with pytest.raises(
        ExportError, match=r"last.ckpt: is a file, expected the folder of the recipe's files of weights"
    ):
        weights.find(recipe, home, tmp_path / "last.ckpt", lambda _: None)
    with pytest.raises(ExportError, match=r"none: does not exist, expected the folder"):
        weights.find(recipe, home, tmp_path / "none", lambda _: None)
