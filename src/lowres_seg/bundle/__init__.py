"""What a bundle says, and the folder that holds it.

A manifest lists stages, and each stage lists rules. Nothing in a bundle executes.
Every file of a bundle has a digest, which is checked when the bundle is opened.
"""

from typing import TYPE_CHECKING

from lowres_seg.extras import on_demand

if TYPE_CHECKING:
    from lowres_seg.bundle.bundle import Bundle, digests, file_sha256, staged
    from lowres_seg.bundle.manifest import Manifest
    from lowres_seg.bundle.stage import Stage

__all__ = [
    "Bundle",
    "Manifest",
    "Stage",
    "digests",
    "file_sha256",
    "staged",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "Bundle": "bundle",
        "Manifest": "manifest",
        "Stage": "stage",
        "digests": "bundle",
        "file_sha256": "bundle",
        "staged": "bundle",
    },
)
