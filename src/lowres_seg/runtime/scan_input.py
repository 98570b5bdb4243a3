"""A scan as a caller passes it: volumes or paths, one for each channel, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lowres_seg.arguments import described
from lowres_seg.errors import InputError
from lowres_seg.runtime.scale import count_denormals, largest
from lowres_seg.volumes.images import is_image
from lowres_seg.volumes.volume import Volume

#: Denormal values of a scan whose largest value is below this are not taken for dust around zero.
_TINY = 1e-27


class NibabelImage(Protocol):
    """An image of nibabel."""

    @property
    def affine(self) -> Any:
        """Where it lies."""

    @property
    def dataobj(self) -> Any:
        """Its voxels."""


class SitkImage(Protocol):
    """An image of SimpleITK."""

    def GetDirection(self) -> Any:  # noqa: N802 - its own name
        """Where its axes point to."""


#: One channel of a scan: a volume, or the path of its file.
VolumeOrFile = Volume | str | os.PathLike[str]
#: The same, or an image.
VolumeOrPath = Volume | str | os.PathLike[str] | NibabelImage | SitkImage


def by_channel(scan: VolumeOrPath | Mapping[str, VolumeOrPath], names: Sequence[str]) -> Mapping[str, VolumeOrFile]:
    """Volumes or paths of a scan by channel, each channel once. Images become volumes.

    Parameters
    ----------
    scan : Volume or path, or mapping of channel name to either
        As a caller passed it.
    names : sequence of str
        Channels that the bundle takes.

    Raises
    ------
    InputError
        If something is neither a volume nor a path, or a channel is missing or unknown.
    """
    if not isinstance(scan, Mapping):
        one = checked(scan, "scan")
        if len(names) != 1:
            raise InputError(f"one scan given, the bundle takes the channels {', '.join(names)}")
        return {names[0]: one}
    missing, extra = [n for n in names if n not in scan], [n for n in scan if n not in names]
    if missing or extra:
        found = ", ".join(map(str, scan)) or "none"
        raise InputError(f"channels given: {found}; the bundle takes {', '.join(names)}, each once")
    return {name: checked(scan[name], f"channel {name}") for name in names}


def read_channels(
    scans: Mapping[str, VolumeOrFile], names: Sequence[str], read: Callable[[str | os.PathLike[str]], Volume]
) -> list[Volume]:
    """Volumes of a scan in the order of its channels, checked; those that are paths are read.

    Raises
    ------
    InputError
        If a file is unusable, a channel lies on another grid than the first, or its intensities are unusable.
    """
    volumes: list[Volume] = []
    for name in names:
        given = scans[name]
        volume = given if isinstance(given, Volume) else read(given)
        _check_intensities(volume)
        if volumes and not volume.grid.same_space(volumes[0].grid):
            raise InputError(
                f"{volume.name}: channel {name} lies on another grid than {names[0]} "
                f"({volume.grid.another_grid(volumes[0].grid)}); register and resample the channels to one grid"
            )
        volumes.append(volume)
    return volumes


def checked(given: object, where: str) -> VolumeOrFile:
    """One channel of a scan: a volume or a path; an image becomes a volume."""
    if isinstance(given, Volume):
        return given
    if isinstance(given, str | os.PathLike) and not isinstance(os.fspath(given), bytes):
        return given
    if is_image(given):
        return Volume.from_image(given)
    raise InputError(
        f"{where}: found {described(given)}, expected a path, a Volume, or an image of nibabel or SimpleITK; make a "
        "Volume of an array with Volume.from_array(data, affine)"
    )


def _check_intensities(volume: Volume) -> None:
    bad = int(np.count_nonzero(~np.isfinite(volume.data)))
    if bad:
        raise InputError(f"{volume.name}: {bad} of {volume.data.size} voxels are NaN or infinite, expected numbers")
    if largest(volume.data) < _TINY and (tiny := count_denormals(volume.data)):
        raise InputError(
            f"{volume.name}: {tiny} of {volume.data.size} voxels lie within 1.2e-38 of zero, where CPUs compute with "
            "zero; multiply the scan's intensities by 1e30"
        )
    lowest = volume.data.flat[0]
    if not (volume.data != lowest).any():
        raise InputError(f"{volume.name}: every voxel is {lowest:g}, expected a scan with contrast")
