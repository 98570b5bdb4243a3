"""From an fp32 bundle to an INT8 one. Needs ``lowres-seg[quantize]``."""

from lowres_seg.extras import require

require("quantize")

from lowres_seg.quantize.post_training import quantize  # noqa: E402

__all__ = ["quantize"]
