"""What the header of a NIfTI file says, judged: its grid, its units, and where its voxels begin.

A header may say where voxels lie twice: as a matrix (the sform), and as a rotation with spacings (the qform, whose
spacings are ``pixdim``). A field that is broken is refused by its name, unless the header says the same elsewhere.
Functions take a nibabel header that nibabel has not checked, and repair in it what a file that is written with it must
not repeat.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.errors import InputError
from lowres_seg.volumes.grid import Grid, three
from lowres_seg.wording import counted

#: Codes of sform and qform that the format defines.
_CODES = range(6)
#: How far b² + c² + d² of a quaternion may lie above 1: what is left of a turn by 180° written with five digits.
_ROUNDED_TO_ONE = 1e-4
#: How far sform and qform may lie apart. Offsets are stored as they are, so they differ by less than what files written
#: with two digits lose. A spacing that differs by a thousandth moves the far side of a head by 0.2 mm. A quaternion in
#: float32 loses up to 0.07° of a turn by nearly 180°.
_SHIFT_MM, _STRETCH, _TURN_DEGREES = 0.05, 1e-3, 0.2
#: Spatial and temporal codes in the lower six bits of xyzt_units.
_SPACE, _TIME = 0x07, 0x38
_UNITS = {1: "meter", 3: "micron"}

#: Fields that a file that is written takes along: geometry, units, and the intent without its name.
_CARRIED = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "xyzt_units", "intent_code", "intent_p1", "intent_p2", "intent_p3"),
)

Affine = NDArray[np.float64]


def carried(header: Any, data: NDArray[Any]) -> Any:
    """A new header for an (I, J, K) array, with the geometry, units and intent of another one, in its order of bytes.

    Text (``descrip``, ``aux_file``, ``intent_name``, ``db_name``) and extensions may name a patient, and stay behind.
    So do the scaling and the range of the voxels, and how they were acquired.
    """
    new = type(header)(endianness=header.endianness)
    for name in _CARRIED:
        new[name] = header[name]
    new["pixdim"][:4] = header["pixdim"][:4]
    new.set_data_dtype(np.float32 if data.dtype == np.float16 else data.dtype)  # NIfTI has no half precision
    new.set_data_shape(data.shape)
    return new


def shape(header: Any) -> tuple[int, int, int]:
    """Shape of the image. Trailing axes of length one are dropped.

    Raises
    ------
    InputError
        If it is not one 3D image with at least one voxel.
    """
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise InputError(f"its header has dim[0] = {count}, expected 1 to 7 dimensions; it is damaged")
    # nibabel knows how FreeSurfer stores a surface of more points than a dimension of NIfTI-1 can count.
    found = tuple(int(n) for n in header.get_data_shape())
    while len(found) > 3 and found[-1] == 1:
        found = found[:-1]
    if len(found) != 3:
        raise InputError(f"has {counted(len(found), 'dimension')} {found}, expected one 3D image")
    if min(found) < 1:
        raise InputError(f"is empty, its shape is {found}")
    return three(found)


def dtype(header: Any) -> np.dtype[Any]:
    """Dtype of the voxels as they are stored.

    Raises
    ------
    InputError
        If it is not one of real numbers.
    """
    try:
        found: np.dtype[Any] = header.get_data_dtype()
    except KeyError as error:
        code = int(header["datatype"])
        raise InputError(f"datatype of its header is {code}, which NIfTI does not define; it is damaged") from error
    if found.kind not in "iuf":
        raise InputError(f"holds {found} voxels, expected real numbers")
    return found


def offset(header: Any) -> tuple[int, list[str]]:
    """First byte of the voxels, and doubts about it.

    Raises
    ------
    InputError
        If it is no place behind the header.
    """
    least, value = int(header.single_vox_offset), float(header["vox_offset"])
    if value == 0:
        return least, [f"vox_offset of its header is 0; its voxels were read from byte {least}"]
    if not math.isfinite(value) or value != int(value) or value < least:
        raise InputError(
            f"vox_offset of its header is {value:.9g}, expected a whole number of at least {least}; it is damaged"
        )
    return int(header["vox_offset"]), []


def units(header: Any) -> list[str]:
    """Doubts about the units. A length without a unit is in millimetres.

    Raises
    ------
    InputError
        If lengths are in metres or micrometres.
    """
    code = int(header["xyzt_units"])
    space, time = code & _SPACE, code & _TIME
    if space in _UNITS:
        raise InputError(f"its header counts in {_UNITS[space]}, expected mm; rewrite it in millimetres")
    known = space in (0, 2) and time <= 0x30 and code == space | time
    if known:
        return []
    header["xyzt_units"] = 2 | (time if time <= 0x30 else 0)
    return [f"xyzt_units of its header is {code}, which names no units; lengths were taken as mm"]


def grid(header: Any, voxels: tuple[int, int, int]) -> tuple[Grid, list[str]]:
    """Grid of an image of a shape, and doubts about it.

    The sform comes first, as in nibabel and ITK. Without either the axes are guessed.

    Raises
    ------
    InputError
        If no form that the header names is usable.
    """
    doubts = [problem for name in ("sform", "qform") if (problem := _drop_unknown_code(header, name))]
    named = {name: int(header[f"{name}_code"]) != 0 for name in ("sform", "qform")}
    doubts += _without_signs(header)
    found: dict[str, Grid] = {}
    wrong: dict[str, InputError] = {}
    for name, read in (("sform", _sform), ("qform", _qform)):
        if named[name]:
            try:
                found[name] = Grid(voxels, read(header))
            except InputError as error:
                wrong[name] = error
    if not any(named.values()):
        _check_spacing(header)
        doubts.append("its header names no orientation (sform and qform codes are 0); left and right are a guess")
        return Grid(voxels, np.asarray(header.get_base_affine(), np.float64)), doubts
    if not found:
        raise InputError("; ".join(f"{name}: {reason}" for name, reason in wrong.items()))
    used = "sform" if "sform" in found else "qform"
    for name, reason in wrong.items():
        doubts.append(f"the {name} of its header is broken ({reason}); the {used} was used")
        _overwrite(header, name, found[used])
    if len(found) == 2:
        doubts += _apart(found["sform"], found["qform"])
    _repair_spacing(header, found[used])
    return found[used], doubts


def _drop_unknown_code(header: Any, name: str) -> str:
    code = int(header[f"{name}_code"])
    if code in _CODES:
        return ""
    header[f"{name}_code"] = 0
    return f"{name}_code of its header is {code}, which the format does not define; the {name} was not used"


def _without_signs(header: Any) -> list[str]:
    """Make negative spacings positive, as nibabel and the NIfTI library do."""
    spacing = header["pixdim"][1:4]
    negative = [axis for axis in range(3) if spacing[axis] < 0]
    for axis in negative:
        spacing[axis] = -spacing[axis]
    return [f"pixdim[{axis + 1}] of its header is negative; its sign was dropped" for axis in negative]


def _check_spacing(header: Any) -> None:
    for axis in range(3):
        value = float(header["pixdim"][axis + 1])
        if not math.isfinite(value) or value == 0:
            raise InputError(f"pixdim[{axis + 1}] is {value:g}, expected a spacing in mm; repair the header")


def _sform(header: Any) -> Affine:
    return np.asarray(header.get_sform(), np.float64)


def _qform(header: Any) -> Affine:
    _check_spacing(header)
    if float(header["pixdim"][0]) not in (-1, 1):
        header["pixdim"][0] = 1
    names = ("quatern_b", "quatern_c", "quatern_d")
    parts = [float(header[name]) for name in names]
    square = sum(value * value for value in parts)  # of Python's numbers, which are infinite without a warning
    if not square <= 1 + _ROUNDED_TO_ONE:  # also where it is NaN
        said = ", ".join(f"{value:.7g}" for value in parts)
        raise InputError(
            f"the quaternion ({said}) has b² + c² + d² = {square:.7g}, expected at most 1; repair the header"
        )
    if square > 1:
        for name, value in zip(names, parts, strict=True):
            header[name] = value / math.sqrt(square)
    return np.asarray(header.get_qform(), np.float64)


def _overwrite(header: Any, name: str, by: Grid) -> None:
    """Replace a broken form: the sform by the grid that was used, the qform by none."""
    if name == "sform":
        header["srow_x"], header["srow_y"], header["srow_z"] = by.affine[:3]
        return
    header["qform_code"] = 0
    for field in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        header[field] = 0
    if float(header["pixdim"][0]) not in (-1, 1):
        header["pixdim"][0] = 1


def _repair_spacing(header: Any, used: Grid) -> None:
    for axis, spacing in enumerate(used.spacing_mm, start=1):
        value = float(header["pixdim"][axis])
        if not math.isfinite(value) or value == 0:
            header["pixdim"][axis] = spacing


def _apart(sform: Grid, qform: Grid) -> list[str]:
    """Doubt about a sform and a qform that disagree."""
    apart = sform.difference(qform, shift_mm=_SHIFT_MM, stretch=_STRETCH, turn_degrees=_TURN_DEGREES)
    return [f"sform and qform of its header disagree: {apart}; the sform was used"] if apart else []


def shifted(header: Any, data: NDArray[Any], start: tuple[int, int, int], affine: Affine) -> Any:
    """A new header for a box of an image that begins at voxel `start`, as `carried` makes it for all of it.

    Parameters
    ----------
    header : nibabel.Nifti1Header
        Of the whole image.
    data : (I, J, K) ndarray
        Voxels of the box.
    start : tuple of 3 int
    affine : (4, 4) ndarray
        Of the box. The new header gets it where the old one names no orientation, because a guess depends on the shape.
    """
    new = carried(header, data)
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        new.set_sform(affine, 2)
        return new
    first = np.array([*start, 1.0])
    if int(header["sform_code"]):
        for row in ("srow_x", "srow_y", "srow_z"):
            new[row][3] = np.asarray(header[row], np.float64) @ first
    if int(header["qform_code"]):
        at = np.asarray(header.get_qform(), np.float64) @ first
        new["qoffset_x"], new["qoffset_y"], new["qoffset_z"] = at[:3]
    return new
