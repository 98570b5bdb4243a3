"""The reference case: a few windows of each network, sampled while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import FakeEngine
from lowres_seg import IntegrityError, Segmenter, Volume
from lowres_seg.bundle.manifest import Reference
from lowres_seg.runtime import reference
from lowres_seg.runtime.engine import Recorder
from stages import Content, bright, build, noise, stage

WINDOWS: dict[str, Any] = {"roi_size": [4, 4, 4], "overlap": 0, "weights": "constant"}


def run_all(recorder: Recorder, count: int) -> None:
    for number in range(count):
        recorder.run(np.full((1, 1, 2, 2, 2), number, np.float32))


@pytest.mark.parametrize(("count", "most", "kept"), [(3, 4, [0, 1, 2]), (9, 4, [0, 4, 8]), (100, 4, [0, 32, 64, 96])])
def test_a_recorder_keeps_few_runs_evenly_spread(count: int, most: int, kept: list[int]) -> None:
    recorder = Recorder(FakeEngine(lambda x: x), most=most)
    run_all(recorder, count)
    assert recorder.runs == kept
    assert [x.flat[0] for x in recorder.inputs] == [x.flat[0] for x in recorder.outputs] == kept


def test_a_recorder_keeps_the_runs_that_are_wanted_and_no_inputs() -> None:
    recorder = Recorder(FakeEngine(lambda x: x), only=[1, 5, 90], keeps_inputs=False)
    run_all(recorder, 8)
    assert recorder.runs == [1, 5]
    assert [x.flat[0] for x in recorder.outputs] == [1, 5]
    assert recorder.inputs == []


def windowed(content: Content, engine: FakeEngine) -> Segmenter:
    one = stage(conform={"orientation": "RAS", "spacing_mm": [None] * 3}, windows=WINDOWS)
    return Segmenter(build(content, one), {"only": [engine]}, threads=1)


def recorded(content: Content, path: Path) -> dict[str, np.ndarray]:
    scan = {"t1": Volume.from_array(noise((16, 8, 8)), np.eye(4))}
    windowed(content, FakeEngine(bright)).record_reference(scan, path)
    with np.load(path) as stored:
        return dict(stored)


def judged(content: Content, arrays: dict[str, np.ndarray], engine: FakeEngine) -> reference.SelfTest:
    scan = {"t1": Volume.from_array(arrays["channel.t1"], arrays["affine"])}
    case = reference.ReferenceCase("here", scan, arrays)
    recorders = case.recorders({"only": [engine]})
    found = windowed(content, FakeEngine(bright))._with(recorders).predict(scan)
    return reference.compare(case, found.labels, recorders, Reference(file="r", max_abs_diff=1e-3, max_flipped=0.9))


def test_windows_of_the_whole_run_are_kept(content: Content, tmp_path: Path) -> None:
    arrays = recorded(content, tmp_path / "r.npz")
    case = reference.ReferenceCase("here", {}, arrays)
    assert case.runs("only.0") == [0, 4, 8, 12]
    assert judged(content, arrays, FakeEngine(bright)).max_abs_diff == {"only.0": 0.0}


def test_a_fault_in_a_later_window_alone_is_seen(content: Content, tmp_path: Path) -> None:
    """With the scores of the first window alone, as in earlier versions, it is not."""
    arrays = recorded(content, tmp_path / "r.npz")

    def late(x: np.ndarray) -> np.ndarray:
        late.count += 1  # type: ignore[attr-defined]
        return bright(x) + (0.5 if late.count > 6 else 0)  # type: ignore[attr-defined]

    for wanted in (False, True):
        late.count = 0  # type: ignore[attr-defined]
        given = (
            arrays if wanted else {k: a for k, a in arrays.items() if not k.startswith("only") or not k[-1].isdigit()}
        )
        assert judged(content, given, FakeEngine(late)).passed is not wanted


def test_a_window_that_did_not_run_is_infinitely_far(content: Content, tmp_path: Path) -> None:
    arrays = recorded(content, tmp_path / "r.npz")
    arrays |= {f"only.0.{part}.40": arrays[f"only.0.{part}.4"] for part in ("at", "scores")}
    found = judged(content, arrays, FakeEngine(bright))
    assert found.max_abs_diff == {"only.0": np.inf}
    assert not found.passed


def test_nan_fails(content: Content, tmp_path: Path) -> None:
    arrays = recorded(content, tmp_path / "r.npz")
    arrays["only.0.scores.4"][0] = np.nan
    assert not judged(content, arrays, FakeEngine(bright)).passed


@pytest.mark.parametrize("key", ["only.0.at", "only.0.scores.8"])
def test_arrays_that_are_missing_or_too_short_are_refused(content: Content, tmp_path: Path, key: str) -> None:
    arrays = recorded(content, tmp_path / "r.npz")
    if key.endswith("at"):
        arrays = {k: a for k, a in arrays.items() if not k.startswith("only.0.at")}
    else:
        arrays[key] = arrays[key][:5]
    with pytest.raises(IntegrityError, match="here: does not fit the bundle"):
        judged(content, arrays, FakeEngine(bright))
