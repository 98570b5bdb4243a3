"""A bundle at work: a scan in, labels on the scan's own grid out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from lowres_seg import host, reference
from lowres_seg.bundle import Bundle
from lowres_seg.cleanup import clean
from lowres_seg.decode import labels_of, select
from lowres_seg.engine import Engine, OpenVinoEngine, Recorder, TransientEngine
from lowres_seg.errors import EngineError, InputError
from lowres_seg.intensity import normalise
from lowres_seg.manifest import Manifest
from lowres_seg.reference import SelfTest
from lowres_seg.region import box_around
from lowres_seg.resample import Fit
from lowres_seg.stage import BoxOf, PercentileScale, Stage
from lowres_seg.volume import Box, Reorientation, Volume

Scan = Volume | str | os.PathLike[str]
Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What a bundle makes of one scan.

    Attributes
    ----------
    labels : Volume
        Label map (uint8) on the grid, and with the header, of the scan.
    label_names : dict of int to str
    timings_s : dict of str to float
        Seconds by step, in the order in which they were taken: ``load``, then ``<stage>.<step>``.
    doubts : tuple of str
        What a reader of the result should know: an empty result, a header that does not say where left is.
    """

    labels: Volume
    label_names: dict[int, str]
    timings_s: dict[str, float]
    doubts: tuple[str, ...] = ()

    def voxels(self) -> dict[str, int]:
        """Number of voxels of each label."""
        counts = np.bincount(self.labels.data.ravel(), minlength=256)
        return {name: int(counts[value]) for value, name in self.label_names.items()}

    def volumes_ml(self) -> dict[str, float]:
        """Volume of each label in millilitres."""
        return {name: count * self.labels.grid.voxel_ml for name, count in self.voxels().items()}


@dataclass(frozen=True, eq=False)
class _Result:
    """What a stage found, in its own orientation."""

    labels: NDArray[np.uint8]
    fit: Fit
    box: Box
    oriented: Reorientation


class Segmenter:
    """Runs a bundle. Not for use by several threads at once: let each have its own.

    Parameters
    ----------
    manifest : Manifest
    engines : mapping of str to sequence of Engine
        For each stage, by name, one engine for each of its networks.
    threads : int, optional
        Threads for resampling; what the process may really use if not given.

    Examples
    --------
    >>> segmenter = Segmenter.load("deepbet-1.0.2")      # doctest: +SKIP
    >>> result = segmenter.predict("head.nii.gz")        # doctest: +SKIP
    >>> result.labels.save("mask.nii.gz")                # doctest: +SKIP
    """

    def __init__(
        self, manifest: Manifest, engines: Mapping[str, Sequence[Engine]], *, threads: int | None = None
    ) -> None:
        self.manifest = manifest
        self.threads = host.inspect().threads if threads is None else threads
        self._engines = engines
        self._bundle: Bundle | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, threads: int | None = None, lean: bool = False) -> Segmenter:
        """Open a bundle, check it, and compile its networks for this CPU.

        Parameters
        ----------
        path : path of the bundle
        threads : int, optional
            Threads to compute with; by default as many as this process may really use.
        lean : bool
            Compile each network when its turn comes and let it go afterwards: the smallest peak of memory, and
            no slower for a single scan.

        Raises
        ------
        BundleError
            If it is no bundle, or has changed.
        EngineError
            If a network cannot be compiled.
        InputError
            If `threads` is less than one.
        """
        bundle = Bundle.open(path)
        if threads is not None and threads < 1:
            raise InputError(f"threads: found {threads}, expected at least 1")
        count = host.inspect().threads if threads is None else threads
        engines = compile_networks(bundle.manifest, bundle.path, threads=count, lean=lean)
        segmenter = cls(bundle.manifest, engines, threads=count)
        segmenter._bundle = bundle
        return segmenter

    def predict(self, scan: Scan | Mapping[str, Scan]) -> Segmentation:
        """Segment one scan.

        Parameters
        ----------
        scan : Volume or path, or mapping of channel name to either
            One volume for a bundle of one channel, else one for each channel, all on one grid. Orientation
            and spacing may be any.

        Returns
        -------
        Segmentation
            On the grid of the scan.

        Raises
        ------
        InputError
            If a channel is missing, unknown or on another grid, or holds NaN, infinity or one single value.
        EngineError
            If a network fails.
        """
        timings: dict[str, float] = {}
        with _timed(timings, "load"):
            volumes = self._channels(scan)
        grid = volumes[0].grid
        doubts = [doubt for volume in volumes for doubt in volume.doubts]
        wanted = {
            rule.statistics_of
            for stage in self.manifest.stages
            for rule in stage.normalise.rules
            if isinstance(rule, PercentileScale)
        }
        results: dict[str, _Result] = {}
        inputs: dict[str, Array] = {}
        labels = np.zeros(grid.shape, np.uint8)
        for stage in self.manifest.stages:
            oriented = Reorientation(grid, stage.conform.orientation)
            box = self._region(stage, oriented, results)
            if box is None:
                doubts.append(f"stage {stage.name} has nothing to look at: the one before it found no foreground")
                break
            keep = inputs if stage.name in wanted else None
            results[stage.name] = self._run(stage, volumes, oriented, box, inputs, keep, timings)
        else:
            final = results[self.manifest.stages[-1].name]
            labels[final.oriented.undo_box(final.box).slices] = final.oriented.undo(final.labels)
        if not labels.any():
            doubts.append("the result is empty")
        volume = Volume(labels, grid, volumes[0].header, name=volumes[0].name)
        return Segmentation(volume, self.manifest.label_names, timings, tuple(dict.fromkeys(doubts)))

    def self_test(self) -> SelfTest:
        """Run the bundle's reference case and compare with what it gave when the bundle was made.

        Raises
        ------
        IntegrityError
            If the reference case does not fit the bundle.
        InputError
            If this segmenter was not loaded from a bundle.
        """
        if self._bundle is None:
            raise InputError("only a Segmenter that was loaded from a bundle has a reference case to test itself with")
        expected = reference.read(self._bundle.file(self.manifest.reference.file), self.manifest.channels)
        found, recorders = self.recorded(expected.scan)
        return reference.compare(expected, found.labels, recorders, self.manifest.reference)

    def record_reference(self, scan: Mapping[str, Volume], path: Path) -> None:
        """Write what `self_test` needs: the scan, a sample of each network's scores, and the labels.

        Parameters
        ----------
        scan : mapping of channel to Volume
            All on one grid.
        path : pathlib.Path
            The .npz to write.
        """
        found, recorders = self.recorded(scan)
        reference.write(path, scan, found.labels, recorders)

    def recorded(self, scan: Scan | Mapping[str, Scan]) -> tuple[Segmentation, dict[str, list[Recorder]]]:
        """Predict, and keep what went through each engine: by stage, one recorder for each of its networks.

        Parameters and errors are those of `predict`.
        """
        recorders = {name: [Recorder(engine) for engine in group] for name, group in self._engines.items()}
        return Segmenter(self.manifest, recorders, threads=self.threads).predict(scan), recorders

    def _channels(self, scan: Scan | Mapping[str, Scan]) -> list[Volume]:
        """Volumes in the manifest's order of channels, checked."""
        names = self.manifest.channels
        if not isinstance(scan, Mapping):
            if len(names) != 1:
                raise InputError(f"one scan given, the bundle takes the channels {', '.join(names)}")
            scan = {names[0]: scan}
        missing, extra = [n for n in names if n not in scan], [n for n in scan if n not in names]
        if missing or extra:
            found = ", ".join(scan) or "none"
            raise InputError(f"channels given: {found}; the bundle takes {', '.join(names)}, each once")
        volumes: list[Volume] = []
        for name in names:
            given = scan[name]
            volume = given if isinstance(given, Volume) else Volume.load(given)
            _check_intensities(volume)
            if volumes and not volume.grid.same_space(volumes[0].grid):
                raise InputError(
                    f"{volume.name}: channel {name} lies on another grid (shape {volume.grid.shape}, orientation "
                    f"{volume.grid.orientation}) than {names[0]} (shape {volumes[0].grid.shape}, orientation "
                    f"{volumes[0].grid.orientation}); register and resample the channels to one grid"
                )
            volumes.append(volume)
        return volumes

    def _region(self, stage: Stage, oriented: Reorientation, results: Mapping[str, _Result]) -> Box | None:
        if not isinstance(stage.region, BoxOf):
            return Box((0, 0, 0), oriented.result.shape)
        other = results[stage.region.stage]
        box = box_around(other.labels, other.fit, other.box, stage.region)
        return None if box is None else oriented.apply_box(other.oriented.undo_box(box))

    def _run(
        self,
        stage: Stage,
        volumes: Sequence[Volume],
        oriented: Reorientation,
        box: Box,
        inputs: Mapping[str, Array],
        keep: dict[str, Array] | None,
        timings: dict[str, float],
    ) -> _Result:
        early = stage.normalise.when == "before-conform"
        rules = stage.normalise.rules
        try:
            # Each step lets go of what the one before it made: these arrays are what the peak is made of.
            with _timed(timings, f"{stage.name}.conform"):
                fit = Fit.of(box.shape, oriented.result.spacing_mm, stage.conform)
                x = np.stack([oriented.apply(v.data)[box.slices] for v in volumes]).astype(np.float32, copy=False)
                if early:
                    normalise(x, rules, inputs)
                x = fit.conform(x, stage.conform.interpolation, threads=self.threads)
            with _timed(timings, f"{stage.name}.normalise"):
                if keep is not None:
                    keep[stage.name] = x.copy()
                if not early:
                    normalise(x, rules, inputs)
        except InputError as error:
            raise InputError(f"{volumes[0].name}: {error}") from error
        with _timed(timings, f"{stage.name}.network"):
            scores = self._scores(stage, x[None])
        del x
        labels = self._decode(stage, scores, fit, timings)
        del scores
        with _timed(timings, f"{stage.name}.cleanup"):
            labels = clean(labels, stage.cleanup)
        return _Result(labels, fit, box, oriented)

    def _scores(self, stage: Stage, x: Array) -> Array:
        engines = self._engines[stage.name]
        scores: Array = engines[0].run(x)
        if len(engines) > 1:
            total = scores.copy()
            for engine in engines[1:]:
                total += engine.run(x)
            total /= np.float32(len(engines))
            scores = total
        if scores.shape[2:] != x.shape[2:] or scores.shape[0] != 1:
            raise EngineError(f"stage {stage.name}: its network gave {scores.shape} for an input of {x.shape}")
        return np.asarray(scores[0])

    def _decode(self, stage: Stage, scores: Array, fit: Fit, timings: dict[str, float]) -> NDArray[np.uint8]:
        decode, restore = f"{stage.name}.decode", f"{stage.name}.restore"
        rule = stage.restore
        with _timed(timings, decode):
            selected = select(scores, stage.decode)
            if rule.what != "scores":
                labels = labels_of(selected, stage.decode)
        if rule.what == "nothing":
            return labels
        if rule.what == "labels":
            with _timed(timings, restore):
                restored = fit.restore(labels[None].astype(np.float32), rule.interpolation, threads=self.threads)
                return np.asarray(restored[0], dtype=np.uint8)
        with _timed(timings, restore):
            selected = fit.restore(selected, rule.interpolation, threads=self.threads)
        with _timed(timings, decode):
            return labels_of(selected, stage.decode)


def compile_networks(manifest: Manifest, folder: Path, *, threads: int, lean: bool = False) -> dict[str, list[Engine]]:
    """Engines for a `Segmenter`: for each stage, one for each of its networks, whose files lie in `folder`.

    Raises
    ------
    EngineError
        If a network cannot be compiled.
    """
    engine = TransientEngine if lean else OpenVinoEngine
    return {
        stage.name: [
            engine(
                folder / manifest.networks[name].xml,
                threads=threads,
                inference_precision=stage.inference_precision,
            )
            for name in stage.networks
        ]
        for stage in manifest.stages
    }


def _check_intensities(volume: Volume) -> None:
    bad = int(np.count_nonzero(~np.isfinite(volume.data)))
    if bad:
        raise InputError(f"{volume.name}: {bad} of {volume.data.size} voxels are NaN or infinite, expected numbers")
    lowest = volume.data.flat[0]
    if not (volume.data != lowest).any():
        raise InputError(f"{volume.name}: every voxel is {lowest:g}, expected a scan with contrast")


@contextmanager
def _timed(timings: dict[str, float], step: str) -> Iterator[None]:
    start = perf_counter()
    yield
    timings[step] = timings.get(step, 0.0) + perf_counter() - start
