"""Names of outputs: of scans that have the same file name, of folders and files, and of what this tool wrote."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from lowres_seg.errors import InputError


def differing_parts(paths: Sequence[Path], names: Sequence[str]) -> list[str]:
    """Part of each path that tells it from the other paths with the same name; empty if its name is its own.

    Parameters
    ----------
    paths : sequence of pathlib.Path
        Files.
    names : sequence of str
        Name of each file, by which files are compared.

    Returns
    -------
    list of str
        Folders joined by ``/``, without those that all files of the name share at the beginning and at the end of
        their paths. Empty for files of the same name in the same folder.

    Examples
    --------
    >>> paths = [Path("study/sub-01/anat/t1.nii.gz"), Path("study/sub-02/anat/t1.nii.gz"), Path("study/head.nii.gz")]
    >>> differing_parts(paths, [path.name for path in paths])
    ['sub-01', 'sub-02', '']
    """
    # Links are not followed: the folders that they lead to are no names that a user has given.
    folders = [Path(os.path.abspath(path)).parent.parts[1:] for path in paths]  # noqa: PTH100
    parts = [""] * len(paths)
    for name in set(names):
        group = [index for index, other in enumerate(names) if other == name]
        different = {folders[index] for index in group}
        if len(different) < 2:
            continue
        shortest = min(map(len, different))
        first = _shared(different, shortest - 1)
        last = _shared({folder[::-1] for folder in different}, shortest - first - 1)
        for index in group:
            folder = folders[index]
            parts[index] = "/".join(folder[first : len(folder) - last])
    return parts


def _shared(folders: set[tuple[str, ...]], at_most: int) -> int:
    """Number of parts at the beginning that all folders share."""
    count = 0
    while count < at_most and len({folder[count] for folder in folders}) == 1:
        count += 1
    return count


def is_folder(output: str, suffixes: tuple[str, ...]) -> bool:
    """Tell whether an output names a folder, and not one file that ends in one of `suffixes`.

    A folder is what exists as one, what ends in a slash, and what has no suffix. A number after a dot is no suffix,
    with a v before it or without: ``out.v2``, ``scans-2024.11``.

    Raises
    ------
    InputError
        If it is empty, has the suffix of another kind of file, or names a file that exists and has none.

    Examples
    --------
    >>> [is_folder(name, (".nii.gz", ".nii")) for name in ("no-such/m.nii.gz", "no-such", "no-such.v2", "no-such.x/")]
    [False, True, True, True]
    """
    written = " or ".join(suffixes)
    if not output.strip():
        raise InputError(f"the output has no name; name a file that ends in {written}, or a folder (. is this one)")
    path = Path(output)
    if os.path.isdir(path) or output.endswith(("/", os.sep)):  # noqa: PTH112 - False where nobody may look
        return True
    if path.name.endswith(suffixes):
        return False
    if os.path.exists(path):  # noqa: PTH110
        raise InputError(f"{output}: is a file; name a folder, or a file that ends in {written}")
    if re.fullmatch(r"\.[A-Za-z0-9]{1,10}", path.suffix) and not re.fullmatch(r"\.v?[0-9]+", path.suffix):
        raise InputError(
            f"{output}: files that end in {path.suffix} are not written, expected {written}; for a folder of this name "
            "put a slash behind it"
        )
    return True


def is_own(path: Path) -> bool:
    """Tell from its name whether a file is a mask, or a masked scan, that a folder run wrote."""
    return path.name.endswith(("_mask.nii.gz", "_masked.nii.gz"))
