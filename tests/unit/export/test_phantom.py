from __future__ import annotations

import numpy as np

from lowres_seg.export import phantom


def test_the_same_seed_gives_the_same_head() -> None:
    a, b, c = phantom.head(), phantom.head(), phantom.head(seed=1)
    assert np.array_equal(a.data, b.data)
    assert not np.array_equal(a.data, c.data)
    assert a.grid.orientation == "RAS"


def test_the_brain_is_where_it_says() -> None:
    head = phantom.head()
    brain = phantom.brain(head)
    assert 1200 < brain.sum() * head.grid.voxel_ml < 2500
    assert head.data[brain].min() > 100  # no air inside
    assert head.data[~brain].mean() < head.data[brain].mean()
