"""Files of weights, whoever wrote them: which kind they are, and what they hold. No code of a file runs."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lowres_seg.errors import ExportError, last_line
from lowres_seg.export.frameworks import safetensors_file

_ZIP = b"PK\x03\x04"
#: Files of an archive that torch.export wrote.
_EXPORTED = ("archive_format", "serialized_exported_program.json")


def kind_of(path: Path) -> str:
    """Kind of a file of weights: ``torchscript`` for an archive that holds code, else ``checkpoint``.

    Raises
    ------
    ExportError
        If the file is missing or cut off, or torch.export wrote it.
    """
    if not path.is_file():
        raise ExportError(f"{path}: {'is a folder' if path.is_dir() else 'does not exist'}, expected a file of weights")
    names = members(path)
    parts = [name.split("/") for name in names or ()]
    return "torchscript" if any(len(p) > 1 and p[1] in ("code", "constants.pkl") for p in parts) else "checkpoint"


def members(path: Path) -> list[str] | None:
    """Names of the files of an archive; None for a file that is no archive.

    Raises
    ------
    ExportError
        If the archive is cut off or damaged, or torch.export wrote it.
    """
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ExportError(
            f"{path}: cannot be read as a checkpoint or TorchScript (it begins as a zip archive and has no end, "
            "so it is cut off; fetch it again)"
        ) from error
    if any(name.rpartition("/")[2] in _EXPORTED for name in names):
        raise ExportError(
            f"{path}: holds a program of torch.export (.pt2), expected a state_dict, TorchScript or ONNX; "
            "save one of these"
        )
    return names


def checkpoint(path: Path) -> Mapping[str, Any]:
    """Read a checkpoint: tensors, plain containers and numpy's arrays and scalars; safetensors; or an ``.npz``.

    The content of the file says which of these it is. No code runs.

    Raises
    ------
    ExportError
        If it is damaged, or holds anything else.
    """
    try:
        if safetensors_file.matches(path):
            return safetensors_file.read(path)
        names = members(path)
        if path.suffix == ".npz" or (names and all(name.endswith(".npy") for name in names)):
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_of_numpy()):
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if broken := damage(error):
            raise ExportError(f"{path}: cannot be read as a checkpoint ({broken})") from error
        raise ExportError(f"{path}: {_refused(error)}; nothing of it was run. Save its state_dict alone") from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        AssertionError,
        zipfile.BadZipFile,
    ) as error:
        raise ExportError(
            f"{path}: cannot be read as a checkpoint ({damage(error) or f'{type(error).__name__} {last_line(error)}'})"
        ) from error
    if not isinstance(content, Mapping):
        raise ExportError(f"{path}: holds {type(content).__name__}, expected a mapping of names to values")
    return content


def damage(error: BaseException) -> str:
    """What is wrong with an archive that torch could not read; empty if the error is of another kind."""
    found = re.search(r"PytorchStreamReader failed (.*)|(?=.*miniz)", str(error))
    if found is None:
        return ""
    what = (found[1] or "reading it").partition(":")[0].strip()
    if what.startswith("locating file"):
        return f"it has no {what.removeprefix('locating file').strip()}"
    return f"the archive is damaged, torch failed {what}; fetch it again"


def _refused(error: BaseException) -> str:
    """What the loader refused, by name if it says one."""
    found = re.search(r"GLOBAL ([\w.]+)|Trying to call reduce for unrecognized function (.+)", str(error))
    if found is None:
        return "holds more than weights, or is no checkpoint"
    return f"holds more than weights, which is {found[1] or found[2]}"


def _of_numpy() -> list[Any]:
    """Names that the pickles of numpy's scalars and arrays use, in which trainers log losses."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")}
    # numpy 1 has the same functions under other names.
    places = ("numpy.core.multiarray", "numpy._core.multiarray")
    functions = [(scalar, f"{place}.scalar") for place in places]
    functions += [(array, f"{place}._reconstruct") for place in places]
    return [np.dtype, np.ndarray, *kinds, *functions]
