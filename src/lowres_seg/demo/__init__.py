"""The main job on a real head: export, quantize, segment, compare. Needs ``lowres-seg[all]``.

`assets` downloads trained weights and a labelled head. `tour` runs the commands and measures them.
It is a tour of the commands, not a test of accuracy.
"""

from lowres_seg.demo.assets import Assets, fetch
from lowres_seg.demo.tour import Row, Tour, run

__all__ = ["Assets", "Row", "Tour", "fetch", "run"]
