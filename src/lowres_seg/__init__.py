"""Run trained brain-MRI segmentation networks fast and small on ordinary CPUs.

The packages `volumes`, `bundle`, `metrics`, `runtime` and `cohort` ship to the workstation. The packages `export`,
`quantize` and `bench` are for the build machine, and each needs the extra of its name.
"""

from typing import TYPE_CHECKING

from lowres_seg.extras import on_demand

if TYPE_CHECKING:
    from lowres_seg.bundle.bundle import Bundle
    from lowres_seg.bundle.manifest import Manifest
    from lowres_seg.errors import (
        AccuracyDropError,
        BenchmarkError,
        BundleError,
        CancelledError,
        DeadlineError,
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
    from lowres_seg.runtime.reference import SelfTest
    from lowres_seg.runtime.segmentation import Segmentation
    from lowres_seg.runtime.segmenter import Segmenter
    from lowres_seg.volumes.grid import Grid
    from lowres_seg.volumes.volume import Volume

__version__ = "0.2.0"

__all__ = [
    "AccuracyDropError",
    "BenchmarkError",
    "Bundle",
    "BundleError",
    "CancelledError",
    "DeadlineError",
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

__getattr__, __dir__ = on_demand(
    __name__,
    {
        **{name: "errors" for name in __all__ if name.endswith("Error")},
        "Bundle": "bundle.bundle",
        "Grid": "volumes.grid",
        "Manifest": "bundle.manifest",
        "Segmentation": "runtime.segmentation",
        "Segmenter": "runtime.segmenter",
        "SelfTest": "runtime.reference",
        "Volume": "volumes.volume",
    },
)
