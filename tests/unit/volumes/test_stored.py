"""Files that are damaged, truncated, too long or too large: refused with true counts, and nothing is mapped."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lowres_seg import InputError, Volume
from lowres_seg.volumes.nifti import read_space

SHAPE = (20, 21, 22)
BYTES = 352 + 2 * 20 * 21 * 22


def voxels(dtype: type = np.int16) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 1000, SHAPE).astype(dtype)


def plain(path: Path, data: np.ndarray | None = None) -> Path:
    nib.Nifti1Image(voxels() if data is None else data, np.eye(4)).to_filename(path)
    return path


def zipped(path: Path, data: np.ndarray | None = None) -> Path:
    raw = plain(path.with_name("raw.nii"), data)
    path.write_bytes(gzip.compress(raw.read_bytes()))
    raw.unlink()
    return path


def refused(path: Path, *words: str) -> str:
    with pytest.raises(InputError) as caught:
        Volume.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    for word in words:
        assert word in text
    return text


@pytest.mark.parametrize("at", [-8, -5])
def test_a_wrong_gzip_checksum_is_refused(tmp_path: Path, at: int) -> None:
    path = zipped(tmp_path / "a.nii.gz")
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    # nibabel, which reads no more than it needs, never comes to the checksum.
    assert np.array_equal(np.asanyarray(nib.load(path).dataobj), voxels())
    refused(path, "damaged", "checksum does not match")


def test_flipped_bits_are_found_wherever_they_are(tmp_path: Path) -> None:
    good = zipped(tmp_path / "good.nii.gz").read_bytes()
    path, random = tmp_path / "a.nii.gz", np.random.default_rng(0)
    harmless = set(range(2, 10))  # the gzip header: its flags, a time, and the system
    for at in random.choice(sorted(set(range(len(good))) - harmless), 150, replace=False):
        raw = bytearray(good)
        raw[at] ^= 1 << random.integers(8)
        path.write_bytes(raw)
        refused(path)


def test_a_wrong_gzip_length_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<I", BYTES + 1))
    refused(path, "damaged", "length does not match")


@pytest.mark.parametrize("end", [-1, -8, -9, -200])
def test_a_truncated_gzip_stream_is_refused_with_what_it_holds(tmp_path: Path, end: int) -> None:
    path = zipped(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:end])
    text = refused(path, "truncated")
    counts = [int(word.rstrip(",;")) for word in text.split() if word.rstrip(",;").isdigit()]
    assert BYTES - 1000 < min(counts) <= BYTES


def test_bytes_behind_a_gzip_stream_are_counted(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes() + b"no gzip stream")
    refused(path, "14 bytes lie behind", str(BYTES))
    path.write_bytes(zipped(path).read_bytes() + bytes(500))  # padding, as gzip has it
    assert np.array_equal(Volume.load(path).data, voxels())


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("flags", [0, 0b1, 0b10, 0b100, 0b1000, 0b10000, 0b11111])
def test_a_gzip_header_may_hold_all_that_the_format_has(tmp_path: Path, flags: int, level: int) -> None:
    raw = plain(tmp_path / "raw.nii").read_bytes()
    header = b"\x1f\x8b\x08" + bytes([flags]) + struct.pack("<I", 1_700_000_000) + b"\x00\x03"
    header += struct.pack("<H4s", 4, b"BC\x00\x00") if flags & 0b100 else b""
    header += b"head.nii\0" if flags & 0b1000 else b""
    header += b"of a scanner\0" if flags & 0b10000 else b""
    header += struct.pack("<H", zlib.crc32(header) & 0xFFFF) if flags & 0b10 else b""
    packed = zlib.compressobj(level, zlib.DEFLATED, -15)
    body = packed.compress(raw) + packed.flush()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(header + body + struct.pack("<II", zlib.crc32(raw), len(raw)))
    assert np.array_equal(Volume.load(path).data, voxels())


@pytest.mark.parametrize("at", [0.1, 0.5, 0.99])
def test_damage_deep_in_a_large_file_is_told_with_the_bytes_before_it(tmp_path: Path, at: float) -> None:
    data = np.random.default_rng(0).integers(0, 1000, (140, 150, 160)).astype(np.int16)
    path = zipped(tmp_path / "a.nii.gz", data)
    raw = bytearray(path.read_bytes())
    raw[int(at * len(raw))] ^= 0x55
    path.write_bytes(raw)
    text = refused(path, "is damaged after")
    member, count = zlib.decompressobj(wbits=31), 0
    with pytest.raises(zlib.error):
        for one in range(len(raw)):
            count += len(member.decompress(raw[one : one + 1]))
    assert int(text.partition("damaged after ")[2].split()[0]) == count


@pytest.mark.parametrize("cut", [1, 352, 4000])
def test_members_of_a_gzip_stream_may_end_anywhere(tmp_path: Path, cut: int) -> None:
    raw = plain(tmp_path / "raw.nii").read_bytes()
    path = tmp_path / "a.nii.gz"
    parts = [gzip.compress(raw[:cut]), gzip.compress(b""), bytes(3), gzip.compress(raw[cut:])]
    path.write_bytes(b"".join(parts))
    assert np.array_equal(Volume.load(path).data, voxels())
    broken = bytearray(path.read_bytes())
    broken[len(parts[0]) - 5] ^= 1  # the checksum of the first member
    path.write_bytes(broken)
    refused(path, "damaged")


@pytest.mark.parametrize("make", [plain, zipped])
@pytest.mark.parametrize(("axis", "n"), [(1, 19), (2, 20), (3, 21), (3, 2)])
def test_a_header_that_claims_fewer_voxels_than_the_file_holds_is_refused(tmp_path: Path, make, axis, n) -> None:
    path = make(tmp_path / ("a.nii" if make is plain else "a.nii.gz"))
    raw = bytearray(path.read_bytes() if make is plain else gzip.decompress(path.read_bytes()))
    struct.pack_into("<h", raw, 40 + 2 * axis, n)
    path.write_bytes(raw if make is plain else gzip.compress(raw))
    refused(path, "header claims", "shape or datatype is wrong")


def test_a_wrong_datatype_is_refused_by_the_bytes_of_the_file(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.nii")
    raw = bytearray(path.read_bytes())
    struct.pack_into("<h", raw, 70, 2)  # uint8
    path.write_bytes(raw)
    refused(path, str(20 * 21 * 22), "uint8")


def test_a_few_bytes_behind_the_voxels_are_doubted(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.nii")
    path.write_bytes(path.read_bytes() + bytes(160))
    volume = Volume.load(path)
    assert np.array_equal(volume.data, voxels())
    assert any("160 bytes behind its voxels" in doubt for doubt in volume.doubts)


def test_a_file_that_shrinks_after_it_was_read_does_no_harm(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.nii", voxels(np.float32))
    volume = Volume.load(path)
    os.truncate(path, 352)  # a mapped file would end this process at the next line
    assert np.array_equal(volume.data, voxels())
    refused(path, "header claims", "the file holds 352")


@pytest.mark.parametrize("name", ["A.NII", "A.Nii.GZ", "a.nii.Gz"])
def test_the_case_of_a_suffix_does_not_matter(tmp_path: Path, name: str) -> None:
    made = (zipped if name.lower().endswith("gz") else plain)(
        tmp_path / f"small{'.nii.gz' if 'z' in name.lower() else '.nii'}"
    )
    made.rename(tmp_path / name)
    assert np.array_equal(Volume.load(tmp_path / name).data, voxels())


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    refused(tmp_path / "pipe.nii", "no regular file")  # opening it would wait for a writer
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    refused(tmp_path / "loop.nii", "cannot be read")
    with pytest.raises(InputError, match="no NUL"):
        Volume.load("a\0b.nii")


def _members(path: Path, header: bytes, zeros: int) -> Path:
    """A gzip stream of a header and of many zeros, made of members, so that it is written at once."""
    member = gzip.compress(bytes(1 << 24))
    path.write_bytes(gzip.compress(header) + member * (zeros >> 24))
    return path


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.eye(4))
    image.header["dim"][1:4] = 16384, 16384, 1024  # 256 GiB, 1.3 TB as it is read
    header = image.header.binaryblock + bytes(4)
    path = _members(tmp_path / "a.nii.gz", header, 1 << 30)
    os.truncate(path, 300 << 20)  # as many bytes, mostly a hole, as could hold what the header claims
    refused(path, "16384×16384×1024")


def test_a_stream_that_goes_on_for_ever_is_refused_early(tmp_path: Path) -> None:
    header = plain(tmp_path / "a.nii").read_bytes()
    path = _members(tmp_path / "b.nii.gz", header, 1 << 34)  # 16 GiB would take minutes
    refused(path, "the file holds at least")


def test_a_grid_is_read_without_the_voxels(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.nii.gz")
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1
    path.write_bytes(raw)
    assert read_space(path)[0].shape == SHAPE


@pytest.mark.skipif(sys.platform != "linux", reason="bounds its address space")
def test_memory_that_runs_out_is_one_line(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.nii", np.zeros((400, 400, 400), np.int16))
    script = (
        "import resource, sys; from lowres_seg import Volume, InputError\n"
        "import lowres_seg.volumes.nifti, psutil\n"
        "used = psutil.Process().memory_info().vms\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), used + (200 << 20)))\n"
        "try: Volume.load(sys.argv[1])\n"
        "except InputError as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert ran.stdout == f"{path}: 400×400×400 voxels take more memory than there is; crop the scan\n"
