"""Recipes of a family: what a system takes from the file that it extends, and where its faults are told to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowres_seg import ExportError
from lowres_seg.export import importers, recipes

FAMILY = """
channels = ["t1"]
[bundle]
version = "1"
description = ""
license = ""
source = "the family"
intended_use = ""
[[labels]]
value = 1
name = "brain"
[networks.net]
checkpoint = "model.pt"
factory = "network.py:build"
arguments = { width = 1.0, filters = [8, 16] }
[[stages]]
name = "only"
networks = ["net"]
conform = { shape = [16, 16, 16] }
decode = { kind = "argmax", labels = [0, 1] }
"""
SYSTEM = """
extends = "../family.toml"
[bundle]
name = "narrow"
source = "the system"
[networks.net.arguments]
filters = [4]
"""


@pytest.fixture
def system(tmp_path: Path) -> Path:
    (tmp_path / "family.toml").write_text(FAMILY, encoding="utf-8")
    (tmp_path / "network.py").touch()
    path = tmp_path / "narrow" / "recipe.toml"
    path.parent.mkdir()
    path.write_text(SYSTEM, encoding="utf-8")
    return path


def test_tables_are_merged_and_other_values_replaced(system: Path) -> None:
    found = importers.read(system, {}).recipe
    assert (found.bundle.name, found.bundle.version, found.bundle.source) == ("narrow", "1", "the system")
    assert found.networks["net"].arguments == {"width": 1.0, "filters": [4]}
    assert [stage.name for stage in found.stages] == ["only"]


def test_code_is_that_of_the_recipe_and_else_of_the_family(system: Path) -> None:
    assert importers.read(system, {}).recipe.networks["net"].factory == "../network.py:build"
    (system.parent / "network.py").touch()
    assert importers.read(system, {}).recipe.networks["net"].factory == "network.py:build"


def test_the_digest_is_that_of_both_files(system: Path) -> None:
    before = importers.digest(system)
    assert importers.read(system, {}).digest == before
    family = system.parents[1] / "family.toml"
    family.write_text(FAMILY + "\n# other\n", encoding="utf-8")
    after = importers.digest(system)
    system.write_text(SYSTEM + "\n# other\n", encoding="utf-8")
    assert len({before, after, importers.digest(system)}) == 3


def test_a_file_beside_the_recipe_may_be_extended(system: Path) -> None:
    beside = system.with_name("shared.toml")
    beside.write_text(FAMILY, encoding="utf-8")
    system.write_text(SYSTEM.replace("../family.toml", "shared.toml"), encoding="utf-8")
    assert importers.read(system, {}).recipe.bundle.name == "narrow"


@pytest.mark.parametrize(
    "named", ['"../../family.toml"', '"below/family.toml"', '"/etc/family.toml"', '"../family.json"', '".."', "3", "[]"]
)
def test_a_file_elsewhere_is_refused(system: Path, named: str) -> None:
    system.write_text(SYSTEM.replace('"../family.toml"', named), encoding="utf-8")
    with pytest.raises(ExportError, match=r"recipe.toml: extends is .*, expected a file beside the recipe") as error:
        importers.read(system, {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("named", ["narrow/recipe.toml", "base.toml", "family.toml"])
def test_a_chain_and_a_circle_are_refused(system: Path, named: str) -> None:
    family = system.parents[1] / "family.toml"
    family.write_text(f'extends = "{named}"\n{FAMILY}', encoding="utf-8")
    with pytest.raises(ExportError, match=r"family.toml: extends '.*' and is extended by .*narrow/recipe.toml"):
        importers.read(system, {})


def test_a_file_that_is_named_below_a_table_is_refused(system: Path) -> None:
    system.write_text('[bundle]\nname = "narrow"\nextends = "../family.toml"\n', encoding="utf-8")
    with pytest.raises(ExportError, match=r"bundle.extends: no such key; extends stands before the first \[table\]"):
        importers.read(system, {})


def test_a_recipe_that_extends_itself_is_refused(system: Path) -> None:
    system.write_text(SYSTEM.replace("../family.toml", "recipe.toml"), encoding="utf-8")
    with pytest.raises(ExportError, match="expected a file that extends none"):
        importers.read(system, {})


def test_a_family_that_is_missing_or_is_no_toml_is_named(system: Path) -> None:
    family = system.parents[1] / "family.toml"
    family.write_text("channels = [", encoding="utf-8")
    with pytest.raises(ExportError, match=r"family.toml: is not TOML"):
        importers.read(system, {})
    family.unlink()
    with pytest.raises(ExportError, match=r"family.toml: cannot be read \(No such file"):
        importers.read(system, {})


@pytest.mark.parametrize(
    ("file", "wrong", "message"),
    [
        ("family.toml", ('kind = "argmax"', 'kind = "argmin"'), r"family.toml: stages.only.decode.kind: is 'argmin'"),
        ("family.toml", ('version = "1"', "version = 1"), r"family.toml: bundle.version: is 1"),
        ("family.toml", ('networks = ["net"]', 'networks = ["nett"]'), r"family.toml: stages.only.networks: names network nett"),
        ("narrow/recipe.toml", ('name = "narrow"', 'name = "Narrow"'), r"narrow/recipe.toml: bundle.name: is 'Narrow'"),
        ("narrow/recipe.toml", ('name = "narrow"\n', ""), r"narrow/recipe.toml: bundle.name: is missing"),
        ("narrow/recipe.toml", ("[bundle]", "threads = 0\n[bundle]"), r"narrow/recipe.toml: threads: is 0"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_the_file_that_it_is_in(
    system: Path, file: str, wrong: tuple[str, str], message: str
) -> None:
    path = system.parents[1] / file
    text = path.read_text(encoding="utf-8")
    assert wrong[0] in text
    path.write_text(text.replace(*wrong), encoding="utf-8")
    with pytest.raises(ExportError, match=message):
        importers.read(system, {})


def test_faults_of_both_files_are_told_at_once(system: Path) -> None:
    family = system.parents[1] / "family.toml"
    family.write_text(FAMILY.replace('version = "1"', "version = 1"), encoding="utf-8")
    system.write_text(SYSTEM.replace('"narrow"', "7"), encoding="utf-8")
    with pytest.raises(ExportError) as error:
        importers.read(system, {})
    head, first, second = str(error.value).split("\n")
    assert head == f"{system}: 2 faults"
    assert first.startswith("  bundle.name: is 7, expected a text")
    assert second.startswith(f"  {system.parent}/../family.toml: bundle.version: is 1, expected a text")


def test_a_system_is_found_by_name_and_by_id() -> None:
    path = recipes.named("acs_resnet18_nnunet")
    assert path.parent.name == "acs_resnet18_nnunet"
    assert {recipes.named(one) for one in ("S02", "s02", "acs-resnet18-nnunet", "ACS-ResNet18_nnunet")} == {path}
    assert recipes.named("S21B") == recipes.named("s21b") == recipes.named("cnn-idh")
    assert recipes.chosen(Path("S02")) == path
    with pytest.raises(ExportError, match=r"S99: does not exist, and no recipe has this name"):
        recipes.chosen(Path("S99"))
    with pytest.raises(ExportError, match=r"^S99: no recipe has this name; expected one of acs_all.*did you mean S19"):
        recipes.named("S99")


@pytest.mark.parametrize("same", ["name", "id"])
def test_two_recipes_of_one_name_or_id_are_refused(
    system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: str
) -> None:
    about = '[system]\nid = "S77"\ntask = "x"\npaper = "x"\nparameters = 1\n'
    text = SYSTEM.replace("[bundle]", f"{about}[bundle]")
    for folder in ("a/one", "b/one" if same == "name" else "b/two"):
        (tmp_path / "all" / folder).mkdir(parents=True)
        (tmp_path / "all" / folder / "recipe.toml").write_text(text, encoding="utf-8")
        (tmp_path / "all" / folder).with_name("family.toml").write_text(FAMILY, encoding="utf-8")
    monkeypatch.setattr(recipes, "_folder", lambda: tmp_path / "all")
    said = "has the name of .*a/one/recipe.toml" if same == "name" else "system.id is S77, as that of one"
    with pytest.raises(ExportError, match=said):
        recipes.named("S77")
