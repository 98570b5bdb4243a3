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


def test_nibabel_reads_from_the_web_for_whoever_asks_it_to() -> None:
    for code in (CODE, OTHERS_FIRST):
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
