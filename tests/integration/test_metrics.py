"""Dice and HD95 against what others trust, on real masks of tumors."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from medpy.metric import binary

from lowres_seg.metrics import dice, hd95_mm

PAIRS = {
    "BraTS-MET-00132-000-seg": "00132-000",
    "BraTS-MET-00630-001-seg": "BraTS-MET-00630-001",
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("region", [(1, 2, 3), (1, 3), (3,)])
def test_equals_medpy(realdata: Path, name: str, region: tuple[int, ...]) -> None:
    """MedPy pools both directions into its own HD95; its directed distances are the same as ours."""
    reference = nib.load(realdata / "metrics" / "ref" / f"{name}.nii.gz")
    found = nib.load(realdata / "metrics" / "pred" / f"{PAIRS[name]}.nii.gz")
    a, b = (np.isin(np.asanyarray(image.dataobj), region) for image in (reference, found))
    spacing = tuple(float(s) for s in reference.header.get_zooms()[:3])
    assert dice(a, b) == pytest.approx(binary.dc(a, b), abs=1e-12)
    there, back = (binary.__surface_distances(x, y, spacing, 1) for x, y in ((a, b), (b, a)))
    expected = max(np.percentile(there, 95), np.percentile(back, 95))
    assert hd95_mm(a, b, spacing) == pytest.approx(expected, rel=1e-5)
