from __future__ import annotations

import numpy as np
import pytest

from lowres_seg.bundle.rules import FillHoles, LargestComponent
from lowres_seg.runtime.cleanup import clean, fill_holes, keep_largest


def shell() -> np.ndarray:
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:8, 1:8, 1:8] = 1
    labels[3:6, 3:6, 3:6] = 0
    return labels


def test_the_largest_component_stays() -> None:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[0:2, 0:2, 0:2] = 1
    labels[4:7, 4:7, 4:7] = 2
    labels[4, 4, 4] = 1
    found = keep_largest(labels, 26)
    assert (found[4:7, 4:7, 4:7] == labels[4:7, 4:7, 4:7]).all()
    assert found.sum() == labels[4:7, 4:7, 4:7].sum()


@pytest.mark.parametrize(("connectivity", "voxels"), [(6, 27), (18, 27), (26, 35)])
def test_connectivity_decides_whether_corners_touch(connectivity: int, voxels: int) -> None:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[0:3, 0:3, 0:3] = 1
    labels[3:5, 3:5, 3:5] = 1
    assert np.count_nonzero(keep_largest(labels, connectivity)) == voxels


def test_nothing_stays_nothing() -> None:
    nothing = np.zeros((4, 4, 4), np.uint8)
    assert not clean(nothing, [LargestComponent(), FillHoles()]).any()


def test_a_cavity_is_filled_in_3d() -> None:
    assert fill_holes(shell(), FillHoles()).sum() == 7**3


def test_a_tunnel_is_filled_only_slice_by_slice() -> None:
    labels = shell()
    labels[4, 4, :] = 0  # opens the cavity along axis 2
    assert fill_holes(labels, FillHoles())[4, 4, 4] == 0
    assert (fill_holes(labels, FillHoles(slices_along=2))[4, 4, 1:8] == 1).all()
    assert fill_holes(labels, FillHoles(slices_along=2))[0].sum() == 0


def test_another_label_in_a_hole_is_kept() -> None:
    labels = shell()
    labels[4, 4, 4] = 3
    found = fill_holes(labels, FillHoles(label=1))
    assert found[4, 4, 4] == 3
    assert np.count_nonzero(found == 1) == 7**3 - 1


def test_the_given_array_is_not_changed() -> None:
    labels = shell()
    clean(labels, [FillHoles(), LargestComponent()])
    assert (labels == shell()).all()
