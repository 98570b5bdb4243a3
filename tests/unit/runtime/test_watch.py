"""Progress, cancelling and deadlines of a prediction."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import fixed
from lowres_seg import (
    CancelledError,
    DeadlineError,
    EngineError,
    InputError,
    LowresSegError,
    Segmenter,
    Volume,
)
from stages import Content, build, noise, stage

WINDOWS = {"roi_size": [16, 16, 16], "rules": "monai"}


def segmenter_of(content: Content, *, lean: bool = False, **changes: Any) -> Segmenter:
    pipeline = build(content, stage(**({"conform": {}, "windows": WINDOWS, "networks": ["a", "b"]} | changes)))
    scores = np.random.default_rng(0).random((2, *pipeline.stages[0].shape), dtype=np.float32)
    engines = [fixed(scores) for _ in pipeline.stages[0].networks]
    for engine in engines:
        engine.lean = lean
    return Segmenter(pipeline, {"only": engines}, threads=1)


def scan() -> Volume:
    return Volume.from_array(noise((40, 20, 16)), np.eye(4))


@pytest.mark.parametrize("lean", [False, True])
def test_progress_counts_the_windows_of_every_network(content: Content, lean: bool) -> None:
    told: list[tuple[str, int, int]] = []
    segmenter_of(content, lean=lean).predict(scan(), progress=lambda *seen: told.append(seen))
    total = told[-1][2]
    assert total > 4
    assert total % 2 == 0
    assert told == [("only", done, total) for done in range(1, total + 1)]


def test_a_whole_volume_is_one_window_of_each_network(content: Content) -> None:
    told: list[tuple[str, int, int]] = []
    segmenter = segmenter_of(content, windows=None, conform={"shape": [16, 16, 16]})
    segmenter.predict(scan(), progress=lambda *seen: told.append(seen))
    assert told == [("only", 1, 2), ("only", 2, 2)]


def test_cancelling_ends_it_at_the_next_window(content: Content) -> None:
    told: list[int] = []
    segmenter = segmenter_of(content)
    with pytest.raises(CancelledError, match=r"^volume: stage only: cancelled by the caller; there is no result$"):
        segmenter.predict(scan(), progress=lambda _, done, __: told.append(done), cancelled=lambda: len(told) >= 3)
    assert told == [1, 2, 3]
    assert segmenter.predict(scan()).labels.grid == scan().grid


def test_a_deadline_ends_it_at_the_next_window(content: Content) -> None:
    told: list[int] = []

    def slow(_: str, done: int, __: int) -> None:
        told.append(done)
        time.sleep(0.05)

    with pytest.raises(DeadlineError, match=r"stage only: not done within 0.12 s; allow more time") as caught:
        segmenter_of(content).predict(scan(), progress=slow, deadline_s=0.12)
    assert isinstance(caught.value, LowresSegError)
    assert 1 <= len(told) <= 4


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("kind", [ValueError, EngineError, MemoryError, InputError, StopIteration, GeneratorExit])
@pytest.mark.parametrize("by", ["progress", "cancelled"])
def test_what_a_callback_raises_reaches_the_caller_as_it_is(
    content: Content, kind: type[BaseException], by: str, at: int, lean: bool
) -> None:
    calls: list[int] = []
    error = kind("mine")

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) == at:
            raise error

    segmenter = segmenter_of(content, lean=lean)
    with pytest.raises(kind) as caught:
        segmenter.predict(scan(), **{by: fail})
    assert caught.value is error
    assert segmenter.predict(scan()).labels.grid == scan().grid


@pytest.mark.parametrize(
    "arguments",
    [
        {"deadline_s": [1]},
        {"deadline_s": 1j},
        {"deadline_s": np.float32("nan")},
        {"deadline_s": float("nan")},
        {"deadline_s": "5"},
        {"deadline_s": True},
        {"progress": 5},
    ],
)
def test_arguments_of_another_kind_are_refused(content: Content, arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"^{next(iter(arguments))}: found .*, expected"):
        segmenter_of(content).predict(scan(), **arguments)


@pytest.mark.parametrize(
    "seconds", [60, 60.5, np.float32(60), np.int16(60), Fraction(121, 2), math.inf, np.inf, 10**400]
)
def test_a_deadline_is_any_real_number(content: Content, seconds: Any) -> None:
    assert segmenter_of(content).predict(scan(), deadline_s=seconds).labels.grid == scan().grid


@pytest.mark.parametrize("seconds", [0, 0.0, -1, np.float64(-3), -math.inf])
def test_a_budget_that_is_spent_ends_it_before_it_begins(content: Content, seconds: Any) -> None:
    segmenter = segmenter_of(content)
    told: list[object] = []
    with pytest.raises(
        DeadlineError, match=f"^volume: deadline_s is {seconds:g}, and so over before it begins; allow more$"
    ):
        segmenter.predict(scan(), deadline_s=seconds, progress=lambda *seen: told.append(seen))
    assert told == []


@pytest.mark.parametrize("by", ["deadline", "cancelled"])
def test_an_end_during_the_wait_for_a_turn_says_so(content: Content, tmp_path: Path, by: str) -> None:
    segmenter = segmenter_of(content, lean=True)
    scan().save(tmp_path / "second.nii.gz")
    holds, ends = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        holds.set()
        ends.wait(30)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(segmenter.predict, scan(), progress=hold)
        assert holds.wait(30)
        try:
            if by == "deadline":
                with pytest.raises(
                    DeadlineError, match="second.nii.gz: waits for its turn: not begun within 0.1 s"
                ) as caught:
                    segmenter.predict(tmp_path / "second.nii.gz", deadline_s=0.1)
                assert "INT8" not in str(caught.value)
                assert "let fewer predictions run at once" in str(caught.value)
            else:
                with pytest.raises(CancelledError, match="second.nii.gz: waits for its turn: cancelled by the caller"):
                    segmenter.predict(tmp_path / "second.nii.gz", cancelled=lambda: True)
        finally:
            ends.set()
        assert first.result().labels.grid == scan().grid


def test_the_library_prints_nothing_and_logs_to_its_logger(
    tiny: Path, lopsided: Callable[..., Volume], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lopsided().save(tmp_path / "head.nii.gz")
    with caplog.at_level(logging.DEBUG, "lowres_seg"):
        Segmenter.load(tiny, threads=1).predict(tmp_path / "head.nii.gz")
    assert [record.name for record in caplog.records] == ["lowres_seg", "lowres_seg"]
    assert str(tmp_path / "head.nii.gz") in caplog.records[1].message
    code = "import sys\nfrom lowres_seg import Segmenter\nSegmenter.load(sys.argv[1], threads=1).predict(sys.argv[2])"
    done = subprocess.run(
        [sys.executable, "-c", code, tiny, tmp_path / "head.nii.gz"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
