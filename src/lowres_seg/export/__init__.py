"""From a trained network to a bundle. Needs ``lowres-seg[export]``."""

from lowres_seg.extras import require

require("export")

from lowres_seg.export.exporter import export  # noqa: E402
from lowres_seg.export.parity import ParityReport  # noqa: E402
from lowres_seg.export.recipe import Recipe  # noqa: E402

__all__ = ["ParityReport", "Recipe", "export"]
