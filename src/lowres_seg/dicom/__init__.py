"""DICOM: series of a folder, a zip, files or a DICOMDIR, as volumes.

A **series** is what lies on one grid: a DICOM series, or a part of one that holds several volumes. Its slices are
ordered by where they lie. What cannot be one grid is refused, and what is left out is a doubt.
"""

from typing import TYPE_CHECKING

from lowres_seg.extras import on_demand

if TYPE_CHECKING:
    from lowres_seg.dicom.choosing import chosen
    from lowres_seg.dicom.series import Series, found

__all__ = ["Series", "chosen", "found"]

__getattr__, __dir__ = on_demand(__name__, {"Series": "series", "chosen": "choosing", "found": "series"}, extra="dicom")
