"""Which intensities of a scan are shown black and white."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Percentiles of the intensities.
_BLACK, _WHITE = 1.0, 99.5


def shades(data: NDArray[Any]) -> tuple[float, float]:
    """Intensities shown black and white, the second larger than the first; 0 and 1 if no voxel has a number."""
    finite = data[np.isfinite(data)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(finite, (_BLACK, _WHITE)))
    if high > low:
        return low, high
    low = float(finite.min())
    return low, max(float(finite.max()), low + max(1.0, abs(low) / 1000))
