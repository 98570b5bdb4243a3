"""Images of nibabel and SimpleITK as volumes, and volumes as such images, without files. The home of SimpleITK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.arguments import described
from lowres_seg.errors import InputError, MissingExtraError, one_line
from lowres_seg.volumes import header as fields
from lowres_seg.volumes import nifti
from lowres_seg.volumes.claims import as_float32
from lowres_seg.volumes.grid import Grid, three
from lowres_seg.wording import counted

from nibabel.spatialimages import HeaderDataError, SpatialImage  # isort: skip - after nifti, which shortens its import

#: From DICOM's axes, which ITK has, to RAS+, and back.
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Data, grid, header, doubts and name of a volume.
Parts = tuple[NDArray[np.float32], Grid, Any, tuple[str, ...], str]


def is_image(value: object) -> bool:
    """Tell whether something is an image of nibabel or SimpleITK, without importing the latter."""
    return isinstance(value, SpatialImage) or _is_sitk(value)


def parts(image: object, name: str | None) -> Parts:
    """What a volume of an image has.

    Raises
    ------
    InputError
        If it is no 3D image of real numbers, or its place is unusable.
    """
    if isinstance(image, SpatialImage):
        return _of_nibabel(image, name)
    if _is_sitk(image):
        return _of_sitk(image, name)
    raise InputError(f"image: found {described(image)}, expected an image of nibabel or SimpleITK")


def as_sitk(data: NDArray[Any], grid: Grid) -> Any:
    """An image of SimpleITK.

    Raises
    ------
    InputError
        If it has no type for the values.
    MissingExtraError
        If SimpleITK is not installed.
    """
    image = _sitk().GetImageFromArray(np.ascontiguousarray(nifti.storable(Path("image"), data).T))
    affine = _LPS @ grid.affine
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / np.array(grid.spacing_mm)).ravel().tolist())
    return image


def _of_nibabel(image: Any, name: str | None) -> Parts:
    called = name or image.get_filename() or "volume"
    try:
        shape = tuple(int(n) for n in image.shape)
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"has {counted(len(shape), 'dimension')} {shape}, expected one 3D image")  # noqa: TRY301
        stored = np.asanyarray(image.dataobj).reshape(shape, order="A")
        if stored.dtype.kind not in "biuf":
            raise InputError(f"holds {stored.dtype} voxels, expected real numbers")  # noqa: TRY301
        doubts: list[str] = []
        if nifti.is_header(image.header):
            # A header that says where the image lies, as it would be written.
            header = type(image)(image.dataobj, image.affine, image.header).header
            doubts += fields.units(header)
            grid, more = fields.grid(header, three(shape))
            doubts += more
        else:
            grid = Grid(three(shape), image.affine)
            header = nifti.header_of(grid, np.dtype(np.uint8) if stored.dtype.kind == "b" else stored.dtype)
        data, coarse = as_float32(Path(called), stored)
    except (InputError, HeaderDataError) as error:
        text = one_line(error)
        raise InputError(text if text.startswith(f"{called}: ") else f"{called}: {text}") from error
    return data, grid, header, (*(f"{called}: {doubt}" for doubt in doubts), *coarse), called


def _of_sitk(image: Any, name: str | None) -> Parts:
    called = name or "volume"
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{called}: has {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} values a "
            "voxel, expected one 3D image"
        )
    stored = _sitk().GetArrayFromImage(image).T
    if stored.dtype.kind not in "biuf":
        raise InputError(f"{called}: holds {stored.dtype} voxels, expected real numbers")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    try:
        grid = Grid(three(stored.shape), _LPS @ affine)
        header = nifti.header_of(grid, stored.dtype)
    except InputError as error:
        raise InputError(f"{called}: {error}") from error
    data, coarse = as_float32(Path(called), stored)
    return data, grid, header, tuple(coarse), called


def _is_sitk(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "SimpleITK" and hasattr(value, "GetDirection")


def _sitk() -> Any:
    try:
        import SimpleITK as sitk
    except ImportError as error:
        raise MissingExtraError("an image of SimpleITK needs it, not installed here: pip install SimpleITK") from error
    return sitk
