"""The recipes that come with the package, by name: those under ``export/`` of a checkout."""

from __future__ import annotations

from pathlib import Path

from lowres_seg.bundle.manifest import MANIFEST_NAME
from lowres_seg.errors import ExportError
from lowres_seg.export import importers
from lowres_seg.export.faults import near

_FILE = "recipe.toml"


def names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.parent.name for path in _folder().glob(f"*/{_FILE}"))


def named(name: str) -> Path:
    """Path of a recipe that comes with the package.

    Parameters
    ----------
    name : str
        Name of its folder. A hyphen stands for an underscore too.

    Raises
    ------
    ExportError
        If there is none of this name. The message lists the names.
    """
    folder = name.replace("-", "_").lower()
    if folder not in names():
        raise ExportError(
            f"{name}: does not exist, and no recipe has this name; expected the path of what was trained, or one of "
            f"{', '.join(names())}{near(folder, names())}"
        )
    return _folder() / folder / _FILE


def chosen(source: Path) -> Path:
    """What a user means by a path or a name. A path that exists is meant, unless it is a bundle.

    Raises
    ------
    ExportError
        If there is no such path and no recipe of this name; or it is a bundle, which is exported already.
    """
    is_name = len(source.parts) == 1 and not source.suffix
    is_bundle = (source / MANIFEST_NAME).is_file() and not importers.reads(source)
    if is_name and (is_bundle or not source.exists()) and source.name.replace("-", "_").lower() in names():
        return named(source.name)
    if is_bundle:
        raise ExportError(f"{source}: is a bundle already; expected what was trained, or one of {', '.join(names())}")
    return named(source.name) if is_name and not source.exists() else source


def _folder() -> Path:
    """Folder of the recipes: within an installed package, or in the checkout that the package is imported from."""
    package = Path(__file__).parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "export"
