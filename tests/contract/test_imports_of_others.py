"""What is left out of the import of another package is there for whoever asks for it."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import lowres_seg.volumes.nifti
import nibabel
assert not {"ssl", "urllib.request"} & set(sys.modules)
assert nibabel.filebasedimages.request.Request("file:///gone").get_method() == "GET"
import urllib.request
assert nibabel.filebasedimages.request.urlopen is urllib.request.urlopen
"""
OTHERS_FIRST = """
import sys
import urllib.request
import lowres_seg.volumes.nifti
import nibabel
assert nibabel.filebasedimages.request is urllib.request is sys.modules["urllib.request"]
"""
#: pydicom, where it is installed, is left out of nibabel's import, and is whole for whoever imports it later.
DICOM = """
import sys
import lowres_seg.volumes.nifti
import nibabel
assert not [name for name in sys.modules if name.partition(".")[0] == "pydicom"]
from importlib.util import find_spec
if find_spec("pydicom"):
    import pydicom
    assert pydicom.uid.UID("1.2").is_valid and not len(pydicom.Dataset())
"""


def test_nibabel_reads_from_the_web_for_whoever_asks_it_to() -> None:
    for code in (CODE, OTHERS_FIRST, DICOM):
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
