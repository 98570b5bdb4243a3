"""Images of nibabel and SimpleITK in and out, without files: the same voxels in the same place as with files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from lowres_seg import InputError, Segmenter, Volume

AFFINE = np.array([[0.0, -1.1, 0, 7], [0.9, 0, 0, -3], [0, 0, 2.5, 11], [0, 0, 0, 1]])


def voxels(dtype: Any = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (7, 6, 5)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.MGHImage, nib.Spm99AnalyzeImage])
def test_an_image_of_nibabel_is_the_volume_of_its_file(kind: Any, dtype: Any, tmp_path: Path) -> None:
    if kind in (nib.MGHImage, nib.Spm99AnalyzeImage) and dtype in (np.float64,):
        dtype = np.float32
    affine = np.diag([-1.0, 1.5, 2.0, 1.0]) if kind is nib.Spm99AnalyzeImage else AFFINE
    if kind is nib.Spm99AnalyzeImage and dtype == np.uint8:
        dtype = np.int16
    image = kind(voxels(dtype), affine)
    found = Volume.from_image(image, name="case")
    assert np.array_equal(found.data, voxels(dtype))
    assert found.grid.affine == pytest.approx(image.affine, abs=1e-5)
    assert found.doubts == ()
    assert found.name == "case"
    if kind in (nib.Nifti1Image, nib.Nifti2Image):
        image.to_filename(tmp_path / "scan.nii")
        loaded = Volume.load(tmp_path / "scan.nii")
        assert loaded.grid.same_space(found.grid, tolerance_mm=1e-5)
        found.save(tmp_path / "a.nii")
        assert np.array_equal(Volume.load(tmp_path / "a.nii").data, loaded.data)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_an_image_of_simpleitk_is_the_volume_of_its_file(dtype: Any, tmp_path: Path) -> None:
    Volume.from_array(voxels(dtype), AFFINE).save(tmp_path / "scan.nii")
    image = sitk.ReadImage(tmp_path / "scan.nii")
    found = Volume.from_image(image)
    assert np.array_equal(found.data, voxels(dtype))
    assert found.grid.affine == pytest.approx(AFFINE, abs=1e-5)
    back = Volume.from_array(voxels(dtype), AFFINE).to_sitk()
    assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image))
    for ours, theirs in (
        (back.GetSpacing(), image.GetSpacing()),
        (back.GetOrigin(), image.GetOrigin()),
        (back.GetDirection(), image.GetDirection()),
    ):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert back.GetPixelID() == image.GetPixelID()


def test_predict_takes_images_and_gives_them(tiny: Path, lopsided: Callable[..., Volume], tmp_path: Path) -> None:
    lopsided().save(tmp_path / "head.nii")
    segmenter = Segmenter.load(tiny, threads=1)
    expected = segmenter.predict(tmp_path / "head.nii")
    assert expected.labels.data.any()
    for image in (nib.load(tmp_path / "head.nii"), sitk.ReadImage(tmp_path / "head.nii")):
        for scan in (image, {"t1": image}):
            found = segmenter.predict(scan)
            assert np.array_equal(found.labels.data, expected.labels.data)
            assert found.labels.grid.same_space(expected.labels.grid)
        assert np.array_equal(expected.like(image).labels.data, expected.labels.data)
    out = expected.labels.to_nibabel()
    expected.labels.save(tmp_path / "m.nii")
    written = nib.load(tmp_path / "m.nii")
    assert np.array_equal(np.asarray(out.dataobj), np.asarray(written.dataobj))
    for form in ("sform", "qform"):
        (ours, code), (theirs, same) = (getattr(one, f"get_{form}")(coded=True) for one in (out, written))
        assert code == same
        assert (ours is None and theirs is None) or np.array_equal(ours, theirs)
    assert np.array_equal(sitk.GetArrayFromImage(expected.labels.to_sitk()).T, expected.labels.data)
    half = segmenter.predict(tmp_path / "head.nii", scores="float16").scores["brain"]
    assert half.to_nibabel().get_data_dtype() == np.float32
    assert half.to_sitk().GetPixelID() == sitk.sitkFloat32


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: nib.Nifti1Image(np.zeros((3, 4, 5, 2), np.float32), AFFINE),
            "volume: has 4 dimensions (3, 4, 5, 2), expected one 3D image",
        ),
        (
            lambda: nib.Nifti1Image(np.zeros((3, 4, 5), np.complex64), AFFINE),
            "volume: holds complex64 voxels, expected real numbers",
        ),
        (lambda: nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.diag([100.0, 1, 1, 1])), "volume: "),
        (lambda: sitk.Image([3, 4, 5, 2], sitk.sitkFloat32), "volume: has 4 dimensions and 1 values a voxel"),
        (lambda: sitk.Image([3, 4, 5], sitk.sitkVectorFloat32, 3), "volume: has 3 dimensions and 3 values a voxel"),
        (lambda: sitk.Image([3, 4], sitk.sitkFloat32), "volume: has 2 dimensions"),
        (lambda: sitk.Image([3, 4, 5], sitk.sitkComplexFloat32), "volume: holds complex64 voxels"),
        (lambda: np.zeros((3, 4, 5)), "image: found ndarray of shape (3, 4, 5)"),
        (lambda: None, "image: found None"),
    ],
)
def test_what_is_no_image_of_a_scan_is_refused_in_one_line(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Volume.from_image(make())
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_an_image_of_one_more_axis_of_length_one_is_3d() -> None:
    found = Volume.from_image(nib.Nifti1Image(voxels(np.float32)[..., None], AFFINE))
    assert np.array_equal(found.data, voxels())
