"""From an fp32 bundle to one that is faster, if Dice and HD95 allow it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from lowres_seg import atomic, host
from lowres_seg.bundle import bundle as bundles
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.bundle.manifest import MANIFEST_NAME, Manifest
from lowres_seg.cohort.cases import Case, Cases, fingerprint
from lowres_seg.errors import AccuracyDropError, InputError, QuantizationError
from lowres_seg.metrics.agreement import score
from lowres_seg.quantize import candidate, gain, gate, int8, report, sensitivity
from lowres_seg.quantize.candidate import Int8
from lowres_seg.quantize.gain import Gain
from lowres_seg.quantize.gate import Verdict
from lowres_seg.quantize.journal import Journal
from lowres_seg.quantize.search import Attempt, Clock, Found, Names, OutOfTimeError, Ranked, search
from lowres_seg.quantize.settings import Settings
from lowres_seg.runtime import reference
from lowres_seg.runtime.segmenter import Segmenter

Notify = Callable[[str], None]
#: Scans that calibration takes at the most; more change ranges little and cost memory for each input.
MAX_CALIBRATION = 8


@dataclass(frozen=True)
class Quantized:
    """A written bundle, and what was found on the way.

    Attributes
    ----------
    bundle : Bundle
    verdict : Verdict or None
        None if there was nothing to judge on.
    gains : tuple of Gain
        Of each network.
    """

    bundle: Bundle
    verdict: Verdict | None
    gains: tuple[Gain, ...]


def quantize(
    source: Path,
    target: Path,
    calibrate: Sequence[Case] | Cases,
    validate: Sequence[Case] | Cases | None,
    settings: Settings | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    notify: Notify = lambda _: None,
) -> Quantized:
    """Quantize a bundle, within limits on Dice and HD95.

    Parameters
    ----------
    source : pathlib.Path
        An fp32 bundle.
    target : pathlib.Path
        The bundle to write.
    calibrate : cases
        What activations are measured on; labels are not used.
    validate : cases or None
        What candidates are judged on, against labels where there are some and against fp32 where not. None
        accepts plain INT8 unjudged, and the report says so.
    settings : Settings, optional
    resume : bool
        Go on with an interrupted run for the same target; it ends with the same bundle.
    force : bool
        Replace `target` if it exists.
    notify : callable
        Called with a line of text as each step begins.

    Raises
    ------
    AccuracyDropError
        If no attempt keeps the limits. No bundle is written.
    InputError
        If a case is unusable, or is in both sets, or there is none; if memory does not reach.
    QuantizationError
        If the bundle is not fp32, time ran out before one attempt was judged, or NNCF fails.
    BundleError
        If `source` is no bundle.
    """
    began, clock = perf_counter(), Clock(settings.time_budget_s if settings is not None else None)
    settings = settings or Settings()
    bundle = Bundle.open(source)
    atomic.check_target(target, force=force)
    run = _Run(bundle, target, settings, notify)
    run.check(list(calibrate), None if validate is None else list(validate), resume=resume)
    found = run.search(clock)
    best = found.best
    if best is None and validate is not None:
        run.give_up(found)
    reverted: Names = best.reverted if best is not None else ()
    work = run.journal.folder / "final"
    shutil.rmtree(work, ignore_errors=True)
    manifest = run.write(work, reverted)
    notify("measuring what is gained")
    gains = run.gains(manifest, work)
    if settings.only_if_faster and not all(g.faster for g in gains):
        lines = " ".join(line for g in gains if not g.faster for line in g.lines())
        run.journal.close()
        raise AccuracyDropError(
            f"{source}: not faster in {settings.precision} on this CPU, no bundle was written. {lines}"
        )
    with bundles.staged(target, force=force) as folder:
        shutil.copytree(work, folder, dirs_exist_ok=True)
        run.finish(folder, manifest, found, gains, perf_counter() - began)
    run.journal.close()
    return Quantized(Bundle.open(target), best.verdict if best is not None else None, gains)


class _Run:
    """One run: its cases, its journal, and the candidates it builds."""

    def __init__(self, bundle: Bundle, target: Path, settings: Settings, notify: Notify) -> None:
        self.bundle = bundle
        self.settings = settings
        self.notify = notify
        self.max_ram = settings.max_ram_bytes or int(0.8 * host.inspect().memory_limit_bytes)
        self._work = target.parent / f".{target.name}.quantize"
        self._best = "none has met the gate yet"

    def check(self, calibrate: list[Case], validate: list[Case] | None, *, resume: bool) -> None:
        """Refuse, before anything slow, what could not end well; then open the journal."""
        manifest = self.bundle.manifest
        done = [n for n, network in manifest.networks.items() if network.precision != "fp32"]
        if done or any(stage.inference_precision != "f32" for stage in manifest.stages):
            what = f"network {done[0]} is INT8" if done else "it is computed in bf16"
            raise QuantizationError(f"{self.bundle.path}: {what} already; quantize the fp32 bundle it was made from")
        if not manifest.judged:
            raise QuantizationError(
                f"{self.bundle.path}: tells classes and gives no mask, so Dice and HD95 cannot judge it in INT8"
            )
        if not calibrate or (validate is not None and not validate):
            raise InputError(
                "no case to calibrate on" if not calibrate else "no case to validate on; name at least one"
            )
        if self.settings.precision == "int8":
            need = max(int8.needed_bytes(self.bundle.file(n.xml)) for n in manifest.networks.values())
            if need > self.max_ram:
                raise InputError(
                    f"{self.bundle.path}: gathering statistics needs {need / 1e9:.1f} GB, the bound is "
                    f"{self.max_ram / 1e9:.1f} GB; raise --max-ram or use a machine with more memory"
                )
        chosen = random.Random(self.settings.seed).sample(calibrate, min(len(calibrate), MAX_CALIBRATION))  # noqa: S311
        self.calibrate = sorted(chosen, key=lambda case: case.id)
        self.validate = validate or []
        self.prints: dict[str, str] = {}
        seen: dict[str, str] = {}
        for role, cases in (("calibration", self.calibrate), ("validation", self.validate)):
            for case in cases:
                self.notify(f"reading {case.id}")
                scan = case.load()
                if role == "validation":
                    case.load_label(manifest.known_labels, next(iter(scan.values())))
                print_ = self.prints[f"{role}/{case.id}"] = fingerprint(scan)
                if seen.get(print_, role) != role:
                    raise InputError(
                        f"case {case.id} of the validation set is one of the calibration set, whatever its name; "
                        "calibrate and validate on different cases"
                    )
                seen[print_] = role
        parameters = {
            "bundle": self.bundle.digest,
            "settings": {k: v for k, v in asdict(self.settings).items() if k not in ("time_budget_s", "max_ram_bytes")},
            "cases": self.prints,
        }
        self.journal = Journal(self._work, parameters, resume=resume)
        self._int8: Int8 | None = None

    def search(self, clock: Clock) -> Found:
        """Judge candidates until one keeps the limits."""
        if not self.validate:
            return Found((), None, out_of_time=False)
        start = perf_counter()
        self._references()
        clock.expect(perf_counter() - start)
        if self.settings.precision == "bf16":
            try:
                attempt = Attempt((), clock.run(lambda: self.judge(())))
            except OutOfTimeError:
                return Found((), None, out_of_time=True)
            return Found((attempt,), attempt if attempt.verdict.met else None, out_of_time=False)
        probes: list[sensitivity.Probe] = []

        def probed() -> list[sensitivity.Probe]:
            if not probes:
                self.notify("cutting windows")
                probes.extend(self._probes())
            return probes

        def rank() -> list[Ranked]:
            def compute() -> Any:
                self.notify("ranking layers on windows")
                return [asdict(layer) for layer in sensitivity.rank(probed())]

            return [Ranked(**layer) for layer in self.journal.remember("ranking", compute)]

        def lost(names: Sequence[str]) -> float:
            def compute() -> float:
                return max(
                    probe.loss([n.partition("/")[2] for n in names if n.partition("/")[0] == probe.name])[0]
                    for probe in probed()
                )

            return float(self.journal.remember(f"lost {json.dumps(list(names))}", compute))

        return search(self.judge, rank, lost, clock, self._stages)

    def _stages(self) -> list[Names]:
        """Layers of each stage, if there are several stages with layers; the one that is worth least first."""
        found: list[tuple[float, Names]] = []
        for stage in self.bundle.manifest.stages:
            layers = [(n, layer) for n in stage.networks for layer in int8.layers(self._candidates().model(n))]
            found.append(
                (sum(layer.saved_ms for _, layer in layers), tuple(f"{n}/{layer.name}" for n, layer in layers))
            )
        found = [(saved, names) for saved, names in found if names]
        return [names for _, names in sorted(found)] if len(found) > 1 else []

    def judge(self, reverted: Names) -> Verdict:
        """Segment validation cases with a candidate and compare with fp32: all, or until the gate is lost."""
        ready: list[Segmenter] = []
        folder = self._work / "candidate"
        verdict = Verdict((), self.settings.limits)
        fp32 = self._references()
        for number, case in enumerate(self.validate):
            about = f"case {number + 1} of {len(self.validate)}"
            key = f"scores {json.dumps(list(reverted))} {case.id}"
            if not ready and not self.journal.knows(key):
                self.notify(f"building a candidate with {len(reverted)} layers reverted")
                shutil.rmtree(folder, ignore_errors=True)
                ready.append(candidate.segmenter(self.write(folder, reverted), folder))
            self.notify(f"judging a candidate with {len(reverted)} layers reverted, {about}; {self._best}")
            scores = self.journal.remember(key, partial(self._scores, case, ready))
            rows = gate.rows(case.id, "labels" if case.label else "fp32", fp32[number], scores)
            verdict = Verdict((*verdict.rows, *rows), self.settings.limits)
            if verdict.lost(fp32[number + 1 :]):
                break
        if verdict.met:
            self._best = f"the best so far has {len(reverted)}"
        return verdict

    def _references(self) -> list[Any]:
        """What fp32 gives for each validation case."""
        return [
            self.journal.remember(
                f"fp32 {case.id}", partial(self._fp32, case, f"case {number} of {len(self.validate)}")
            )
            for number, case in enumerate(self.validate, start=1)
        ]

    def _mask_path(self, case: Case) -> Path:
        return self._work / "fp32" / f"{self.prints[f'validation/{case.id}']}.npz"

    def _fp32(self, case: Case, about: str) -> Any:
        self.notify(f"segmenting case {about} in fp32")
        scan = case.load()
        volume = next(iter(scan.values()))
        found = candidate.segmenter(self.bundle.manifest, self.bundle.path).predict(scan).labels.data
        path = self._mask_path(case)
        path.parent.mkdir(exist_ok=True)
        np.savez_compressed(path, labels=found)
        truth = case.load_label(self.bundle.manifest.known_labels, volume)
        return score(found, found if truth is None else truth, self.bundle.manifest.judged, volume.grid.spacing_mm)

    def _scores(self, case: Case, ready: Sequence[Segmenter]) -> Any:
        scan = case.load()
        volume = next(iter(scan.values()))
        found = ready[0].predict(scan).labels.data
        truth = case.load_label(self.bundle.manifest.known_labels, volume)
        if truth is None:
            with np.load(self._mask_path(case)) as stored:
                truth = stored["labels"]
        return score(found, truth, self.bundle.manifest.judged, volume.grid.spacing_mm)

    def write(self, folder: Path, reverted: Names) -> Manifest:
        """Networks of a candidate below `folder`."""
        if self.settings.precision == "bf16":
            return candidate.in_bf16(self.bundle, folder)
        return self._candidates().write(folder, reverted)

    def _candidates(self) -> Int8:
        if self._int8 is None:
            self.notify(f"preparing {len(self.calibrate)} calibration scans")
            inputs = candidate.prepared_inputs(self.bundle, [case.load() for case in self.calibrate])
            self._inputs = inputs
            self._int8 = Int8(self.bundle, inputs, self.settings.preset, self.max_ram)
        return self._int8

    def _probes(self) -> list[sensitivity.Probe]:
        int8s = self._candidates()
        threads = host.inspect().threads
        probes = []
        for stage in self.bundle.manifest.stages:
            for name in stage.networks:
                fp32 = int8.read(self.bundle.file(self.bundle.network(name).xml))
                x = self._inputs[name][0]
                probes.append(sensitivity.Probe.build(name, fp32, int8s.model(name), x, stage.decode, threads))
        return probes

    def gains(self, manifest: Manifest, folder: Path) -> tuple[Gain, ...]:
        """Latency of each network on one of its own inputs."""
        if self.settings.precision == "bf16":
            self._inputs = candidate.prepared_inputs(self.bundle, [self.calibrate[0].load()])
        elif self._int8 is None:
            self._candidates()
        found = []
        for stage in manifest.stages:
            for name in stage.networks:
                network = manifest.networks[name]
                found.append(
                    gain.measure(
                        name,
                        self.bundle.file(network.xml),
                        folder / network.xml,
                        stage.inference_precision,
                        self._inputs[name][0],
                        threads=host.inspect().threads,
                    )
                )
        return tuple(found)

    def give_up(self, found: Found) -> None:
        """Say why there is no bundle."""
        if not found.attempts:
            raise QuantizationError(
                f"{self.bundle.path}: the time budget ended before one attempt was judged; give more, with --resume"
            )
        last = min(found.attempts, key=lambda a: (len(a.verdict.breaches()), max(r.drop for r in a.verdict.rows)))
        if not found.out_of_time:  # a run that only lacked time can be resumed
            self.journal.close()
        why = f"none of {len(found.attempts)} attempts keeps the limits"
        if found.out_of_time:
            why += " within the time budget (--resume goes on)"
        table = "\n".join(gate.table(last.verdict))
        raise AccuracyDropError(
            f"{self.bundle.path}: {why}; {'; '.join(last.verdict.breaches())}; no bundle was written\n{table}"
        )

    def finish(self, folder: Path, manifest: Manifest, found: Found, gains: Sequence[Gain], seconds: float) -> None:
        """Write reference case, reports and manifest into a bundle that already has its networks."""
        self.notify("recording the reference case")
        case = reference.read(self.bundle.file(manifest.reference.file), manifest.channels)
        candidate.segmenter(manifest, folder).record_reference(case.scan, folder / manifest.reference.file)
        (folder / "reports").mkdir()
        shutil.copyfile(self.bundle.file("reports/export.json"), folder / "reports" / "export.json")
        layers, norms = {}, {}
        if self.settings.precision == "int8":  # of plain INT8, where every layer that can be quantized is
            models = {name: self._candidates().model(name) for name in manifest.networks}
            layers = {name: int8.layers(model) for name, model in models.items()}
            norms = {name: int8.norms(model) for name, model in models.items()}
        content = report.of_run(self.settings, found, layers, norms, self.prints, judged=bool(self.validate))
        (folder / report.REPORT).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if found.best is not None:
            lines = "\n".join(gate.table(found.best.verdict)) + "\n"
            (folder / report.TABLE).write_text(lines, encoding="utf-8")
        final = report.manifest(self.bundle, manifest, folder, self.settings.precision)
        (folder / MANIFEST_NAME).write_text(final.to_json(), encoding="utf-8")
        # What differs from run to run has no place in a digest: the same run again gives the same bundle.
        volatile = {"seconds": round(seconds, 1), "peak_rss_bytes": host.peak_rss_bytes(), "gain": gain.as_dict(gains)}
        (folder / report.RUN).write_text(json.dumps(volatile, indent=2) + "\n", encoding="utf-8")
