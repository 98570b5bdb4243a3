"""Names of scans that have the same file name: the part of their paths that differs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


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
