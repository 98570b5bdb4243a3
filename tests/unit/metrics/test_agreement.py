from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowres_seg import InputError
from lowres_seg.metrics.agreement import dice, empty_policy, hd95_mm, hd95s_mm
from lowres_seg.metrics.surface_area import areas_mm2, codes


def box(shape: tuple[int, int, int], *ends: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*e) for e in ends)] = True
    return mask


def by_hand(a: np.ndarray, b: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """HD95 as the module defines it, from all pairs of surface voxels."""

    def surface(mask: np.ndarray) -> np.ndarray:
        found = []
        for p in np.argwhere(mask):
            for axis, step in itertools.product(range(3), (-1, 1)):
                q = p.copy()
                q[axis] += step
                if not 0 <= q[axis] < mask.shape[axis] or not mask[tuple(q)]:
                    found.append(p)
                    break
        return np.array(found) * spacing

    x, y = surface(a), surface(b)
    apart = np.sqrt(((x[:, None] - y[None]) ** 2).sum(axis=2))
    return max(np.percentile(apart.min(axis=1), 95), np.percentile(apart.min(axis=0), 95))


def test_two_voxels_three_apart() -> None:
    a, b = box((8, 8, 8), (1, 2), (1, 2), (1, 2)), box((8, 8, 8), (1, 2), (4, 5), (1, 2))
    assert dice(a, b) == 0
    assert hd95_mm(a, b, (1, 1, 1)) == 3
    assert hd95_mm(a, b, (1, 2.5, 1)) == 7.5


def test_a_mask_with_itself() -> None:
    a = box((9, 9, 9), (0, 9), (2, 7), (3, 4))
    assert dice(a, a) == 1
    assert hd95_mm(a, a, (1, 1, 3)) == 0


def test_empty_masks() -> None:
    none, some = np.zeros((3, 4, 12), bool), box((3, 4, 12), (0, 1), (0, 1), (0, 1))
    assert (dice(none, none), hd95_mm(none, none, (1, 1, 1))) == (1, 0)
    assert (dice(none, some), hd95_mm(none, some, (1, 1, 1))) == (0, 13)
    assert (dice(some, none), hd95_mm(some, none, (2, 2, 2))) == (0, 26)


def test_shapes_must_agree() -> None:
    with pytest.raises(InputError, match="one shape"):
        dice(np.zeros((3, 3, 3), bool), np.zeros((3, 3, 4), bool))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.floats(0.05, 0.6),
    spacing=st.tuples(*[st.sampled_from([0.5, 0.9, 1.0, 2.0, 5.5])] * 3),
)
def test_equals_all_pairs(seed: int, share: float, spacing: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.random((6, 7, 5)) < share for _ in range(2))
    if a.any() and b.any():
        assert hd95_mm(a, b, spacing) == pytest.approx(by_hand(a, b, spacing), rel=1e-5)


def test_definitions_differ_where_they_should() -> None:
    """One far voxel: in one direction it is everything, pooled with the other mask's surface it is nothing."""
    a, b = box((40, 12, 12), (0, 8), (0, 8), (0, 8)), box((40, 12, 12), (0, 8), (0, 8), (0, 8))
    b[30, 0, 0] = True
    found = hd95s_mm(a, b, (1, 1, 1))
    assert found["medpy"] == found["max-directed"] == 0
    a[:] = False
    a[0, 0, 0] = True
    found = hd95s_mm(a, b, (1, 1, 1))
    assert found["monai"] == found["max-directed"] > 10
    assert len(set(found.values())) >= 2


def test_an_empty_mask_counts_as_the_definition_says() -> None:
    none, some = np.zeros((3, 4, 12), bool), box((3, 4, 12), (0, 1), (0, 1), (0, 1))
    assert hd95s_mm(none, some, (1, 1, 1)) == {
        "max-directed": 13,
        "monai": 13,
        "medpy": 13,
        "surface-distance": 13,
        "brats": 374,
    }
    assert set(hd95s_mm(none, none, (1, 1, 1)).values()) == {0}
    assert "374 mm" in empty_policy("brats")
    assert "diagonal" in empty_policy("medpy")


def test_an_unknown_definition_is_refused() -> None:
    with pytest.raises(InputError, match="'hausdorff': expected one of max-directed"):
        hd95_mm(np.ones((3, 3, 3), bool), np.ones((3, 3, 3), bool), (1, 1, 1), "hausdorff")  # type: ignore[arg-type]


def test_the_surface_of_a_voxel_is_eight_cut_corners() -> None:
    corners = codes(box((3, 3, 3), (1, 2), (1, 2), (1, 2)))
    assert corners.shape == (4, 4, 4)
    assert np.count_nonzero(corners) == 8
    assert areas_mm2((1.0, 1.0, 1.0))[corners].sum() == pytest.approx(8 * 3**0.5 / 8)


def test_a_plane_between_voxels_has_the_area_of_the_plane() -> None:
    corners = codes(box((6, 5, 4), (0, 3), (0, 5), (0, 4)))
    inner = areas_mm2((9.0, 2.0, 3.0))[corners[3, 1:-1, 1:-1]]
    assert inner == pytest.approx(np.full(inner.shape, 2.0 * 3.0))
