"""The DICOM inputs of a command line: which words name a folder, a zip or files of DICOM, and which series is meant."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lowres_seg.cohort.listing import Job, channel_word
from lowres_seg.dicom.files import DICOMDIR, holds_dicom, is_zip
from lowres_seg.errors import InputError
from lowres_seg.extras import require
from lowres_seg.runtime.doubts import Doubt
from lowres_seg.volumes.volume import Volume

if TYPE_CHECKING:  # a scan of NIfTI needs no pydicom
    from lowres_seg.dicom.series import Series


class Study:
    """Files of DICOM, whose headers are read when something asks for their series.

    Parameters
    ----------
    paths : sequence of pathlib.Path
        A folder, a zip, a DICOMDIR, or files.
    channels : sequence of str
        Channels that are guessed from it; none where it holds one scan.
    """

    def __init__(self, paths: Sequence[Path], channels: Sequence[str] = ()) -> None:
        self.paths, self.channels = list(paths), list(channels)

    @cached_property
    def series(self) -> list[Series]:
        """Series of the files.

        Raises
        ------
        InputError
            As of `found`.
        """
        from lowres_seg.dicom.series import found

        return found(self.paths)

    @cached_property
    def guess(self) -> dict[str, Series]:
        """Series of each channel, by their descriptions.

        Raises
        ------
        InputError
            As of `guessed`.
        """
        from lowres_seg.dicom.contrasts import guessed

        return guessed(self.series, self.channels)


@dataclass(frozen=True)
class SeriesOf:
    """The series of a study that is a channel: the one that is named, the only one, or a guess."""

    study: Study
    channel: str
    wanted: str | None = None
    option: str = "--series SERIES"

    @cached_property
    def series(self) -> Series:
        """The series.

        Raises
        ------
        InputError
            As of `chosen` and `guessed`.
        """
        from lowres_seg.dicom.choosing import chosen

        if self._is_guessed:
            return self.study.guess[self.channel]
        return chosen(self.study.series, self.wanted, option=self.option)

    def files(self) -> list[Path]:
        """Files of the series."""
        return self.series.files

    def volume(self) -> Volume:
        """Read the series."""
        from lowres_seg.dicom.contrasts import told

        volume = self.series.volume()
        if self._is_guessed:
            guess = Doubt("guessed-channel", told(self.series, self.channel))
            return replace(volume, doubts=(guess, *volume.doubts))
        return volume

    @property
    def _is_guessed(self) -> bool:
        return self.wanted is None and self.channel in self.study.channels


@dataclass(frozen=True)
class Inputs:
    """What the words of a command line name, where some are DICOM.

    Attributes
    ----------
    scans : list of dict of str to pathlib.Path
        By channel.
    studies : dict of pathlib.Path to list of pathlib.Path
        Files of a study that several words name, by the first.
    wanted : dict of str to str
        Series that a word names, by channel.
    """

    scans: list[dict[str, Path]]
    studies: Mapping[Path, Sequence[Path]] = field(default_factory=dict)
    wanted: Mapping[str, str] = field(default_factory=dict)


def understood(words: Sequence[str], channels: Sequence[str]) -> Inputs | None:
    """What words name: scans, where DICOM is among them; None of NIfTI files and tables alone.

    A folder, a zip or a DICOMDIR is one scan. All DICOM files that are named by themselves are one scan.
    ``CHANNEL=SERIES`` beside one of these names a series of it.

    Raises
    ------
    InputError
        If the words do not go together.
    MissingExtraError
        If DICOM is among them, and packages that read it are missing.
    """
    pairs = [channel_word(word) for word in words]
    dicom = [path for _, path in pairs if holds_dicom(path)]
    if not dicom:
        return None
    require("dicom")
    plain = [path for channel, path in pairs if channel is None]
    named = {channel: path for channel, path in pairs if channel is not None}
    files = [path for path in plain if path in dicom and _is_one_of_many(path)]
    studies = {files[0]: files} if files else {}
    plain = [path for path in plain if path not in files[1:]]
    if not named:
        if len(channels) > 1 and any(path not in dicom for path in plain):
            other = next(path for path in plain if path not in dicom)
            raise InputError(f"{other}: is no DICOM, and the bundle takes {', '.join(channels)}; give CHANNEL=PATH")
        return Inputs(
            [dict.fromkeys(channels, path) if path in dicom else {channels[0]: path} for path in plain], studies
        )
    given = [channel for channel, _ in pairs if channel is not None]
    if sorted(given) != sorted(channels):
        raise InputError(f"channels given: {', '.join(given)}; the bundle takes {', '.join(channels)}, each once")
    if not plain:
        return Inputs([named], studies)
    if len(plain) > 1 or plain[0] not in dicom:
        raise InputError("some inputs are CHANNEL=PATH and some are paths; name the channel of all or of none")
    wanted = {channel: str(path) for channel, path in named.items() if not os.path.exists(path)}  # noqa: PTH110
    return Inputs([{c: plain[0] if c in wanted else named[c] for c in channels}], studies, wanted)


def with_sources(jobs: Sequence[Job], inputs: Inputs | None = None, series: str | None = None) -> list[Job]:
    """Jobs whose channels that are DICOM have the series that they come from.

    Parameters
    ----------
    jobs : sequence of Job
    inputs : Inputs, optional
        What the command line names.
    series : str, optional
        Series of each scan that is DICOM, of bundles of one channel.

    Raises
    ------
    InputError
        If `series` is given and no scan is DICOM, or the scans have several channels.
    MissingExtraError
        If a scan is DICOM, and packages that read it are missing.
    """
    inputs = inputs or Inputs([])
    found = [_with_sources(job, inputs, series) for job in jobs]
    if series is not None and not any(job.sources for job in found):
        raise InputError("--series names a series of DICOM, and no input is DICOM; leave it out")
    return found


def _with_sources(job: Job, inputs: Inputs, series: str | None) -> Job:
    dicom = {path for path in job.scan.values() if path in inputs.studies or holds_dicom(path)}
    if not dicom:
        return job
    require("dicom")
    if series is not None and len(job.scan) > 1:
        raise InputError(
            f"--series: names one series, and the bundle takes {', '.join(job.scan)}; give "
            f"{' '.join(f'{channel}=SERIES' for channel in job.scan)} beside the folder"
        )
    sources = {}
    for path in dicom:
        taking = [channel for channel, other in job.scan.items() if other == path]
        guess = [channel for channel in taking if channel not in inputs.wanted] if len(taking) > 1 else []
        study = Study(inputs.studies.get(path, [path]), guess)
        option = "--series SERIES" if len(job.scan) == 1 else "CHANNEL=SERIES beside the folder"
        for channel in taking:
            sources[channel] = SeriesOf(study, channel, inputs.wanted.get(channel, series), option)
    return replace(job, sources=sources)


def _is_one_of_many(path: Path) -> bool:
    """Tell whether a DICOM path is a single instance."""
    return not path.is_dir() and path.name.upper() != DICOMDIR and not is_zip(path)
