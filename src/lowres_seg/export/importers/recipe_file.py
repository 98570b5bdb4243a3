"""The importer of a ``recipe.toml``. A recipe's own networks are built by code in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lowres_seg.bundle.part import first_problem
from lowres_seg.errors import ExportError
from lowres_seg.export import toml_file
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
        If it is missing, not TOML, or not a valid recipe.
    """
    content = toml_file.read(path, ExportError)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise ExportError(f"{path}: {first_problem(error)}") from error


def home(path: Path) -> Path:
    """Folder of the recipe."""
    return path.parent


def files(path: Path, options: Options) -> list[Path]:  # noqa: ARG001 - they change none
    """Files that say what a recipe says."""
    return [path]


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
