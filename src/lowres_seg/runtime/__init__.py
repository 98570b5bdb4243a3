"""A bundle at work: a scan in, labels on the scan's own grid out.

Each stage is placed on the scan, conforms and normalises it, runs its networks, decodes, restores and cleans up.
This package needs no torch, NNCF or ONNX, and reaches for no network.
"""

from typing import TYPE_CHECKING

from lowres_seg.extras import on_demand

if TYPE_CHECKING:
    from lowres_seg.runtime.brain_mask import BrainMask
    from lowres_seg.runtime.compiled_cache import CompiledCache
    from lowres_seg.runtime.engine import Engine
    from lowres_seg.runtime.reference import SelfTest
    from lowres_seg.runtime.segmentation import Segmentation
    from lowres_seg.runtime.segmenter import Segmenter

__all__ = ["BrainMask", "CompiledCache", "Engine", "Segmentation", "Segmenter", "SelfTest"]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "BrainMask": "brain_mask",
        "CompiledCache": "compiled_cache",
        "Engine": "engine",
        "Segmentation": "segmentation",
        "Segmenter": "segmenter",
        "SelfTest": "reference",
    },
)
