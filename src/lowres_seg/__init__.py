"""Run trained brain-MRI segmentation networks fast and small on ordinary CPUs.

What lies directly in this package ships to the workstation. What lies in a subpackage (`export`, `quantize`)
is build-time and needs an extra of the same name.
"""

from lowres_seg.bundle import Bundle
from lowres_seg.errors import (
    AccuracyDropError,
    BundleError,
    EngineError,
    ExportError,
    InputError,
    IntegrityError,
    LowresSegError,
    ManifestError,
    MissingExtraError,
    ParityError,
    QuantizationError,
)
from lowres_seg.manifest import Manifest
from lowres_seg.reference import SelfTest
from lowres_seg.segmenter import Segmentation, Segmenter
from lowres_seg.volume import Grid, Volume

__version__ = "0.1.0"

__all__ = [
    "AccuracyDropError",
    "Bundle",
    "BundleError",
    "EngineError",
    "ExportError",
    "Grid",
    "InputError",
    "IntegrityError",
    "LowresSegError",
    "Manifest",
    "ManifestError",
    "MissingExtraError",
    "ParityError",
    "QuantizationError",
    "Segmentation",
    "Segmenter",
    "SelfTest",
    "Volume",
    "__version__",
]
