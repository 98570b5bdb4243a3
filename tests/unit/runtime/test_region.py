from __future__ import annotations

import numpy as np
import pytest

from lowres_seg.bundle.stage import BoxOf
from lowres_seg.runtime.conform import Fit
from lowres_seg.runtime.region import box_around
from lowres_seg.volumes.grid import Box


def labels(shape: tuple[int, int, int], *ends: tuple[int, int]) -> np.ndarray:
    found = np.zeros(shape, np.uint8)
    found[tuple(slice(*e) for e in ends)] = 1
    return found


def whole(shape: tuple[int, int, int]) -> Box:
    return Box((0, 0, 0), shape)


def test_on_the_scans_own_grid_with_a_margin_of_voxels() -> None:
    fit = Fit.between((20, 20, 20), (16, 16, 16), (16, 16, 16))
    found = box_around(
        labels((20, 20, 20), (5, 8), (0, 3), (10, 20)), fit, whole((20, 20, 20)), BoxOf(stage="a", margin_voxels=2)
    )
    assert found == Box((3, 0, 8), (10, 5, 20))


def test_on_a_coarser_grid_it_is_scaled() -> None:
    fit = Fit.between((40, 20, 10), (10, 10, 10), (10, 10, 10))
    found = box_around(labels((10, 10, 10), (2, 4), (2, 4), (2, 4)), fit, whole((40, 20, 10)), BoxOf(stage="a"))
    assert found == Box((8, 4, 2), (16, 8, 4))


def test_padding_is_taken_off() -> None:
    fit = Fit.between((10, 10, 10), (10, 10, 10), (16, 10, 10))
    found = box_around(labels((16, 10, 10), (5, 7), (0, 10), (0, 10)), fit, whole((10, 10, 10)), BoxOf(stage="a"))
    assert found == Box((2, 0, 0), (4, 10, 10))


def test_a_region_keeps_its_place_in_the_scan() -> None:
    fit = Fit.between((10, 10, 10), (10, 10, 10), (10, 10, 10))
    region = Box((30, 40, 50), (40, 50, 60))
    found = box_around(labels((10, 10, 10), (2, 4), (0, 10), (9, 10)), fit, region, BoxOf(stage="a", margin_voxels=3))
    assert found == Box((30, 40, 56), (37, 50, 60))


def test_thin_slices_do_not_count() -> None:
    found = labels((10, 10, 10), (2, 8), (2, 8), (2, 8))
    found[9, 5, 5] = 1
    fit = Fit.between((10, 10, 10), (10, 10, 10), (10, 10, 10))
    box = box_around(found, fit, whole((10, 10, 10)), BoxOf(stage="a", min_occupancy=0.02))
    assert box == Box((2, 2, 2), (8, 8, 8))


def test_no_foreground_no_box() -> None:
    fit = Fit.between((10, 10, 10), (10, 10, 10), (10, 10, 10))
    assert box_around(np.zeros((10, 10, 10), np.uint8), fit, whole((10, 10, 10)), BoxOf(stage="a")) is None


@pytest.mark.parametrize("shape", [(182, 218, 182), (192, 235, 187), (256, 224, 26), (101, 77, 53)])
@pytest.mark.parametrize("ends", [(10, 90), (11, 90), (0, 128), (33, 64)])
def test_centre_rounding_is_deepbets(shape: tuple[int, int, int], ends: tuple[int, int]) -> None:
    """deepbet rounds centre and size of the scaled box, each to even, and cuts what is left of a half."""
    found = box_around(
        labels((128, 128, 128), ends, ends, ends),
        Fit.between(shape, (128, 128, 128), (128, 128, 128)),
        whole(shape),
        BoxOf(stage="a", margin_fraction=0.1, min_occupancy=0.0, rounding="centre"),
    )
    for axis, n in enumerate(shape):
        scale = np.float32(n) / np.float32(128)
        centre = np.round(scale * np.float32(sum(ends) / 2))
        size = np.round(np.float32(1.2) * (scale * np.float32(ends[1] - ends[0])))
        assert found is not None
        assert found.start[axis] == max(0, int(centre - size / 2))
        assert found.stop[axis] == min(n, int(centre + size / 2))
