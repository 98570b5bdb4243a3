"""Measures a plan: a process for each measurement, all of them taking turns."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import lowres_seg
from lowres_seg import host
from lowres_seg.bench import estimates
from lowres_seg.bench.axes import ISA_LIMITS, Isa
from lowres_seg.bench.measuring import judging, serving
from lowres_seg.bench.measuring.judging import Judged
from lowres_seg.bench.measuring.plan import Cell, Plan, cells
from lowres_seg.bench.measuring.process import Child, ChildError, one_answer
from lowres_seg.bench.spec import Feed, Spec
from lowres_seg.bench.suite import Benchmark, Peak, Run, Suite
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.cohort.cases import Case, Cases
from lowres_seg.errors import BenchmarkError, InputError
from lowres_seg.extras import require
from lowres_seg.metrics.agreement import empty_policy

Notify = Callable[[str], None]


def bench(plan: Plan, *, notify: Notify = lambda _: None) -> Suite:
    """Measure everything that a plan asks for.

    A measurement that fails is a result that says so, and the others go on. Interrupted, what is complete is returned
    and marked partial.

    Parameters
    ----------
    plan : Plan
    notify : callable
        Called with each step, for people.

    Raises
    ------
    MissingExtraError
        If another backend than OpenVINO is asked for, or pictures, and the extra is not installed.
    BenchmarkError
        If the plan asks for more cores than there are, for an instruction set that this CPU has not, or names a recipe
        that none of the bundles comes from.
    BundleError, InputError
        If a bundle or a case cannot be used.
    """
    if set(plan.backends) != {"openvino"} or (plan.cases is not None and plan.pictures):
        require("bench")
    with tempfile.TemporaryDirectory(prefix="lowres-seg-bench-") as name:
        return _Bench(plan, Path(name), notify).run()


@dataclass
class _Measurement:
    """A cell, what it needs, and its runs so far."""

    cell: Cell
    spec: Spec
    macs: int
    runs: list[Run] = field(default_factory=list)
    failure: str = ""


@dataclass
class _Turns:
    """What one process has given in one pass."""

    child: Child
    cold_start_s: float
    warm_up_s: list[float]
    values_s: list[float] = field(default_factory=list)
    stages_s: dict[str, list[float]] = field(default_factory=dict)


class _Bench:
    def __init__(self, plan: Plan, folder: Path, notify: Notify) -> None:
        self.plan, self.folder, self.notify = plan, folder, notify
        self.machine = host.inspect()
        self.processors = host.processors()
        self.cores = plan.cores or (self.machine.threads,)
        _check_host(plan, self.cores, self.machine)
        self.bundles = {bundle.name: Bundle.open(bundle.path) for bundle in plan.bundles}
        self.cases = self._read_cases()
        serving.check_recipes(plan, self.bundles)
        self.partial = False
        self.doubts: list[str] = [] if self.processors else ["this system does not let processes choose their cores"]

    def run(self) -> Suite:
        began = datetime.now(timezone.utc)
        facts = serving.host_facts(self.plan, self.machine)
        measurements, unserved = self._prepare()
        before = host.load()
        peaks: list[Peak] = []
        judged: dict[tuple[str, str, Isa], Judged | str] = {}
        try:
            for number in range(self.plan.passes):
                self._pass(number, [m for m in measurements if not m.failure])
            self.doubts += estimates.busy(before, host.load())
            judged = self._judge([m for m in measurements if not m.failure])
            peaks = self._peaks()
        except BenchmarkError as error:
            if not any(m.runs for m in measurements):
                raise
            self.partial = True
            self.doubts.append(f"ended early: {error}")
        except KeyboardInterrupt:
            self.partial = True
            self.doubts.append("interrupted: what was not complete is missing")
        done = [self._benchmark(m, peaks, judged) for m in measurements] + unserved
        order = [cell.key for cell in cells(self.plan, self.cores)]
        done.sort(key=lambda b: order.index(b.key))
        pictures = [p for found in judged.values() if not isinstance(found, str) for p in found[1]]
        return Suite(
            lowres_seg=lowres_seg.__version__,
            began=began.isoformat(timespec="seconds"),
            partial=self.partial or any(b.status == "failed" for b in done),
            host=facts,
            hd95=self.plan.hd95,
            empty_masks=empty_policy(self.plan.hd95),
            timed=self._timed_scan(),
            passes=self.plan.passes,
            rounds=self.plan.rounds,
            seed=self.plan.seed,
            benchmarks=tuple(done),
            peaks=tuple(peaks),
            pictures=tuple(pictures),
            doubts=tuple(self.doubts),
        )

    def _read_cases(self) -> dict[str, list[Case]]:
        """Cases for each bundle, all labelled."""
        if self.plan.cases is None:
            return {}
        found = {}
        for name, bundle in self.bundles.items():
            cases = list(Cases.read(self.plan.cases, bundle.manifest.channels))
            bare = [case.id for case in cases if case.label is None]
            if bare:
                raise InputError(
                    f"{self.plan.cases}: case {bare[0]} has no label, and Dice and HD95 need one; give it one, or time "
                    "its scan with --scan"
                )
            found[name] = cases
        return found

    def _scan(self, bundle: str) -> dict[str, str]:
        if self.cases:
            return {channel: str(path) for channel, path in self.cases[bundle][0].scan.items()}
        return {channel: str(path) for channel, path in (self.plan.scan or {}).items()}

    def _timed_scan(self) -> str:
        if self.cases:
            return f"case {next(iter(self.cases.values()))[0].id}"
        return ", ".join(p.name for p in self.plan.scan.values()) if self.plan.scan else "each bundle's reference case"

    def _prepare(self) -> tuple[list[_Measurement], list[Benchmark]]:
        """What each cell needs; and those that nothing can serve, with why."""
        prepared: dict[str, dict[str, Any]] = {}
        for name, bundle in self.bundles.items():
            self.notify(f"preparing {name}")
            folder = self.folder / f"inputs-{name}"
            folder.mkdir()
            spec = Spec("prepare", str(bundle.path), threads=max(self.cores), scan=self._scan(name), folder=str(folder))
            prepared[name] = one_answer(self._child(spec, max(self.cores), "native"), f"preparing {name}")
        measurements, unserved = [], []
        for cell in cells(self.plan, self.cores):
            bundle = self.bundles[cell.bundle.name]
            reason = serving.reason_against(cell, bundle, self.machine.features)
            if reason:
                unserved.append(_empty(cell, bundle, "unserved", reason))
                continue
            ready = prepared[cell.bundle.name]
            spec = Spec(
                "measure",
                str(bundle.path),
                cell.backend,
                cell.what,
                threads=1 if cell.what == "throughput" else cell.cores,
                warm_up=self.plan.warm_up,
                turn_s=self.plan.turn_s,
                scan=ready["scan"],
                feeds=[Feed(**feed) for feed in ready["feeds"]],
                folder=str(self.folder),
                **serving.files(cell, bundle),
                case={"in_flight": cell.cores},
            )
            measurements.append(_Measurement(cell, spec, ready["macs"]))
        return measurements, unserved

    def _child(self, spec: Spec, cores: int, isa: Isa) -> Child:
        pinned = self.processors[:cores]
        return Child(spec, processors=pinned, isa=isa, folder=self.folder, timeout_s=self.plan.timeout_s)

    def _pass(self, number: int, measurements: Sequence[_Measurement]) -> None:
        where = f"pass {number + 1} of {self.plan.passes}"
        order = random.Random(self.plan.seed + number)  # noqa: S311 - an order, no secret
        with ExitStack() as stack:
            references: dict[int, tuple[Child, list[float]]] = {}
            for cores in {m.cell.cores for m in measurements}:
                self.notify(f"{where}: starting the reference on {cores} cores")
                spec = Spec("reference", threads=cores, warm_up=1, turn_s=self.plan.turn_s)
                child = self._child(spec, cores, "native")
                stack.callback(child.kill)
                with _reference():
                    child.answer()
                    child.answer()
                references[cores] = (child, [])
            live: list[tuple[_Measurement, _Turns]] = []
            for m in measurements:
                self.notify(f"{where}: starting {m.cell}")
                turns = self._start(m, stack)
                if turns is not None:
                    live.append((m, turns))
            for turn in range(self.plan.rounds):
                self.notify(f"{where}, round {turn + 1} of {self.plan.rounds}")
                for child, values in references.values():
                    with _reference():
                        values.extend(child.ask("go")["values_s"])
                order.shuffle(live)
                for m, turns in list(live):
                    if not self._turn(m, turns):
                        live.remove((m, turns))
            for m, turns in live:
                self._finish(m, turns, references[m.cell.cores][1])

    def _start(self, m: _Measurement, stack: ExitStack) -> _Turns | None:
        child = self._child(m.spec, m.cell.cores, m.cell.isa)
        stack.callback(child.kill)
        try:
            first = child.answer()["first"]
            warm_up = child.answer()["warm_up_s"]
        except ChildError as error:
            m.failure = str(error)
            return None
        return _Turns(child, first - child.started, warm_up)

    def _turn(self, m: _Measurement, turns: _Turns) -> bool:
        try:
            answer = turns.child.ask("go")
        except ChildError as error:
            m.failure = str(error)
            return False
        share = m.cell.cores if m.cell.what == "throughput" else 1
        turns.values_s += [value / share for value in answer["values_s"]]
        for step, seconds in answer["stages_s"].items():
            turns.stages_s.setdefault(step, []).extend(seconds)
        return True

    def _finish(self, m: _Measurement, turns: _Turns, reference: list[float]) -> None:
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
                reference_s=tuple(reference),
                stages_s={step: tuple(values) for step, values in turns.stages_s.items()},
                peak_rss_bytes=max(peak, turns.child.peak_rss_bytes),
            )
        )

    def _peaks(self) -> list[Peak]:
        found = []
        for cores in self.cores:
            for isa in self.plan.isa:
                self.notify(f"measuring the peak of this CPU on {cores} cores, {isa}")
                answer = one_answer(self._child(Spec("peak", threads=cores), cores, isa), "measuring the peak")
                found.append(Peak(cores=cores, isa=isa, macs_per_s=answer["macs_per_s"]))
        return found

    def _judge(self, measurements: Sequence[_Measurement]) -> dict[tuple[str, str, Isa], Judged | str]:
        """Dice and HD95 of each bundle in each hand, on all cores; or why there are none."""
        judged: dict[tuple[str, str, Isa], Judged | str] = {}
        for m in measurements if self.cases else ():
            name, backend, isa = key = (m.cell.bundle.name, m.cell.backend, m.cell.isa)
            if key in judged:
                continue
            judged[key] = judging.judge(
                name,
                self.cases[name],
                replace(m.spec, task="judge", threads=max(self.cores)),
                partial(self._child, cores=max(self.cores), isa=isa),
                hd95=self.plan.hd95,
                pictures=self.plan.pictures and backend == "openvino" and isa == "native",
                notify=self.notify,
            )
            self.partial |= isinstance(judged[key], str)
        return judged

    def _benchmark(
        self, m: _Measurement, peaks: Sequence[Peak], judged: dict[tuple[str, str, Isa], Judged | str]
    ) -> Benchmark:
        cell = m.cell
        bundle = self.bundles[cell.bundle.name]
        if m.failure or not m.runs:
            failure = m.failure or "not measured: the command was interrupted"
            return _empty(cell, bundle, "failed", failure).model_copy(update={"runs": tuple(m.runs)})
        latency = estimates.latency([run.values_s for run in m.runs], self.plan.seed)
        steps = {step: [v for run in m.runs for v in run.stages_s.get(step, ())] for step in m.runs[0].stages_s}
        result = judged.get((cell.bundle.name, cell.backend, cell.isa))
        network_s = latency.p50 if cell.what == "network" else None
        base = _empty(cell, bundle, "measured", "")
        peak = next((p for p in peaks if (p.cores, p.isa) == (cell.cores, cell.isa)), None)
        speed = None if peak is None else peak.macs_per_s.get(base.shown_precision)
        return base.model_copy(
            update={
                "latency_s": latency,
                "throughput_per_s": 1 / latency.p50 if cell.what == "throughput" else None,
                "stages_s": {step: estimates.median(values) for step, values in steps.items()},
                "peak_rss_bytes": max(run.peak_rss_bytes for run in m.runs),
                "cold_start_s": estimates.median([run.cold_start_s for run in m.runs]),
                "runs": tuple(m.runs),
                "macs": m.macs,
                "peak_share": m.macs / network_s / speed if network_s and speed else None,
                "accuracy": () if result is None or isinstance(result, str) else result[0],
                "doubts": (*estimates.doubts(m.runs), *([result] if isinstance(result, str) else [])),
            }
        )


def _check_host(plan: Plan, cores: Sequence[int], machine: host.Host) -> None:
    many = [count for count in cores if count > machine.threads]
    if many:
        raise BenchmarkError(
            f"--cores {many[0]}: this process may use {machine.threads} (the machine has {machine.physical_cores}, "
            f"{machine.affinity} are granted, quota {machine.quota or 'none'}); ask for no more"
        )
    for isa in plan.isa:
        lacking = [flag for flag in ISA_LIMITS[isa][1] if flag not in machine.features]
        if lacking:
            raise BenchmarkError(f"--isa {isa}: this CPU has no {lacking[0]}, so there is nothing to limit it to")


@contextmanager
def _reference() -> Iterator[None]:
    """Without the reference workload the rest cannot be compared: its end is everybody's."""
    try:
        yield
    except ChildError as error:
        raise BenchmarkError(f"the reference workload {error}") from error


def _empty(cell: Cell, bundle: Bundle, status: Any, reason: str) -> Benchmark:
    precision, inference = serving.precisions(cell, bundle)
    return Benchmark(
        bundle=cell.bundle.name,
        digest=bundle.digest,
        backend=cell.backend,
        precision=precision,
        inference_precision=inference,
        isa=cell.isa,
        cores=cell.cores,
        what=cell.what,
        status=status,
        reason=reason,
    )
