"""A library is a guest of its process: it leaves arithmetic as it is, and lets the process end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lowres_seg import Bundle, IntegrityError, Segmenter, Volume


def arithmetic() -> list[float]:
    """Results in denormal numbers: they are zero where the CPU takes such numbers for zero."""
    return [1e-310 / 2, *(np.full(16, 1e-42, np.float32) * np.float32(0.5)).tolist(), *(np.full(8, 1e-310) / 2)]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("lean", [False, True])
def test_arithmetic_stays_as_it_is(
    make_bundle: Callable[..., Path],
    lopsided: Callable[..., Volume],
    tmp_path: Path,
    lean: bool,
    cached: bool,
) -> None:
    bundle = make_bundle(name="guest")
    cache = tmp_path / "compiled" if cached else None
    scan = lopsided((20, 14, 25), np.diag([0.9, 1.1, 1.2, 1.0]))

    def used(threads: int) -> list[list[float]]:
        found = [arithmetic()]
        segmenter = Segmenter.load(bundle, threads=threads, lean=lean, cache=cache)
        found.append(arithmetic())
        segmenter.predict(scan)
        found.append(arithmetic())
        with ThreadPoolExecutor(1) as pool:
            found.append(pool.submit(arithmetic).result())
        segmenter.self_test()
        return [*found, arithmetic()]

    for threads in (1, 2):  # without a cache, networks and resampling are compiled for each number
        with ThreadPoolExecutor(1) as pool:
            found = [*used(threads), *pool.submit(used, threads).result()]
        assert min(found[0]) > 0
        assert all(one == found[0] for one in found)


LOOPS = """
import signal, sys, threading, time
import numpy as np
from lowres_seg import EngineError, Segmenter, Volume
from lowres_seg.runtime import openvino_engine  # a thread that still imports OpenVINO cannot be waited for
bundle, kind, seconds = sys.argv[1:]
load = lambda: Segmenter.load(bundle, threads=1, lean=kind == "lean")
one = None if kind == "load" else load()
scan = Volume.from_array(np.random.default_rng(0).random((40, 40, 40), np.float32), np.eye(4))
def loop():
    try:
        while True:
            (one or load()).predict(scan)
    except EngineError as error:
        assert "is ending" in str(error), error
for _ in range(3):
    threading.Thread(target=loop, daemon=kind != "interrupted").start()
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
if kind == "interrupted":  # while the interpreter waits for the threads
    signal.setitimer(signal.ITIMER_REAL, float(seconds) + 0.2)
time.sleep(float(seconds))
"""


@pytest.mark.parametrize("kind", ["resident", "lean", "load", "interrupted"])
def test_a_process_ends_while_threads_predict(tiny: Path, kind: str) -> None:
    for seconds in (0.1, 0.17, 0.25):
        command = [sys.executable, "-c", LOOPS, str(tiny), kind, str(seconds)]
        child = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert child.returncode == 0, child.stderr
        assert "AssertionError" not in child.stderr
        assert kind == "interrupted" or not child.stderr


NO_THREADS = """
import sys, threading
import numpy as np
from lowres_seg import EngineError, Segmenter, Volume
one = Segmenter.load(sys.argv[1], threads=1, lean=True)
scan = Volume.from_array(np.random.default_rng(0).random((20, 20, 20), np.float32), np.eye(4))
expected = one.predict(scan).labels.data
start = threading.Thread.start
def refused(thread, names=("lowres-seg compiles",)):
    if thread.name in names:
        raise RuntimeError("can't start new thread")
    start(thread)
def interrupted(thread):
    raise KeyboardInterrupt
threading.Thread.start = refused
assert np.array_equal(one.predict(scan).labels.data, expected)
threading.Thread.start = lambda thread: refused(thread, (thread.name,))
try:
    one.predict(scan)
except EngineError as error:
    print(error)
threading.Thread.start = interrupted
try:
    one.predict(scan)
except KeyboardInterrupt:
    print("interrupted")
threading.Thread.start = start
assert np.array_equal(one.predict(scan).labels.data, expected)
"""


def test_a_thread_that_does_not_start_is_done_without(tiny: Path) -> None:
    command = [sys.executable, "-c", NO_THREADS, str(tiny)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    refused, interrupted = done.stdout.splitlines()
    assert "may start no further thread to compile a network (can't start new thread)" in refused
    assert (done.returncode, interrupted, done.stderr) == (0, "interrupted", "")


@pytest.mark.parametrize("lean", [False, True])
def test_a_relative_path_outlives_another_working_folder(
    tiny: Path, lopsided: Callable[..., Volume], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lean: bool
) -> None:
    scan = lopsided()
    expected = Segmenter.load(tiny, threads=1).predict(scan).labels.data
    monkeypatch.chdir(tiny.parent)
    opened = Bundle.open(tiny.name)
    segmenter = Segmenter.load(opened, threads=1, lean=lean, cache="compiled")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for one in (segmenter, Segmenter.load(opened, threads=1, lean=lean)):
        assert np.array_equal(one.predict(scan).labels.data, expected)
        assert one.self_test().passed
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert len(list((tiny.parent / "compiled").iterdir())) == 1
    assert opened.path == Path(tiny.name)
    (tiny / "reference.npz").unlink()
    with pytest.raises(IntegrityError, match=r"^tiny/reference.npz: cannot be read"):
        segmenter.self_test()
