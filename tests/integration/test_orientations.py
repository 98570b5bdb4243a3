"""`benchmarks/orientations.py` in short, with other seeds: 48 axis codes, oblique and turned grids."""

from __future__ import annotations

import numpy as np
import orientations

from lowres_seg import Segmenter
from lowres_seg.export import phantom


def test_masks_go_with_the_scan() -> None:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    scan = orientations.smooth(phantom.head((40, 48, 44), 4.3, seed))
    found = orientations.measure(Segmenter.load(orientations.BUNDLE, threads=1), scan, 12, seed)
    assert (found.codes, found.oblique, len(found.dices)) == (48, 12, 12)
    assert orientations.is_sound(found), found


def test_a_mask_that_does_not_go_with_the_scan_is_counted() -> None:
    equal = {"codes": 48, "codes_equal": 48, "oblique": 2, "oblique_equal": 2, "dices": [0.99]}
    assert orientations.is_sound(orientations.Found(**equal))
    for change in ({"codes_equal": 47}, {"oblique_equal": 1}, {"dices": [0.99, 0.9]}):
        assert not orientations.is_sound(orientations.Found(**equal | change))
