"""The main job on real input, from weights to a compared mask. Needs ``lowres-seg[all]``."""

from lowres_seg.demo.assets import Assets, fetch
from lowres_seg.demo.tour import Row, Tour, run

__all__ = ["Assets", "Row", "Tour", "fetch", "run"]
