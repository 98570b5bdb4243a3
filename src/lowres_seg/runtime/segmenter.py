"""A pipeline with its engines: a scan in, labels on the scan's own grid out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from lowres_seg import host
from lowres_seg.arguments import MOST_THREADS, flag, whole_number
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.bundle.manifest import Manifest, Reference
from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.bundle.stage import Stage
from lowres_seg.errors import EngineError, InputError
from lowres_seg.logs import log
from lowres_seg.runtime import needs, reference, stage_run
from lowres_seg.runtime.compiled_cache import CompiledCache, as_cache
from lowres_seg.runtime.doubts import Doubt, of_result, of_scan
from lowres_seg.runtime.engine import Engine, Recorder
from lowres_seg.runtime.exact_norms import sum_in_steps
from lowres_seg.runtime.kept_scores import ScoreType, add_up, as_score_type
from lowres_seg.runtime.many import PredictsMany
from lowres_seg.runtime.memory import MemoryBound
from lowres_seg.runtime.networks import compile_networks
from lowres_seg.runtime.reference import ReferenceCase, SelfTest
from lowres_seg.runtime.scan_input import VolumeOrFile, VolumeOrPath, by_channel, read_channels
from lowres_seg.runtime.scan_state import ScanState, StageResult, timed
from lowres_seg.runtime.segmentation import Segmentation, beside
from lowres_seg.runtime.turns import Turns
from lowres_seg.runtime.watch import Progress, Watch
from lowres_seg.volumes.volume import Volume


class Segmenter(PredictsMany):
    """Runs a pipeline. Several threads may use one at once, and get the masks that each would get alone.

    Networks run one inference at a time, on as many cores as the segmenter has threads; what comes before and after it
    overlaps. As many predictions run at once as the bound on memory has room for, at most as many as there are threads
    to compute with, and two at least. Lean networks serve one prediction at a time. Others wait in their order.

    Parameters
    ----------
    pipeline : Pipeline
        A manifest or a recipe is one.
    engines : mapping of str to sequence of Engine
        For each stage, by name, one engine for each of its networks.
    threads : int, optional
        Threads for resampling; by default as many as this process may use. No more of them run than there are
        processors that this process may run on, and the attribute of this name says how many do.
    bundle : Bundle, optional
        The bundle that the networks come from.
    bound : MemoryBound, optional
        Scans that need more memory are refused. It is also an attribute.
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
        self.threads = host.inspect().threads if threads is None else _threads(threads)
        self._engines = engines
        self._bundle = bundle
        self.bound = bound
        lean = any(engine.lean for group in engines.values() for engine in group)
        self._turns = Turns(1 if lean else max(2, self.threads), None if bound is None else bound.room_bytes)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | Bundle,
        *,
        threads: int | None = None,
        lean: bool = False,
        max_ram_bytes: int | None = None,
        require_key: str | os.PathLike[str] | None = None,
        reproducible: bool = False,
        cache: CompiledCache | str | os.PathLike[str] | None = None,
    ) -> Segmenter:
        """Open a bundle, check it, and compile its networks for this CPU.

        Parameters
        ----------
        path : path of the bundle, or Bundle
            An opened bundle is not checked once more, but the files that are compiled are.
        threads : int, optional
            Threads to compute with; by default as many as the bundle recommends, and at most as many as this process
            may use. Of a number beyond its processors as many run as there are, which the log says.
        lean : bool
            Compile each network when its turn comes and drop it after. This has the smallest peak of memory, and takes
            no longer for a single scan.
        max_ram_bytes : int, optional
            Bound on the memory of the process. Networks are made lean if the bound needs it, and `predict` refuses a
            scan that needs more.
        require_key : path, optional
            Public key that must have signed the bundle, as of `Bundle.open`.
        reproducible : bool
            Give the same mask with any number of threads. Norms that are OpenVINO's own, which split their sums by
            threads, then sum in steps; networks that `export` gave such norms stay as they are.
        cache : CompiledCache or path, optional
            Where compiled networks are kept, such as `CompiledCache.of_user()`, or the path of a folder for them. It is
            not used where a key or a bound on memory is given.

        Raises
        ------
        BundleError
            If it is no bundle, has changed, or is not signed by the key.
        EngineError
            If a network cannot be compiled.
        InputError
            If an argument is of another kind, the largest network alone needs more than `max_ram_bytes`, or others can
            write the folder of compiled networks or exchange it.
        MissingExtraError
            If a package is missing that the bundle needs, or the extra ``sign`` where a key is required.
        """
        lean, reproducible = flag(lean, "lean"), flag(reproducible, "reproducible")
        runs = None if threads is None else _threads(threads)
        if max_ram_bytes is not None:
            max_ram_bytes = whole_number(max_ram_bytes, "max_ram_bytes", least=1, most=1 << 60)
        bundle = path.requiring(require_key) if isinstance(path, Bundle) else Bundle.open(path, require_key=require_key)
        manifest, files = bundle.manifest, bundle.network_files()
        needs.check(manifest)
        available = host.inspect().threads
        count = min(manifest.threads or available, available) if runs is None else runs
        if threads is not None and count < threads:
            log.info("%s: computes with %d of %d threads, one for each processor", bundle.path, count, threads)
        rewrite = sum_in_steps if reproducible else None
        bound = None
        if max_ram_bytes is not None:
            bound = MemoryBound.of_bundle(bundle, files, max_ram_bytes, lean=lean, rewrite=rewrite)
            lean = bound.lean
        kept = None if bundle.signed_by is not None or bound is not None else as_cache(cache)
        if kept is not None and bundle.holds(kept.folder):
            raise InputError(
                f"{kept.folder}: is, or lies in, the bundle, which holds nothing but what its manifest lists; keep "
                "compiled networks in another folder"
            )
        engines = compile_networks(manifest, files, threads=count, lean=lean, rewrite=rewrite, cache=kept)
        log.debug("%s: loaded with %d threads%s", bundle.path, count, ", lean" if lean else "")
        return cls(manifest, engines, threads=count, bundle=bundle, bound=bound)

    @property
    def bundle(self) -> Bundle:
        """The bundle that it was loaded from, with its digest and the key that signed it.

        Raises
        ------
        InputError
            If it was not loaded from one.
        """
        return self._loaded()

    @property
    def manifest(self) -> Manifest:
        """Manifest of the bundle that this segmenter was loaded from.

        Raises
        ------
        InputError
            If it was not loaded from a bundle.
        """
        return self._loaded().manifest

    def predict(
        self,
        scan: VolumeOrPath | Mapping[str, VolumeOrPath],
        *,
        progress: Progress | None = None,
        cancelled: Callable[[], object] | None = None,
        deadline_s: float | None = None,
        scores: ScoreType | None = None,
    ) -> Segmentation:
        """Segment one scan. Several threads may call it at once; one that has no room waits for its turn.

        Parameters
        ----------
        scan : Volume, path, or image of nibabel or SimpleITK; or mapping of channel name to these
            One volume for a bundle of one channel, else one for each channel, all on one grid. Orientation and spacing
            may be any.
        progress : callable, optional
            Called with the name of a stage, the number of windows that its networks have seen, and the number of all.
            An error that it raises ends the prediction, and reaches the caller as it is.
        cancelled : callable, optional
            Asked between windows and while waiting for a turn. If it gives something true, the prediction ends.
        deadline_s : float, optional
            Seconds, waiting included, after which the prediction ends at the next window. Infinity is no deadline. Zero
            and less are a budget that is spent, and end it before it begins.
        scores : {"float16", "uint8"}, optional
            Keep the score of each label beside the labels, as it is or as 255 times a probability.

        Returns
        -------
        Segmentation
            On the grid of the scan.

        Raises
        ------
        InputError
            If `scan` is neither a volume nor a path; if a channel is missing, unknown or on another grid; if it holds
            NaN, infinity or one single value; if the scan needs more memory than the bound; or if no label has a score,
            or one that `scores` does not hold.
        EngineError
            If a network fails.
        CancelledError
            If `cancelled` says so.
        DeadlineError
            If it is not done within `deadline_s`.
        """
        watch = Watch(progress, cancelled, deadline_s)
        kept = as_score_type(scores, self.pipeline)
        scans = by_channel(scan, self.pipeline.channels)
        first = scans[self.pipeline.channels[0]]
        name = first.name if isinstance(first, Volume) else os.fspath(first)
        watch.waits(name)
        try:
            with self._turns.turn(self._scan_bytes(scans, kept), watch):
                try:
                    watch.at(f"{name}: reading")
                    found = self._predict(scans, watch, kept)
                except BaseException:
                    self._release()
                    raise
        except RuntimeError as error:
            if watch.raised is not None and error.__cause__ is watch.raised:  # a StopIteration of the caller's
                raise watch.raised from None
            raise
        log.debug("%s: segmented in %.2f s", found.labels.name, sum(found.timings_s.values()))
        return found

    def prepare(self) -> None:
        """Begin to compile the first network, if networks are lean, while the caller reads a scan for `predict`."""
        if (first := self._first(self.pipeline.stages[0])) is not None:
            first.prepare()

    def _first(self, stage: Stage) -> Engine | None:
        return next(iter(self._engines[stage.name]), None)

    def _release(self) -> None:
        for engine in chain.from_iterable(self._engines.values()):
            engine.release()

    def _scan_bytes(self, scans: Mapping[str, VolumeOrFile], scores: ScoreType | None) -> int:
        """Part of the bound on memory that a scan takes; 0 without a bound."""
        if self.bound is None or self.bound.lean:
            return 0
        first = scans[self.pipeline.channels[0]]
        grid = first.grid if isinstance(first, Volume) else Volume.read_grid(first)
        return self.bound.scan_bytes(self.pipeline, grid, scores=scores is not None)

    def _predict(self, scans: Mapping[str, VolumeOrFile], watch: Watch, scores: ScoreType | None) -> Segmentation:
        self.prepare()
        loading: dict[str, float] = {}
        with timed(loading, "load"):
            volumes = read_channels(scans, self.pipeline.channels, self.read)
        name = volumes[0].name
        if self.bound is not None:
            self.bound.check(self.pipeline, volumes[0].grid, name, scores=scores is not None)
        doubts = [doubt for volume in volumes for doubt in volume.doubts]
        doubts += of_scan(volumes)
        state = ScanState.before(self.pipeline.stages, volumes, self.pipeline.channels, scores)
        firsts = [self._first(stage) for stage in self.pipeline.stages]
        for stage, following in zip_longest(self.pipeline.stages, firsts[1:]):
            watch.at(f"{name}: stage {stage.name}")
            result = self._run(stage, following, state, watch)
            state.results[stage.name] = result
            if result.placement is None:
                told = f"stage {stage.name} has nothing to look at: the one before it found no foreground"
                doubts.append(Doubt("nothing-to-look-at", told))
            elif unseen := result.placement.unseen():
                doubts.append(Doubt("beyond-the-field", unseen))
        watch.check()
        final = state.results[self.pipeline.stages[-1].name]
        labels = np.zeros(volumes[0].grid.shape, np.uint8) if final.on_scan is None else final.on_scan
        volume = beside(volumes[0], labels)
        doubts += of_result(self.pipeline, volume)
        numbers = {name: value for result in state.results.values() for name, value in result.numbers.items()}
        once, timings = tuple(dict.fromkeys(doubts)), loading | state.timings_s
        spread = state.spread(self.pipeline.stages)
        names, regions = self.pipeline.label_names, self.pipeline.evaluated
        kept, adds = state.label_scores(names), add_up(self.pipeline)
        return Segmentation(volume, names, timings, once, numbers, spread, regions, kept, adds)

    def read(self, path: str | os.PathLike[str]) -> Volume:
        """Read one channel of a scan. A header that claims more than the bound on memory is refused before its voxels.

        Raises
        ------
        InputError
            If the file is unusable, or the scan needs more memory than the bound.
        """
        if self.bound is not None:
            self.bound.check(self.pipeline, Volume.read_grid(path), str(path))
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
        return self.compared(reference.read(bundle), bundle.manifest.reference)

    def compared(self, case: ReferenceCase, bound: Reference) -> SelfTest:
        """Run a reference case, and compare with what it holds; errors as of `self_test`."""
        recorders = case.recorders(self._engines)
        found = self._with(recorders).predict(case.scan)
        return reference.compare(case, found.labels, recorders, bound)

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

    def _run(self, stage: Stage, following: Engine | None, state: ScanState, watch: Watch) -> StageResult:
        """Run a stage, before the one of another network. Errors begin with the name of the scan."""
        name, engines = state.volumes[0].name, self._engines[stage.name]
        try:
            return stage_run.run(stage, engines, state, threads=self.threads, watch=watch, following=following)
        except BaseException as error:
            if error is watch.raised:  # the caller's own
                raise
            if isinstance(error, EngineError):
                raise EngineError(f"{name}: {error}") from error
            if isinstance(error, MemoryError):
                raise InputError(
                    f"{name}: segmenting {'×'.join(map(str, state.grid.shape))} voxels takes more memory than there "
                    "is; use a bundle in INT8, a machine with more memory, or crop the scan"
                ) from error
            raise

    def _with(self, engines: Mapping[str, Sequence[Engine]]) -> Segmenter:
        """Make the same segmenter with other engines. Predictions of both take turns."""
        other = Segmenter(self.pipeline, engines, threads=self.threads, bundle=self._bundle, bound=self.bound)
        other._turns = self._turns
        return other

    def _loaded(self) -> Bundle:
        if self._bundle is None:
            raise InputError("this Segmenter was not loaded from a bundle; make it with Segmenter.load(path)")
        return self._bundle


def _threads(value: object) -> int:
    """Number of threads that run where a caller asks for a number."""
    return min(whole_number(value, "threads", least=1, most=MOST_THREADS), host.inspect().affinity)
