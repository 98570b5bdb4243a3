"""A bundle at work: a scan in, labels on the grid of the scan out.

Each stage takes a region, conforms it, normalises it, runs its networks by windows, decodes, restores and cleans up.
This package needs no torch, NNCF or ONNX, and reaches for no network.
"""

from typing import TYPE_CHECKING

from lowres_seg.extras import on_demand

if TYPE_CHECKING:
    from lowres_seg.runtime.reference import SelfTest
    from lowres_seg.runtime.segmenter import Segmentation, Segmenter

__all__ = [
    "Segmentation",
    "Segmenter",
    "SelfTest",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "Segmentation": "segmenter",
        "Segmenter": "segmenter",
        "SelfTest": "reference",
    },
)
