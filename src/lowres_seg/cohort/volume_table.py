"""The table of volumes: millilitres of each label of each scan."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from lowres_seg import atomic
from lowres_seg.cohort.anonymous import without_paths
from lowres_seg.cohort.jobs import Outcome

_COLUMNS = ["scan", "mask", "label", "name", "voxels", "millilitres", "error"]


def write(
    path: Path, outcomes: Sequence[Outcome], labels: Mapping[int, str], *, force: bool, anonymous: bool = False
) -> None:
    """Write a CSV with a row for each scan and label; a scan that failed has one with its error.

    Bytes of a file name that are not UTF-8 are written as Python's codes for them. An anonymous table has the number of
    the case in place of its paths.

    Raises
    ------
    InputError
        If the table exists and not `force`, or cannot be written.
    """
    with (
        atomic.file(path, force=force) as staged,
        staged.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        for number, outcome in enumerate(outcomes, start=1):
            job = outcome.job
            scan, mask = (f"case {number}", "") if anonymous else (job.name, job.output)
            if outcome.error is not None:
                why = without_paths(str(outcome.error), job) if anonymous else str(outcome.error)
                writer.writerow([scan, "", "", "", "", "", why])
                continue
            for value, name in labels.items():
                row = [value, name, outcome.voxels[name], f"{outcome.volumes_ml[name]:.3f}", ""]
                writer.writerow([scan, mask, *row])


def is_table(path: Path) -> bool:
    """Tell whether a file is a table that `write` wrote."""
    try:
        with path.open(encoding="utf-8", errors="backslashreplace") as stream:
            return stream.readline().strip() == ",".join(_COLUMNS)
    except OSError:
        return False
