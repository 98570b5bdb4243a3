"""The table of a run that classifies: each class's value and the decision of each case."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from lowres_seg import atomic
from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.cohort.anonymous import without_paths
from lowres_seg.cohort.jobs import Outcome
from lowres_seg.metrics.classification import decision


def write(path: Path, outcomes: Sequence[Outcome], pipeline: Pipeline, *, force: bool, anonymous: bool = False) -> None:
    """Write a CSV with a row for each case.

    A case that failed, or of which a network saw nothing, has no decision, and the reason in the column ``error``. A
    case has the id of its table, or the path of its scan; in an anonymous table its number.

    Parameters
    ----------
    path : pathlib.Path
    outcomes : sequence of Outcome
    pipeline : Pipeline
        Its `numbers` are columns, and it is decided among its `classes`. If it has none, no case has a decision.
    force : bool
        Replace a file that exists.
    anonymous : bool

    Raises
    ------
    InputError
        If the table exists and not `force`, or cannot be written.
    """
    numbers, classes = pipeline.numbers, pipeline.classes
    with (
        atomic.file(path, force=force) as staged,
        staged.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(_columns(pipeline))
        for number, outcome in enumerate(outcomes, start=1):
            job, found = outcome.job, outcome.numbers
            values = [f"{found[name]:.6g}" if name in found else "" for name in numbers]
            decided = bool(classes) and all(name in found for name in classes)
            why = str(outcome.error or "")
            if not why and not all(values):
                why = "; ".join(outcome.doubts)
            writer.writerow(
                [
                    f"case {number}" if anonymous else job.id or job.name,
                    *values,
                    decision(found, classes) if decided else "",
                    without_paths(why, job) if anonymous else why,
                ]
            )


def is_written(path: Path, pipeline: Pipeline) -> bool:
    """Tell whether a file is a table that `write` wrote for a pipeline with these classes."""
    try:
        with path.open(encoding="utf-8", errors="backslashreplace") as stream:
            return stream.readline().strip() == ",".join(_columns(pipeline))
    except OSError:
        return False


def _columns(pipeline: Pipeline) -> list[str]:
    return ["id", *pipeline.numbers, "decision", "error"]
