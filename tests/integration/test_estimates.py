"""Estimates of `bench`, against SciPy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.stats

from lowres_seg.bench.estimates import t95


@pytest.mark.parametrize("freedom", [1, 1.2, 1.5, 2, 2.7, 3, 5, 10, 15, 15.5, 16, 17, 29.3, 60, 299, 301, 1e3, 1e6])
def test_the_quantile_of_students_t_is_scipys(freedom: float) -> None:
    assert t95(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=1e-5)


def test_the_quantile_falls_all_the_way_and_never_below_the_normal_distributions() -> None:
    values = [t95(freedom) for freedom in np.geomspace(1, 1e5, 200)]
    assert all(a > b for a, b in pairwise(values))
    assert values[-1] > scipy.stats.norm.ppf(0.975)
