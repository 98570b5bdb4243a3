"""Measures a plan: a process for each measurement, all of them taking turns."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import lowres_seg
from lowres_seg import atomic, host
from lowres_seg.bench import estimates
from lowres_seg.bench.axes import Isa
from lowres_seg.bench.backends import Quantizing, Subject, backend
from lowres_seg.bench.measuring import forecast, judging, planned_cases
from lowres_seg.bench.measuring.forecast import Tried
from lowres_seg.bench.measuring.host_facts import host_facts
from lowres_seg.bench.measuring.judging import Judgement, JudgementKey
from lowres_seg.bench.measuring.plan import Cell, Plan, cells, check_host
from lowres_seg.bench.measuring.process import Child, ChildError, StartChild, fixed_workload, one_answer
from lowres_seg.bench.measuring.quantizing import Quantizer
from lowres_seg.bench.spec import Feed, Spec
from lowres_seg.bench.suite import Benchmark, Peak, Run, Suite
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.bundle.reports import quantized
from lowres_seg.errors import BenchmarkError
from lowres_seg.extras import require
from lowres_seg.metrics.agreement import empty_policy
from lowres_seg.wording import counted, duration

Notify = Callable[[str], None]


def bench(
    plan: Plan,
    *,
    notify: Notify = lambda _: None,
    remark: Notify = lambda _: None,
    start_child: StartChild = Child,
) -> Suite:
    """Measure everything that a plan asks for.

    A measurement that fails is a result that says so, and the others go on. If the command is interrupted, what is
    complete is returned and marked partial.

    Parameters
    ----------
    plan : Plan
    notify : callable
        Called with a line of text as each step begins.
    remark : callable
        Called with a line of text on how long it takes: before it is measured, and after the first pass.
    start_child : callable
        Starts a child process.

    Raises
    ------
    MissingExtraError
        If a backend, or pictures, need an extra that is not installed.
    BenchmarkError
        If the plan asks for more cores than there are, for an instruction set that this CPU does not have, or for a
        recipe that none of the bundles was exported from.
    BundleError, InputError
        If a bundle or a case cannot be used.
    """
    extras = {backend(name).extra for name in plan.backends}
    if plan.cases is not None and plan.pictures:
        extras.add("bench")
    for extra in sorted(extra for extra in extras if extra is not None):
        require(extra)
    with atomic.workplace() as folder:
        return _Bench(plan, folder, notify, remark, start_child).run()


@dataclass
class _Measurement:
    """A cell, the spec of its processes, and its runs so far."""

    cell: Cell
    spec: Spec
    macs: int
    runs: list[Run] = field(default_factory=list)
    failure: str = ""


@dataclass
class _Turns:
    """Values of one process in one pass."""

    child: Child
    cold_start_s: float
    warm_up_s: list[float]
    memory: tuple[tuple[float, int], ...]
    values_s: list[float] = field(default_factory=list)
    stages_s: dict[str, list[float]] = field(default_factory=dict)


class _Bench:
    def __init__(self, plan: Plan, folder: Path, notify: Notify, remark: Notify, start_child: StartChild) -> None:
        self.plan, self.folder, self.notify, self.remark = plan, folder, notify, remark
        self.start_child = start_child
        self.machine = host.inspect()
        self.processors = host.processors()
        self.cores = plan.cores or (self.machine.threads,)
        check_host(plan, self.cores, self.machine)
        bundles = {b.name: Bundle.open(b.path) for b in plan.bundles}
        reports = {name: quantized(bundle) for name, bundle in bundles.items()}
        self.quantized = {name: report for name, report in reports.items() if report is not None}
        self.cases = planned_cases.judged(plan, bundles)
        calibrate = planned_cases.calibrating(plan, bundles, self.cases, notify)
        self.subjects = {
            b.name: Subject(bundles[b.name], b.recipe, b.weights, tuple(calibrate.get(b.name, ())))
            for b in plan.bundles
        }
        for subject in self.subjects.values():
            if subject.recipe is not None and not subject.recipe.exists():
                raise BenchmarkError(
                    f"{subject.recipe}: does not exist, expected the recipe of {subject.bundle.path.name}"
                )
            for name in plan.backends:
                backend(name).check(subject)
        planned_cases.check(plan, bundles, self.cases, notify)
        self.partial = False
        self.doubts: list[str] = [] if self.processors else ["this system does not let processes choose their cores"]

    def run(self) -> Suite:
        began = datetime.now(timezone.utc)
        facts = host_facts(self.machine, [backend(name) for name in self.plan.backends])
        measurements, unserved = self._prepare()
        before = host.load()
        peaks: list[Peak] = []
        judgements: dict[JudgementKey, Judgement] = {}
        try:
            for number in range(self.plan.passes):
                start = perf_counter()
                self._pass(number, [m for m in measurements if not m.failure])
                if number == 0 and self.plan.passes > 1:
                    left_s = (self.plan.passes - 1) * (perf_counter() - start)
                    self.remark(f"first pass done; about {duration(left_s)} for the other passes")
            self.doubts += host.busy(before, host.load())
            judgements = self._judge([m for m in measurements if not m.failure])
            peaks = self._peaks()
        except BenchmarkError as error:
            if not any(m.runs for m in measurements):
                raise
            self.partial = True
            self.doubts.append(f"ended early: {error}")
        except KeyboardInterrupt:
            self.partial = True
            self.doubts.append("interrupted: what was not complete is missing")
        done = [self._benchmark(m, peaks, judgements) for m in measurements] + unserved
        order = [cell.key for cell in cells(self.plan, self.cores)]
        done.sort(key=lambda b: order.index(b.key))
        return Suite(
            lowres_seg=lowres_seg.__version__,
            began=began.isoformat(timespec="seconds"),
            partial=self.partial or any(b.status == "failed" for b in done),
            host=facts,
            hd95=self.plan.hd95,
            ignore_labels=self.plan.ignore_labels,
            empty_masks=empty_policy(self.plan.hd95),
            calibrated_on=tuple(sorted({case.id for subject in self.subjects.values() for case in subject.calibrate})),
            timed=self._timed_scan(),
            passes=self.plan.passes,
            rounds=self.plan.rounds,
            seed=self.plan.seed,
            benchmarks=tuple(done),
            peaks=tuple(peaks),
            pictures=tuple(picture for one in judgements.values() for picture in one.pictures),
            quantized=self.quantized,
            doubts=tuple(self.doubts),
        )

    def _scan(self, bundle: str) -> dict[str, str]:
        if self.cases:
            return {channel: str(path) for channel, path in self.cases[bundle][0].scan.items()}
        return {channel: str(path) for channel, path in (self.plan.scan or {}).items()}

    def _timed_scan(self) -> str:
        if self.cases:
            return f"case {next(iter(self.cases.values()))[0].id}"
        return ", ".join(p.name for p in self.plan.scan.values()) if self.plan.scan else "each bundle's reference case"

    def _prepare(self) -> tuple[list[_Measurement], list[Benchmark]]:
        """Measurement of each cell; and a benchmark with the reason for each cell that cannot be measured."""
        prepared: dict[str, dict[str, Any]] = {}
        tried: dict[str, Tried] = {}
        for name, subject in self.subjects.items():
            self.notify(f"preparing {name}")
            folder = self.folder / f"inputs-{name}"
            folder.mkdir()
            path = str(subject.bundle.path)
            spec = Spec("prepare", path, threads=max(self.cores), scan=self._scan(name), folder=str(folder))
            start = perf_counter()
            prepared[name] = one_answer(self._child(spec, max(self.cores), "native"), f"preparing {name}")
            once_s = prepared[name]["once_s"]
            tried[name] = Tried(perf_counter() - start - once_s, once_s)
        most = partial(self._child, cores=max(self.cores), isa="native")
        quantizer = Quantizer(self.folder, self.machine.features, most, self.notify)
        measurements, unserved = [], []
        for cell in cells(self.plan, self.cores):
            subject, served_by = self.subjects[cell.bundle.name], backend(cell.backend)
            reason = served_by.reason_against(subject, cell.isa, self.machine.features)
            if reason:
                unserved.append(self._without_values(cell, "unserved", reason))
                continue
            try:
                if isinstance(served_by, Quantizing):
                    networks = quantizer.networks(cell.bundle.name, cell.backend, served_by, subject, max(self.cores))
                else:
                    networks = served_by.networks(subject)
            except ChildError as error:
                unserved.append(self._without_values(cell, "failed", str(error)))
                continue
            ready = prepared[cell.bundle.name]
            spec = Spec(
                "measure",
                str(subject.bundle.path),
                cell.backend,
                cell.workload,
                threads=1 if cell.workload == "throughput" else cell.cores,
                warm_up=self.plan.warm_up,
                turn_s=self.plan.turn_s,
                scan=ready["scan"],
                feeds=[Feed(**feed) for feed in ready["feeds"]],
                folder=str(self.folder),
                networks=networks,
                in_flight=cell.cores,
            )
            measurements.append(_Measurement(cell, spec, ready["macs"]))
        cases = len(next(iter(self.cases.values()), []))
        seconds = forecast.seconds(self.plan, [m.cell for m in measurements], tried, cases, self.cores)
        what = f"{counted(self.plan.passes, 'pass', 'passes')} of {counted(self.plan.rounds, 'round')}"
        self.remark(f"{counted(len(measurements), 'benchmark')}, {what}: about {duration(seconds)}")
        return measurements, unserved

    def _child(self, spec: Spec, cores: int, isa: Isa) -> Child:
        pinned = self.processors[:cores]
        return self.start_child(spec, processors=pinned, isa=isa, folder=self.folder, timeout_s=self.plan.timeout_s)

    def _pass(self, number: int, measurements: Sequence[_Measurement]) -> None:
        where = f"pass {number + 1} of {self.plan.passes}"
        order = random.Random(self.plan.seed + number)  # noqa: S311 - an order, no secret
        with ExitStack() as stack:
            fixed: dict[int, tuple[Child, list[float]]] = {}
            for cores in {m.cell.cores for m in measurements}:
                self.notify(f"{where}: starting the fixed workload on {counted(cores, 'core')}")
                spec = Spec("fixed", threads=cores, warm_up=1, turn_s=self.plan.turn_s)
                child = self._child(spec, cores, "native")
                stack.callback(child.kill)
                with fixed_workload():
                    child.answer()
                    child.answer()
                fixed[cores] = (child, [])
            live: list[tuple[_Measurement, _Turns]] = []
            for m in measurements:
                self.notify(f"{where}: starting {m.cell}")
                turns = self._start(m, stack)
                if turns is not None:
                    live.append((m, turns))
            for turn in range(self.plan.rounds):
                self.notify(f"{where}, round {turn + 1} of {self.plan.rounds}")
                for child, values in fixed.values():
                    with fixed_workload():
                        values.extend(child.ask("go")["values_s"])
                order.shuffle(live)
                for m, turns in list(live):
                    if not self._turn(m, turns):
                        live.remove((m, turns))
            for m, turns in live:
                self._finish(m, turns, fixed[m.cell.cores][1])

    def _start(self, m: _Measurement, stack: ExitStack) -> _Turns | None:
        child = self._child(m.spec, m.cell.cores, m.cell.isa)
        stack.callback(child.kill)
        try:
            first = child.answer()["first"]
            warm_up = child.answer()["warm_up_s"]
        except ChildError as error:
            m.failure = str(error)
            return None
        return _Turns(child, first - child.started, warm_up, estimates.thinned(child.memory))

    def _turn(self, m: _Measurement, turns: _Turns) -> bool:
        try:
            answer = turns.child.ask("go")
        except ChildError as error:
            m.failure = str(error)
            return False
        share = m.cell.cores if m.cell.workload == "throughput" else 1
        turns.values_s += [value / share for value in answer["values_s"]]
        for step, seconds in answer["stages_s"].items():
            turns.stages_s.setdefault(step, []).extend(seconds)
        return True

    def _finish(self, m: _Measurement, turns: _Turns, fixed: list[float]) -> None:
        try:
            turns.child.watch()
            peak = turns.child.ask("end")["peak_rss_bytes"]
        except ChildError as error:
            m.failure = str(error)
            return
        m.runs.append(
            Run(
                cold_start_s=turns.cold_start_s,
                warm_up_s=tuple(turns.warm_up_s),
                values_s=tuple(turns.values_s),
                reference_s=tuple(fixed),
                stages_s={step: tuple(values) for step, values in turns.stages_s.items()},
                peak_rss_bytes=max(peak, turns.child.peak_rss_bytes),
                memory=turns.memory,
            )
        )

    def _peaks(self) -> list[Peak]:
        found = []
        for cores in self.cores:
            for isa in self.plan.isa:
                self.notify(f"measuring the peak of this CPU on {counted(cores, 'core')}, {isa}")
                answer = one_answer(self._child(Spec("peak", threads=cores), cores, isa), "measuring the peak")
                found.append(Peak(cores=cores, isa=isa, macs_per_s=answer["macs_per_s"]))
        return found

    def _judge(self, measurements: Sequence[_Measurement]) -> dict[JudgementKey, Judgement]:
        """Agreement of each bundle, by backend and instruction set, on all cores; or why there is none."""
        judgements: dict[JudgementKey, Judgement] = {}
        for m in measurements if self.cases else ():
            name, served_by, isa = key = (m.cell.bundle.name, m.cell.backend, m.cell.isa)
            if key in judgements:
                continue
            judgements[key] = judging.judge(
                name,
                self.cases[name],
                replace(m.spec, task="judge", threads=max(self.cores)),
                partial(self._child, cores=max(self.cores), isa=isa),
                classes=self.subjects[name].classes,
                hd95=self.plan.hd95,
                ignore=self.plan.ignore_labels,
                pictures=self.plan.pictures and served_by == "openvino" and isa == "native",
                notify=self.notify,
            )
            self.partial |= bool(judgements[key].failure)
        return judging.with_changes(judgements, {name: one.bundle for name, one in self.subjects.items()})

    def _benchmark(
        self, m: _Measurement, peaks: Sequence[Peak], judgements: dict[JudgementKey, Judgement]
    ) -> Benchmark:
        cell = m.cell
        if m.failure or not m.runs:
            failure = m.failure or "not measured: the command was interrupted"
            return self._without_values(cell, "failed", failure).model_copy(update={"runs": tuple(m.runs)})
        latency = estimates.latency([run.values_s for run in m.runs], self.plan.seed)
        steps = {step: [v for run in m.runs for v in run.stages_s.get(step, ())] for step in m.runs[0].stages_s}
        judgement = judgements.get((cell.bundle.name, cell.backend, cell.isa), Judgement())
        network_s = latency.p50 if cell.workload == "network" else None
        base = self._without_values(cell, "measured", "")
        peak = next((p for p in peaks if (p.cores, p.isa) == (cell.cores, cell.isa)), None)
        speed = None if peak is None else peak.macs_per_s.get(base.shown_precision)
        missing = [judgement.failure] if judgement.failure else []
        return base.model_copy(
            update={
                "latency_s": latency,
                "throughput_per_s": 1 / latency.p50 if cell.workload == "throughput" else None,
                "stages_s": {step: estimates.median(values) for step, values in steps.items()},
                "peak_rss_bytes": max(run.peak_rss_bytes for run in m.runs),
                "cold_start_s": estimates.median([run.cold_start_s for run in m.runs]),
                "runs": tuple(m.runs),
                "macs": m.macs,
                "peak_share": m.macs / network_s / speed if network_s and speed else None,
                "accuracy": judgement.accuracy,
                "classes": self.subjects[cell.bundle.name].classes if judgement.classified else (),
                "classified": judgement.classified,
                "doubts": (*estimates.doubts(m.runs), *missing),
            }
        )

    def _without_values(self, cell: Cell, status: Literal["measured", "unserved", "failed"], reason: str) -> Benchmark:
        bundle = self.subjects[cell.bundle.name].bundle
        served_by = backend(cell.backend)
        int8 = any(network.precision == "int8" for network in bundle.manifest.networks.values())
        return Benchmark(
            bundle=cell.bundle.name,
            digest=bundle.digest,
            backend=cell.backend,
            precision="int8" if int8 or isinstance(served_by, Quantizing) else "fp32",
            inference_precision=served_by.inference_precision(bundle),
            isa=cell.isa,
            cores=cell.cores,
            what=cell.workload,
            status=status,
            reason=reason,
        )
