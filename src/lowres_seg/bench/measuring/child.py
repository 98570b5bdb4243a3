"""A child process: it loads one workload, warms up, and measures it whenever it is told to.

Start it as ``python -m lowres_seg.bench.measuring.child SPEC``. It answers in JSON, one object a line: first the result
of its start, then one value for each line that it reads, and at ``end`` its peak memory.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowres_seg import linux
from lowres_seg.bench.spec import Spec
from lowres_seg.errors import LowresSegError

if TYPE_CHECKING:
    from lowres_seg.runtime.engine import Engine

#: Runs a workload once, and returns seconds by step.
Once = Callable[[], dict[str, float]]
Say = Callable[[dict[str, Any]], None]


def main() -> None:
    """Do the task of the spec."""
    # Standard output carries the answers, so everything else that prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    linux.die_first()
    spec = Spec.read(sys.argv[1])

    def say(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        if spec.task in ("measure", "fixed"):
            _measure(spec, say)
        else:
            from lowres_seg.bench.measuring import tasks

            say(tasks.TASKS[spec.task](spec))
    except LowresSegError as error:
        say({"error": " ".join(str(error).split())})


def _measure(spec: Spec, say: Say) -> None:
    once = _fixed(spec) if spec.task == "fixed" else _workload(spec)
    once()
    say({"first": time.monotonic()})
    say({"warm_up_s": [_timed(once)[0] for _ in range(spec.warm_up)]})
    for line in sys.stdin:
        if line.strip() == "end":
            break
        say(_turn(once, spec.turn_s))
    from lowres_seg.host import peak_rss_bytes

    say({"peak_rss_bytes": peak_rss_bytes()})


def _turn(once: Once, turn_s: float) -> dict[str, Any]:
    """Values of one turn: one, or as many as fill `turn_s`."""
    values: list[float] = []
    stages: dict[str, list[float]] = {}
    end = time.perf_counter() + turn_s
    while not values or time.perf_counter() < end:
        seconds, steps = _timed(once)
        values.append(seconds)
        for step, taken in steps.items():
            stages.setdefault(step, []).append(taken)
    return {"values_s": values, "stages_s": stages}


def _timed(once: Once) -> tuple[float, dict[str, float]]:
    start = time.perf_counter()
    stages = once()
    return time.perf_counter() - start, stages


def _fixed(spec: Spec) -> Once:
    from lowres_seg.runtime.probe import fixed_workload

    engine, x = fixed_workload(threads=spec.threads)

    def once() -> dict[str, float]:
        engine.run(x)
        return {}

    return once


def _workload(spec: Spec) -> Once:
    if spec.workload == "end-to-end":
        return _end_to_end(spec)
    import numpy as np

    from lowres_seg.bench.backends import backend

    inputs = {feed.file: np.load(feed.file) for feed in spec.feeds}
    if spec.workload == "network":
        networks = backend(spec.backend).load(spec)

        def once() -> dict[str, float]:
            seconds: dict[str, float] = {}
            for feed in spec.feeds:
                start = time.perf_counter()
                networks[feed.network].run(inputs[feed.file])
                seconds[feed.step] = seconds.get(feed.step, 0.0) + time.perf_counter() - start
            return seconds

        return once
    # Throughput: several volumes in flight, one thread each.
    copies = [backend(spec.backend).load(spec) for _ in range(spec.in_flight)]

    def one(networks: Mapping[str, Engine]) -> None:
        for feed in spec.feeds:
            networks[feed.network].run(inputs[feed.file])

    def all_at_once() -> dict[str, float]:
        threads = [threading.Thread(target=one, args=(networks,)) for networks in copies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {}

    return all_at_once


def _end_to_end(spec: Spec) -> Once:
    """From the scan's file to the file of the mask, or of the classes."""
    from lowres_seg.bench.backends import backend

    segmenter = backend(spec.backend).segmenter(spec)
    target = Path(spec.folder) / f"result-{os.getpid()}"
    scan = {channel: Path(path) for channel, path in spec.scan.items()}

    def once() -> dict[str, float]:
        result = segmenter.predict(scan)
        start = time.perf_counter()
        if result.label_names:
            result.labels.save(target.with_suffix(".nii.gz"), force=True)
        else:
            target.with_suffix(".json").write_text(json.dumps(result.numbers, indent=2) + "\n", encoding="utf-8")
        return result.timings_s | {"save": time.perf_counter() - start}

    return once


if __name__ == "__main__":
    main()
