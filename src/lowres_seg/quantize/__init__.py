"""From an fp32 bundle to a faster one, within limits on Dice and HD95. Needs ``lowres-seg[quantize]``.

A candidate is a change of precision. The gate judges it on validation cases.
The search finds the layers that must keep their precision.
"""

from typing import TYPE_CHECKING

from lowres_seg.extras import on_demand

if TYPE_CHECKING:
    from lowres_seg.quantize.gate import Limits, Verdict
    from lowres_seg.quantize.quantizer import Quantized, quantize
    from lowres_seg.quantize.settings import Settings

__all__ = [
    "Limits",
    "Quantized",
    "Settings",
    "Verdict",
    "quantize",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "Limits": "gate",
        "Quantized": "quantizer",
        "Settings": "settings",
        "Verdict": "gate",
        "quantize": "quantizer",
    },
)
