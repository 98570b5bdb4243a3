"""MGH and NRRD files, against nibabel, SimpleITK and pynrrd: the same voxels in the same place."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from lowres_seg import InputError, Volume
from lowres_seg.cli import app

SHAPE = (7, 6, 5)


def oblique() -> np.ndarray:
    rotation, _ = np.linalg.qr(np.array([[0.99, -0.1, 0.1], [0.12, 0.9, -0.2], [-0.1, 0.3, 0.9]]))
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([1.1, -0.9, 3.1])
    affine[:3, 3] = (-20.5, 17.3, 4.25)
    return affine


def voxels(dtype: Any = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, SHAPE).astype(dtype)


def by_nibabel(path: Path) -> nib.MGHImage:
    """As nibabel reads it, without a file that stays open."""
    content = path.read_bytes()
    return nib.MGHImage.from_bytes(gzip.decompress(content) if path.suffix == ".mgz" else content)


def placed(image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of SimpleITK, and their affine in RAS."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
def test_mgh_of_nibabel_is_read_in_its_place(suffix: str, dtype: Any, tmp_path: Path) -> None:
    nib.save(nib.MGHImage(voxels(dtype), oblique()), tmp_path / f"scan{suffix}")
    image = by_nibabel(tmp_path / f"scan{suffix}")
    found = Volume.load(tmp_path / f"scan{suffix}")
    assert np.array_equal(found.data, image.get_fdata())
    assert found.grid.affine == pytest.approx(image.affine, abs=1e-5)
    assert found.grid.affine == pytest.approx(oblique(), abs=1e-4)
    assert found.doubts == ()
    assert found.header.get_data_dtype() == dtype
    assert Volume.read_grid(tmp_path / f"scan{suffix}") == found.grid


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
@pytest.mark.parametrize(
    ("dtype", "written"),
    [
        (bool, np.uint8),
        (np.uint8, np.uint8),
        (np.int64, np.uint8),
        (np.uint16, np.uint8),
        (np.float16, np.float32),
        (np.float64, np.float32),
    ],
)
def test_mgh_is_written_as_nibabel_reads_it(suffix: str, dtype: Any, written: Any, tmp_path: Path) -> None:
    data = voxels(dtype)
    Volume.from_array(data, oblique()).save(tmp_path / f"m{suffix}")
    image = by_nibabel(tmp_path / f"m{suffix}")
    assert np.array_equal(np.asarray(image.dataobj), data)
    assert image.get_data_dtype().newbyteorder("=") == written
    assert image.affine == pytest.approx(oblique(), abs=1e-4)
    Volume.from_array(data, oblique()).save(tmp_path / f"again{suffix}")
    assert (tmp_path / f"again{suffix}").read_bytes() == (tmp_path / f"m{suffix}").read_bytes()


def test_mgh_has_no_type_for_some_values(tmp_path: Path) -> None:
    for data in (np.full(SHAPE, 0.1), np.full(SHAPE, 2**40 + 1)):
        with pytest.raises(InputError, match=r"m\.mgz: voxels of dtype .* no type of MGH keeps exactly"):
            Volume.from_array(data, np.eye(4)).save(tmp_path / "m.mgz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_nrrd_of_simpleitk_is_read_in_its_place(compressed: bool, dtype: Any, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels(dtype).T))
    lps = np.diag([-1, -1, 1, 1]) @ oblique()
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, tmp_path / "scan.nrrd", compressed)
    found = Volume.load(tmp_path / "scan.nrrd")
    assert np.array_equal(found.data, voxels(dtype))
    assert found.grid.affine == pytest.approx(oblique(), abs=1e-9)
    assert found.doubts == ()
    assert found.header.get_data_dtype() == dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_nrrd_is_written_as_simpleitk_reads_it(dtype: Any, tmp_path: Path) -> None:
    Volume.from_array(voxels(dtype), oblique()).save(tmp_path / "m.nrrd")
    data, affine = placed(sitk.ReadImage(tmp_path / "m.nrrd"))
    assert np.array_equal(data, voxels(dtype))
    assert data.dtype == dtype
    assert affine == pytest.approx(oblique(), abs=1e-9)
    assert b"20" not in (tmp_path / "m.nrrd").read_bytes().partition(b"space directions")[0].replace(b"NRRD0005", b"")


SIGNS = {
    "left-posterior-superior": (-1, -1, 1),
    "LPS": (-1, -1, 1),
    "right-anterior-superior": (1, 1, 1),
    "RAS": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "LAS": (-1, 1, 1),
}


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "text"])
@pytest.mark.parametrize("space", SIGNS)
def test_every_space_and_encoding_of_nrrd(space: str, encoding: str, tmp_path: Path) -> None:
    own = np.diag([*SIGNS[space], 1.0]) @ oblique()
    head = {
        "space": space,
        "space directions": own[:3, :3].T,
        "space origin": own[:3, 3],
        "encoding": encoding,
        "space units": ["mm"] * 3,
        "measurement frame": np.eye(3),
    }
    nrrd.write(str(tmp_path / "scan.nrrd"), voxels().astype(">i2"), head)
    found = Volume.load(tmp_path / "scan.nrrd")
    assert np.array_equal(found.data, voxels())
    assert found.grid.affine == pytest.approx(oblique(), abs=1e-12)


def test_an_axis_of_length_one_beside_space_is_dropped(tmp_path: Path) -> None:
    """As Slicer writes an image of one component."""
    lps = np.diag([-1, -1, 1, 1]) @ oblique()
    rows = np.vstack([np.full(3, np.nan), lps[:3, :3].T])
    head = {"space": "LPS", "space directions": rows, "space origin": lps[:3, 3], "kinds": ["list", *["domain"] * 3]}
    nrrd.write(str(tmp_path / "scan.nrrd"), voxels()[None], head)
    found = Volume.load(tmp_path / "scan.nrrd")
    assert np.array_equal(found.data, voxels())
    assert found.grid.affine == pytest.approx(oblique(), abs=1e-12)


def plain(path: Path, **changes: Any) -> Path:
    """A small NRRD file with changes to its header; None drops a field."""
    fields: dict[str, Any] = {
        "type": "short",
        "dimension": 3,
        "space": "left-posterior-superior",
        "sizes": "7 6 5",
        "space directions": "(1,0,0) (0,1,0) (0,0,1)",
        "space origin": "(0,0,0)",
        "endian": "little",
        "encoding": "raw",
    }
    fields |= {name.replace("_", " "): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    path.write_bytes("\n".join(["NRRD0004", *lines, "", ""]).encode() + voxels().tobytes(order="F"))
    return path


REFUSED = {
    "four dimensions": (
        {"dimension": 4, "sizes": "7 6 5 2", "space_directions": "(1,0,0) (0,1,0) (0,0,1) none"},
        "has 4 dimensions (7, 6, 5, 2), expected one 3D image",
    ),
    "four of time": (
        {
            "dimension": 4,
            "sizes": "7 6 5 2",
            "space": "LPST",
            "space_directions": "(1,0,0,0) (0,1,0,0) (0,0,1,0) (0,0,0,1)",
        },
        "expected three numbers for each of its axes",
    ),
    "two dimensions": (
        {"dimension": 2, "sizes": "7 6", "space_directions": "(1,0,0) (0,1,0)"},
        "has 2 dimensions (7, 6)",
    ),
    "no space": (
        {"space": None, "space_dimension": 3},
        "its header has no space, so that nothing says where its voxels lie",
    ),
    "spacings alone": ({"space": None, "space_directions": None, "spacings": "1 1 1"}, "its header has no space,"),
    "no directions": ({"space_directions": None}, "its header has no space directions"),
    "a space without sides": ({"space": "scanner-xyz"}, "its space is 'scanner-xyz', which does not say where left is"),
    "micrometres": ({"space_units": '"um" "um" "um"'}, "its header counts in 'um', expected mm"),
    "a detached file": (
        {"data_file": "/etc/passwd"},
        "its voxels lie in another file ('/etc/passwd'); write both as one .nrrd file",
    ),
    "a list of files": ({"datafile": "LIST"}, "its voxels lie in another file ('LIST')"),
    "more voxels than held": ({"sizes": "70 6 5"}, "the file holds"),
    "fewer voxels than held": ({"sizes": "7 6 4"}, "its sizes or type are wrong"),
    "a huge claim": ({"sizes": "70000 70000 70000", "encoding": "bzip2"}, "voxels take 2100000 GB to read"),
    "a claim beyond all": ({"sizes": "7000000000000000000000000 1 1"}, "its shape is"),
    "blocks": ({"type": "block"}, "holds voxels of type 'block', expected real numbers"),
    "an unknown encoding": ({"encoding": "hex"}, "its encoding is 'hex', expected raw, gzip, bzip2 or text"),
    "no gzip": ({"encoding": "gzip"}, "is truncated or damaged, its gzip stream"),
    "no bzip2": ({"encoding": "bzip2"}, "is truncated or damaged, its bzip2 stream"),
    "no text": ({"encoding": "text"}, "is damaged, its text"),
    "no endian": ({"endian": None}, "endian of its header is '', expected little or big"),
    "no type": ({"type": None}, "its header has no type; it is damaged"),
    "a size that is no number": ({"sizes": "7 six 5"}, "cannot be read as NRRD"),
    "a size of zero": ({"sizes": "7 0 5"}, "is empty, its shape is (7, 0, 5)"),
    "another count of sizes": ({"sizes": "7 6"}, "its header has 3 dimensions and 2 sizes"),
    "directions of nothing": ({"space_directions": "(1,0,0) (1,0,0) (0,0,1)"}, "affine: singular"),
    "infinite directions": ({"space_directions": "(inf,0,0) (0,1,0) (0,0,1)"}, "affine: found"),
    "an origin of two": ({"space_origin": "(0,0)"}, "space origin of its header is"),
    "a skip": ({"byte_skip": "-1"}, "its header has a byte skip of -1"),
    "an unclosed quote": ({"space_units": '"mm'}, "cannot be read as NRRD"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_hostile_nrrd_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    changes, said = REFUSED[case]
    path = plain(tmp_path / "scan.nrrd", **changes)
    with pytest.raises(InputError) as caught:
        Volume.load(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_sound_one_of_the_same_lines_is_read(tmp_path: Path) -> None:
    assert np.array_equal(Volume.load(plain(tmp_path / "scan.nrrd")).data, voxels())
    (doubt,) = Volume.load(plain(tmp_path / "scan.nrrd", space_origin=None)).doubts
    assert doubt == "scan.nrrd: its header has no space origin; the first voxel was put at 0, 0, 0"


def test_no_file_that_is_cut_off_or_mutated_is_another_scan(tmp_path: Path) -> None:
    whole: dict[str, bytes] = {}
    for suffix in (".mgz", ".mgh", ".nrrd"):
        Volume.from_array(voxels(), oblique()).save(tmp_path / f"scan{suffix}")
        whole[suffix] = (tmp_path / f"scan{suffix}").read_bytes()
    for suffix, content in whole.items():
        path = tmp_path / f"cut{suffix}"
        end = 284 + voxels().nbytes if suffix == ".mgh" else len(content)  # parameters behind the voxels may be missing
        for size in range(0, end, max(1, end // 60)):
            path.write_bytes(content[:size])
            with pytest.raises(InputError) as caught:
                pytest.fail(f"{path} of {size} bytes: {Volume.load(path)}")
            assert str(caught.value).startswith(f"{path}: ")
        random = np.random.default_rng(0)
        for _ in range(150):
            bytes_ = bytearray(content)
            bytes_[int(random.integers(0, min(len(bytes_), 300)))] = int(random.integers(0, 256))
            path.write_bytes(bytes_)
            with suppress(InputError):  # anything else is a fault, and so is a warning
                Volume.load(path)


def test_a_gzip_bomb_in_an_nrrd_takes_no_memory(tmp_path: Path) -> None:
    path = plain(tmp_path / "scan.nrrd", encoding="gzip")
    head = path.read_bytes().partition(b"\n\n")[0]
    path.write_bytes(head + b"\n\n" + gzip.compress(bytes(1 << 26), 1))
    with pytest.raises(InputError, match="its sizes or type are wrong"):
        Volume.load(path)


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (0, b"\0\0\0\2", "cannot be read as MGH: its header has no version 1"),
        (16, b"\0\0\0\2", "has 4 dimensions (7, 6, 5, 2), expected one 3D image"),
        (4, b"\0\0\0\0", "is empty, its shape is (0, 6, 5, 1)"),
        (4, b"\xff\xff\xff\xff", "is empty"),
        (20, b"\0\0\0\7", "type of its header is 7"),
        (4, b"\0\0\0\6", "its shape or type is wrong"),
        (4, b"\0\0\x7f\0", "the file holds"),
        (30, b"\x7f\xc0\0\0", "affine: found"),
        (30, b"\0\0\0\0", "affine: singular"),
    ],
)
def test_a_hostile_mgh_is_refused_in_one_line(at: int, value: bytes, said: str, tmp_path: Path) -> None:
    Volume.from_array(voxels(), oblique()).save(tmp_path / "scan.mgh")
    content = bytearray((tmp_path / "scan.mgh").read_bytes())
    content[at : at + len(value)] = value
    (tmp_path / "bad.mgh").write_bytes(content)
    with pytest.raises(InputError) as caught:
        Volume.load(tmp_path / "bad.mgh")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_mgh_without_orientation_is_a_doubt(tmp_path: Path) -> None:
    Volume.from_array(voxels(), oblique()).save(tmp_path / "scan.mgh")
    content = bytearray((tmp_path / "scan.mgh").read_bytes())
    content[28:30] = b"\0\0"
    (tmp_path / "scan.mgh").write_bytes(content)
    found = Volume.load(tmp_path / "scan.mgh")
    assert found.grid.affine == pytest.approx(by_nibabel(tmp_path / "scan.mgh").affine)
    assert "left and right are a guess" in found.doubts[0]


def test_predict_reads_and_writes_by_suffix(tiny: Path, lopsided: Callable[..., Volume], tmp_path: Path) -> None:
    whole = Volume.from_array(np.round(1000 * lopsided().data).astype(np.int16), lopsided().grid.affine)
    masks, masked = [], []
    for suffix in (".nii", ".mgz", ".nrrd"):
        whole.save(tmp_path / f"head{suffix}")
        words = ["predict", tiny, tmp_path / f"head{suffix}", "-o", tmp_path / f"m{suffix}", "--apply-mask"]
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, (done.output, done.exception)
        masks.append(Volume.load(tmp_path / f"m{suffix}"))
        ending = ".nii.gz" if suffix == ".nii" else suffix
        masked.append(Volume.load(tmp_path / f"m_masked{ending}"))
    assert masks[0].data.any()
    for mask, scan in zip(masks, masked, strict=True):
        assert np.array_equal(mask.data, masks[0].data)
        assert mask.grid.same_space(whole.grid)
        assert np.array_equal(scan.data, masked[0].data)
        assert scan.header.get_data_dtype() == np.int16
