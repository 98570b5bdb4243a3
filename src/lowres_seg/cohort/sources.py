"""Scans that are more than one NIfTI file, such as a series of DICOM files, and masks that are none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lowres_seg.volumes.volume import Volume


class Source(Protocol):
    """Where a channel of a scan comes from. It is looked at when its job's turn comes."""

    def files(self) -> Sequence[Path]:
        """Files that it is read from, in an order that stays the same.

        Raises
        ------
        InputError
            If it is unusable.
        """

    def volume(self) -> Volume:
        """Read it.

        Raises
        ------
        InputError
            If it is unusable.
        """


class Form(Protocol):
    """How a mask is written that is no NIfTI file."""

    def write(self, path: Path, labels: Volume) -> None:
        """Write a label map to a file that may be replaced.

        Raises
        ------
        InputError
            If it cannot be written so.
        """
