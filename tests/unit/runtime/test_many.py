"""Many scans with one segmenter: in their order, as they are needed, with what fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fakes import FakeEngine
from lowres_seg import CancelledError, InputError, Segmentation, Segmenter, Volume
from stages import Content, bright, build, noise, stage

SHAPE = (6, 7, 8)


def scan(seed: int) -> Volume:
    return Volume.from_array(noise(SHAPE, seed), np.eye(4), name=f"scan {seed}")


@pytest.fixture
def segmenter(content: Content) -> Segmenter:
    manifest = build(content, stage(conform={"shape": list(SHAPE)}))
    return Segmenter(manifest, {"only": [FakeEngine(bright, remember=False)]}, threads=1)


def test_results_come_in_the_order_of_the_scans(segmenter: Segmenter) -> None:
    told: list[tuple[int, int | None]] = []
    found = list(
        segmenter.predict_many([scan(seed) for seed in range(7)], progress=lambda *a: told.append(a), scores="float16")
    )
    assert told == [(done, 7) for done in range(1, 8)]
    for seed, result in enumerate(found):
        assert isinstance(result, Segmentation)
        assert np.array_equal(result.labels.data, noise(SHAPE, seed) > 0.5)
        assert set(result.scores) == {f"label-{value}" for value in range(1, 5)}


def test_scans_are_taken_as_they_are_needed(segmenter: Segmenter) -> None:
    taken: list[int] = []
    told: list[tuple[int, int | None]] = []

    def scans() -> Iterator[Volume]:
        for seed in range(50):
            taken.append(seed)
            yield scan(seed)

    results = segmenter.predict_many(scans(), progress=lambda *a: told.append(a))
    assert taken == []
    next(results)
    assert len(taken) == 3
    next(results)
    assert len(taken) == 4
    assert told == [(1, None), (2, None)]
    results.close()  # type: ignore[attr-defined]
    assert len(taken) == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lowres-seg")]


def test_a_scan_that_fails_ends_all_or_has_its_error_in_its_place(segmenter: Segmenter) -> None:
    scans: list[Any] = [
        scan(0),
        Volume.from_array(np.ones(SHAPE, np.float32), np.eye(4), name="flat"),
        "none.nii",
        scan(3),
    ]
    told: list[tuple[int, int | None]] = []
    found = list(segmenter.predict_many(scans, errors="yield", progress=lambda *a: told.append(a)))
    assert [type(one).__name__ for one in found] == ["Segmentation", "InputError", "InputError", "Segmentation"]
    assert str(found[1]).startswith("flat: every voxel is 1")
    assert told[-1] == (4, 4)
    results = segmenter.predict_many(scans)
    next(results)
    with pytest.raises(InputError, match="^flat: every voxel is 1"):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lowres-seg")]
    assert next(segmenter.predict_many([scan(1)])) is not None


def test_it_can_be_cancelled_and_errors_of_the_caller_are_its_own(segmenter: Segmenter) -> None:
    stop = threading.Event()
    results = segmenter.predict_many([scan(seed) for seed in range(9)], cancelled=stop.is_set)
    next(results)
    stop.set()
    with pytest.raises(CancelledError):
        list(results)

    def fails(done: int, total: int | None) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(segmenter.predict_many([scan(0)], progress=fails))


@pytest.mark.parametrize(
    ("scans", "errors", "said"),
    [
        ("head.nii", "raise", "scans: found 'head.nii'"),
        ({"t1": "head.nii"}, "raise", "scans: found"),
        (None, "raise", "scans: found None"),
        ([], "ignore", "errors: found 'ignore', expected raise or yield"),
    ],
)
def test_one_scan_is_not_many(segmenter: Segmenter, scans: Any, errors: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        segmenter.predict_many(scans, errors=errors)
    assert str(caught.value).startswith(said)


def test_no_scans_give_no_results(segmenter: Segmenter, content: Callable[..., Any]) -> None:
    assert list(segmenter.predict_many([])) == []
