"""From an fp32 bundle to a faster one, within limits on Dice and HD95. Needs ``lowres-seg[quantize]``."""

from lowres_seg.extras import require

require("quantize")

from lowres_seg.quantize.gate import Limits, Verdict  # noqa: E402
from lowres_seg.quantize.quantizer import Quantized, quantize  # noqa: E402
from lowres_seg.quantize.settings import Settings  # noqa: E402

__all__ = ["Limits", "Quantized", "Settings", "Verdict", "quantize"]
