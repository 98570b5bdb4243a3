"""A pipeline with its engines: a scan in, labels on the scan's own grid out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lowres_seg import host
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.bundle.manifest import Manifest
from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.bundle.stage import Stage
from lowres_seg.errors import EngineError, InputError
from lowres_seg.runtime import reference, stage_run
from lowres_seg.runtime.doubts import Doubt, of_result, of_scan
from lowres_seg.runtime.engine import Engine, Recorder
from lowres_seg.runtime.memory import MemoryBound
from lowres_seg.runtime.openvino_engine import compile_networks
from lowres_seg.runtime.reference import SelfTest
from lowres_seg.runtime.scale import count_denormals, largest
from lowres_seg.runtime.scan_state import ScanState, StageResult, timed
from lowres_seg.volumes.volume import Volume

#: Denormal values of a scan whose largest value is below this are not taken for dust around zero.
_TINY = 1e-27
#: One channel of a scan: a volume, or the path of its file.
VolumeOrPath = Volume | str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The result for one scan.

    Attributes
    ----------
    labels : Volume
        Label map (uint8) on the grid, and with the header, of the scan.
    label_names : dict of int to str
    timings_s : dict of str to float
        Seconds of each step in their order: ``load``, then ``<stage>.<step>``.
    doubts : tuple of str
        What a reader of the result should know: an empty result, a header that does not say where left is. Those of
        `lowres_seg.runtime.doubts` have a `name`.
    numbers : dict of str to float
        Value of each class, of a network that classifies the scan.
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


class Segmenter:
    """Runs a pipeline. Not for use by several threads at once: let each thread have its own.

    Parameters
    ----------
    pipeline : Pipeline
        A manifest or a recipe is one.
    engines : mapping of str to sequence of Engine
        For each stage, by name, one engine for each of its networks.
    threads : int, optional
        Threads for resampling; by default as many as this process may use.
    bundle : Bundle, optional
        The bundle that the networks come from.
    bound : MemoryBound, optional
        Scans that need more memory are refused.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        engines: Mapping[str, Sequence[Engine]],
        *,
        threads: int | None = None,
        bundle: Bundle | None = None,
        bound: MemoryBound | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.threads = host.inspect().threads if threads is None else threads
        self._engines = engines
        self._bundle = bundle
        self._bound = bound

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | Bundle,
        *,
        threads: int | None = None,
        lean: bool = False,
        max_ram_bytes: int | None = None,
        require_key: str | os.PathLike[str] | None = None,
    ) -> Segmenter:
        """Open a bundle, check it, and compile its networks for this CPU.

        Parameters
        ----------
        path : path of the bundle, or Bundle
            An opened bundle is not checked once more, but the files that are compiled are.
        threads : int, optional
            Threads to compute with; by default as many as the bundle recommends, and at most as many as this process
            may use.
        lean : bool
            Compile each network when its turn comes and drop it after. This has the smallest peak of memory, and takes
            no longer for a single scan.
        max_ram_bytes : int, optional
            Bound on the memory of the process. Networks are made lean if the bound needs it, and `predict` refuses a
            scan that needs more.
        require_key : path, optional
            Public key that must have signed the bundle, as of `Bundle.open`.

        Raises
        ------
        BundleError
            If it is no bundle, has changed, or is not signed by the key.
        EngineError
            If a network cannot be compiled.
        InputError
            If `threads` is less than one, or the largest network alone needs more than `max_ram_bytes`.
        """
        if threads is not None and threads < 1:
            raise InputError(f"threads: found {threads}, expected at least 1")
        bundle = path.requiring(require_key) if isinstance(path, Bundle) else Bundle.open(path, require_key=require_key)
        manifest, files = bundle.manifest, bundle.network_files()
        available = host.inspect().threads
        count = min(manifest.threads or available, available) if threads is None else threads
        bound = None
        if max_ram_bytes is not None:
            heads = {name: network.output_shape[1] for name, network in manifest.networks.items()}
            bound = MemoryBound.choose(manifest, files, heads, max_ram_bytes, lean=lean)
            lean = bound.lean
            if bound.networks_bytes > max_ram_bytes:
                wide = any(network.precision == "fp32" for network in manifest.networks.values())
                raise InputError(
                    f"{bundle.path}: its largest network alone needs about {bound.networks_bytes / 1e9:.1f} GB, the "
                    f"bound is {max_ram_bytes / 1e9:.3g} GB; raise --max-ram"
                    + (" or use a bundle in INT8" if wide else "")
                )
        engines = compile_networks(manifest, files, threads=count, lean=lean)
        return cls(manifest, engines, threads=count, bundle=bundle, bound=bound)

    @property
    def manifest(self) -> Manifest:
        """Manifest of the bundle that this segmenter was loaded from.

        Raises
        ------
        InputError
            If it was not loaded from a bundle.
        """
        return self._loaded().manifest

    def predict(self, scan: VolumeOrPath | Mapping[str, VolumeOrPath]) -> Segmentation:
        """Segment one scan.

        Parameters
        ----------
        scan : Volume or path, or mapping of channel name to either
            One volume for a bundle of one channel, else one for each channel, all on one grid. Orientation and spacing
            may be any.

        Returns
        -------
        Segmentation
            On the grid of the scan.

        Raises
        ------
        InputError
            If a channel is missing, unknown or on another grid; if it holds NaN, infinity or one single value; or if
            the scan needs more memory than the bound.
        EngineError
            If a network fails.
        """
        loading: dict[str, float] = {}
        with timed(loading, "load"):
            volumes = self._channels(scan)
        if self._bound is not None:
            self._bound.check(self.pipeline, volumes[0].grid, volumes[0].name)
        doubts = [doubt for volume in volumes for doubt in volume.doubts]
        doubts += of_scan(volumes)
        state = ScanState.before(self.pipeline.stages, volumes, self.pipeline.channels)
        for stage in self.pipeline.stages:
            result = self._run(stage, state)
            state.results[stage.name] = result
            if result.placement is None:
                told = f"stage {stage.name} has nothing to look at: the one before it found no foreground"
                doubts.append(Doubt("nothing-to-look-at", told))
            elif unseen := result.placement.unseen():
                doubts.append(Doubt("beyond-the-field", unseen))
        final = state.results[self.pipeline.stages[-1].name]
        labels = np.zeros(volumes[0].grid.shape, np.uint8) if final.on_scan is None else final.on_scan
        volume = Volume(labels, volumes[0].grid, volumes[0].header, name=volumes[0].name)
        doubts += of_result(self.pipeline, volume)
        numbers = {name: value for result in state.results.values() for name, value in result.numbers.items()}
        return Segmentation(
            volume, self.pipeline.label_names, loading | state.timings_s, tuple(dict.fromkeys(doubts)), numbers
        )

    def read(self, path: str | os.PathLike[str]) -> Volume:
        """Read one channel of a scan. A header that claims more than the bound on memory is refused before its voxels.

        Raises
        ------
        InputError
            If the file is unusable, or the scan needs more memory than the bound.
        """
        if self._bound is not None:
            self._bound.check(self.pipeline, Volume.read_grid(path), str(path))
        return Volume.load(path)

    def self_test(self) -> SelfTest:
        """Run the bundle's reference case, and compare with what it gave when the bundle was made.

        Raises
        ------
        IntegrityError
            If the reference case does not fit the bundle.
        InputError
            If this segmenter was not loaded from a bundle.
        """
        bundle = self._loaded()
        expected = reference.read(bundle)
        recorders = expected.recorders(self._engines)
        found = self._with(recorders).predict(expected.scan)
        return reference.compare(expected, found.labels, recorders, bundle.manifest.reference)

    def record_reference(self, scan: Mapping[str, Volume], path: Path) -> None:
        """Segment a scan and write it as reference case: the scan, samples of each network's scores, the labels.

        A few windows of each network are kept while it runs.

        Parameters
        ----------
        scan : mapping of channel to Volume
            All on one grid.
        path : pathlib.Path
            The .npz to write.
        """
        recorders = {
            name: [Recorder(engine, most=reference.RUNS, keeps_inputs=False) for engine in group]
            for name, group in self._engines.items()
        }
        found = self._with(recorders).predict(scan)
        reference.write(path, scan, found.labels, recorders)

    def recorded(
        self, scan: VolumeOrPath | Mapping[str, VolumeOrPath], *, most: int | None = None
    ) -> tuple[Segmentation, dict[str, list[Recorder]]]:
        """Predict, and keep the inputs and outputs of each engine.

        Parameters
        ----------
        scan
            As for `predict`, with the same errors.
        most : int, optional
            Largest number of runs that each recorder keeps.

        Returns
        -------
        segmentation : Segmentation
        recorders : dict of str to list of Recorder
            For each stage, one recorder for each of its networks.
        """
        recorders = {name: [Recorder(engine, most) for engine in group] for name, group in self._engines.items()}
        return self._with(recorders).predict(scan), recorders

    def _run(self, stage: Stage, state: ScanState) -> StageResult:
        """Run a stage. Errors begin with the name of the scan."""
        name = state.volumes[0].name
        try:
            return stage_run.run(stage, self._engines[stage.name], state, threads=self.threads)
        except EngineError as error:
            raise EngineError(f"{name}: {error}") from error
        except MemoryError as error:
            raise InputError(
                f"{name}: segmenting {'×'.join(map(str, state.grid.shape))} voxels takes more memory than there is; "
                "use a bundle in INT8, a machine with more memory, or crop the scan"
            ) from error

    def _with(self, engines: Mapping[str, Sequence[Engine]]) -> Segmenter:
        """Make the same segmenter with other engines."""
        return Segmenter(self.pipeline, engines, threads=self.threads, bundle=self._bundle, bound=self._bound)

    def _loaded(self) -> Bundle:
        if self._bundle is None:
            raise InputError("this Segmenter was not loaded from a bundle; make it with Segmenter.load(path)")
        return self._bundle

    def _channels(self, scan: VolumeOrPath | Mapping[str, VolumeOrPath]) -> list[Volume]:
        """Volumes in the order of the channels, checked."""
        names = self.pipeline.channels
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
            volume = given if isinstance(given, Volume) else self.read(given)
            _check_intensities(volume)
            if volumes and not volume.grid.same_space(volumes[0].grid):
                raise InputError(
                    f"{volume.name}: channel {name} lies on another grid than {names[0]} "
                    f"({volume.grid.another_grid(volumes[0].grid)}); register and resample the channels to one grid"
                )
            volumes.append(volume)
        return volumes


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
