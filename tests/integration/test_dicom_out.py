"""From a series to a segmentation and through a PACS, by the command line; dcm2niix's NIfTI is what it must agree with."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

from conftest import blob
from lowres_seg import Segmenter
from made_series import SAGITTAL, enhanced, save, series, turned
from orthanc import PASSWORD, USER, Orthanc, running
from watching import watched

Command = Callable[..., subprocess.CompletedProcess[str]]
BRAIN = {"value": "12738006", "scheme": "SCT", "meaning": "Brain"}
CODES = {"category": {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"}, "type": BRAIN}


def head(**attributes: object) -> list[Dataset]:
    """A sagittal, oblique series with a lopsided blob."""
    values = np.round(blob((16, 18, 14)).data).astype(np.uint16).transpose(2, 1, 0)
    turn = turned(SAGITTAL, (3, 7, -5))
    return series(values=values, orientation=turn, pixel_mm=(1.1, 0.9), spacing_mm=1.2, **attributes)


@pytest.fixture
def coded(make_bundle: Callable[..., Path]) -> Path:
    """A bundle whose label has codes."""
    return make_bundle("coded", labels=[{"value": 1, "name": "brain", "codes": CODES}], schema_version=3)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    save(head(), tmp_path / "study")
    return tmp_path / "study"


def by_dcm2niix(bundle: Path, study: Path, home: Path) -> sitk.Image:
    """The mask of the NIfTI that dcm2niix makes of a series."""
    home.mkdir()
    subprocess.run(["dcm2niix", "-f", "head", "-o", home, study], check=True, capture_output=True)
    Segmenter.load(bundle, threads=1).predict(home / "head.nii").labels.save(home / "mask.nii")
    return sitk.ReadImage(str(home / "mask.nii"))


def agreeing(mask: sitk.Image, segmentation: Path | io.BytesIO) -> float:
    """Share of the voxels of a mask that a segmentation has too, by highdicom."""
    found = highdicom.seg.segread(segmentation).get_volume(combine_segments=True)
    image = sitk.GetImageFromArray(found.array)
    columns = found.affine[:3, [2, 1, 0]]
    spacing = np.linalg.norm(columns, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(found.affine[:3, 3].tolist())
    image.SetDirection((columns / spacing).ravel().tolist())
    assert image.GetSize() == found.array.shape[::-1]
    placed = sitk.GetArrayFromImage(sitk.Resample(image, mask, sitk.Transform(), sitk.sitkNearestNeighbor))
    expected = sitk.GetArrayFromImage(mask)
    assert 0 < expected.sum() < expected.size
    return float((placed == expected).mean())


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_series_becomes_a_segmentation(command: Command, coded: Path, study: Path, tmp_path: Path, kind: str) -> None:
    done = command("predict", coded, study, "-o", tmp_path / "brain.dcm", "--segmentation-type", kind)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"{tmp_path / 'brain.dcm'}: brain " in done.stdout
    found = pydicom.dcmread(tmp_path / "brain.dcm")
    assert found.SegmentationType == kind.upper()
    assert found.SeriesDescription == "tiny 1 of T1 MPRAGE"
    method = found.SegmentSequence[-1].SegmentationAlgorithmIdentificationSequence[0]
    shown = json.loads(command("show", coded, "--json").stdout)
    assert method.AlgorithmVersion == shown["sha256"]
    assert agreeing(by_dcm2niix(coded, study, tmp_path / "nifti"), tmp_path / "brain.dcm") == 1
    again = command("predict", coded, study, "-o", tmp_path / "again.dcm", "--segmentation-type", kind, "-q")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert pydicom.dcmread(tmp_path / "again.dcm").SOPInstanceUID == found.SOPInstanceUID
    assert command("predict", coded, study, "-o", tmp_path / "again.dcm").returncode == 1  # it exists


def test_a_multi_frame_image_becomes_a_segmentation(command: Command, coded: Path, study: Path, tmp_path: Path) -> None:
    save([enhanced(head(), per_frame=True)], tmp_path / "enhanced")
    done = command("predict", coded, tmp_path / "enhanced", "-o", tmp_path / "brain.dcm")
    assert done.returncode == 0, done.stderr
    assert agreeing(by_dcm2niix(coded, study, tmp_path / "nifti"), tmp_path / "brain.dcm") == 1


def test_codes_come_from_a_file(command: Command, tiny: Path, study: Path, tmp_path: Path) -> None:
    done = command("predict", tiny, study, "-o", tmp_path / "brain.dcm")
    assert done.returncode == 1
    assert done.stderr.startswith("error: tiny: label brain has no codes, which a DICOM segmentation needs; ")
    assert done.stderr.count("\n") == 1
    (tmp_path / "codes.json").write_text(json.dumps({"brain": CODES}), encoding="utf-8")
    done = command("predict", tiny, study, "-o", tmp_path / "brain.dcm", "--codes", tmp_path / "codes.json")
    assert done.returncode == 0, done.stderr
    kind = pydicom.dcmread(tmp_path / "brain.dcm").SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert kind.CodeMeaning == "Brain"


def test_a_masked_scan_lies_beside_it(command: Command, coded: Path, study: Path, tmp_path: Path) -> None:
    done = command("predict", coded, study, "-o", tmp_path / "brain.dcm", "--apply-mask")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "brain_masked.nii.gz").is_file()


def test_a_segmentation_never_replaces_an_image_of_its_series(command: Command, coded: Path, study: Path) -> None:
    image = sorted(study.glob("*.dcm"))[0]
    before = image.read_bytes()
    done = command("predict", coded, study, "-o", image, "--force")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert image.read_bytes() == before


def test_a_zip_becomes_a_segmentation(command: Command, coded: Path, study: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "study"), "zip", study)
    done = command("predict", coded, archive, "-o", tmp_path / "brain.dcm")
    assert done.returncode == 0, done.stderr
    assert len(highdicom.seg.segread(tmp_path / "brain.dcm").get_source_image_uids()) == len(head())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["NIFTI", "-o", "m.dcm"], "is no DICOM series that it could refer to; name a mask that ends in .nii.gz"),
        (["STUDY", "-o", "m.nii", "--codes", "c.json"], "--codes: is for DICOM segmentations; name an output such as"),
        (["STUDY", "-o", "m.nii", "--segmentation-type", "binary"], "--segmentation-type: is for DICOM segmentations"),
        (["STUDY", "-o", "m.dcm", "--segmentation-type", "x"], "--segmentation-type: 'x', expected binary or labelmap"),
        (["STUDY", "-o", "m.dcm", "--codes", "c.json"], "c.json: cannot be read"),
        (["STUDY", "-o", "m.dcm", "--store"], "needs a DICOMweb address and an output such as"),
        (["https://me:geheim@pacs/studies/1", "-o", "m.dcm"], "has a user or a password"),
        (["https://pacs/studies", "-o", "m.dcm"], "is no address of a study or series"),
        (["https://pacs/studies/1", "http://pacs/studies/2", "-o", "m"], "are of 2 studies on servers, expected one"),
        (["NOWHERE", "-o", "m.dcm"], "has no FrameOfReferenceUID, which a segmentation refers to"),
    ],
)
def test_what_makes_no_segmentation_is_told_in_a_line(
    command: Command,
    coded: Path,
    study: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    blob().save("head.nii")
    if "NOWHERE" in words:
        images = head()
        for image in images:
            del image.FrameOfReferenceUID
        save(images, tmp_path / "nowhere")
    places = {"NIFTI": "head.nii", "STUDY": "study", "NOWHERE": "nowhere"}
    done = command("predict", coded, *[places.get(word, word) for word in words])
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert "geheim" not in done.stderr
    assert not list(tmp_path.glob("m*"))


def test_a_folder_reaches_no_network(coded: Path, study: Path, tmp_path: Path) -> None:
    modules = ["dicomweb_client"]
    words = ["predict", coded, study, "-o", tmp_path / "brain.dcm", "-q"]
    assert watched(tmp_path, *words, modules=modules) == "0 [] []"
    words[2:] = ["http://127.0.0.1:9/studies/1.2", "-o", tmp_path / "m.dcm"]  # shows that the test can fail
    said = watched(tmp_path, *words, modules=modules)
    assert "socket.connect" in said
    assert said.endswith(" ['dicomweb_client']")


def address(server: Orthanc, *, whole: bool = False) -> str:
    first = head()[0]
    tail = "" if whole else f"/series/{first.SeriesInstanceUID}"
    return f"{server.service}/studies/{first.StudyInstanceUID}{tail}"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    home = tmp_path_factory.mktemp("pacs")
    with running(home / "server") as server:
        server.upload(save(head(), home / "study"))
        yield server


@pytest.fixture
def user(pacs: Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWRES_SEG_DICOMWEB_USER", USER)
    monkeypatch.setenv("LOWRES_SEG_DICOMWEB_PASSWORD", PASSWORD)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pacs.authority))


@pytest.mark.usefixtures("user")
def test_from_a_pacs_and_back(
    command: Command, coded: Path, study: Path, pacs: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    mask = by_dcm2niix(coded, study, tmp_path / "nifti")
    for whole in (False, True):  # the second is the same segmentation, and the study has none else of MR
        done = command("predict", coded, address(pacs, whole=whole), "-o", tmp_path / "brain.dcm", "--store", "--force")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert done.stdout.endswith(f"brain.dcm: stored in {address(pacs, whole=True)}\n")
        (stored,) = pacs.files_of("SEG")
        assert agreeing(mask, io.BytesIO(stored)) == 1
    assert list((tmp_path / "temporary").iterdir()) == []
    done = command("predict", coded, f"t1={address(pacs)}", "-o", tmp_path / "mask.nii.gz")
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("user")
def test_a_pacs_that_refuses_is_told_in_a_line(
    command: Command, coded: Path, pacs: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWRES_SEG_DICOMWEB_PASSWORD", "wrong")
    done = command("predict", coded, address(pacs), "-o", tmp_path / "brain.dcm", "--store")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {address(pacs)}: refuses (401")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "brain.dcm").exists()


def test_orthanc_calls_the_command_when_a_study_is_stable(
    coded: Path, study: Path, tmp_path: Path, checkout: Path
) -> None:
    script = tmp_path / "hook.lua"
    shutil.copy(checkout / "docs" / "examples" / "orthanc_stable_study.lua", script)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "lowres-seg").write_text(f'#!/bin/sh\nexec {sys.executable} -m lowres_seg "$@"\n')
    (tmp_path / "bin" / "lowres-seg").chmod(0o755)
    folder = tmp_path / "it's results"
    folder.mkdir()
    environment: dict[str, Any] = {
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "LOWRES_SEG_BUNDLE": str(coded),
        "LOWRES_SEG_FOLDER": str(folder),
        "LOWRES_SEG_SERVICE": "http://localhost:PORT/dicom-web",
        "LOWRES_SEG_OPTIONS": "--series 'T1 MPRAGE'",
        "LOWRES_SEG_DICOMWEB_USER": USER,
        "LOWRES_SEG_DICOMWEB_PASSWORD": PASSWORD,
    }
    options = {"LuaScripts": [str(script)], "StableAge": 1}
    with running(tmp_path / "server", environment=environment, **options) as server:
        server.upload(save(head(), tmp_path / "sent"))
        end = time.monotonic() + 120
        while not server.files_of("SEG") and time.monotonic() < end:
            time.sleep(0.2)
        (stored,) = server.files_of("SEG")
        log = (folder / "log").read_text()
    assert log == ""
    assert agreeing(by_dcm2niix(coded, study, tmp_path / "nifti"), io.BytesIO(stored)) == 1
    uid = head()[0].StudyInstanceUID
    assert pydicom.dcmread(folder / f"{uid}.dcm").SOPInstanceUID == pydicom.dcmread(io.BytesIO(stored)).SOPInstanceUID
