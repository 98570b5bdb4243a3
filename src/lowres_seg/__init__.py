"""Run trained brain-MRI segmentation networks fast and small on ordinary CPUs.

What lies directly in this package ships to the workstation. What lies in a subpackage (`export`, `quantize`, `bench`)
is build-time and needs an extra of the same name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowres_seg.bundle import Bundle
    from lowres_seg.errors import (
        AccuracyDropError,
        BenchmarkError,
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
        RegressionError,
    )
    from lowres_seg.manifest import Manifest
    from lowres_seg.reference import SelfTest
    from lowres_seg.segmenter import Segmentation, Segmenter
    from lowres_seg.volume import Grid, Volume

__version__ = "0.1.0"

__all__ = [
    "AccuracyDropError",
    "BenchmarkError",
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
    "RegressionError",
    "Segmentation",
    "Segmenter",
    "SelfTest",
    "Volume",
    "__version__",
]

_HOMES = {
    "Bundle": "bundle",
    "Grid": "volume",
    "Manifest": "manifest",
    "Segmentation": "segmenter",
    "Segmenter": "segmenter",
    "SelfTest": "reference",
    "Volume": "volume",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: a process that times torch should not carry OpenVINO, and --help should not wait for it.
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
