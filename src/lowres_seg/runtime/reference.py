"""The reference case of a bundle: one scan, and what the networks gave for it when the bundle was made.

It lies in the bundle as ``reference.npz``, without pickles: ``channel.<name>`` and ``affine`` of the scan, its
``labels``, and for each network ``<stage>.<place>.at`` and ``.scores``, a sample of the scores of its first run. Later
runs that are kept have ``<stage>.<place>.at.<run>`` and ``.scores.<run>``. A run is one window, or one mirrored copy of
it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.bounds import REFERENCE_VOXELS
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.bundle.manifest import Reference
from lowres_seg.errors import InputError, IntegrityError, one_line
from lowres_seg.runtime import plain_arrays
from lowres_seg.runtime.engine import Array, Engine, Recorder
from lowres_seg.volumes.volume import Volume

#: Number of scores of each run that are kept.
SAMPLES = 4096
#: Largest number of runs of each network that are kept, evenly spread.
RUNS = 4
Recorders = Mapping[str, Sequence[Recorder]]


@dataclass(frozen=True)
class SelfTest:
    """Result of running a bundle's reference case.

    Attributes
    ----------
    max_abs_diff : dict of str to float
        Largest difference of a score from the expected one, by network; infinite if the network did not run.
    flipped : float
        Share of voxels with another label than expected.
    passed : bool
        True if both keep the bounds of the manifest.
    """

    max_abs_diff: dict[str, float]
    flipped: float
    passed: bool


@dataclass(frozen=True, eq=False)
class ReferenceCase:
    """A reference case that was read.

    Attributes
    ----------
    where : str
        Path of its file, for messages.
    scan : dict of str to Volume
        By channel.
    arrays : dict of str to ndarray
        All arrays of the file.
    """

    where: str
    scan: dict[str, Volume]
    arrays: dict[str, NDArray[Any]]

    def runs(self, network: str) -> list[int]:
        """Numbers of the runs whose scores it holds, of the network ``<stage>.<place>``."""
        found = re.compile(rf"{re.escape(network)}\.at(?:\.(\d+))?")
        return sorted(int(match[1] or 0) for match in map(found.fullmatch, self.arrays) if match)

    def scores(self) -> list[NDArray[Any]]:
        """Scores that it holds, of each run of each network."""
        places = map(_PLACES.fullmatch, self.arrays)
        return [self.arrays[f"{run[1]}.scores{run[2]}"] for run in places if run]

    def recorders(self, engines: Mapping[str, Sequence[Engine]]) -> dict[str, list[Recorder]]:
        """Recorders of the runs that are compared, and of each first run, which tells whether a network runs at all.

        They keep the scores that the case has, because whole outputs of large networks take much memory.
        """
        return {
            stage: [
                Recorder(
                    engine,
                    only=[0, *self.runs(f"{stage}.{place}")],
                    keeps_inputs=False,
                    sample=partial(self.sample, f"{stage}.{place}"),
                )
                for place, engine in enumerate(group)
            ]
            for stage, group in engines.items()
        }

    def sample(self, network: str, run: int, output: Array) -> Array:
        """Scores of a run at the places where the case has some.

        Raises
        ------
        IntegrityError
            If the case is of other networks.
        """
        at = self.arrays.get(_keys(network, run)[0], np.empty(0, np.int64))
        try:
            return np.asarray(output.reshape(-1)[at])
        except IndexError as error:
            raise IntegrityError(f"{self.where}: does not fit the bundle ({error}); export it again") from error


def write(path: Path, scan: Mapping[str, Volume], labels: Volume, recorders: Recorders) -> None:
    """Write the reference case of networks that have just segmented `scan`."""
    arrays: dict[str, NDArray[Any]] = {"labels": labels.data, "affine": labels.grid.affine}
    arrays |= {f"channel.{name}": volume.data for name, volume in scan.items()}
    pick = np.random.default_rng(0)
    for name, recorder in _networks(recorders):
        for run, output in zip(recorder.runs, recorder.outputs, strict=True):
            scores = output.reshape(-1)
            at = np.sort(pick.choice(scores.size, min(SAMPLES, scores.size), replace=False))
            arrays |= dict(zip(_keys(name, run), (at, scores[at]), strict=True))
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read(bundle: Bundle) -> ReferenceCase:
    """Read the reference case of a bundle.

    Raises
    ------
    IntegrityError
        If the file has changed, is beyond the bounds, or is no reference case of a bundle with these channels.
    """
    name = bundle.manifest.reference.file
    return parse(bundle.read(name), bundle.manifest.channels, str(bundle.file(name)))


def parse(content: bytes, channels: Sequence[str], where: str) -> ReferenceCase:
    """Reference case from the content of its file; errors as of `read`."""
    try:
        arrays = plain_arrays.read(content)
        _check(arrays, channels)
        scan = {channel: Volume.from_array(arrays[f"channel.{channel}"], arrays["affine"]) for channel in channels}
    except (ValueError, InputError) as error:
        raise IntegrityError(f"{where}: does not fit the bundle ({one_line(error)}); export it again") from error
    return ReferenceCase(where, scan, arrays)


def _check(arrays: Mapping[str, NDArray[Any]], channels: Sequence[str]) -> None:
    """Check that there is a scan with its labels, and that places and scores of each run go together.

    Raises
    ------
    ValueError
    """
    labels = _needed(arrays, "labels", "u", 3)
    if not 0 < labels.size <= REFERENCE_VOXELS:
        msg = f"labels have {labels.size} voxels, expected 1 to {REFERENCE_VOXELS}"
        raise ValueError(msg)
    if _needed(arrays, "affine", "f", 2).shape != (4, 4):
        msg = f"affine has the shape {arrays['affine'].shape}, expected (4, 4)"
        raise ValueError(msg)
    for channel in channels:
        if _needed(arrays, f"channel.{channel}", "iuf", 3).shape != labels.shape:
            msg = f"channel {channel} has the shape {arrays[f'channel.{channel}'].shape}, labels {labels.shape}"
            raise ValueError(msg)
    for key in arrays:
        if run := _PLACES.fullmatch(key):
            at = _needed(arrays, key, "iu", 1)
            if at.shape != _needed(arrays, f"{run[1]}.scores{run[2]}", "f", 1).shape or not at.size or at.min() < 0:
                msg = f"{key} has {at.size} places, expected one for each score, from 0 on"
                raise ValueError(msg)


#: Key of the places of a run.
_PLACES = re.compile(r"(.+\.\d+)\.at(|\.\d+)")


def _needed(arrays: Mapping[str, NDArray[Any]], key: str, kinds: str, dimensions: int) -> NDArray[Any]:
    array = arrays.get(key)
    if array is None:
        msg = f"has no {key}"
        raise ValueError(msg)
    if array.dtype.kind not in kinds or array.ndim != dimensions:
        msg = f"{key} is {array.dtype} of {array.ndim} axes, expected {dimensions} axes of numbers (kind {kinds})"
        raise ValueError(msg)
    return array


def compare(expected: ReferenceCase, labels: Volume, recorders: Recorders, bound: Reference) -> SelfTest:
    """Compare the scores and labels of a reference case, from its own recorders, with the expected ones.

    Raises
    ------
    IntegrityError
        If the case is of other networks.
    """
    diffs = {}
    try:
        for name, recorder in _networks(recorders):
            runs = expected.runs(name)
            if not runs and not recorder.outputs:
                continue
            outputs = dict(zip(recorder.runs, recorder.outputs, strict=True))
            worst = [_difference(expected.arrays, name, run, outputs.get(run)) for run in runs or [0]]
            diffs[name] = float(np.max(worst))
        flipped = float(np.mean(labels.data != expected.arrays["labels"]))
    except (KeyError, IndexError, ValueError) as error:
        raise IntegrityError(f"{expected.where}: does not fit the bundle ({error}); export it again") from error
    # A comparison with NaN is false, so NaN fails.
    passed = all(diff <= bound.max_abs_diff for diff in diffs.values()) and flipped <= bound.max_flipped
    return SelfTest(diffs, flipped, passed)


def _difference(expected: Mapping[str, NDArray[Any]], network: str, run: int, output: Array | None) -> Any:
    """Largest difference of a run's scores from the expected ones; infinite if the run did not take place."""
    scores = expected[_keys(network, run)[1]]
    return np.inf if output is None else np.abs(output - scores).max()


def _keys(network: str, run: int) -> tuple[str, str]:
    """Keys of a run's arrays. Those of the first run have no number: it was the only one in earlier versions."""
    end = f".{run}" if run else ""
    return f"{network}.at{end}", f"{network}.scores{end}"


def _networks(recorders: Recorders) -> Iterator[tuple[str, Recorder]]:
    for stage, group in recorders.items():
        for place, recorder in enumerate(group):
            yield f"{stage}.{place}", recorder
