"""Order of the axes in memory, against NumPy's own copies."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from lowres_seg.runtime.ordering import by_stride, contiguous, fortran, stacked


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(5, 17, 9), (1, 20, 33), (20, 1, 3), (8, 8, 8), (3, 4, 0), (1, 1, 1)])
def test_a_copy_in_another_order_has_the_same_values(shape: tuple[int, int, int], dtype: type) -> None:
    base = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    for axes, steps in product(permutations(range(3)), product((1, -1), repeat=3)):
        x = base.transpose(axes)[:: steps[0], :: steps[1], :: steps[2]]
        for found, is_so in ((contiguous(x), "c_contiguous"), (fortran(x), "f_contiguous")):
            assert getattr(found.flags, is_so)
            assert found.dtype == dtype
            assert np.array_equal(found, x)


def test_arrays_of_any_order_are_stacked() -> None:
    base = np.random.default_rng(0).integers(0, 200, (9, 17, 12)).astype(np.float64)
    arrays = [base, np.asfortranarray(base) + 1, base[::-1, :, ::-1] * 2, np.ascontiguousarray(base.T).T - 3]
    found = stacked(arrays)
    assert found.flags.c_contiguous
    assert found.dtype == np.float32
    assert np.array_equal(found, np.stack(arrays))


def test_what_is_in_order_is_not_copied() -> None:
    x = np.zeros((2, 3, 4), np.float32)
    assert contiguous(x) is x
    assert contiguous(x, np.float32) is x
    assert contiguous(np.asfortranarray(x), np.float64).dtype == np.float64
    assert np.shares_memory(fortran(x.T), x)


def test_axes_by_their_steps() -> None:
    x = np.zeros((4, 5, 6))
    assert by_stride(x) == [0, 1, 2]
    assert by_stride(x.transpose(2, 0, 1)) == [1, 2, 0]
    assert by_stride(np.asfortranarray(x)[:, ::-1]) == [2, 1, 0]
