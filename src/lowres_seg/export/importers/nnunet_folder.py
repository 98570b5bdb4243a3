"""The files of a results folder of nnU-Net: which folder a path means, its JSON files, its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowres_seg.errors import ExportError
from lowres_seg.export.importers.files import read_json

#: Which checkpoints of a fold there are. Each is the file ``checkpoint_KIND.pth``.
KINDS = ("final", "best", "latest")
_FOLD, _CHECKPOINT = "fold_", "checkpoint_"
_VERSION_1 = (
    "{}: is a folder of nnU-Net v1, whose networks v2 cannot run; convert its data set with "
    "nnUNetv2_convert_old_nnUNet_dataset, and train it with v2"
)
_EXPECTED = "expected a results folder of nnU-Net v2: plans.json, dataset.json, fold_0"


@dataclass(frozen=True)
class Results:
    """The results folder that a path means.

    Attributes
    ----------
    folder : pathlib.Path
    fold : str or None
        The only fold that the path names.
    checkpoint : str or None
        The only kind of checkpoint that the path names.
    """

    folder: Path
    fold: str | None = None
    checkpoint: str | None = None


def matches(path: Path) -> bool:
    """Tell whether a path looks like something of nnU-Net, of any version."""
    if not path.is_dir():
        return _is_checkpoint(path)
    return bool(
        (path / "plans.json").is_file()
        or any(path.glob("**/plans.pkl"))
        or any(path.glob(f"{_FOLD}*"))
        or _is_fold(path)
        or _below(path)
    )


def find(path: Path) -> Results:
    """Find the results folder that a path means.

    The path is the results folder itself, a fold of it, a checkpoint of a fold, or a folder that holds one results
    folder, such as ``DatasetXXX_Name``.

    Raises
    ------
    ExportError
        If no results folder belongs to it, or several do.
    """
    if path.is_file():
        fold = _parent(path)
        return Results(_owner(path, _parent(fold)), _fold_of(fold), path.stem.removeprefix(_CHECKPOINT))
    if _is_fold(path):
        return Results(_owner(path, _parent(path)), _fold_of(path))
    below, trained = _below(path), several(path)
    if (path / "plans.json").is_file() or any(path.glob(f"{_FOLD}*")):
        below = trained = []
    if len(trained) > 1:
        names = ", ".join(folder.relative_to(path).as_posix() for folder in trained)
        raise ExportError(
            f"{path}: holds {len(trained)} trained configurations; name one of them: {names}; or several as an "
            "ensemble with --configurations"
        )
    if below and not trained:
        raise ExportError(
            f"{path}: holds no trained configuration; {below[0].name} has no {_FOLD}0/checkpoint_final.pth"
        )
    return Results(trained[0] if trained else path)


def several(path: Path) -> list[Path]:
    """Results folders with a checkpoint in a folder that is none itself."""
    if not path.is_dir() or _is_fold(path) or (path / "plans.json").is_file() or any(path.glob(f"{_FOLD}*")):
        return []
    return [folder for folder in _below(path) if any(folder.glob(f"{_FOLD}*/{_CHECKPOINT}*.pth"))]


def of_configurations(path: Path, names: Sequence[str]) -> list[Path]:
    """Results folders of some configurations of one data set.

    Raises
    ------
    ExportError
        If `path` is not the folder of a data set, or has none or several of a name.
    """
    there = several(path)
    found = []
    for name in names:
        fitting = [folder for folder in there if folder.name.rpartition("__")[2] == name]
        if len(fitting) != 1 or names.count(name) > 1:
            listed = ", ".join(folder.relative_to(path).as_posix() for folder in there) or "none"
            raise ExportError(
                f"{path}: --configurations names {name}, expected different names, and for each one folder "
                f"TRAINER__PLANS__{name} with a checkpoint; there are {listed}"
            )
        found += fitting
    return found


def read(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of a results folder.

    Raises
    ------
    ExportError
        If it is missing or damaged, or the folder is one of nnU-Net v1.
    """
    path = folder / name
    if not path.is_file():
        if any(folder.glob("**/plans.pkl")) or any(folder.glob("**/*.model")):
            raise ExportError(_VERSION_1.format(folder))
        raise ExportError(f"{path}: does not exist, {_EXPECTED}")
    return read_json(path)


def checkpoints(folder: Path, folds: Sequence[str], kinds: Sequence[str]) -> dict[str, Path]:
    """Find the file of weights of each fold.

    Parameters
    ----------
    folder : pathlib.Path
    folds : sequence of str
        Every fold of the folder if it is empty.
    kinds : sequence of str
        Kinds of checkpoints. The first one that a fold has is taken.

    Raises
    ------
    ExportError
        If a fold or its checkpoint is not there.
    """
    there = sorted(_fold_of(path) for path in folder.glob(f"{_FOLD}*") if path.is_dir())
    if not there:
        raise ExportError(f"{folder}: has no fold, expected fold_0, fold_1, … or fold_all")
    # Networks of all folds together were trained on what the others judge: it is one or the other.
    chosen = list(folds) or [fold for fold in there if fold.isdigit()] or [fold for fold in there if fold == "all"]
    if not chosen:
        raise ExportError(
            f"{folder}: has the folds {', '.join(there)}, none numbered or of all cases; name one with --folds"
        )
    found = {}
    for fold in chosen:
        if fold not in there:
            raise ExportError(f"{folder}: has no fold {fold}, expected one of: {', '.join(there)}")
        home = folder / f"{_FOLD}{fold}"
        files = [home / f"{_CHECKPOINT}{kind}.pth" for kind in kinds]
        present = [file for file in files if file.is_file()]
        if not present:
            raise ExportError(_missing(home, files))
        found[fold] = present[0]
    return found


def _missing(home: Path, files: Sequence[Path]) -> str:
    others = "".join(f", nor {file.name}" for file in files[1:])
    kinds = [kind for kind in KINDS if (home / f"{_CHECKPOINT}{kind}.pth").is_file()]
    hint = (
        f"to take what is there, say --checkpoint {' or '.join(kinds)}"
        if kinds
        else "its training did not end, so leave the fold out with --folds"
    )
    return f"{files[0]}: does not exist{others}; {hint}"


def _below(path: Path) -> list[Path]:
    """Results folders in a folder, or in the folders of it."""
    plans = sorted({*path.glob("*/plans.json"), *path.glob("*/*/plans.json")})
    return [file.parent for file in plans if any(file.parent.glob(f"{_FOLD}*"))]


def _owner(path: Path, folder: Path) -> Path:
    if not (folder / "plans.json").is_file():
        if (folder / "plans.pkl").is_file():
            raise ExportError(_VERSION_1.format(folder))
        raise ExportError(f"{path}: lies in {folder}, which has no plans.json; {_EXPECTED}")
    return folder


def _is_checkpoint(path: Path) -> bool:
    return (
        path.is_file()
        and path.suffix == ".pth"
        and path.name.startswith(_CHECKPOINT)
        and path.absolute().parent.name.startswith(_FOLD)
    )


def _is_fold(path: Path) -> bool:
    """Tell whether a folder is a fold of a results folder."""
    named = path.absolute().name.startswith(_FOLD)
    return named and not (path / "plans.json").is_file() and not any(path.glob(f"{_FOLD}*"))


def _parent(path: Path) -> Path:
    """The folder that a path lies in. A path of no name, such as ``.``, is made absolute first."""
    return path.parent if path.name not in ("", "..") and path.parent.name else path.absolute().parent


def _fold_of(path: Path) -> str:
    return path.absolute().name.removeprefix(_FOLD)
