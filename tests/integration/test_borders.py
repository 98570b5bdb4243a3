"""Borders in mm and other grids, against SciPy's distance transform and SimpleITK's resampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from lowres_seg import Grid, Volume
from lowres_seg.runtime.segmentation import Segmentation

#: Spacing of a clinical scan: thick slices.
THICK = (0.9, 0.9, 5.5)
OBLIQUE = np.array([[0.99, -0.1, 0.0995, -80], [0.1, 0.995, 0, -90], [-0.0995, 0.01, 0.995, 20], [0, 0, 0, 1.0]])


def result(labels: np.ndarray, affine: np.ndarray) -> Segmentation:
    volume = Volume.from_array(np.asarray(labels, np.uint8), affine)
    return Segmentation(volume, {value: f"label-{value}" for value in range(1, 4)}, {})


def expected(mask: np.ndarray, spacing: tuple[float, ...], border_mm: float) -> np.ndarray:
    """SciPy's distances; those that are equal but for their rounding count as equal."""
    if border_mm >= 0:
        return ndimage.distance_transform_edt(~mask, sampling=spacing) <= border_mm + 1e-5
    return ndimage.distance_transform_edt(mask, sampling=spacing) > -border_mm + 1e-5


def lump(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 2)
    return smooth > np.quantile(smooth, 0.7)


@pytest.mark.parametrize("border_mm", [1, -1, 5.5, -5.5, 0.5, 1.8, -1.8, 12, 300])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("spacing", [THICK, (5.5, 0.9, 0.9), (1.0, 1.0, 1.0)])
def test_a_border_has_the_voxels_of_scipys_distances(
    spacing: tuple[float, float, float], order: str, border_mm: float
) -> None:
    mask = np.asarray(lump((40, 36, 12)), order=order)
    found = result(mask, np.diag([*spacing, 1.0])).border(border_mm)
    assert np.array_equal(found.labels.data != 0, expected(mask, spacing, border_mm))


@pytest.mark.parametrize("border_mm", [1, -1])
def test_a_border_on_a_real_head_of_thick_slices(realdata: Path, border_mm: float) -> None:
    mask = Volume.load(realdata / "heads" / "TCGA-FG-6692_t1_hdbet-mask.nii.gz")
    assert mask.grid.spacing_mm == pytest.approx(THICK, abs=0.1)
    labels = (mask.data != 0).astype(np.uint8)
    found = Segmentation(Volume(labels, mask.grid), {1: "brain"}, {}).border(border_mm)
    want = expected(labels != 0, mask.grid.spacing_mm, border_mm)
    assert np.array_equal(found.labels.data != 0, want)
    assert want.sum() != labels.sum()


def test_what_grows_gets_the_nearest_label() -> None:
    labels = np.zeros((30, 30, 8), np.uint8)
    labels[5:9, 5:9, 2:4], labels[14:16, 8:20, 3:6], labels[9:11, 5:7, 2] = 1, 2, 3
    found = result(labels, np.diag([*THICK, 1.0])).border(6).labels.data
    distances = [ndimage.distance_transform_edt(labels != value, sampling=THICK) for value in (1, 2, 3)]
    nearest = np.stack(distances)
    at = (labels == 0) & (nearest.min(axis=0) <= 6 + 1e-5)
    assert np.array_equal(found != 0, at | (labels != 0))
    assert np.array_equal(found[labels != 0], labels[labels != 0])
    gained = np.take_along_axis(nearest, found[None].astype(int) - 1, 0)[0][at]
    assert gained == pytest.approx(nearest.min(axis=0)[at], abs=1e-5)
    assert {1, 2, 3} == set(found[at])


def itk(data: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    lps = np.diag([-1, -1, 1, 1]) @ grid.affine
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / np.array(grid.spacing_mm)).ravel().tolist())
    return image


@pytest.mark.parametrize("seed", [0, 1])
def test_another_grid_has_the_voxels_of_simpleitks(seed: int) -> None:
    rotation, _ = np.linalg.qr(OBLIQUE[:3, :3])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation @ np.diag([1.1, 0.9, 3.1]), (-20, -17.3, 4)
    target = Grid((50, 30, 44), np.array([[0, 0, 1.23, -31], [-1.01, 0, 0, 20.4], [0, 1.7, 0, -9], [0, 0, 0, 1.0]]))
    labels = lump((40, 36, 12), seed).astype(np.uint8) * 2
    mine = result(labels, affine)
    found = mine.like(Volume(np.zeros(target.shape, np.float32), target))
    assert found.labels.grid == target
    moved = sitk.Resample(
        itk(labels, mine.labels.grid), itk(found.labels.data, target), sitk.Transform(), sitk.sitkNearestNeighbor
    )
    want = sitk.GetArrayFromImage(moved).T
    assert want.any()
    assert np.array_equal(found.labels.data, want)
