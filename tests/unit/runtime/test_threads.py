"""One segmenter in many threads and processes."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as opset

from lowres_seg import CancelledError, EngineError, InputError, Segmenter, Volume, linux
from lowres_seg.bundle import file_sha256
from lowres_seg.runtime import requests
from lowres_seg.runtime.networks import LeanEngine
from lowres_seg.runtime.openvino_engine import OpenVinoEngine, resize
from lowres_seg.runtime.turns import Turns
from lowres_seg.runtime.watch import Watch

Content = Callable[..., dict[str, Any]]
THREADS = 8
WINDOWED = {
    "windows": {"roi_size": [16, 16, 16], "rules": "monai"},
    "conform": {"pad": "zero", "spacing_mm": [0.8, 0.9, 1.1]},
    "mirror_axes": [0],
}


def scans(lopsided: Callable[..., Volume]) -> list[Volume]:
    """Of several shapes, orientations and spacings."""
    shapes = [(16, 16, 16), (20, 14, 25), (33, 17, 20), (24, 24, 24)]
    affines = [np.diag(d) for d in ([-1, -1, 1, 1], [1, 1, 1.5, 1], [0.9, 1, 1, 1], [1, -1, 1, 1])]
    return [
        lopsided(shape, np.asarray(affine, float), seed)
        for seed, (shape, affine) in enumerate(zip(shapes, affines, strict=True))
    ]


def masks(segmenter: Segmenter, some: list[Volume]) -> list[np.ndarray]:
    return [segmenter.predict(one).labels.data.copy() for one in some]


def kinds(content: Content) -> Mapping[str, dict[str, Any]]:
    stages = content()["stages"]
    first = {**stages[0], "conform": {"orientation": "RAS", "shape": [16, 16, 16], "interpolation": "linear"}}
    windowed = {k: v for k, v in stages[0].items() if k != "conform"} | WINDOWED
    return {"one window": {"stages": [first]}, "windows": {"stages": [windowed]}}


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("kind", ["one window", "windows"])
def test_many_threads_get_what_one_gets(
    make_bundle: Callable[..., Path],
    content: Content,
    lopsided: Callable[..., Volume],
    kind: str,
    lean: bool,
    bounded: bool,
) -> None:
    bundle = make_bundle(schema_version=3 if kind == "windows" else 1, **kinds(content)[kind])
    segmenter = Segmenter.load(bundle, threads=1, lean=lean, max_ram_bytes=10**9 if bounded else None)
    some = scans(lopsided)
    expected = masks(segmenter, some)
    assert len({mask.tobytes() for mask in expected}) == len(some)

    def work(number: int) -> list[int]:
        order = np.random.default_rng(number).integers(0, len(some), 12)
        found = [(at, segmenter.predict(some[at]).labels.data) for at in order]
        return [int((mask != expected[at]).sum()) for at, mask in found]

    with ThreadPoolExecutor(THREADS) as pool:
        assert np.concatenate(list(pool.map(work, range(THREADS)))).sum() == 0
    assert segmenter.self_test().passed


def with_a_norm(bundle: Path) -> Path:
    """Put a network with an instance norm of OpenVINO's own in place of a bundle's, with its digests."""
    x = opset.parameter([1, 1, 16, 16, 16], np.float32, name="input")
    norm = opset.mvn(x, np.array([2, 3, 4]), normalize_variance=True, eps=1e-5, eps_mode="inside_sqrt")
    p = opset.sigmoid(norm)
    scores = opset.concat([opset.subtract(np.float32(1), p), p], 1)
    xml = bundle / "networks" / "net.xml"
    openvino.save_model(openvino.Model([scores], [x], "norm"), xml, compress_to_fp16=False)
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name in ("networks/net.xml", "networks/net.bin"):
        manifest["files"][name] = file_sha256(bundle / name)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


@pytest.mark.parametrize("lean", [False, True])
def test_reproducible_scores_have_no_number_of_threads(tiny: Path, lopsided: Callable[..., Volume], lean: bool) -> None:
    bundle, scan = with_a_norm(tiny), lopsided()

    def scores(threads: int, *, reproducible: bool) -> bytes:
        segmenter = Segmenter.load(bundle, threads=threads, lean=lean, reproducible=reproducible, max_ram_bytes=10**9)
        return segmenter.recorded(scan)[1]["only"][0].outputs[0].tobytes()

    found = {scores(threads, reproducible=True) for threads in (1, 2, 3, 4)}
    assert len(found) == 1
    assert scores(1, reproducible=False) not in found


@pytest.mark.parametrize("kind", [OpenVinoEngine, LeanEngine])
def test_a_result_stays_as_it_is_whoever_runs_next(tiny: Path, kind: type[OpenVinoEngine]) -> None:
    engine = kind(tiny / "networks" / "net.xml", threads=1, inference_precision="f32")
    inputs = [np.random.default_rng(n).random((1, 1, 16, 16, 16), dtype=np.float32) for n in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(engine.run, inputs))
        views = [one[0].transpose(0, 3, 1, 2)[:, ::-1] for one in found]
        kept = [one.copy() for one in views]
        del found
        for _ in range(3):
            list(pool.map(engine.run, reversed(inputs)))
        if isinstance(engine, LeanEngine):
            engine.release()
    assert all(np.array_equal(one, was) for one, was in zip(views, kept, strict=True))
    assert len({one.tobytes() for one in kept}) == THREADS


def test_memory_of_a_result_is_used_again(tiny: Path) -> None:
    engine = OpenVinoEngine(tiny / "networks" / "net.xml", threads=1)
    x = np.zeros((1, 1, 16, 16, 16), np.float32)
    places = {engine.run(x).ctypes.data for _ in range(20)}
    assert len(places) == 1


def test_threads_resample_at_once() -> None:
    inputs = [np.random.default_rng(n).random((2, 9, 10, 11), dtype=np.float32) for n in range(THREADS)]
    expected = [resize(x, (13, 7, 20), threads=1) for x in inputs]
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(5):
            found = list(pool.map(lambda x: resize(x, (13, 7, 20), threads=1), inputs))
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_predictions_wait_for_room_in_their_order() -> None:
    turns = Turns(8, room_bytes=100)
    lock, most, now, order = threading.Lock(), [0], [0], []

    def work(need: int) -> None:
        with turns.turn(need, Watch()):
            with lock:
                now[0] += need
                most[0] = max(most[0], now[0])
                order.append(need)
            time.sleep(0.01)
            with lock:
                now[0] -= need

    needs = [60, 50, 30, 30, 40, 90, 10, 10]
    with turns.turn(100, Watch()):
        workers = []
        for need in needs:
            workers.append(threading.Thread(target=work, args=(need,)))
            workers[-1].start()
            while len(turns._waiting) < len(workers):
                time.sleep(0.001)
    for worker in workers:
        worker.join()
    assert most[0] <= 100
    assert order == needs


def test_one_that_needs_more_than_the_room_runs_alone() -> None:
    with Turns(8, room_bytes=1).turn(1000, Watch()):
        pass


def test_a_wait_can_be_cancelled_and_leaves_the_queue() -> None:
    turns = Turns(1)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with turns.turn(0, Watch()):

            def wait() -> None:
                with turns.turn(0, Watch(cancelled=stop.is_set)):
                    pass

            waiting = pool.submit(wait)
            time.sleep(0.1)
            stop.set()
            with pytest.raises(CancelledError, match="cancelled by the caller"):
                waiting.result(5)
        stop.clear()
        pool.submit(wait).result(5)


def test_a_callback_that_predicts_is_refused_and_not_stuck(tiny: Path, lopsided: Callable[..., Volume]) -> None:
    segmenter = Segmenter.load(tiny, threads=1)
    with pytest.raises(InputError, match="called by a callback"):
        segmenter.predict(lopsided(), progress=lambda *_: segmenter.predict(lopsided()))
    assert segmenter.predict(lopsided()).labels.data.any()


#: A program that forks or spawns a pool whose processes load their own segmenter.
POOL = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from lowres_seg import Segmenter

def segment(bundle, scan):
    return Segmenter.load(bundle, threads=1).predict(scan).labels.data.tobytes()

if __name__ == "__main__":
    method, bundle, scan = sys.argv[1:]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        found = [pool.submit(segment, bundle, scan) for _ in range(3)]
        masks = {one.result(60) for one in found}
    print(len(masks), masks == {segment(bundle, scan)})
"""


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_pools_of_processes_load_their_own(
    tiny: Path, lopsided: Callable[..., Volume], tmp_path: Path, method: str
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not on this system")
    (tmp_path / "pool.py").write_text(POOL)
    lopsided().save(tmp_path / "head.nii")
    command = [sys.executable, "-W", "ignore", tmp_path / "pool.py", method, tiny, tmp_path / "head.nii"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "1 True\n"


def in_a_fork(work: Callable[[], str]) -> str:
    """What a function says in a forked child. A child that does not end in a minute is a failure."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = work()
        except BaseException as error:  # noqa: BLE001 - the parent is told
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    end = time.monotonic() + 60
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > end:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    with os.fdopen(reader) as stream:
        return stream.read()


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
#: Python 3.12 warns of forks with threads, and these tests are about them.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


@needs_fork
def test_a_child_may_use_what_its_parent_loaded(tiny: Path, lopsided: Callable[..., Volume]) -> None:
    segmenter, scan = Segmenter.load(tiny, threads=2), lopsided()
    expected = segmenter.predict(scan).labels.data
    told = in_a_fork(lambda: str(np.array_equal(segmenter.predict(scan).labels.data, expected)))
    assert told == "True"


@needs_fork
def test_a_child_that_was_forked_amid_a_run_is_refused_and_not_stuck(
    tiny: Path, lopsided: Callable[..., Volume]
) -> None:
    segmenter, scan = Segmenter.load(tiny, threads=1), lopsided()
    with requests.inside():  # as another thread that is inside of OpenVINO when the child is made
        said = in_a_fork(lambda: str(segmenter.predict(scan)))
        fresh = in_a_fork(lambda: str(Segmenter.load(tiny, threads=1)))
    assert said.startswith(EngineError.__name__)
    assert "forked while another thread ran a network" in said
    assert fresh.startswith(EngineError.__name__)
    assert segmenter.predict(scan).labels.data.any()


@needs_fork
def test_a_child_does_not_wait_for_threads_that_its_parent_has(tiny: Path, lopsided: Callable[..., Volume]) -> None:
    """OpenVINO gives the threads of a dropped network to the next one, and a child does not have them."""
    Segmenter.load(tiny, threads=1).predict(lopsided())
    gc.collect()
    said = in_a_fork(lambda: str(Segmenter.load(tiny, threads=1)))
    assert said.startswith(EngineError.__name__)
    assert "forked from one that had dropped networks" in said
    assert "start processes with spawn" in said


@needs_fork
def test_turns_of_the_parents_threads_are_not_the_childs() -> None:
    turns = Turns(1)

    def take() -> str:
        with turns.turn(0, Watch(deadline_s=5)):
            return "taken"

    with ThreadPoolExecutor(1) as pool:
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with turns.turn(0, Watch()):
                held.set()
                done.wait(60)

        other = pool.submit(hold)
        held.wait(60)
        told = in_a_fork(take)
        done.set()
        other.result(60)
    assert told == "taken"
    assert take() == "taken"


def test_memory_is_given_back_when_a_prediction_ends(
    tiny: Path, lopsided: Callable[..., Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    segmenter = Segmenter.load(tiny)
    monkeypatch.setattr(linux, "give_back_memory", lambda: given.append("back"))
    segmenter.predict(lopsided())
    assert given == ["back"]

    def stop(*_: object) -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        segmenter.predict(lopsided(), progress=stop)
    assert given == ["back"] * 2
