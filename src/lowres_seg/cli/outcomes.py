"""What the commands say of outcomes: a line about all, and what --json has of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowres_seg.errors import in_one_line

if TYPE_CHECKING:
    from lowres_seg.cohort.jobs import Outcome


def summary_text(outcomes: list[Outcome], total: int, own: list[str]) -> str:
    """Line with the number of scans that are done, failed (and why), and skipped."""
    statuses = [outcome.status for outcome in outcomes]
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    why = [f"{outcome.job.name}: {_reason(outcome)}" for outcome in failed[:3]]
    why += [f"{len(failed) - 3} more"] if len(failed) > 3 else []
    parts = [
        f"{statuses.count('done')} done",
        f"{len(failed)} failed" + (f" ({'; '.join(why)})" if why else ""),
        f"{statuses.count('skipped') + len(own)} skipped",
    ]
    if len(outcomes) < total:
        parts.append(f"{total - len(outcomes)} not begun or not ended; --resume goes on with them")
    return " ".join(f"summary: {', '.join(parts)}".split("\n"))


def _reason(outcome: Outcome) -> str:
    """What was found, out of an error's message."""
    said = " ".join(str(outcome.error).splitlines()).removeprefix(f"{in_one_line(outcome.job.name)}: ")
    return said.partition("; ")[0]


def own_text(own: list[str]) -> str:
    """Note about inputs that this tool wrote."""
    some = ", ".join(own[:3]) + (f" and {len(own) - 3} more" if len(own) > 3 else "")
    return f"skipped {some}: written by this tool, as masks or masked scans; to segment them, name no other scans"


def case_content(number: int, outcome: Outcome, *, anonymous: bool) -> dict[str, Any]:
    """An outcome as --json has it."""
    from lowres_seg.cohort.anonymous import without_paths

    job = outcome.job
    failed = outcome.error is not None
    texts = ["" if outcome.error is None else str(outcome.error), *outcome.doubts]
    error, *doubts = [without_paths(text, job) for text in texts] if anonymous else texts
    scan = {channel: str(path) for channel, path in job.scan.items()}
    return {
        "case": number,
        **({} if anonymous else {**({"id": job.id} if job.id else {}), "scan": scan}),
        "outcome": outcome.status,
        "threads": outcome.threads,
        **({} if anonymous else {"mask": None if failed else str(job.output)}),
        "error": error if failed else None,
        "voxels": outcome.voxels,
        "volumes_ml": outcome.volumes_ml,
        "numbers": outcome.numbers,
        "timings_s": outcome.timings_s,
        "doubts": doubts,
        "doubt_names": outcome.doubt_names,
    }
