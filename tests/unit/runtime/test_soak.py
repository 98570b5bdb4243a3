"""`benchmarks/soak.py` in short, with other seeds: one process, many scans, some of them refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soak

from lowres_seg import Segmenter


@pytest.mark.parametrize("lean", [False, True])
def test_a_process_that_segments_and_refuses_holds_no_more_and_says_the_same(tmp_path: Path, lean: bool) -> None:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    good = soak.scans(tmp_path, seed, 4)
    segmenter = Segmenter.load(soak.BUNDLE, threads=1, lean=lean)
    bad = soak.refused(tmp_path, next(iter(good.values())), segmenter.pipeline.channels[0])
    found = soak.soak(segmenter, good | bad, 8, seed, tmp_path)
    name, path = list(good.items())[seed % 4]
    assert soak.faults(found, {name: soak.fresh(soak.BUNDLE, path, tmp_path / "fresh.nii.gz")}) == []
    assert found.predictions == 80
    assert len({*map(frozenset, found.outcomes.values())}) == 10
    assert all(".nii" in said or "channels given" in said for key in bad for said in found.outcomes[key])


def test_leaks_and_changes_are_faults() -> None:
    found = soak.Found(9, {"a": {"1"}, "b": {"1", "2"}}, [9, 10, 11, 40, 24], [3, 3, 4], [5, 5, 5, 6])
    assert soak.faults(found, {"a": "2", "b": "1"}) == [
        "memory grew by 13 MB from the third round on",
        "3 threads after the first round, 4 later",
        "5 descriptors after the first round, 6 later",
        "b: 2 outcomes",
        "a: not the mask of a fresh process",
        "b: not the mask of a fresh process",
    ]
