"""What `predict` tells of each scan, and of all of them."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowres_seg.cli.options import debugging
from lowres_seg.cli.screen import err, out, plain, print_error
from lowres_seg.errors import LowresSegError, in_one_line

if TYPE_CHECKING:
    from lowres_seg.cohort.jobs import Outcome


def tell(outcome: Outcome, *, shown: bool, verbose: bool) -> None:
    """Print what became of a scan."""
    if outcome.error is not None:
        if debugging():
            traceback.print_exception(outcome.error)
        print_error(outcome.error)
        return
    if outcome.again:
        err.print(f"[yellow]note:[/] {plain(outcome.job.name)}: was done again, because {plain(outcome.again)}")
    for doubt in outcome.doubts:
        err.print(f"[yellow]note:[/] {plain(outcome.job.name)}: {plain(doubt)}")
    if shown:
        found = [f"{name} {ml:.1f} ml" for name, ml in outcome.volumes_ml.items()]
        found += [f"{name} {value:.4f}" for name, value in outcome.numbers.items()]
        seconds = "done before" if outcome.skipped else f"{sum(outcome.timings_s.values()):.2f} s"
        out.print(plain(f"{outcome.job.output}: {', '.join(found)} ({seconds})"))
        for path in outcome.job.masked.values():
            out.print(plain(f"{path}: written, with zero outside the labels"))
        if outcome.job.picture is not None:
            out.print(plain(f"{outcome.job.picture}: written, three planes through the labels"))
        if outcome.job.spread is not None:
            out.print(plain(f"{outcome.job.spread}: written, the spread of the samples"))
        for label, path in outcome.job.scores.items():
            out.print(plain(f"{path}: written, the score of {label}"))
        if verbose:
            out.print("  " + ", ".join(f"{step} {s:.3f} s" for step, s in outcome.timings_s.items()))


def write_about(write: Callable[..., None], path: Path, *, force: bool, shown: bool) -> bool:
    """Write a file about all scans; False if it cannot be, which is said and keeps no mask from being written."""
    try:
        write(path, force=force)
    except LowresSegError as error:
        print_error(error)
        return False
    if shown:
        out.print(plain(f"{path}: written"))
    return True


def summary_line(outcomes: list[Outcome], total: int, own: list[str]) -> str:
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


def skipped_line(own: list[str]) -> str:
    """Line about inputs that this tool wrote."""
    some = ", ".join(own[:3]) + (f" and {len(own) - 3} more" if len(own) > 3 else "")
    return f"skipped {some}: written by this tool, as masks or masked scans; to segment them, name no other scans"


def case_json(number: int, outcome: Outcome, *, anonymous: bool) -> dict[str, Any]:
    """One case of ``--json``."""
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
        **({} if anonymous or failed or not job.scores else {"scores": {k: str(v) for k, v in job.scores.items()}}),
        "error": error if failed else None,
        "voxels": outcome.voxels,
        "volumes_ml": outcome.volumes_ml,
        "numbers": outcome.numbers,
        "timings_s": outcome.timings_s,
        "doubts": doubts,
        "doubt_names": outcome.doubt_names,
    }
