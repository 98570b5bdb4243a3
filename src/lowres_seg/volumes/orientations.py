"""Names of orientations.

An orientation is three letters, one for each array axis: the direction in which the index grows. ``LPS`` grows to the
left, to the back (posterior) and to the top (superior).
"""

from __future__ import annotations

from itertools import permutations, product

#: All 48 orientations.
ORIENTATIONS = frozenset(
    "".join(pair[end] for pair, end in zip(axes, ends, strict=True))
    for axes in permutations(("LR", "PA", "IS"))
    for ends in product((0, 1), repeat=3)
)
#: In place of an orientation: the array axes as the file stores them, whatever directions they have.
STORED = "stored"
