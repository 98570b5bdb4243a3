"""Networks and reference cases that are damaged or hostile, with the digests that the manifest has."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hostile import refused, write_file
from lowres_seg import Segmenter
from lowres_seg.bundle.bounds import WINDOWS
from lowres_seg.bundle.windows import Windows
from lowres_seg.errors import InputError
from lowres_seg.runtime.windows import rows

Arrays = dict[str, np.ndarray]


def npz(arrays: Arrays) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return out.getvalue()


def header(shape: str, descr: str = "'<f4'", data: bytes = b"") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def changed(**changes: np.ndarray) -> Callable[[Arrays], bytes]:
    return lambda arrays: npz({**arrays, **{key.replace("__", "."): value for key, value in changes.items()}})


class Runs:
    """A pickle of it would run code."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("pickle-ran", "w")


REFERENCES: dict[str, tuple[Callable[[Arrays], bytes], str]] = {
    "empty": (lambda a: b"", "no .npz"),
    "empty zip": (lambda a: zipped({}), "has no labels"),
    "no zip": (lambda a: b"PK\x03\x04" + bytes(10_000), "no .npz"),
    "cut off": (lambda a: npz(a)[:-200], "no .npz"),
    "one bit": (lambda a: _flipped(npz(a)), "no .npz|does not fit"),
    "bomb": (
        lambda a: zipped({"labels.npy": header("(1000000000,)", "'|u1'") + bytes(400 << 20)}),
        "at most 268435456",
    ),
    "header of a bomb": (lambda a: zipped({"labels.npy": header("(10**6,)")}), "no .npz"),
    "claims much": (lambda a: zipped({"labels.npy": header("(100000, 100000, 100000)")}), "claims the shape"),
    "claims less than none": (lambda a: zipped({"labels.npy": header("(-1, 4, 4)")}), "claims the shape"),
    "claims more than 64 bits": (lambda a: zipped({"labels.npy": header(f"({10**30},)")}), "claims the shape"),
    "many members": (lambda a: zipped({f"{i}.npy": b"" for i in range(5000)}, 0), "more than 4096 arrays"),
    "deep header": (lambda a: zipped({"labels.npy": header("(" * 5000 + ")" * 5000)}), "no .npz"),
    "code as a header": (lambda a: zipped({"labels.npy": header("__import__('os').getpid()")}), "no .npz"),
    "another file": (lambda a: zipped({"../../evil.py": b"x"}), "it holds"),
    "objects": (changed(labels=np.array([[[Runs()]]], dtype=object)), "of type 'object'"),
    "pickle": (lambda a: pickle.dumps(Runs()), "no .npz"),
    "pickle as an array": (lambda a: zipped({"labels.npy": pickle.dumps(Runs())}), "no .npz"),
    "text": (changed(labels=np.array([[["a"]]])), "expected numbers"),
    "records": (changed(labels=np.zeros((4, 4, 4), [("a", "u1"), ("b", "f4")])), "expected numbers"),
    "complex": (changed(labels=np.zeros((4, 4, 4), np.complex64)), "expected numbers"),
    "no labels": (lambda a: npz({k: v for k, v in a.items() if k != "labels"}), "has no labels"),
    "no channel": (lambda a: npz({k: v for k, v in a.items() if k != "channel.t1"}), "has no channel.t1"),
    "no affine": (lambda a: npz({k: v for k, v in a.items() if k != "affine"}), "has no affine"),
    "no voxel": (changed(labels=np.zeros((0, 4, 4), np.uint8)), "0 voxels"),
    "many voxels": (changed(labels=np.zeros((300, 300, 300), np.uint8)), "27000000 voxels"),
    "slices": (changed(labels=np.zeros((4, 4), np.uint8)), "expected 3 axes"),
    "other shape": (changed(channel__t1=np.zeros((4, 5, 6), np.float32)), "channel t1 has the shape"),
    "other affine": (changed(affine=np.zeros((3, 3))), "affine has the shape"),
    "singular affine": (changed(affine=np.zeros((4, 4))), "does not fit"),
    "affine of NaN": (changed(affine=np.full((4, 4), np.nan)), "does not fit"),
    "NaN": (changed(channel__t1=np.full((16, 16, 16), np.nan, np.float32)), "NaN"),
    "constant": (changed(channel__t1=np.ones((16, 16, 16), np.float32)), "every voxel is 1"),
    "places of fractions": (changed(only__0__at=np.zeros(5)), "only.0.at is float64"),
    "places in rows": (changed(only__0__at=np.zeros((5, 5), int)), "expected 1 axes"),
    "places beyond": (changed(only__0__at=np.array([10**9]), only__0__scores=np.ones(1)), "out of bounds"),
    "places before": (changed(only__0__at=np.array([-1]), only__0__scores=np.ones(1)), "from 0 on"),
    "fewer places": (changed(only__0__at=np.zeros(5, int)), "one for each score"),
    "no places": (changed(only__0__at=np.zeros(0, int), only__0__scores=np.ones(0)), "one for each score"),
    "no scores": (lambda a: npz({k: v for k, v in a.items() if k != "only.0.scores"}), "has no only.0.scores"),
    "run of many digits": (lambda a: npz({**a, f"only.0.at.{'9' * 4000}": np.zeros(1, int)}), "has no only.0.scores"),
}


def _flipped(content: bytes) -> bytes:
    raw = bytearray(content)
    raw[len(raw) // 2] ^= 4
    return bytes(raw)


@pytest.mark.parametrize("case", REFERENCES)
def test_a_reference_case_that_is_damaged_or_hostile_is_refused(
    tiny: Path, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = REFERENCES[case]
    monkeypatch.chdir(tmp_path)
    with np.load(tiny / "reference.npz") as stored:
        write_file(tiny, "reference.npz", make(dict(stored)))
    segmenter = Segmenter.load(tiny, threads=1)
    with refused(match=message):
        segmenter.self_test()
    assert not (tmp_path / "pickle-ran").exists()


def test_a_reference_case_is_read_in_any_order_of_bytes_and_axes(tiny: Path) -> None:
    with np.load(tiny / "reference.npz") as stored:
        arrays = dict(stored)
    scan = arrays["channel.t1"]
    arrays["channel.t1"] = np.asfortranarray(scan.astype(scan.dtype.newbyteorder(">")))
    write_file(tiny, "reference.npz", npz(arrays))
    assert Segmenter.load(tiny, threads=1).self_test().passed


NETWORKS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "empty xml": ("networks/net.xml", lambda raw: b""),
    "half an xml": ("networks/net.xml", lambda raw: raw[: len(raw) // 2]),
    "no xml": ("networks/net.xml", lambda raw: bytes(range(256)) * 99),
    "deep xml": ("networks/net.xml", lambda raw: b"<net>" + b"<layers>" * 100_000),
    "entities": (
        "networks/net.xml",
        lambda raw: (
            b'<!DOCTYPE net [<!ENTITY a "' + b"x" * 999 + b'"><!ENTITY b "' + b"&a;" * 999 + b'">]><net>&b;</net>'
        ),
    ),
    "another file": ("networks/net.xml", lambda raw: b'<!DOCTYPE n [<!ENTITY a SYSTEM "/etc/passwd">]><net>&a;</net>'),
    "no layer": ("networks/net.xml", lambda raw: b'<net name="x" version="11"><layers/><edges/></net>'),
    "unknown operator": ("networks/net.xml", lambda raw: raw.replace(b'type="Sigmoid"', b'type="Sigmund"')),
    "weights beyond": ("networks/net.xml", lambda raw: raw.replace(b'offset="0"', b'offset="99999999999"', 1)),
    "huge weights": ("networks/net.xml", lambda raw: raw.replace(b' size="', b' size="9999999999', 1)),
    "negative offset": ("networks/net.xml", lambda raw: raw.replace(b'offset="0"', b'offset="-8"', 1)),
    "open shape": ("networks/net.xml", lambda raw: raw.replace(b'shape="1,1,16,16,16"', b'shape="?,1,16,16,16"', 1)),
    "larger shape": (
        "networks/net.xml",
        lambda raw: raw.replace(b'shape="1,1,16,16,16"', b'shape="1,1,1000000,1000000,1000000"', 1),
    ),
    "empty bin": ("networks/net.bin", lambda raw: b""),
    "half a bin": ("networks/net.bin", lambda raw: raw[: len(raw) // 2]),
}


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("case", NETWORKS)
def test_a_network_that_is_damaged_is_refused_at_load(tiny: Path, case: str, lean: bool) -> None:
    name, change = NETWORKS[case]
    before = (tiny / name).read_bytes()
    assert change(before) != before
    write_file(tiny, name, change(before))
    with refused(match=r"net\.xml: .*(OpenVINO cannot|takes and gives)"):
        Segmenter.load(tiny, threads=1, lean=lean)


@pytest.mark.parametrize(("roi", "overlap"), [((1, 1, 1), 0.0), ((4, 4, 4), 0.95)])
def test_too_many_windows_are_refused_before_any_runs(roi: tuple[int, int, int], overlap: float) -> None:
    windows = Windows(roi_size=roi, overlap=overlap, rules="monai")
    with pytest.raises(InputError, match=rf"windows on a grid of 256×256×256 voxels, more than {WINDOWS}"):
        next(rows((256, 256, 256), windows))
    assert next(rows((16, 16, 16), windows))[1] == 1
