"""Whether all numbers of an array are finite, at the cost of one sum."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def count_not_finite(x: NDArray[Any]) -> int:
    """Number of values that are NaN or infinite.

    One such value makes the sum NaN or infinite, so that values are counted only where the sum is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = x.sum(dtype=np.float32)
    return 0 if np.isfinite(total) else int(np.count_nonzero(~np.isfinite(x)))
