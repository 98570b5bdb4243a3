"""From an fp32 bundle to a faster one, within limits on what it may lose. Needs ``lowres-seg[quantize]``.

A candidate is a change of precision. The gate judges it on validation cases.
The search finds the layers that must keep their precision.
"""

from typing import TYPE_CHECKING

from lowres_seg.extras import on_demand

if TYPE_CHECKING:
    from lowres_seg.quantize.class_gate import ClassLimits, ClassVerdict
    from lowres_seg.quantize.gate import Limits, Verdict
    from lowres_seg.quantize.quantizer import Quantized, quantize
    from lowres_seg.quantize.settings import Settings

__all__ = [
    "ClassLimits",
    "ClassVerdict",
    "Limits",
    "Quantized",
    "Settings",
    "Verdict",
    "quantize",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "ClassLimits": "class_gate",
        "ClassVerdict": "class_gate",
        "Limits": "gate",
        "Quantized": "quantizer",
        "Settings": "settings",
        "Verdict": "gate",
        "quantize": "quantizer",
    },
)
