"""Files in, files out: scans on disk to masks on disk."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from lowres_seg import atomic
from lowres_seg.cohort.naming import differing_parts
from lowres_seg.errors import InputError, LowresSegError
from lowres_seg.runtime.segmenter import Segmentation, Segmenter
from lowres_seg.volumes.nifti import SUFFIXES, stem
from lowres_seg.volumes.volume import Volume


@dataclass(frozen=True)
class Job:
    """One scan, and the files to write for it.

    Attributes
    ----------
    scan : dict of str to pathlib.Path
        By channel.
    output : pathlib.Path
        The mask to write.
    masked : dict of str to pathlib.Path
        The scan to write for each channel with everything outside the labels set to zero; none if empty.
    """

    scan: Mapping[str, Path]
    output: Path
    masked: Mapping[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the scan in messages and tables: the path of its first channel."""
        return str(next(iter(self.scan.values())))


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
    """

    job: Job
    error: LowresSegError | None = None
    voxels: dict[str, int] = field(default_factory=dict)
    volumes_ml: dict[str, float] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)


def list_jobs(
    inputs: Sequence[str],
    output: Path,
    channels: Sequence[str],
    *,
    force: bool,
    apply_mask: bool,
    masks: bool = True,
) -> list[Job]:
    """List the jobs of some inputs, and refuse before anything runs what could not be written.

    Parameters
    ----------
    inputs : sequence of str
        Paths of scans of one channel; or ``CHANNEL=PATH`` for each channel of one scan.
    output : pathlib.Path
        A NIfTI file for one scan, or a JSON file where there are no masks; a folder for several, made if it is
        missing. In it, scans of the same name get a folder each, called by the part of their paths that differs.
    channels : sequence of str
        Of the bundle.
    force : bool
        Whether existing files may be replaced.
    apply_mask : bool
        Whether the scans are to be written with everything outside the labels set to zero, beside the masks.
    masks : bool
        Whether the bundle gives masks, and not a number for each class.

    Raises
    ------
    InputError
        If inputs and bundle, or inputs and output, do not go together, or a mask exists already.
    """
    words = [_channel_word(word) for word in inputs]
    if all(channel is not None for channel, _ in words):
        named = [channel for channel, _ in words if channel is not None]
        if sorted(named) != sorted(channels):
            raise InputError(f"channels given: {', '.join(named)}; the bundle takes {', '.join(channels)}, each once")
        scans = [{channel: path for channel, path in words if channel is not None}]
    elif any(channel is not None for channel, _ in words):
        raise InputError("some inputs are CHANNEL=PATH and some are paths; name the channel of all or of none")
    elif len(channels) > 1:
        example = " ".join(f"{channel}=PATH" for channel in channels)
        raise InputError(f"the bundle takes the channels {', '.join(channels)}; give {example}")
    else:
        scans = [{channels[0]: path} for _, path in words]
    suffixes, ending = (SUFFIXES, "_mask.nii.gz") if masks else ((".json",), "_classes.json")
    if apply_mask and not masks:
        raise InputError("the bundle classifies and gives no mask to apply")
    if output.name.endswith(suffixes):
        if len(scans) > 1:
            raise InputError(f"{output}: is one file for {len(scans)} scans; name a folder")
        jobs = [Job(scans[0], output)]
    else:
        if output.exists() and not output.is_dir():
            raise InputError(f"{output}: is a file; name a folder, or a file that ends in {' or '.join(suffixes)}")
        firsts = [next(iter(scan.values())) for scan in scans]
        parts = differing_parts(firsts, [stem(first) for first in firsts])
        paths = [output / part / (stem(first) + ending) for part, first in zip(parts, firsts, strict=True)]
        jobs = [Job(scan, path) for scan, path in zip(scans, paths, strict=True)]
        twice = [job.output.name for job in jobs if sum(other.output == job.output for other in jobs) > 1]
        if twice:
            raise InputError(f"two scans would both be written to {twice[0]}; segment them into different folders")
        if not output.exists() and not output.parent.is_dir():
            raise InputError(f"{output}: its folder {output.parent} does not exist; create it first")
        for job in jobs:
            job.output.parent.mkdir(parents=True, exist_ok=True)
    if apply_mask:
        jobs = [replace(job, masked=_masked_paths(job)) for job in jobs]
    for job in jobs:
        for target in (job.output, *job.masked.values()):
            atomic.check_target(target, force=force)
    return jobs


def run_jobs(segmenter: Segmenter, jobs: Sequence[Job], *, force: bool) -> Iterator[Outcome]:
    """Segment one scan after another. A job that fails has an outcome with its error, and the others go on."""
    for job in jobs:
        try:
            yield _outcome(segmenter, job, force=force)
        except LowresSegError as error:
            yield Outcome(job, error=error)


def _outcome(segmenter: Segmenter, job: Job, *, force: bool) -> Outcome:
    start = perf_counter()
    scan = {channel: segmenter.read(path) for channel, path in job.scan.items()}
    load_s = perf_counter() - start
    result = segmenter.predict(scan)
    start = perf_counter()
    _save(result, job, scan, force=force)
    timings = result.timings_s | {"load": load_s + result.timings_s["load"], "save": perf_counter() - start}
    return Outcome(job, None, result.voxels(), result.volumes_ml(), timings, result.doubts, result.numbers)


def write_table(path: Path, outcomes: Sequence[Outcome], labels: Mapping[int, str], *, force: bool) -> None:
    """Write a CSV with a row for each scan and label; a scan that failed has one with its error.

    Raises
    ------
    InputError
        If the table exists and not `force`, or cannot be written.
    """
    with atomic.file(path, force=force) as staged, staged.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["scan", "mask", "label", "name", "voxels", "millilitres", "error"])
        for outcome in outcomes:
            if outcome.error is not None:
                writer.writerow([outcome.job.name, "", "", "", "", "", str(outcome.error)])
                continue
            for value, name in labels.items():
                row = [value, name, outcome.voxels[name], f"{outcome.volumes_ml[name]:.3f}", ""]
                writer.writerow([outcome.job.name, outcome.job.output, *row])


def one_scan(words: Sequence[str]) -> Path | dict[str, Path]:
    """One scan from a path, or from ``CHANNEL=PATH`` for each channel.

    Raises
    ------
    InputError
        If several paths come without channels.
    """
    pairs = [_channel_word(word) for word in words]
    if len(pairs) == 1 and pairs[0][0] is None:
        return pairs[0][1]
    if any(channel is None for channel, _ in pairs):
        raise InputError("several scans given; name the channel of each: CHANNEL=PATH")
    return {channel: path for channel, path in pairs if channel is not None}


def _channel_word(word: str) -> tuple[str | None, Path]:
    channel, equals, path = word.partition("=")
    if equals and "/" not in channel and "\\" not in channel and not Path(word).exists():
        return channel, Path(path)
    return None, Path(word)


def _masked_paths(job: Job) -> dict[str, Path]:
    """Paths beside the mask: MASK_masked.nii.gz, with the channel in the name where there are several."""
    suffixes = {channel: "masked" if len(job.scan) == 1 else f"{channel}_masked" for channel in job.scan}
    return {
        channel: job.output.with_name(f"{stem(job.output)}_{suffix}.nii.gz") for channel, suffix in suffixes.items()
    }


def _save(result: Segmentation, job: Job, scan: Mapping[str, Volume], *, force: bool) -> None:
    if not result.label_names:
        with atomic.file(job.output, force=force) as staged:
            staged.write_text(json.dumps(result.numbers, indent=2) + "\n", encoding="utf-8")
        return
    masked = {target: _masked(scan[channel], result) for channel, target in job.masked.items()}
    result.labels.save(job.output, force=force)
    for target, volume in masked.items():
        volume.save(target, force=force)


def _masked(scan: Volume, result: Segmentation) -> Volume:
    """The scan with everything outside the labels set to zero, in its own dtype where that holds it."""
    data = np.where(result.labels.data != 0, scan.data, 0)
    dtype = scan.header.get_data_dtype()
    if dtype.kind in "iu" and dtype.itemsize <= 2:
        limits = np.iinfo(dtype)
        if (data == np.round(data)).all() and limits.min <= data.min() and data.max() <= limits.max:
            data = data.astype(dtype)
    return Volume(data, scan.grid, scan.header)
