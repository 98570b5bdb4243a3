"""Jobs of a command line: the scans that it names, and the files to write for each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from lowres_seg import atomic
from lowres_seg.cohort import ledger as ledgers
from lowres_seg.cohort.cases import Cases, files_of
from lowres_seg.cohort.naming import differing_parts, is_folder, is_own
from lowres_seg.cohort.sources import Form, Source
from lowres_seg.errors import InputError, shown
from lowres_seg.volumes import nifti
from lowres_seg.volumes.files import SUFFIXES, check_packages, stem, suffix
from lowres_seg.wording import counted

#: Suffixes of masks: of NIfTI, and of DICOM segmentations.
MASKS = (*SUFFIXES, ".dcm")


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
    picture : pathlib.Path or None
        The picture to write, of three planes through the labels.
    spread : pathlib.Path or None
        The map of the spread to write, of a bundle that has samples.
    scores : dict of str to pathlib.Path
        The score to write for each label, by its name; none if empty.
    id : str
        Id of its case in a table of cases; empty if it comes from none.
    sources : dict of str to Source
        Of channels that are no NIfTI file.
    form : Form or None
        Of a mask that is no NIfTI file.
    """

    scan: Mapping[str, Path]
    output: Path
    masked: Mapping[str, Path] = field(default_factory=dict)
    spread: Path | None = None
    id: str = ""
    sources: Mapping[str, Source] = field(default_factory=dict)
    scores: Mapping[str, Path] = field(default_factory=dict)
    picture: Path | None = None
    form: Form | None = None

    @property
    def name(self) -> str:
        """Name of the scan in messages and tables: the path of its first channel."""
        return str(next(iter(self.scan.values())))

    @property
    def outputs(self) -> dict[str, Path]:
        """All files to write, by what they hold.

        ``mask`` or ``classes`` comes first, then ``masked CHANNEL``, ``picture``, ``spread`` and ``score LABEL``.
        """
        first = "classes" if self.output.suffix == ".json" else "mask"
        further = {"picture": self.picture, "spread": self.spread}
        return {
            first: self.output,
            **{f"masked {channel}": path for channel, path in self.masked.items()},
            **{what: path for what, path in further.items() if path is not None},
            **{f"score {label}": path for label, path in self.scores.items()},
        }

    @property
    def files(self) -> list[Path]:
        """All files to write, the mask first."""
        return list(self.outputs.values())

    def reads(self) -> dict[str, Sequence[Path]]:
        """Files of each channel.

        Raises
        ------
        InputError
            If a source is unusable.
        """
        sources = self.sources
        return {name: sources[name].files() if name in sources else [path] for name, path in self.scan.items()}


def without_own(inputs: Sequence[str], output: str) -> tuple[list[str], list[str]]:
    """Split inputs into those to segment, and masks that this tool wrote and a pattern for names caught.

    All are segmented where all were written by this tool, or where one names its channel.

    Returns
    -------
    inputs, own : list of str
    """
    words = [channel_word(word) for word in inputs]
    if any(channel is not None for channel, _ in words):
        return list(inputs), []
    listed: set[str] = set()
    for folder in {Path(output), *(path.parent for _, path in words)}:
        listed |= _listed(folder)
    own = [word for word in inputs if is_own(Path(word)) or os.path.realpath(word) in listed]
    if len(own) == len(inputs):
        return list(inputs), []
    return [word for word in inputs if word not in own], own


def table_of(inputs: Sequence[str], channels: Sequence[str]) -> Cases | None:
    """The table of cases that inputs name, .csv or .tsv; None if they name scans.

    Raises
    ------
    InputError
        If the table cannot be used, or does not stand alone.
    """
    words = [channel_word(word) for word in inputs]
    tables = [path for channel, path in words if channel is None and path.suffix.lower() in (".csv", ".tsv")]
    if not tables:
        return None
    if len(words) > 1:
        raise InputError(f"{tables[0]}: is a table of cases beside other inputs; name the table alone, or scans")
    return Cases.read(tables[0], channels)


def list_jobs(
    inputs: Sequence[str] | Sequence[Mapping[str, Path]] | Cases,
    output: str | os.PathLike[str],
    channels: Sequence[str],
    *,
    force: bool,
    apply_mask: bool,
    picture: bool = False,
    masks: bool = True,
    spread_map: Path | None = None,
    scored: Sequence[str] = (),
    reads: Iterable[Path] = (),
) -> list[Job]:
    """List the jobs of some inputs, and refuse before anything runs what could not be written.

    Parameters
    ----------
    inputs : sequence of str, sequence of mapping of str to pathlib.Path, or Cases
        Paths of scans of one channel; or ``CHANNEL=PATH`` for each channel of one scan; or scans, by channel; or a
        table of cases.
    output : path
        A file of NIfTI, MGH or NRRD or a DICOM segmentation for one scan, or a JSON file where there are no masks; a
        folder for several, made if it is missing. In it, scans of the same name get a folder each, called by the part
        of their paths that differs. Those of a table are called by the ids of their cases.
        `naming.is_folder` tells the two apart.
    channels : sequence of str
        Of the bundle.
    force : bool
        Whether existing files may be replaced.
    apply_mask : bool
        Whether the scans are to be written with everything outside the labels set to zero, beside the masks.
    picture : bool
        Whether a picture is to be written beside each mask.
    masks : bool
        Whether the bundle gives masks, and not a number for each class.
    spread_map : pathlib.Path, optional
        File for the spread of one scan's scores.
    scored : sequence of str
        Names of the labels whose score is to be written, beside the masks.
    reads : iterable of pathlib.Path
        Other files and folders that are read, such as the bundle.

    Raises
    ------
    InputError
        If inputs and bundle, or inputs and output, do not go together; if a mask exists already and not `force`; or if
        a file to write is a scan or another file that is read, under any name.
    """
    path, name = Path(output), os.fspath(output)
    ids: list[str] = []
    words = [] if isinstance(inputs, Cases) else [channel_word(word) for word in inputs if isinstance(word, str)]
    scans: list[Mapping[str, Path]]
    if isinstance(inputs, Cases):
        scans, ids = [case.scan for case in inputs], [case.id for case in inputs]
        reads = [*reads, *files_of(inputs)]
    elif not words:
        scans = [scan for scan in inputs if not isinstance(scan, str)]
    elif all(channel is not None for channel, _ in words):
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
    suffixes, ending = (MASKS, "_mask.nii.gz") if masks else ((".json",), "_classes.json")
    if apply_mask and not masks:
        raise InputError("the bundle classifies and gives no mask to apply")
    into_folder = is_folder(name, suffixes)
    if spread_map is not None and (into_folder or not spread_map.name.endswith(SUFFIXES)):
        raise InputError(
            f"{spread_map}: the spread is a map of one scan; expected a name that ends in "
            f"{' or '.join(SUFFIXES)}, and one mask as output, no folder"
        )
    if not into_folder:
        if len(scans) > 1:
            raise InputError(f"{output}: is one file for {len(scans)} scans; name a folder")
        jobs = [Job(scans[0], path, spread=spread_map)]
    else:
        firsts = [next(iter(scan.values())) for scan in scans]
        names = [stem(first) for first in firsts]
        parts = differing_parts(firsts, names)
        paths = [path / part / (called + ending) for part, called in zip(parts, names, strict=True)]
        if ids:
            paths = [path / _below(id_) / (stem(Path(id_)) + ending) for id_ in ids]
        jobs = [Job(scan, mask) for scan, mask in zip(scans, paths, strict=True)]
        twice = [job.output.name for job in jobs if sum(other.output == job.output for other in jobs) > 1]
        if twice:
            raise InputError(f"two scans would both be written to {twice[0]}; segment them into different folders")
        if not os.path.lexists(path) and not os.path.isdir(path.parent):  # noqa: PTH112 - False where nobody may look
            raise InputError(f"{output}: its folder {path.parent} does not exist; create it first")
    jobs = [replace(job, id=id_) for job, id_ in zip(jobs, ids, strict=True)] if ids else jobs
    if apply_mask:
        jobs = [replace(job, masked=_masked_paths(job)) for job in jobs]
    if scored:
        jobs = [replace(job, scores=_score_paths(job, scored)) for job in jobs]
    if picture:
        jobs = [replace(job, picture=job.output.with_name(f"{stem(job.output)}.png")) for job in jobs]
    for target in (file for job in jobs for file in job.files):
        check_packages(target)
    inputs_read = [*reads, *(file for job in jobs for file in job.scan.values())]
    targets = [file for job in jobs for file in job.files]
    atomic.check_targets(targets, force=force or into_folder, inputs=inputs_read, make_folders=into_folder)
    if into_folder:
        existing = [] if force else [target for target in targets if os.path.lexists(target)]
        if existing:
            more = len(existing) - 1
            others = f", and so {'does' if more == 1 else 'do'} {counted(more, 'other')}" if more else ""
            raise InputError(
                f"{existing[0]}: exists already{others}; pass --resume to do what is missing or --force to replace "
                f"{'them' if more else 'it'}, or choose another folder"
            )
        atomic.check_target(path / ledgers.NAME, force=True, inputs=inputs_read)
    return jobs


def one_scan(words: Sequence[str]) -> Path | dict[str, Path]:
    """One scan from a path, or from ``CHANNEL=PATH`` for each channel.

    Raises
    ------
    InputError
        If several paths come without channels.
    """
    pairs = [channel_word(word) for word in words]
    if len(pairs) == 1 and pairs[0][0] is None:
        return pairs[0][1]
    if any(channel is None for channel, _ in pairs):
        raise InputError("several scans given; name the channel of each: CHANNEL=PATH")
    return {channel: path for channel, path in pairs if channel is not None}


def channel_word(word: str) -> tuple[str | None, Path]:
    """Channel and path of a word of the command line; the channel of ``CHANNEL=PATH``, or None of a path."""
    channel, equals, path = word.partition("=")
    if equals and "/" not in channel and "\\" not in channel and not os.path.exists(word):  # noqa: PTH110
        return channel, Path(path)
    return None, Path(word)


def _below(id_: str) -> PurePath:
    """Folder that an id with slashes names."""
    path = PurePath(id_)
    if path.is_absolute() or not path.name or ".." in path.parts or "\0" in id_:
        raise InputError(f"case {shown(id_)}: its id names no file below the output; give it another in the column id")
    return path.parent


def _masked_paths(job: Job) -> dict[str, Path]:
    """Paths beside the mask: MASK_masked.nii.gz, with the channel in the name where there are several.

    They are .mgz, .mgh or .nrrd where the mask is.
    """
    ending = _ending(job)
    suffixes = {channel: "masked" if len(job.scan) == 1 else f"{channel}_masked" for channel in job.scan}
    return {channel: job.output.with_name(f"{stem(job.output)}_{word}{ending}") for channel, word in suffixes.items()}


def _score_paths(job: Job, labels: Sequence[str]) -> dict[str, Path]:
    """Paths beside the mask: MASK_score_LABEL.nii.gz, or in the format of the mask."""
    return {label: job.output.with_name(f"{stem(job.output)}_score_{label}{_ending(job)}") for label in labels}


def _ending(job: Job) -> str:
    ending = suffix(job.output)
    return ".nii.gz" if not ending or ending.lower() in nifti.SUFFIXES else ending


def _listed(folder: Path) -> set[str]:
    """Paths of the files that the ledger of a folder names; none if there is no ledger that can be read."""
    try:
        entries = ledgers.read(folder / ledgers.NAME)
    except OSError:
        return set()
    return {os.path.realpath(folder / name) for entry in entries for name in entry.files}
