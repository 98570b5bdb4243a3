"""The page of a scan and its labels: what is in the file."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from lowres_seg import InputError, Volume
from lowres_seg.view import page as page_module
from lowres_seg.view.labelled import labelled
from lowres_seg.view.page import write_page

OBLIQUE = np.array([[-1.1, 0.2, 0.1, 30], [0.25, 1.4, -0.3, -40], [0.1, 0.35, 2.0, -20], [0, 0, 0, 1]])
HOSTILE = "</script><script>alert(1)</script>&\"'<!--"


def scan_of(data: np.ndarray, name: str = "head.nii.gz") -> Volume:
    return Volume.from_array(data, OBLIQUE, name=name)


@pytest.fixture
def head() -> Volume:
    return scan_of(np.random.default_rng(0).normal(100, 20, (12, 14, 10)).astype(np.float32))


@pytest.fixture
def mask() -> Volume:
    data = np.zeros((12, 14, 10), np.uint8)
    data[2:5, 3:9, 4:6] = 1
    data[7:9, 3:5, 4:9] = 4
    return scan_of(data, "mask.nii.gz")


def embedded(text: str, name: str, folder: Path) -> Any:
    """A volume of a page, as nibabel reads it."""
    found = re.search(rf'<script type="text/plain" id="{name}">([^<]*)</script>', text)
    assert found is not None
    (folder / f"{name}.nii.gz").write_bytes(base64.b64decode(found[1]))
    return nibabel.load(folder / f"{name}.nii.gz")


def facts(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', text)
    assert found is not None
    return json.loads(found[1])


def test_both_volumes_are_in_the_page(head: Volume, mask: Volume, tmp_path: Path) -> None:
    page = write_page(head, mask, tmp_path / "view.html", version="1")
    text = (tmp_path / "view.html").read_text(encoding="utf-8")
    assert page.bytes == len(text.encode())
    scan = embedded(text, "scan", tmp_path)
    assert scan.get_data_dtype() == np.int16
    assert np.abs(scan.get_fdata() - head.data).max() < np.ptp(head.data) / 60000
    np.testing.assert_allclose(scan.affine, OBLIQUE, atol=1e-5)
    labels = embedded(text, "mask", tmp_path)
    np.testing.assert_array_equal(np.asarray(labels.dataobj), mask.data.clip(0, 2) * (mask.data > 0))
    np.testing.assert_allclose(labels.affine, OBLIQUE, atol=1e-5)
    assert labels.header.get_intent()[0] == "label"


def test_whole_numbers_are_kept(mask: Volume, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(-900, 30000, mask.data.shape).astype(np.float32)
    write_page(scan_of(data), mask, tmp_path / "view.html", version="1")
    found = embedded((tmp_path / "view.html").read_text(encoding="utf-8"), "scan", tmp_path)
    np.testing.assert_array_equal(found.get_fdata(), data)


def test_labels_have_names_volumes_and_a_place_within_themselves(head: Volume, mask: Volume, tmp_path: Path) -> None:
    write_page(head, mask, tmp_path / "view.html", names={4: "edema", 9: "absent"}, version="1")
    labels = facts((tmp_path / "view.html").read_text(encoding="utf-8"))["labels"]
    assert [(label["value"], label["name"]) for label in labels] == [(1, "label 1"), (4, "edema")]
    assert [label["voxels"] for label in labels] == [36, 20]
    assert [label["ml"] for label in labels] == pytest.approx([36 * mask.grid.voxel_ml, 20 * mask.grid.voxel_ml])
    for label in labels:
        voxel = np.rint(np.linalg.inv(OBLIQUE) @ [*label["centre_mm"], 1])[:3].astype(int)
        assert mask.data[tuple(voxel)] == label["value"]
    assert len({tuple(label["colour"]) for label in labels}) == 2


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.int32])
def test_values_of_any_size_are_numbered_in_either_order_of_storage(dtype: Any) -> None:
    data = np.zeros((4, 5, 6), dtype)
    data[1, 2, 3], data[2, :2, 4], data[3, 4, 5] = 14175, -3, 300
    for stored in (np.ascontiguousarray(data), np.asfortranarray(data), data[::-1, :, ::-1]):
        found = labelled(scan_of(stored), {})
        assert [(label.value, label.voxels) for label in found.labels] == [(-3, 2), (300, 1), (14175, 1)]
        for place, value in ((1, -3), (2, 300), (3, 14175)):
            np.testing.assert_array_equal(found.places == place, stored == value)


def test_three_hundred_labels_have_three_hundred_places() -> None:
    data = np.arange(7 * 7 * 7, dtype=np.float32).reshape(7, 7, 7)
    found = labelled(scan_of(data), {})
    np.testing.assert_array_equal(found.places, data)
    assert len({label.colour for label in found.labels}) > 300


def test_slices_go_through_labels_where_they_lie_apart() -> None:
    data = np.zeros((20, 20, 20), np.uint8)
    data[2, 2, 2] = data[17, 17, 17] = 1
    found = labelled(scan_of(data), {})
    assert all(np.take(data, found.middle[axis], axis=axis).any() for axis in range(3))


def test_an_empty_mask_is_shown(head: Volume, mask: Volume, tmp_path: Path) -> None:
    page = write_page(head, scan_of(np.zeros_like(mask.data)), tmp_path / "view.html", version="1")
    assert page.labels == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda m: scan_of(m.data + np.float32(0.5), "mask.nii"),
            r"mask.nii: holds 0.5, expected a label map of whole",
        ),
        (lambda m: scan_of(np.where(m.data > 0, np.nan, 0), "mask.nii"), r"mask.nii: holds nan, expected a label map"),
        (
            lambda m: Volume.from_array(m.data, np.eye(4), name="mask.nii"),
            r"mask.nii: lies on another grid than head.nii.gz \(orientation .*; give the scan that the mask was made of",
        ),
        (lambda m: scan_of(m.data[1:], "mask.nii"), r"shape 12×14×10 and 11×14×10"),
    ],
)
def test_what_is_no_mask_of_the_scan_is_refused(
    head: Volume, mask: Volume, tmp_path: Path, change: Any, says: str
) -> None:
    with pytest.raises(InputError, match=says) as refused:
        write_page(head, change(mask), tmp_path / "view.html", version="1")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_scan_in_place_of_the_mask_is_refused(tmp_path: Path) -> None:
    data = np.arange(20 * 20 * 20, dtype=np.float32).reshape(20, 20, 20)
    with pytest.raises(
        InputError, match="holds 7999 different values, a label map has up to 2000; give the scan first"
    ):
        write_page(scan_of(data), scan_of(data), tmp_path / "view.html", version="1")


def test_a_scan_that_no_browser_shows_is_refused(tmp_path: Path) -> None:
    long = Volume.from_array(np.zeros((2049, 1, 1), np.float32), np.eye(4), name="long.nii")
    with pytest.raises(InputError, match="long.nii: 2049×1×1 voxels, a browser shows up to 2048 on an axis; crop the"):
        write_page(long, long, tmp_path / "view.html", version="1")


def test_voxels_without_a_number_are_told_and_the_others_kept(head: Volume, mask: Volume, tmp_path: Path) -> None:
    data = head.data.copy()
    data[0, 0, :3] = np.nan, np.inf, 1e30
    page = write_page(scan_of(data), mask, tmp_path / "view.html", version="1")
    assert page.doubts == ("head.nii.gz: 2 voxels are no finite numbers; they are shown black",)
    text = (tmp_path / "view.html").read_text(encoding="utf-8")
    found = embedded(text, "scan", tmp_path).get_fdata()
    assert np.abs(found[1:] - head.data[1:]).max() < 0.02
    low, high = facts(text)["window"]
    assert 0 < low < 100 < high < 200


@pytest.mark.parametrize("value", [0.0, 7.0, 0.125, -1e20, np.nan])
def test_a_scan_of_one_value_is_shown(mask: Volume, tmp_path: Path, value: float) -> None:
    write_page(scan_of(np.full(mask.data.shape, value, np.float32)), mask, tmp_path / "view.html", version="1")
    text = (tmp_path / "view.html").read_text(encoding="utf-8")
    low, high = facts(text)["window"]
    assert low < high
    found = embedded(text, "scan", tmp_path).get_fdata()
    np.testing.assert_allclose(found, np.nan_to_num(value), rtol=1e-4, atol=1e-4)


def test_hostile_names_are_text(head: Volume, mask: Volume, tmp_path: Path) -> None:
    """A file's name has no slash, so the label has the end of a script; and bytes that are no UTF-8 have no place."""
    name = "\udce9<img src=x onerror=alert(1)>\n.nii.gz"
    write_page(
        scan_of(head.data, f"/folder/{name}"), scan_of(mask.data, name), tmp_path / "view.html", names={1: HOSTILE}, version="1"
    )  # fmt: skip
    text = (tmp_path / "view.html").read_bytes().decode("utf-8")
    assert facts(text)["labels"][0]["name"] == HOSTILE
    assert text.lower().count("</script>") == 5
    assert "<img" not in text.partition('<script type="text/plain"')[0]
    assert "/folder" not in text


def test_text_of_the_headers_stays_behind(head: Volume, mask: Volume, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(head.data, OBLIQUE)
    image.header["descrip"] = b"Doe^Jane"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Doe^Jane"))
    image.to_filename(tmp_path / "named.nii")
    write_page(Volume.load(tmp_path / "named.nii"), mask, tmp_path / "view.html", version="1")
    found = re.search(r'id="scan">([^<]*)<', (tmp_path / "view.html").read_text(encoding="utf-8"))
    assert found is not None
    assert b"Doe" not in gzip.decompress(base64.b64decode(found[1]))


def test_an_existing_page_stays(head: Volume, mask: Volume, tmp_path: Path) -> None:
    (tmp_path / "view.html").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_page(head, mask, tmp_path / "view.html", version="1")
    assert (tmp_path / "view.html").read_text() == "mine"
    write_page(head, mask, tmp_path / "view.html", version="1", force=True)
    assert (tmp_path / "view.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_viewer_is_what_its_digest_says_with_every_licence() -> None:
    own = files("lowres_seg.view")
    script = gzip.decompress(own.joinpath("niivue.js.gz").read_bytes())
    origin = json.loads(own.joinpath("niivue.json").read_text(encoding="utf-8"))
    assert hashlib.sha256(script).hexdigest() == origin["sha256"]
    assert re.search(rb"</script|<!--", script, re.IGNORECASE) is None  # it stands within a script of the page
    licences = own.joinpath("niivue-licences.txt").read_text(encoding="utf-8")
    for name, part in origin["packages"].items():
        assert f"\n{name} {part['version']}\n" in licences
        assert part["license"] in ("MIT", "ISC", "BSD-2-Clause")
    assert "Copyright (c) 2021, Niivue" in licences


def test_a_changed_viewer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("niivue.js.gz", "niivue.json"):
        (tmp_path / name).write_bytes(files("lowres_seg.view").joinpath(name).read_bytes())
    (tmp_path / "niivue.js.gz").write_bytes(gzip.compress(b"alert(1)"))
    monkeypatch.setattr(page_module, "OWN", tmp_path)
    with pytest.raises(InputError, match="niivue.js.gz of this package has changed"):
        page_module.viewer()


def test_the_viewer_is_of_the_packages_that_the_lock_pins(checkout: Path) -> None:
    lock = json.loads((checkout / "scripts" / "niivue" / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    origin = json.loads(files("lowres_seg.view").joinpath("niivue.json").read_text(encoding="utf-8"))
    for name, part in origin["packages"].items():
        assert lock[f"node_modules/{name}"]["integrity"] == part["integrity"]
