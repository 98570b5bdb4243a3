"""What a bundle says, and the folder that holds it.

A manifest is a pipeline with files: stages in their order, each with its rules. Nothing in a bundle executes.
Every file of a bundle has a digest, which is checked when the bundle is opened and again when the file is used.
"""

from typing import TYPE_CHECKING

from lowres_seg.extras import on_demand

if TYPE_CHECKING:
    from lowres_seg.bundle.bundle import Bundle, NetworkFiles, digests, file_sha256, staged
    from lowres_seg.bundle.manifest import Manifest
    from lowres_seg.bundle.pipeline import Pipeline
    from lowres_seg.bundle.stage import Stage

__all__ = ["Bundle", "Manifest", "NetworkFiles", "Pipeline", "Stage", "digests", "file_sha256", "staged"]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "Bundle": "bundle",
        "Manifest": "manifest",
        "NetworkFiles": "bundle",
        "Pipeline": "pipeline",
        "Stage": "stage",
        "digests": "bundle",
        "file_sha256": "bundle",
        "staged": "bundle",
    },
)
