"""From an fp32 bundle to one that is faster, if its masks or classes allow it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from lowres_seg import host
from lowres_seg.bundle.bundle import Bundle, NetworkFiles, check_place, staged
from lowres_seg.bundle.contents import RUN_NAME
from lowres_seg.bundle.manifest import EXPORT_REPORT, MANIFEST_NAME
from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.cohort.cases import Case, Cases, check_ignored, files_of, fingerprint
from lowres_seg.errors import AccuracyDropError, InputError, Lines, QuantizationError
from lowres_seg.quantize import calibration, gain, judging, recorded, report
from lowres_seg.quantize.candidate import Inputs, Request, WrittenNetworks, candidate
from lowres_seg.quantize.gain import Gain
from lowres_seg.quantize.journal import Journal, alone
from lowres_seg.quantize.judging import Judged, Judgement
from lowres_seg.quantize.layer import LayerId, Reverted, as_text
from lowres_seg.quantize.search import Clock, Ranked, SearchResult, search
from lowres_seg.quantize.settings import Settings
from lowres_seg.runtime.memory import MemoryBound
from lowres_seg.runtime.networks import compile_networks
from lowres_seg.runtime.segmenter import Segmenter
from lowres_seg.wording import counted

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Quantized:
    """The bundle that was written, with its evidence.

    Attributes
    ----------
    bundle : Bundle
    verdict : Verdict, ClassVerdict or None
        None if there was no validation case.
    gains : tuple of Gain
        Of each network.
    """

    bundle: Bundle
    verdict: Judgement | None
    gains: tuple[Gain, ...]


def quantize(
    source: Path,
    target: Path,
    calibrate: Sequence[Case] | Cases,
    validate: Sequence[Case] | Cases | None,
    settings: Settings | None = None,
    *,
    threads: int | None = None,
    resume: bool = False,
    force: bool = False,
    notify: Notify = lambda _: None,
) -> Quantized:
    """Quantize a bundle, within limits on Dice and HD95, or on the values of classes and the decisions.

    Parameters
    ----------
    source : pathlib.Path
        An fp32 bundle.
    target : pathlib.Path
        The bundle to write.
    calibrate : cases
        Cases on which activations are measured. Their labels are not used.
    validate : cases or None
        Cases on which candidates are judged: masks against their labels, or against fp32 where there are none, and
        classes against fp32. None accepts the first candidate without judging it, and the report says so.
    settings : Settings, optional
    threads : int, optional
        Threads to compute with; by default as many as this process may use.
    resume : bool
        Go on with an interrupted run for the same target. It ends with the same bundle.
    force : bool
        Replace `target` if it exists.
    notify : callable
        Called with a line of text as each step begins.

    Raises
    ------
    AccuracyDropError
        If no attempt keeps the limits. No bundle is written.
    InputError
        If a case is unusable, or is in both sets, or a set is empty; if limits are of masks and the bundle classifies,
        or the other way round; if the bound on memory is too small; if `target` is an input, or lies inside the bundle
        or around an input.
    MissingExtraError
        If a package that makes the candidate is missing.
    QuantizationError
        If the bundle is not in fp32, the time budget ended before one attempt was judged, or NNCF fails.
    BundleError
        If `source` is no bundle.
    """
    settings = settings or Settings()
    began, clock = perf_counter(), Clock(settings.time_budget_s)
    bundle = Bundle.open(source)
    check_place(target, force=force, inputs=[bundle.path, *files_of(calibrate), *files_of(validate or ())])
    machine = host.inspect()
    run = _Run(
        bundle,
        target,
        settings,
        threads=machine.threads if threads is None else threads,
        max_ram_bytes=settings.max_ram_bytes or int(0.8 * machine.memory_limit_bytes),
        notify=notify,
    )
    with alone(run.work):
        run.check(list(calibrate), None if validate is None else list(validate), resume=resume)
        result = run.search(clock)
        best = result.best
        if best is None and validate is not None:
            run.give_up(result)
        reverted: Reverted = best.reverted if best is not None else ()
        work = run.journal.folder / "final"
        shutil.rmtree(work, ignore_errors=True)
        written = run.candidate.write(work, reverted)
        notify("measuring the speed")
        gains = run.gains(written, work)
        if settings.only_if_faster and not all(g.faster for g in gains):
            times = "; ".join(g.brief for g in gains if not g.faster)
            run.journal.close()
            raise AccuracyDropError(
                f"{source}: not faster in {settings.precision} on this CPU ({times}); no bundle was written"
            )
        with staged(target, force=force) as staging:
            shutil.copytree(work, staging.folder, dirs_exist_ok=True)
            run.finish(staging.folder, written, result, gains, perf_counter() - began)
        run.journal.close()
        return Quantized(staging.bundle, best.verdict if best is not None else None, gains)


class _Run:
    """One run: its cases, its journal, and its candidate."""

    def __init__(
        self,
        bundle: Bundle,
        target: Path,
        settings: Settings,
        *,
        threads: int,
        max_ram_bytes: int,
        notify: Notify,
    ) -> None:
        self.bundle = bundle
        self.settings = settings
        self.threads = threads
        self.max_ram_bytes = max_ram_bytes
        self.notify = notify
        self.work = target.parent / f".{target.name}.quantize"
        self._progress = "none has met the gate yet"
        self._prepared: Inputs | None = None
        self._fp32_segmenter: Segmenter | None = None

    def check(self, calibrate: list[Case], validate: list[Case] | None, *, resume: bool) -> None:
        """Refuse unusable input before anything slow begins, and open the journal."""
        manifest = self.bundle.manifest
        check_ignored(self.settings.ignore_labels, manifest.known_labels)
        changed = [n for n, network in manifest.networks.items() if network.precision != "fp32"]
        if changed or any(stage.inference_precision != "f32" for stage in manifest.stages):
            found = f"network {changed[0]} is INT8" if changed else "it computes in bf16"
            raise QuantizationError(f"{self.bundle.path}: {found} already; quantize the fp32 bundle it was made from")
        self.prints: dict[str, str] = {}
        self.judging = judging.of(self.bundle, self.settings, self.work, self.prints)
        if not calibrate or (validate is not None and not validate):
            raise InputError(f"no case to {'validate' if calibrate else 'calibrate'} on; name at least one")
        self.candidate = candidate(
            Request(self.bundle, self.settings, self._inputs, self.threads, self.max_ram_bytes, self.notify)
        )
        need = self.candidate.needed_bytes()
        if need > self.max_ram_bytes:
            raise InputError(
                f"{self.bundle.path}: gathering statistics needs {need / 1e9:.1f} GB, the bound is "
                f"{self.max_ram_bytes / 1e9:.1f} GB; raise --max-ram or use a machine with more memory"
            )
        self.calibrate = calibration.chosen(calibrate, self.settings.seed)
        self.validate = validate or []
        self._read("calibration", self.calibrate)
        self._read("validation", self.validate)
        # Runs from before there were labels to ignore go on without them.
        ignored = {"time_budget_s", "max_ram_bytes", *(() if self.settings.ignore_labels else ("ignore_labels",))}
        parameters = {
            "bundle": self.bundle.digest,
            "settings": {
                key: value
                for key, value in {**asdict(self.settings), "limits": asdict(self.judging.limits)}.items()
                if key not in ignored
            },
            "cases": self.prints,
        }
        self.journal = Journal(self.work, parameters, resume=resume)

    def _read(self, role: str, cases: Sequence[Case]) -> None:
        """Read every case of a set, and refuse one that is in the other set too."""
        others = {print_ for key, print_ in self.prints.items() if not key.startswith(f"{role}/")}
        for case in cases:
            self.notify(f"reading {case.id}")
            scan = case.load()
            if role == "validation":
                self.judging.check(case, scan)
            print_ = self.prints[f"{role}/{case.id}"] = fingerprint(scan)
            if print_ in others:
                raise InputError(
                    f"case {case.id} of the validation set is one of the calibration set, whatever its name; "
                    "calibrate and validate on different cases"
                )

    def search(self, clock: Clock) -> SearchResult:
        """Judge candidates until one keeps the limits."""
        if not self.validate:
            return SearchResult((), None, out_of_time=False)
        start = perf_counter()
        self._references()
        clock.expect(perf_counter() - start)

        def rank() -> list[Ranked]:
            def compute() -> Any:
                ranked = self.candidate.rank()
                return [{"name": str(r.layer), "harm": r.harm, "saved_ms": r.saved_ms} for r in ranked]

            ranked = self.journal.remember("ranking", compute)
            return [Ranked(LayerId.parse(r["name"]), r["harm"], r["saved_ms"]) for r in ranked]

        def loss(layers: Sequence[LayerId]) -> float:
            key = f"lost {json.dumps(as_text(layers))}"
            return float(self.journal.remember(key, partial(self.candidate.loss, layers)))

        return search(self.judge, rank, loss, clock, self.candidate.stages)

    def judge(self, reverted: Reverted) -> Judgement:
        """Run validation cases with a candidate and compare with fp32: all, or until the gate is lost."""
        ready: list[Segmenter] = []
        folder = self.work / "candidate"
        judged: list[Judged] = []
        verdict = self.judging.verdict(judged)
        fp32 = self._references()
        for number, case in enumerate(self.validate):
            about = f"{counted(len(reverted), 'layer')} reverted"
            key = f"scores {json.dumps(as_text(reverted))} {case.id}"
            if not ready and not self.journal.knows(key):
                self.notify(f"building a candidate with {about}")
                shutil.rmtree(folder, ignore_errors=True)
                written = self.candidate.write(folder, reverted)
                ready.append(self._segmenter(written.pipeline, written.files(folder), self._heads()))
            self.notify(f"judging a candidate with {about}, case {number + 1} of {len(fp32)}; {self._progress}")
            judged.append((case, fp32[number], self.journal.remember(key, partial(self._scores, case, ready))))
            verdict = self.judging.verdict(judged)
            if verdict.is_lost(fp32[number + 1 :]):
                break
        if verdict.met:
            self._progress = f"the best so far has {len(reverted)}"
        return verdict

    def _segmenter(self, pipeline: Pipeline, files: dict[str, NetworkFiles], heads: dict[str, int]) -> Segmenter:
        """Segmenter for all validation cases. Networks stay resident if there are several and memory allows it."""
        bound = MemoryBound.choose(pipeline, files, heads, self.max_ram_bytes, lean=len(self.validate) < 2)
        engines = compile_networks(pipeline, files, threads=self.threads, lean=bound.lean)
        return Segmenter(pipeline, engines, threads=self.threads)

    def _heads(self) -> dict[str, int]:
        return {name: network.output_shape[1] for name, network in self.bundle.manifest.networks.items()}

    def _references(self) -> list[Any]:
        """Scores of fp32 in each validation case."""
        found = [
            self.journal.remember(
                f"fp32 {case.id}", partial(self._fp32, case, f"case {number} of {len(self.validate)}")
            )
            for number, case in enumerate(self.validate, start=1)
        ]
        self._fp32_segmenter = None  # its networks are not needed any more
        return found

    def _fp32(self, case: Case, about: str) -> Any:
        self.notify(f"{self.judging.verb} {about} in fp32")
        if self._fp32_segmenter is None:
            manifest = self.bundle.manifest
            self._fp32_segmenter = self._segmenter(manifest, self.bundle.network_files(), self._heads())
        scan = case.load()
        return self.judging.reference(case, scan, self._fp32_segmenter.predict(scan))

    def _scores(self, case: Case, ready: Sequence[Segmenter]) -> Any:
        scan = case.load()
        return self.judging.candidate(case, scan, ready[0].predict(scan))

    def _inputs(self) -> Inputs:
        """Inputs of each network for the calibration scans."""
        if self._prepared is None:
            self.notify(f"preparing {counted(len(self.calibrate), 'calibration scan')}")
            self._prepared = calibration.inputs(self.bundle, self.calibrate, threads=self.threads)
        return self._prepared

    def gains(self, written: WrittenNetworks, folder: Path) -> tuple[Gain, ...]:
        """Latency of each network on one of its own inputs."""
        fp32, files = self.bundle.network_files(), written.files(folder)
        return tuple(
            gain.measure(
                name,
                fp32[name],
                files[name],
                stage.inference_precision,
                self._inputs()[name][0],
                threads=self.threads,
            )
            for stage in written.pipeline.stages
            for name in stage.networks
        )

    def give_up(self, result: SearchResult) -> None:
        """Say why there is no bundle."""
        if not result.attempts:
            raise QuantizationError(
                f"{self.bundle.path}: the time budget ended before one attempt was judged; give more, with --resume"
            )
        last = min(result.attempts, key=lambda a: (len(a.verdict.breaches()), a.verdict.loss()))
        if not result.out_of_time:  # a run that only lacked time can be resumed
            self.journal.close()
        why = f"none of {counted(len(result.attempts), 'attempt')} keeps the limits"
        if result.out_of_time:
            why += " within the time budget (--resume goes on)"
        first = f"{self.bundle.path}: {why}; {'; '.join(last.verdict.breaches())}; no bundle was written"
        raise AccuracyDropError(Lines.of([first, *last.verdict.table()]))

    def finish(
        self, folder: Path, written: WrittenNetworks, result: SearchResult, gains: Sequence[Gain], seconds: float
    ) -> None:
        """Write reference case, reports and manifest into a bundle that already has its networks."""
        self.notify("recording the reference case")
        bound = recorded.record(self.bundle, written, folder, self.candidate.reference_bound, threads=self.threads)
        (folder / "reports").mkdir()
        if EXPORT_REPORT in self.bundle.manifest.files:  # no manifest needs to have it
            (folder / EXPORT_REPORT).write_bytes(self.bundle.read(EXPORT_REPORT))
        content = report.content(
            self.settings,
            self.judging.limits,
            result,
            self.candidate.layers(),
            self.prints,
            self.candidate.tools(),
            judged=bool(self.validate),
        )
        (folder / report.REPORT).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if result.best is not None:
            lines = "\n".join(result.best.verdict.table()) + "\n"
            (folder / report.TABLE).write_text(lines, encoding="utf-8")
        final = report.manifest(self.bundle, written, self.candidate, bound, folder)
        (folder / MANIFEST_NAME).write_text(final.to_json(), encoding="utf-8")
        # Values that differ from run to run are not in the digest: the same run again gives the same bundle.
        volatile = {"seconds": round(seconds, 1), "peak_rss_bytes": host.peak_rss_bytes(), "gain": gain.as_dict(gains)}
        (folder / RUN_NAME).write_text(json.dumps(volatile, indent=2) + "\n", encoding="utf-8")
