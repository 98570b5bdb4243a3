"""The verdict, on suites made for it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowres_seg import BenchmarkError
from lowres_seg.bench import Suite, Tolerances, compare, estimates
from lowres_seg.bench.suite import Run
from lowres_seg.host import Load, busy, load


def content(
    *, factor: float = 1.0, drift: float = 1.0, seed: int = 0, passes: int = 4, **changes: Any
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(passes):
        machine = drift * rng.normal(1, 0.01)
        level = machine * rng.normal(1, 0.015)
        runs.append(
            {
                "cold_start_s": 1.0,
                "warm_up_s": [0.2],
                "values_s": list(0.1 * factor * level * rng.normal(1, 0.01, 20)),
                "reference_s": list(0.05 * machine * rng.normal(1, 0.01, 20)),
                "stages_s": {},
                "peak_rss_bytes": 10**9,
            }
        )
    values = [value for run in runs for value in run["values_s"]]
    benchmark: dict[str, Any] = {
        "bundle": "net",
        "digest": "0" * 64,
        "backend": "openvino",
        "precision": "fp32",
        "inference_precision": "f32",
        "isa": "native",
        "cores": 2,
        "what": "network",
        "status": "measured",
        "latency_s": {"p50": float(np.median(values)), "p90": 1, "p99": 1, "min": 0.1, "ci95": [0.1, 0.1]},
        "peak_rss_bytes": 10**9,
        "cold_start_s": 1.0,
        "runs": runs,
        "accuracy": [{"case": c, "region": "brain", "dice": 0.97, "hd95_mm": 1.0} for c in ("a", "b")],
    }
    benchmark.update(changes)
    return {
        "lowres_seg": "0",
        "began": "2026-01-01",
        "partial": False,
        "host": {
            "cpu": "x",
            "features": ["avx2"],
            "cores": 2,
            "physical_cores": 2,
            "logical_cores": 2,
            "quota": None,
            "memory_bytes": 1,
            "memory_limit_bytes": 1,
            "governor": None,
            "system": "s",
            "versions": {"openvino": "1"},
            "thread_settings": {},
            "load_average": 0,
        },
        "hd95": "max-directed",
        "empty_masks": "",
        "timed": "scan",
        "passes": passes,
        "rounds": 20,
        "seed": 0,
        "benchmarks": [benchmark],
    }


def suite(**options: Any) -> Suite:
    return Suite.model_validate({"schema_version": 1, **content(**options)})


def test_the_same_twice_is_no_regression() -> None:
    alarms = sum(not compare(suite(seed=2 * n), suite(seed=2 * n + 1)).met for n in range(40))
    assert alarms <= 1


def test_ten_percent_slower_is_one() -> None:
    caught = sum(not compare(suite(seed=2 * n), suite(seed=2 * n + 1, factor=1.1)).met for n in range(20))
    assert caught >= 19


def test_a_slower_machine_is_none() -> None:
    found = compare(suite(), suite(seed=1, drift=1.4))
    assert found.met
    assert found.changes[0].new > 1.3 * found.changes[0].base


def test_faster_is_better() -> None:
    assert compare(suite(), suite(seed=1, factor=0.8)).changes[0].verdict == "better"


def test_noise_widens_what_can_be_detected() -> None:
    quiet = compare(suite(passes=10), suite(seed=1, passes=10)).changes[0]
    few = compare(suite(passes=2), suite(seed=1, passes=2)).changes[0]
    assert quiet.detectable is not None
    assert few.detectable is not None
    assert 0.05 < quiet.detectable < few.detectable


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peak_rss_bytes": 12 * 10**8}, r"peak RSS 954 MiB → 1144 MiB \(\+20.0%, allowed \+10.0%\)"),
        (
            {"accuracy": [{"case": c, "region": "brain", "dice": 0.96, "hd95_mm": 1.0} for c in ("a", "b")]},
            r"brain Dice 0.9700 → 0.9600 \(-0.0100, allowed -0.0050\)",
        ),
        (
            {"accuracy": [{"case": c, "region": "brain", "dice": 0.97, "hd95_mm": 3.0} for c in ("a", "b")]},
            r"brain HD95 1.00 mm → 3.00 mm",
        ),
    ],
)
def test_fatter_or_worse(changes: dict[str, Any], message: str) -> None:
    found = compare(suite(), suite(**changes))
    assert not found.met
    assert len(found.regressions) == 1
    assert re.search(message, found.regressions[0])


def test_limits_are_the_callers() -> None:
    assert compare(suite(), suite(peak_rss_bytes=12 * 10**8), Tolerances(memory=0.3)).met
    assert not compare(suite(), suite(seed=1, factor=1.04), Tolerances(latency=0.01)).met


def test_what_fails_now_is_a_regression() -> None:
    broken = content(seed=1)
    second = {**content()["benchmarks"][0], "bundle": "other"}
    base = Suite.model_validate({"schema_version": 1, **content(), "benchmarks": [content()["benchmarks"][0], second]})
    failed = {**second, "status": "failed", "reason": "was killed", "latency_s": None}
    new = Suite.model_validate({"schema_version": 1, **broken, "benchmarks": [broken["benchmarks"][0], failed]})
    found = compare(base, new)
    assert found.regressions == [
        "other, openvino f32, 2 cores, network (was killed): measured in the base, but not in the new suite"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"host": {**content()["host"], "cpu": "y"}}, "different hosts"),
        ({"host": {**content()["host"], "cores": 1}}, "different hosts"),
        ({"hd95": "medpy"}, "HD95 is max-directed in the base and medpy"),
        ({"timed": "other"}, "time both on one scan"),
        ({"benchmarks": []}, "share no benchmark"),
    ],
)
def test_what_cannot_be_compared(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        compare(suite(), Suite.model_validate({"schema_version": 1, **content(), **change}))


def test_other_cases_cannot_be_compared() -> None:
    other = [{"case": "a", "region": "brain", "dice": 0.99, "hd95_mm": 1.0}]
    with pytest.raises(BenchmarkError, match="judged on 2 cases in the base and 1"):
        compare(suite(), suite(accuracy=other))


def test_a_newer_version_is_said() -> None:
    newer = content()
    newer["host"]["versions"] = {"openvino": "2"}
    assert "openvino is 1 in the base and 2 in the new suite" in compare(suite(), Suite.model_validate(newer)).notes


def test_formats() -> None:
    found = compare(suite(), suite(seed=1, factor=1.5))
    assert "**regression**" in found.render("markdown")
    assert found.render("github").startswith("::error title=lowres-seg compare::net, openvino f32")
    assert "%25" in found.render("github").splitlines()[0]
    assert json.loads(found.render("json"))["met"] is False
    assert "regression: net" in found.render("text")
    assert "no regression" in compare(suite(), suite(seed=1)).render("text")


def test_a_suite_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    with pytest.raises(BenchmarkError, match="cannot be read"):
        Suite.read(file)
    for text, message in (
        ("{", "not JSON"),
        ("[]", "is no suite, expected what `lowres-seg bench` wrote"),
        ('{"schema_version": 2}', "schema version 2"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(BenchmarkError, match=message):
            Suite.read(file)
    file.write_text('{"schema_version": 1}', encoding="utf-8")
    with pytest.raises(BenchmarkError, match="lowres_seg"):
        Suite.read(file)


def test_percentiles_and_their_interval() -> None:
    rng = np.random.default_rng(0)
    runs = [rng.normal(1, 0.1, 50) for _ in range(5)]
    found = estimates.latency([tuple(run) for run in runs], seed=1)
    pooled = np.concatenate(runs)
    assert found.p50 == pytest.approx(np.median(pooled))
    assert found.p99 == pytest.approx(np.percentile(pooled, 99))
    assert 0.9 < found.ci95[0] < found.p50 < found.ci95[1] < 1.1
    assert estimates.latency([tuple(run) for run in runs], seed=1) == found


def run(values: Any, reference: float = 1.0) -> Run:
    return Run(
        cold_start_s=1,
        warm_up_s=(),
        values_s=tuple(values),
        reference_s=(reference,) * len(values),
        stages_s={},
        peak_rss_bytes=1,
    )


@pytest.mark.parametrize(
    ("runs", "doubt"),
    [
        ([run([1.0] * 4)], "only 4 values"),
        ([run([1e-4] * 20)], "too short for the clock"),
        ([run([1.0, 1.5] * 10)], "unstable"),
        ([run([1.0] * 10), run([1.0] * 10, reference=1.3)], "the machine drifted"),
        ([run([1.0, 1.01] * 10)], None),
    ],
)
def test_doubts(runs: list[Run], doubt: str | None) -> None:
    found = estimates.doubts(runs)
    assert (doubt is None and found == []) or (doubt is not None and any(doubt in line for line in found))


def test_a_busy_host_is_said() -> None:
    quiet = Load({1: ("init", 5.0), 2: ("backup", 10.0)}, 1.0, 0, 100.0)
    assert busy(quiet, replace(quiet, at_s=110.0)) == []
    later = replace(quiet, others={2: ("backup", 15.0), 3: ("indexer", 1.0)}, at_s=110.0)
    assert "most of it backup (0.5 processors)" in busy(quiet, later)[0]
    assert "hypervisor" in busy(quiet, replace(quiet, stolen_s=5.0, at_s=110.0))[0]
    assert "quota ran out in 3 periods" in busy(quiet, replace(quiet, throttled=3, at_s=110.0))[0]


def test_what_it_started_itself_is_no_other_work() -> None:
    before = load()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) as own:
        time.sleep(0.5)
        after = load()
        own.kill()
    assert own.pid not in after.others
    assert all(name for name, _ in after.others.values())
    assert after.at_s > before.at_s
