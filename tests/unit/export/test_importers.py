"""The table of importers: which one reads what, and whose options are whose."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowres_seg import ExportError
from lowres_seg.export import importers

RECIPE = """
channels = ["t1"]
[bundle]
name = "x"
version = "1"
description = ""
license = ""
source = ""
intended_use = ""
[[labels]]
value = 1
name = "brain"
[networks.net]
torchscript = "a.pt"
[[stages]]
name = "only"
networks = ["net"]
conform = { shape = [16, 16, 16] }
decode = { kind = "argmax", labels = [0, 1] }
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_a_recipe_is_read_with_its_digest_and_its_importer(recipe: Path) -> None:
    found = importers.read(recipe, {})
    assert (found.importer, found.options, found.home) == ("recipe", {}, recipe.parent)
    assert found.recipe.networks["net"].file == "a.pt"
    assert found.digest == importers.digest(recipe)
    recipe.write_text(RECIPE + "\n# other\n", encoding="utf-8")
    assert found.digest != importers.digest(recipe)
    assert importers.read_again(recipe, ["net"]).recipe == found.recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": ["0"]}, "is a recipe.toml, and folds is no option of it but of a results folder of nnU-Net v2"),
        ({"colour": "red"}, "is a recipe.toml, and colour is no option of it$"),
    ],
)
def test_an_option_of_another_importer_is_refused_by_name(
    recipe: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        importers.read(recipe, options)


@pytest.mark.parametrize(
    ("file", "importer"),
    [
        ("a.toml", "recipe"),
        ("configs/metadata.json", "monai"),
        ("plans.json", "nnunet"),
        ("fold_0/x", "nnunet"),
        ("b/plans.pkl", "nnunet"),
    ],
)
def test_each_importer_knows_its_own(tmp_path: Path, file: str, importer: str) -> None:
    path = tmp_path / "source" / file
    path.parent.mkdir(parents=True)
    path.touch()
    source = path if file.endswith(".toml") else tmp_path / "source"
    assert [name for name in importers.IMPORTERS if importers.importer(name).matches(source)] == [importer]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent", "does not exist; name what was trained"),
        (".", "is a folder that no importer reads"),
        ("a.txt", "is no recipe"),
    ],
)
def test_what_no_importer_reads_is_refused(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(ExportError, match=message):
        importers.read(tmp_path / path, {})


def test_every_importer_offers_what_the_table_promises() -> None:
    for name in importers.IMPORTERS:
        module = importers.importer(name)
        assert module.TITLE
        assert module.Options()  # every option has a default
        assert all(
            callable(getattr(module, part)) for part in ("matches", "recipe", "files", "options_again", "network")
        )
    with pytest.raises(ExportError, match="importer 'nnunett': not known, expected one of recipe, monai, nnunet"):
        importers.importer("nnunett")
