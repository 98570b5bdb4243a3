"""Properties of reading: whatever bytes a file has, a volume or one line comes out."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lowres_seg import InputError, Volume

#: Files are written over again by each example, so one folder for all is no problem.
quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


@st.composite
def images(draw: st.DrawFn) -> Any:
    """An image of any grid, dtype, scale, byte order and version."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=3, max_size=3)))
    dtype = np.dtype(draw(st.sampled_from("<>")) + draw(st.sampled_from(DTYPES)))
    data = draw(hnp.arrays(dtype, shape, elements=hnp.from_dtype(dtype, allow_subnormal=False)))
    angles = [draw(st.floats(-3, 3, allow_subnormal=False)) for _ in range(3)]
    zooms = [draw(st.floats(0.3, 6, allow_subnormal=False)) for _ in range(3)]
    affine = nib.affines.from_matvec(
        nib.eulerangles.euler2mat(*angles) @ np.diag(zooms),
        [draw(st.floats(-200, 200, allow_subnormal=False)) for _ in range(3)],
    )
    kind = draw(st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]))
    header = kind.header_class(endianness=dtype.byteorder if dtype.itemsize > 1 else "<")
    header.set_data_dtype(dtype)
    if draw(st.booleans()):
        header.set_slope_inter(
            draw(st.floats(0.125, 8, width=32, allow_subnormal=False)),
            draw(st.floats(-100, 100, width=32, allow_subnormal=False)),
        )
    trailing = (1,) * draw(st.integers(0, 2))
    image = kind(np.zeros((*shape, *trailing), dtype), affine, header)
    image.set_sform(affine, draw(st.sampled_from([0, 1, 4])))
    image.set_qform(affine, draw(st.sampled_from([0, 1])))
    return image, data


def raw(image: Any, data: np.ndarray) -> bytes:
    """Bytes of a single file with the voxels as they are, not scaled."""
    header = image.header.copy()
    slope, inter = header.get_slope_inter()
    header["scl_slope"] = 1 if slope is None else slope
    header["scl_inter"] = 0 if inter is None else inter
    header["vox_offset"] = header.single_vox_offset
    return bytes(header.binaryblock) + bytes(4) + data.tobytes("F")


@quick
@given(image=images(), suffix=st.sampled_from([".nii", ".nii.gz"]))
def test_every_grid_and_dtype_is_read_as_nibabel_reads_it(tmp_path: Path, image: Any, suffix: str) -> None:
    content = raw(*image)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content if suffix == ".nii" else gzip.compress(content))
    there = nib.load(path)
    with np.errstate(all="ignore"):
        expected = np.asanyarray(there.dataobj, dtype=np.float32).reshape(image[1].shape)
        exact = np.asanyarray(there.dataobj, dtype=np.float64).reshape(expected.shape)
        small = (exact != 0) & (np.abs(exact) < float(np.finfo(np.float32).tiny))
        finite = np.abs(exact[np.isfinite(exact)])
    overflows = np.any(np.isinf(expected) & np.isfinite(exact))
    try:
        volume = Volume.load(path)
    except InputError as error:
        assert "float32 holds none" in str(error) if overflows else small.any() and finite.max() < 1e-27  # noqa: PT017
        return
    assert not overflows
    assert np.array_equal(volume.data, expected, equal_nan=True)
    assert np.array_equal(volume.grid.affine, there.affine)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_header_with_any_byte_changed_gives_a_volume_or_one_line(tmp_path: Path, kind: type) -> None:
    image = kind(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([2.0, 2, 2, 1]))
    image.to_filename(tmp_path / "a.nii")
    good, path = (tmp_path / "a.nii").read_bytes(), tmp_path / "b.nii"
    random = np.random.default_rng(0)
    for at in range(len(good) - 120):
        for value in (255, good[at] ^ (1 << int(random.integers(8)))):
            path.write_bytes(good[:at] + bytes([value]) + good[at + 1 :])
            _volume_or_one_line(path, write=at % 4 == 0)


@quick
@given(
    changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=40),
    end=st.integers(0, 480),
)
def test_a_header_with_many_bytes_changed_gives_a_volume_or_one_line(tmp_path: Path, changes: Any, end: int) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.to_filename(tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    for at, value in changes:
        content[at] = value
    (tmp_path / "b.nii").write_bytes(content[:end] if end < 470 else content)
    _volume_or_one_line(tmp_path / "b.nii")


@quick
@given(content=st.binary(max_size=600), gzipped=st.booleans())
def test_any_bytes_give_a_volume_or_one_line(tmp_path: Path, content: bytes, gzipped: bool) -> None:
    path = tmp_path / ("a.nii.gz" if gzipped else "a.nii")
    path.write_bytes(content)
    _volume_or_one_line(path)


@quick
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7), end=st.integers(0, 10**6))
def test_a_gzip_stream_with_a_bit_flipped_or_its_end_cut_off_is_no_other_scan(
    tmp_path: Path, at: int, bit: int, end: int
) -> None:
    data = np.random.default_rng(0).integers(0, 99, (8, 8, 8)).astype(np.int16)
    nib.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / "a.nii")
    content = bytearray(gzip.compress((tmp_path / "a.nii").read_bytes()))
    content[at % len(content)] ^= 1 << bit
    content = content[: len(content) - (end % 20 if end % 2 else 0)]
    assume(content)
    (tmp_path / "b.nii.gz").write_bytes(content)
    volume = _volume_or_one_line(tmp_path / "b.nii.gz")
    assert volume is None or np.array_equal(volume.data, data)


def _volume_or_one_line(path: Path, *, write: bool = True) -> Volume | None:
    try:
        volume = Volume.load(path)
    except InputError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert said.startswith(f"{path}: ")
        assert "\n" not in said
        return None
    if not write:
        return volume
    # What is read can be written, and is then the same.
    mask = Volume(np.ones(volume.grid.shape, np.uint8), volume.grid, volume.header)
    target = path.with_name("mask.nii")
    mask.save(target, force=True)
    again = Volume.load(target)
    assert again.grid.shape == volume.grid.shape
    assert again.grid.another_grid(volume.grid).startswith("corners lie up to 0 mm") or again.grid.same_space(
        volume.grid, tolerance_mm=1e-3 * max(1.0, float(np.abs(volume.grid.affine).max()))
    )
    return volume
