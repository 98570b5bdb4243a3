"""Files in, files out: scans on disk to masks on disk, what becomes of each, and the table of all."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import cast

import numpy as np

from lowres_seg import atomic, endings
from lowres_seg.bundle.bundle import file_sha256
from lowres_seg.cohort import ledger as ledgers
from lowres_seg.cohort.anonymous import without_paths
from lowres_seg.cohort.finish import Finish
from lowres_seg.cohort.ledger import Entry, Ledger
from lowres_seg.cohort.listing import Job, list_jobs, one_scan
from lowres_seg.errors import InputError, LowresSegError, one_line
from lowres_seg.runtime.alignment import aligned
from lowres_seg.runtime.brain_mask import BrainMask
from lowres_seg.runtime.doubts import Doubt, DoubtName
from lowres_seg.runtime.segmentation import Segmentation
from lowres_seg.runtime.segmenter import Segmenter
from lowres_seg.runtime.watch import Progress
from lowres_seg.volumes import files
from lowres_seg.volumes.volume import Volume

__all__ = ["Job", "Outcome", "list_jobs", "one_scan", "run_jobs"]

Align = Callable[[Mapping[str, Volume]], dict[str, Volume]]
#: Name of the doubts about a header, which have none of their own.
_HEADER = "header"


@dataclass(frozen=True)
class Outcome:
    """The result of a job.

    Attributes
    ----------
    job : Job
    error : LowresSegError or None
        Why there is no mask.
    voxels, volumes_ml : dict of str to number
        By label.
    numbers : dict of str to float
        By class, of a bundle that classifies.
    timings_s : dict of str to float
        As in `Segmentation`, with ``save``.
    doubts : tuple of str
    skipped : bool
        Whether an earlier run has done it; the values are from the ledger.
    again : str
        Why a case that an earlier run has done was done again; empty if none had.
    inputs : dict of str to str
        sha256 of each channel's file, where digests were asked for.
    outputs : dict of str to str
        sha256 of each file that was written, named as in `Job.outputs`; where digests were asked for.
    threads : int or None
        Threads that it was computed with; None if the ledger of an earlier version does not say.
    """

    job: Job
    error: LowresSegError | None = None
    voxels: dict[str, int] = field(default_factory=dict)
    volumes_ml: dict[str, float] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)
    skipped: bool = False
    again: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    threads: int | None = None

    @property
    def doubt_names(self) -> list[str]:
        """Name of each doubt; ``header`` for those about the scan's header."""
        return [getattr(doubt, "name", _HEADER) for doubt in self.doubts]

    @property
    def status(self) -> str:
        """``done``, ``failed`` or ``skipped``."""
        return "failed" if self.error is not None else "skipped" if self.skipped else "done"


def run_jobs(
    segmenter: Segmenter,
    jobs: Sequence[Job],
    *,
    force: bool,
    ledger: Ledger | None = None,
    resume: bool = False,
    digests: bool = False,
    progress: Progress | None = None,
    finish: Finish | None = None,
    align: Align = aligned,
    brain: BrainMask | None = None,
) -> Iterator[Outcome]:
    """Segment one scan after another. A job that fails has an outcome with its error, and the others go on.

    Parameters
    ----------
    segmenter : Segmenter
    jobs : sequence of Job
    force : bool
        Whether existing files may be replaced.
    ledger : Ledger, optional
        Gets a line for each job as it ends.
    resume : bool
        Skip what the ledger knows as done, and replace what it does not.
    digests : bool
        Whether outcomes have the digests of what was read and written; with a ledger they do.
    progress : callable, optional
        Called within each scan as by `Segmenter.predict`.
    finish : Finish, optional
        What is made of each result before it is written.
    align : callable
        Takes the volumes of a scan by channel, and gives them on one grid.
    brain : BrainMask, optional
        Applied to each scan before it is segmented.

    Yields
    ------
    Outcome
    """
    for job in jobs:
        try:
            yield _outcome(
                segmenter,
                job,
                force=force,
                ledger=ledger,
                resume=resume,
                digests=digests,
                progress=progress,
                finish=Finish() if finish is None else finish,
                align=align,
                brain=brain,
            )
        except Exception as error:  # noqa: BLE001 - one bad case never stops the others
            failure = _failure(job, error)
            _release(failure)
            if ledger is not None:
                _record_failure(ledger, job, failure, segmenter.threads)
            yield Outcome(job, error=failure, threads=segmenter.threads)


def _outcome(
    segmenter: Segmenter,
    job: Job,
    *,
    force: bool,
    ledger: Ledger | None,
    resume: bool,
    digests: bool,
    progress: Progress | None,
    finish: Finish,
    align: Align,
    brain: BrainMask | None,
) -> Outcome:
    again = ""
    if ledger is not None and resume:
        entry, again = ledger.done(job.files, job.reads())
        if entry is not None:
            return _skipped(job, entry)
    start = perf_counter()
    with endings.allowed():  # the caller may put the end of the process off, so that no outcome is lost
        before = _stamps(job)
        (segmenter if brain is None else brain.segmenter).prepare()
        scan = align(read(segmenter, job))
        digests = digests or ledger is not None
        inputs = ledgers.digests(job.reads()) if digests else {}
        finish.check(next(iter(scan.values())).grid, job.name)
        load_s = perf_counter() - start
        if brain is None:
            found = segmenter.predict(scan, progress=progress, scores=finish.scores)
        else:
            masked = brain.apply(scan, progress=progress, then=segmenter)
            found = masked.recorded(segmenter.predict(masked.scan, progress=progress, scores=finish.scores))
            del masked
    for path, stamp in _stamps(job).items():  # now, because voxels that are mapped from a file are read late
        if before[path] != stamp:
            raise InputError(f"{path}: changed while it was read, expected a file at rest; run again when it is whole")
    timings = found.timings_s | {"load": load_s + found.timings_s["load"]}
    whole, result = found, found
    if finish.changes:
        start = perf_counter()
        whole, result = finish.applied(found, threads=segmenter.threads)
        timings["finish"] = perf_counter() - start
    done = Outcome(
        job,
        None,
        result.voxels(),
        result.volumes_ml(),
        timings,
        result.doubts,
        result.numbers,
        again=again,
        threads=segmenter.threads,
    )
    start = perf_counter()
    try:
        job.output.parent.mkdir(parents=True, exist_ok=True)  # it may have been removed meanwhile
    except OSError as error:
        raise atomic.unwritable(job.output, error) from error
    with atomic.files(job.files, force=force or resume) as staged:
        masks = {channel: finish.masked(_masked(scan[channel], whole), whole) for channel in job.masked}
        places = dict(zip(job.files, staged, strict=True))
        _write(result, job, masks, places)
        if job.picture is not None:
            from lowres_seg.view.picture import picture  # needs an extra

            first = next(iter(scan.values()))
            places[job.picture].write_bytes(picture(first, whole.labels, whole.label_names))
        if digests:
            outputs = {name: file_sha256(path) for name, path in zip(job.outputs, staged, strict=True)}
            done = replace(done, inputs=inputs, outputs=outputs)
        if ledger is not None:
            _record(ledger, done, segmenter.threads)
    timings["save"] = perf_counter() - start
    return done


def read(segmenter: Segmenter, job: Job) -> dict[str, Volume]:
    """Read each channel of a job's scan.

    Raises
    ------
    InputError
        If one is unusable, or needs more memory than the bound.
    """
    return {
        channel: job.sources[channel].volume() if channel in job.sources else segmenter.read(path)
        for channel, path in job.scan.items()
    }


def _skipped(job: Job, entry: Entry) -> Outcome:
    names = entry.doubt_names or (_HEADER,) * len(entry.doubts)
    return Outcome(
        job,
        None,
        entry.voxels,
        entry.volumes_ml,
        entry.timings_s,
        tuple(map(_named, names, entry.doubts)),
        entry.numbers,
        skipped=True,
        inputs=entry.inputs,
        outputs=dict(zip(job.outputs, entry.files.values(), strict=True)),
        threads=entry.threads or None,
    )


def _named(name: str, doubt: str) -> str:
    return doubt if name == _HEADER else Doubt(cast("DoubtName", name), doubt)


def _record(ledger: Ledger, done: Outcome, threads: int) -> None:
    job = done.job
    ledger.write(
        "done",
        job.scan,
        dict(zip(job.files, done.outputs.values(), strict=True)),
        inputs=done.inputs,
        voxels=done.voxels,
        volumes_ml=done.volumes_ml,
        numbers=done.numbers,
        timings_s=done.timings_s,
        doubts=tuple(_told(ledger, job, doubt) for doubt in done.doubts),
        doubt_names=tuple(done.doubt_names),
        threads=threads,
    )


def _record_failure(ledger: Ledger, job: Job, failure: LowresSegError, threads: int) -> None:
    # The full disk that made it fail may take no line either. A case without a line is done again.
    with suppress(InputError):
        why = _told(ledger, job, str(failure))
        # A name of a mask is made of that of its scan.
        files = [file for file in job.files if os.path.lexists(file)] if ledger.anonymous else job.files
        ledger.write("failed", job.scan, dict.fromkeys(files, ""), why=why, threads=threads)


def _told(ledger: Ledger, job: Job, text: str) -> str:
    return without_paths(text, job) if ledger.anonymous else text


def _failure(job: Job, error: Exception) -> LowresSegError:
    """The error of a job, as one of this package."""
    if isinstance(error, LowresSegError):
        return error
    failure: LowresSegError
    if isinstance(error, MemoryError):
        failure = InputError(
            f"{job.name}: needs more memory than there is ({one_line(error)}); free memory, or bound it with "
            "--max-ram (max_ram_bytes)"
        )
    elif isinstance(error, OSError):
        name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else job.name
        at = "" if name == job.name else f" at {name}"
        failure = InputError(
            f"{job.name}: cannot be read{at} ({error.strerror or one_line(error)}); see that the file is there and "
            "that you may read it"
        )
    else:
        failure = LowresSegError(
            f"{job.name}: met a fault of this tool ({type(error).__name__}: {one_line(error)}); run lowres-seg --debug "
            "predict and report what it shows"
        )
    failure.__cause__ = error
    return failure


def _release(error: BaseException | None) -> None:
    """Drop the variables of the functions that an error went through. They hold the scan, and outcomes are kept."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _stamps(job: Job) -> dict[Path, tuple[int, int, int] | None]:
    """Size, time of change and identity of each file of a scan; None of one that cannot be looked at."""
    found: dict[Path, tuple[int, int, int] | None] = {}
    for path in (path for paths in job.reads().values() for path in paths):
        try:
            status = path.stat()
        except OSError:  # reading it says why
            found[path] = None
        else:
            found[path] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def _write(result: Segmentation, job: Job, masked: Mapping[str, Volume], staged: Mapping[Path, Path]) -> None:
    """Write the files of a job to the places where they wait for their names."""
    if not result.label_names:
        staged[job.output].write_text(json.dumps(result.numbers, indent=2) + "\n", encoding="utf-8")
        return
    scans = {target: masked[channel] for channel, target in job.masked.items()}
    spread = {} if job.spread is None or result.spread is None else {job.spread: result.spread}
    scores = {target: result.scores[name] for name, target in job.scores.items()}
    volumes = {job.output: result.labels, **scans, **spread, **scores}
    if job.form is not None:
        job.form.write(staged[job.output], volumes.pop(job.output))
    for target, volume in volumes.items():
        files.write_staged(staged[target], volume.data, volume.grid, volume.header)


def _masked(scan: Volume, result: Segmentation) -> Volume:
    """The scan with everything outside the labels set to zero, in its own dtype where that holds it."""
    data = np.where(result.labels.data != 0, scan.data, 0)
    dtype = np.dtype(np.float32) if scan.header is None else scan.header.get_data_dtype()
    if dtype.kind in "iu" and dtype.itemsize <= 2:
        limits = np.iinfo(dtype)
        if (data == np.round(data)).all() and limits.min <= data.min() and data.max() <= limits.max:
            data = data.astype(dtype)
    return Volume(data, scan.grid, scan.header)
