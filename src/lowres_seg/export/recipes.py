"""The recipes that come with the package, by name or id: those under ``export/`` of a checkout.

A recipe lies in a folder of its name, or in such a folder within that of its family.
"""

from __future__ import annotations

import re
from pathlib import Path

from lowres_seg.bundle.manifest import MANIFEST_NAME
from lowres_seg.errors import ExportError
from lowres_seg.export import families, importers
from lowres_seg.export.faults import near

_FILE = "recipe.toml"
_ID = re.compile(r"[Ss][0-9]{2}[A-Za-z]?")


def names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(_paths())


def ids() -> dict[str, str]:
    """Names of the recipes that rebuild a published system, by its id.

    Raises
    ------
    ExportError
        If a recipe cannot be read, or two have one id.
    """
    found: dict[str, str] = {}
    for name, path in _paths().items():
        system = families.read(path).content.get("system")
        if not isinstance(system, dict):
            continue
        one = str(system.get("id"))
        if one in found:
            raise ExportError(f"{path}: system.id is {one}, as that of {found[one]}; expected one that no other has")
        found[one] = name
    return dict(sorted(found.items()))


def named(name: str) -> Path:
    """Path of a recipe that comes with the package.

    Parameters
    ----------
    name : str
        Name of its folder, where a hyphen stands for an underscore too, or the id of the system that it rebuilds.

    Raises
    ------
    ExportError
        If there is none of this name. The message lists the names.
    """
    found = _known(name)
    if found is None:
        raise ExportError(f"{name}: no recipe has this name; expected {_expected(name)}")
    return found


def chosen(source: Path) -> Path:
    """What a user means by a path or a name. A path that exists is meant, unless it is a bundle.

    Raises
    ------
    ExportError
        If there is no such path and no recipe of this name; or it is a bundle, which is exported already.
    """
    is_name = len(source.parts) == 1 and not source.suffix
    is_bundle = (source / MANIFEST_NAME).is_file() and not importers.reads(source)
    if is_name and (is_bundle or not source.exists()) and _known(source.name) is not None:
        return named(source.name)
    if is_bundle:
        raise ExportError(f"{source}: is a bundle already; expected what was trained, or one of {', '.join(names())}")
    if not is_name or source.exists():
        return source
    raise ExportError(
        f"{source}: does not exist, and no recipe has this name; expected the path of what was trained, or "
        f"{_expected(source.name)}"
    )


def _expected(name: str) -> str:
    """Names of all recipes, and which may have been meant, for a message."""
    return f"one of {', '.join(names())}{near(_folder_name(name), [*names(), *ids()])}"


def _known(name: str) -> Path | None:
    """Path of the recipe of a name or an id; None if there is none."""
    folder = _folder_name(name)
    if folder not in _paths() and _ID.fullmatch(name):
        folder = ids().get(f"S{name[1:].lower()}", folder)
    return _paths().get(folder)


def _folder_name(name: str) -> str:
    return name.replace("-", "_").lower()


def _paths() -> dict[str, Path]:
    """Path of each recipe, by its name."""
    found: dict[str, Path] = {}
    for path in sorted([*_folder().glob(f"*/{_FILE}"), *_folder().glob(f"*/*/{_FILE}")]):
        name = path.parent.name
        if name in found:
            raise ExportError(f"{path}: has the name of {found[name]}; expected a folder of another name")
        found[name] = path
    return found


def _folder() -> Path:
    """Folder of the recipes: within an installed package, or in the checkout that the package is imported from."""
    package = Path(__file__).parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "export"
