"""Dice and HD95 against what others trust, on real masks of tumors and on generated ones."""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from medpy.metric import binary
from scipy import ndimage

from lowres_seg.metrics.agreement import dice, hd95s_mm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import monai.metrics
    import surface_distance

PAIRS = {
    "BraTS-MET-00132-000-seg": "00132-000",
    "BraTS-MET-00217-000-seg": "SEG-00217-000",
    "BraTS-MET-00630-001-seg": "BraTS-MET-00630-001",
    "BraTS-MET-01325-000-seg": "BraTS-MET_01325-000",
}


@pytest.fixture(autouse=True)
def old_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """surface-distance 0.1 uses names that SciPy has moved since."""
    monkeypatch.setattr(ndimage, "filters", ndimage, raising=False)
    monkeypatch.setattr(ndimage, "morphology", ndimage, raising=False)


def check(a: np.ndarray, b: np.ndarray, spacing: tuple[float, float, float]) -> None:
    found = hd95s_mm(a, b, spacing)
    assert dice(a, b) == pytest.approx(binary.dc(a, b), abs=1e-12)
    assert found["medpy"] == pytest.approx(binary.hd95(a, b, spacing), rel=1e-6)
    tensors = [torch.from_numpy(mask[None, None]) for mask in (a, b)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = monai.metrics.compute_hausdorff_distance(
            *tensors, include_background=True, percentile=95, spacing=spacing
        )
        expected_dice = monai.metrics.compute_dice(*tensors, include_background=True)
    assert found["monai"] == found["max-directed"] == pytest.approx(float(expected), rel=1e-6)
    assert dice(a, b) == pytest.approx(float(expected_dice), rel=1e-6)
    distances = surface_distance.compute_surface_distances(a, b, spacing)
    expected = surface_distance.compute_robust_hausdorff(distances, 95)
    assert found["surface-distance"] == found["brats"] == pytest.approx(float(expected), rel=1e-6)
    assert dice(a, b) == pytest.approx(surface_distance.compute_dice_coefficient(a, b), rel=1e-6)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("region", [(1, 2, 3), (1, 3), (3,)])
def test_equals_the_others_on_tumors(realdata: Path, name: str, region: tuple[int, ...]) -> None:
    reference = nib.load(realdata / "metrics" / "ref" / f"{name}.nii.gz")
    found = nib.load(realdata / "metrics" / "pred" / f"{PAIRS[name]}.nii.gz")
    a, b = (np.isin(np.asanyarray(image.dataobj), region) for image in (reference, found))
    assert a.any()
    assert b.any()  # for an empty mask the others have no number
    box = tuple(slice(max(0, x.min() - 3), x.max() + 4) for x in np.nonzero(a | b))  # MONAI is slow on the rest
    check(a[box], b[box], tuple(float(s) for s in reference.header.get_zooms()[:3]))


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_others_on_generated_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(6, 40, 3))
    masks = []
    for _ in range(2):
        smooth = ndimage.gaussian_filter(rng.random(shape), rng.uniform(0, 2))
        masks.append(smooth > np.quantile(smooth, rng.uniform(0.3, 0.95)))
    spacing = tuple(float(s) for s in rng.choice([0.5, 0.86, 0.9, 1.0, 1.5, 5.5], 3))
    check(masks[0], masks[1], spacing)  # type: ignore[arg-type]


def test_masks_at_the_border_of_the_image() -> None:
    a, b = np.ones((5, 6, 7), bool), np.ones((5, 6, 7), bool)
    b[:, :, 4:] = False
    check(a, b, (1.0, 2.0, 0.7))
