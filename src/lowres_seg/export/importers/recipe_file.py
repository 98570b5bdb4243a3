"""The importer of a ``recipe.toml``. A recipe's own networks are built by code in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lowres_seg.errors import ExportError
from lowres_seg.export import families, faults, references
from lowres_seg.export.importers import IMPORTERS
from lowres_seg.export.recipe import Recipe

TITLE = "a recipe.toml"


@dataclass(frozen=True)
class Options:
    """A recipe.toml has no options."""


def matches(path: Path) -> bool:
    """Tell whether `path` is named as a recipe."""
    return path.suffix == ".toml" and not path.is_dir()


def recipe(path: Path, options: Options) -> Recipe:  # noqa: ARG001 - there are none
    """Read a ``recipe.toml``.

    Raises
    ------
    ExportError
        If it is missing, not TOML, or not a valid recipe. The message has every fault, and the file that it is in.
    """
    merged = families.read(path)
    recipe, found = _read(merged.content)
    if recipe is None:
        raise ExportError(_told(merged, found))
    return recipe


def checked(where: str, content: Mapping[str, Any]) -> Recipe:
    """Make a recipe from plain values.

    Raises
    ------
    ExportError
        If they are no valid recipe. The message begins with `where` and has every fault.
    """
    recipe, found = _read(content)
    if recipe is None:
        raise ExportError(faults.told(where, found))
    return recipe


def _read(content: Mapping[str, Any]) -> tuple[Recipe | None, list[str]]:
    """A recipe, or its faults."""
    found = [*references.faults(content), *_strange_factories(content)]
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        of_fields = faults.of(error, content, Recipe)
        return None, [*(one for one in of_fields if not (found and _is_told(one))), *found]
    return (None, found) if found else (recipe, [])


def _told(merged: families.Merged, found: Sequence[str]) -> str:
    """The message of the faults of a recipe. Those of the file that it extends are told to be there."""
    path, *_, family = (*merged.files, merged.files[-1])
    of_family = [one for one in found if merged.file_of(one) != path]
    if len(of_family) == len(found):
        return faults.told(str(family), found)
    own = [one for one in found if one not in of_family]
    return faults.told(str(path), [*own, *(f"{family}: {one}" for one in of_family)])


def home(path: Path) -> Path:
    """Folder of the recipe. Code that is not there is the family's, and is named so when the recipe is read."""
    return path.parent


def files(path: Path, options: Options) -> list[Path]:  # noqa: ARG001 - they change none
    """Files that say what a recipe says: its own, and the one that it extends."""
    return list(families.read(path).files)


def options_again(networks: Sequence[str]) -> Options:  # noqa: ARG001 - there are none
    """Options with which a bundle with these networks was read."""
    return Options()


def network(name: str, arguments: Mapping[str, Any]) -> Any:  # noqa: ARG001 - it builds none
    """A recipe.toml names no networks.

    Raises
    ------
    ExportError
        Always.
    """
    raise ExportError(
        f"factory recipe:{name}: a recipe builds no networks; expected a factory such as network.py:build"
    )


def _is_told(fault: str) -> bool:
    """Tell whether a fault is of the kind that the references of the recipe tell better."""
    return any(sentence in fault for sentence in references.CHECKED)


def _strange_factories(content: Mapping[str, Any]) -> Iterator[str]:
    """Factories that are no function of a file and no class of an importer. A recipe itself builds no networks."""
    builders = [name for name in IMPORTERS if name != "recipe"]
    networks = content.get("networks")
    for network, entry in networks.items() if isinstance(networks, dict) else ():
        factory = entry.get("factory") if isinstance(entry, dict) else None
        owner, colon, _ = factory.partition(":") if isinstance(factory, str) else ("", "", "")
        if colon and owner.isidentifier() and owner not in builders:
            expected = " or ".join(f"{name}:NAME" for name in builders)
            yield f"networks.{network}.factory: found {factory}, expected FILE.py:FUNCTION or {expected}"
