"""Intensities of any scale: powers of two that bring them to where float32 computes as it should.

Squares of values above 1e19 or below 1e-22 leave the range of float32. A product with a power of two is exact, so rules
that do not depend on the scale give the same bits.

Values below 1.2e-38 are denormal. OpenVINO's threads take them for zero, and so does numpy if the host wants it so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
#: Scales within which nothing is changed.
SMALLEST, LARGEST = 2.0**-50, 2.0**50


def is_ordinary(scale: Any) -> bool:
    """Tell whether float32 holds squares of values of this scale. Zero, NaN and infinity are not ordinary."""
    return bool(SMALLEST <= abs(scale) <= LARGEST)


def largest(x: NDArray[Any]) -> float:
    """Largest magnitude of an array."""
    return max(float(x.max()), -float(x.min()))


def exponent(x: Array) -> int:
    """Exponent of the smallest power of two above all magnitudes; 0 if they are all zero."""
    return int(np.frexp(largest(x))[1]) if x.size else 0


def far_exponent(x: Array) -> int:
    """As `exponent`, and 0 for an array whose largest value is ordinary."""
    found = exponent(x)
    return 0 if SMALLEST <= 2.0**found <= LARGEST else found


def count_denormals(x: NDArray[Any]) -> int:
    """Number of values that are denormal in float32, counted by their bits."""
    magnitude = np.asarray(x, np.float32).view(np.uint32) & np.uint32(0x7FFFFFFF)
    return int(np.count_nonzero((magnitude > 0) & (magnitude < 0x00800000)))
