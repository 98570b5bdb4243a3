"""Texts without the paths of a case, for files that leave the place where they were made."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lowres_seg.cohort.listing import Job
from lowres_seg.errors import in_one_line

_ABSOLUTE = re.compile(r"(?<![\w.)])(?:/|[A-Za-z]:\\)[^\s:;,()']+")


def without_paths(text: str, job: Job) -> str:
    """Replace every path, file name and folder of a case by its channel, or by the name of the output.

    Other absolute paths, such as that of the bundle, become ``(path)``.

    Examples
    --------
    >>> job = Job({"t1": Path("study/jane_doe.nii.gz")}, Path("masks/jane_doe_mask.nii.gz"))
    >>> without_paths("study/jane_doe.nii.gz: is truncated; jane_doe.nii.gz: read anew", job)
    '(t1): is truncated; (t1): read anew'
    """
    stands: dict[str, str] = {}
    named = {**job.scan, **job.outputs}
    for name, path in named.items():
        folders = {path.parent, Path(os.path.abspath(path)).parent, Path(os.path.realpath(path)).parent}  # noqa: PTH100
        stands |= {f"{folder}{os.sep}": "" for folder in folders if folder.name}
        stands |= {str(folder): "(folder)" for folder in folders if folder.is_absolute() and folder.name}
        stands |= {str(place / path.name): f"({name})" for place in folders}
        stands |= {str(path): f"({name})", path.name: f"({name})"}
    stands |= {in_one_line(found): stand for found, stand in stands.items()}  # as an error shows it
    for found in sorted(stands, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(found)}", stands[found], text)
    for name in job.sources:  # files within its folder or zip
        text = re.sub(rf"(\({re.escape(name)}\))/[^:]*", r"\1", text)
    return _ABSOLUTE.sub("(path)", text)
