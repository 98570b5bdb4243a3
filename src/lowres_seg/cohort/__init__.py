"""Many studies: tables of cases, and scans on disk that become masks on disk.

A case is one study, with a label map if there is one. A job is one scan and the files to write for it.
A job that fails never stops the others.
"""

from typing import TYPE_CHECKING

from lowres_seg.extras import on_demand

if TYPE_CHECKING:
    from lowres_seg.cohort.cases import Case, Cases
    from lowres_seg.cohort.jobs import Job, Outcome

__all__ = [
    "Case",
    "Cases",
    "Job",
    "Outcome",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "Case": "cases",
        "Cases": "cases",
        "Job": "jobs",
        "Outcome": "jobs",
    },
)
