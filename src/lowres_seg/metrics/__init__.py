"""How well two masks agree: Dice, and HD95 under the definitions that papers use.

`agreement` has the measures and their definitions, `classification` those of networks that give classes. `distances`
finds the nearest points of two surfaces.
`surface_area` has the area of a surface at each corner of the voxels.
"""

from typing import TYPE_CHECKING

from lowres_seg.extras import on_demand

if TYPE_CHECKING:
    from lowres_seg.metrics.agreement import (
        BRATS_EMPTY_MM,
        DEFINITIONS,
        Definition,
        Score,
        dice,
        empty_policy,
        hd95_mm,
        hd95s_mm,
        score,
    )

__all__ = [
    "BRATS_EMPTY_MM",
    "DEFINITIONS",
    "Definition",
    "Score",
    "dice",
    "empty_policy",
    "hd95_mm",
    "hd95s_mm",
    "score",
]

__getattr__, __dir__ = on_demand(__name__, dict.fromkeys(__all__, "agreement"))
