"""STAPLE against SimpleITK's."""

from __future__ import annotations

import numpy as np
import pytest

from lowres_seg.runtime.staple import staple


@pytest.mark.parametrize("seed", range(4))
def test_a_label_is_where_simpleitk_finds_it(seed: int) -> None:
    itk = pytest.importorskip("SimpleITK")
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.random((6, 5, 4)) < 0.3, np.ones((3, 3, 3), bool))
    maps = []
    for missed, invented in ((0.05, 0.02), (0.3, 0.01), (0.1, 0.2), (0.4, 0.15)):
        flips = rng.random(truth.shape)
        maps.append(np.where(truth, flips > missed, flips < invented).astype(np.uint8))
    sure = itk.GetArrayFromImage(itk.STAPLE([itk.GetImageFromArray(one) for one in maps], 1.0))
    clear = np.abs(sure - 0.5) > 1e-6
    assert clear.mean() > 0.99
    assert np.array_equal(staple(maps)[clear], sure[clear] > 0.5)
    assert (staple(maps) != (np.mean(maps, axis=0) > 0.5)).any()
