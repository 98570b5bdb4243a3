"""A bundle at work: a scan in, labels on the scan's own grid out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lowres_seg import host
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.bundle.manifest import Manifest
from lowres_seg.errors import InputError
from lowres_seg.runtime import memory, reference, stage_run
from lowres_seg.runtime.engine import Engine, OpenVinoEngine, Recorder, TransientEngine
from lowres_seg.runtime.reference import SelfTest
from lowres_seg.runtime.stage_run import timed
from lowres_seg.volumes.volume import Volume

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
    numbers : dict of str to float
        What a network that classifies the scan gives, by class.
    """

    labels: Volume
    label_names: dict[int, str]
    timings_s: dict[str, float]
    doubts: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)

    def voxels(self) -> dict[str, int]:
        """Number of voxels of each label."""
        counts = np.bincount(self.labels.data.ravel(), minlength=256)
        return {name: int(counts[value]) for value, name in self.label_names.items()}

    def volumes_ml(self) -> dict[str, float]:
        """Volume of each label in millilitres."""
        return {name: count * self.labels.grid.voxel_ml for name, count in self.voxels().items()}


@dataclass(frozen=True)
class _Bound:
    """A bound on memory, and what of it the networks take."""

    most: int
    networks: int
    lean: bool

    def check(self, manifest: Manifest, scan: Volume) -> None:
        need = self.networks + memory.of_scan(manifest, scan.grid, lean=self.lean)
        if need > self.most:
            raise InputError(
                f"{scan.name}: segmenting {'×'.join(map(str, scan.grid.shape))} voxels needs about "
                f"{need / 1e9:.1f} GB, the bound is {self.most / 1e9:.1f} GB; raise --max-ram, use a bundle in INT8 or "
                "crop the scan"
            )


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
        self._bound: _Bound | None = None

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        lean: bool = False,
        max_ram_bytes: int | None = None,
    ) -> Segmenter:
        """Open a bundle, check it, and compile its networks for this CPU.

        Parameters
        ----------
        path : path of the bundle
        threads : int, optional
            Threads to compute with; by default as many as this process may really use.
        lean : bool
            Compile each network when its turn comes and let it go afterwards: the smallest peak of memory, and
            no slower for a single scan.
        max_ram_bytes : int, optional
            Bound on the memory of the process. Networks are compiled in turn where it asks for that, and `predict`
            refuses a scan for which it does not reach.

        Raises
        ------
        BundleError
            If it is no bundle, or has changed.
        EngineError
            If a network cannot be compiled.
        InputError
            If `threads` is less than one, or `max_ram_bytes` does not reach for the networks.
        """
        bundle = Bundle.open(path)
        if threads is not None and threads < 1:
            raise InputError(f"threads: found {threads}, expected at least 1")
        count = host.inspect().threads if threads is None else threads
        bound = None
        if max_ram_bytes is not None:
            # A third is left for the scan, of which nothing is known yet.
            lean = lean or memory.of_networks(bundle.manifest, bundle.path, lean=False) > 0.67 * max_ram_bytes
            networks = memory.of_networks(bundle.manifest, bundle.path, lean=lean)
            if networks > max_ram_bytes:
                wide = any(network.precision == "fp32" for network in bundle.manifest.networks.values())
                raise InputError(
                    f"{bundle.path}: its largest network alone needs about {networks / 1e9:.1f} GB, the bound is "
                    f"{max_ram_bytes / 1e9:.3g} GB; raise --max-ram" + (" or use a bundle in INT8" if wide else "")
                )
            bound = _Bound(max_ram_bytes, networks, lean)
        engines = compile_networks(bundle.manifest, bundle.path, threads=count, lean=lean)
        segmenter = cls(bundle.manifest, engines, threads=count)
        segmenter._bundle, segmenter._bound = bundle, bound
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
            If a channel is missing, unknown or on another grid, or holds NaN, infinity or one single value; if the
            bound on memory does not reach for the scan.
        EngineError
            If a network fails.
        """
        loading: dict[str, float] = {}
        with timed(loading, "load"):
            volumes = self._channels(scan)
        if self._bound is not None:
            self._bound.check(self.manifest, volumes[0])
        doubts = [doubt for volume in volumes for doubt in volume.doubts]
        work = stage_run.Scan.of(volumes, self.manifest.channels, self.manifest.stages)
        for stage in self.manifest.stages:
            result = stage_run.run(stage, self._engines[stage.name], work, threads=self.threads)
            work.results[stage.name] = result
            if result.found is None and not result.numbers:
                doubts.append(f"stage {stage.name} has nothing to look at: the one before it found no foreground")
        final = work.results[self.manifest.stages[-1].name]
        labels = np.zeros(volumes[0].grid.shape, np.uint8) if final.on_scan is None else final.on_scan
        if not labels.any() and self.manifest.labels:
            doubts.append("the result is empty")
        volume = Volume(labels, volumes[0].grid, volumes[0].header, name=volumes[0].name)
        numbers = {name: value for result in work.results.values() for name, value in result.numbers.items()}
        return Segmentation(
            volume, self.manifest.label_names, loading | work.timings_s, tuple(dict.fromkeys(doubts)), numbers
        )

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

    def recorded(
        self, scan: Scan | Mapping[str, Scan], *, most: int | None = None
    ) -> tuple[Segmentation, dict[str, list[Recorder]]]:
        """Predict, and keep what went through each engine: by stage, one recorder for each of its networks.

        With `most`, each keeps no more calls than that. Other parameters and errors are those of `predict`.
        """
        recorders = {name: [Recorder(engine, most) for engine in group] for name, group in self._engines.items()}
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
