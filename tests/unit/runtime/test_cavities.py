from __future__ import annotations

import numpy as np
import pytest

from lowres_seg.runtime.cleanup import fill_cavities


def filled_by_hand(mask: np.ndarray) -> np.ndarray:
    """Background grows from outside, face by face, until it grows no more."""
    outside = np.pad(np.zeros(mask.shape, bool), 1, constant_values=True)
    free = np.pad(~mask, 1, constant_values=True)
    while True:
        grown = outside.copy()
        for axis in range(mask.ndim):
            for shift in (1, -1):
                grown |= np.roll(outside, shift, axis)
        grown &= free
        if np.array_equal(grown, outside):
            return ~outside[1:-1, 1:-1, 1:-1]
        outside = grown


@pytest.mark.parametrize("seed", range(40))
def test_cavities_are_filled_and_bays_at_the_border_are_not(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.random(random.integers(1, 12, 3)) < 0.62
    assert np.array_equal(fill_cavities(mask), filled_by_hand(mask))
