"""`predict` on DICOM: words of the command line in, masks on the grid of the series out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dicom_folders as made
import nibabel as nib
import numpy as np
import pytest

from lowres_seg import Segmenter, Volume
from lowres_seg.dicom import chosen, found

from .conftest import Command

Content = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T1 and FLAIR of one study on two grids, with a localizer."""
    folder = tmp_path_factory.mktemp("study")
    t1, flair = made.series(), made.series("flair", number=7, description="AX FLAIR", seed=1)
    for place, one in enumerate(flair[:10]):
        one.ImagePositionPatient = [-10.0, -9.0, -12.0 + 2.0 * place]
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.localizer(folder)
    made.write(folder, [*t1, *flair[:10]])
    return folder


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "series"
    made.plain(folder)
    return folder


def network(channels: int) -> dict[str, Any]:
    shape = {"input_shape": [1, channels, 16, 16, 16], "output_shape": [1, 2, 16, 16, 16]}
    return {"net": {"xml": "networks/net.xml", "bin": "networks/net.bin", **shape}}


Bundled = Callable[..., Path]


@pytest.fixture
def bundled(make_bundle: Callable[..., Path], content: Content) -> Bundled:
    """Function that writes a bundle which marks what is bright in the first of its channels."""

    def make(*channels: str) -> Path:
        rules = [{"rule": "percentile-scale", "lower": 2, "upper": 98}]
        stages = [{**content()["stages"][0], "normalise": {"rules": rules}}]
        return make_bundle("_".join(channels), channels=list(channels), networks=network(len(channels)), stages=stages)

    return make


@pytest.fixture
def tiny(bundled: Bundled) -> Path:
    """A bundle of one channel."""
    return bundled("t1")


@pytest.fixture
def pair(bundled: Bundled) -> Path:
    """A bundle of two channels."""
    return bundled("t1", "flair")


def mask(path: Path) -> nib.Nifti1Image:
    return nib.load(path)


def test_a_mask_lies_on_the_grid_of_its_series(tiny: Path, plain: Path, tmp_path: Path, command: Command) -> None:
    volume = chosen(found(plain)).volume()
    expected = Segmenter.load(tiny).predict(volume).labels
    volume.save(tmp_path / "same.nii.gz")
    done = command("predict", tiny, plain, "-o", tmp_path / "m.nii.gz", "--apply-mask")
    assert done.returncode == 0, done.stderr
    image = mask(tmp_path / "m.nii.gz")
    assert np.array_equal(np.asanyarray(image.dataobj), expected.data)
    assert expected.data.any()
    assert np.abs(image.affine - volume.grid.affine).max() < 1e-5
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    masked = mask(tmp_path / "m_masked.nii.gz")
    assert masked.get_data_dtype() == np.uint16
    assert np.array_equal(np.asanyarray(masked.dataobj), np.where(expected.data, volume.data, 0))


@pytest.mark.parametrize("name", ["zip", "DICOMDIR", "files"])
def test_a_zip_a_dicomdir_and_files_are_the_same_scan(
    tiny: Path, plain: Path, tmp_path: Path, command: Command, name: str
) -> None:
    if name == "files":
        words = sorted(plain.iterdir())
    else:
        made.FOLDERS[name](tmp_path / name)
        words = [made.path_of(name, tmp_path / name)]
    assert command("predict", tiny, *words, "-o", tmp_path / "m.nii.gz").returncode == 0
    assert command("predict", tiny, plain, "-o", tmp_path / "n.nii.gz").returncode == 0
    assert (tmp_path / "m.nii.gz").read_bytes() == (tmp_path / "n.nii.gz").read_bytes()


def test_one_of_several_series_is_named(tiny: Path, study: Path, tmp_path: Path, command: Command) -> None:
    done = command("predict", tiny, study, "-o", tmp_path / "m.nii.gz")
    assert done.returncode == 1
    assert done.stderr == (
        f'error: {study}: holds 2 series, expected one: 3 "T1 MPRAGE" (12 slices), 7 "AX FLAIR" (10 slices); '
        "name one with --series SERIES\n"
    )
    done = command("predict", tiny, study, "--series", "mprage", "-o", tmp_path / "m.nii.gz", "--strict")
    assert done.returncode == 0, done.stderr
    assert mask(tmp_path / "m.nii.gz").shape == (20, 24, 12)
    Volume.from_array(made.voxels().T.astype(np.float32), np.eye(4)).save(tmp_path / "x.nii")
    done = command("predict", tiny, tmp_path / "x.nii", "--series", "5", "-o", tmp_path / "n.nii.gz")
    assert "--series names a series of DICOM, and no input is DICOM" in done.stderr


def test_folders_and_tables_are_cohorts_that_resume(tiny: Path, plain: Path, tmp_path: Path, command: Command) -> None:
    for name in ("one", "two"):
        shutil.copytree(plain, tmp_path / name)
    gap = tmp_path / "three"
    made.gap(gap)
    words = ["predict", tiny, tmp_path / "one", tmp_path / "two", gap, "-o", tmp_path / "out"]
    done = command(*words)
    assert done.returncode == 1
    assert f"error: {gap}: series 3: 1 slice is missing" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["one_mask.nii.gz", "two_mask.nii.gz"]
    file = next((tmp_path / "two").iterdir())
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    resumed = command(*words, "--resume", "--json")
    assert [case["outcome"] for case in json.loads(resumed.stdout)["cases"]] == ["skipped", "done", "failed"]
    assert f"{tmp_path / 'two'}: was done again, because its scan has changed" in resumed.stderr
    table = tmp_path / "cases.csv"
    table.write_text("id,t1\na,one\nb,three\n", encoding="utf-8")
    done = command("predict", tiny, table, "-o", tmp_path / "masks")
    assert done.returncode == 1
    assert (tmp_path / "masks" / "a_mask.nii.gz").read_bytes() == (tmp_path / "out" / "one_mask.nii.gz").read_bytes()


def test_channels_are_series_on_the_grid_of_the_first(
    pair: Path, study: Path, tmp_path: Path, command: Command
) -> None:
    words = ["predict", pair, study, "t1=3", "flair=AX FLAIR", "-o", tmp_path / "m.nii.gz", "--json"]
    done = command(*words)
    assert done.returncode == 0, done.stderr
    case = json.loads(done.stdout)["cases"][0]
    assert "another-grid" in case["doubt_names"]
    assert "guessed-channel" not in case["doubt_names"]
    assert "channel flair was resampled to the grid of t1 by its geometry" in " ".join(case["doubts"])
    assert mask(tmp_path / "m.nii.gz").shape == (20, 24, 12)
    done = command(*words, "--reference", "flair", "--force")
    assert done.returncode == 0, done.stderr
    image = mask(tmp_path / "m.nii.gz")
    assert image.shape == (20, 24, 10)
    assert np.allclose(image.affine, chosen(found(study), "7").volume().grid.affine, atol=1e-5)


def test_a_guess_is_a_doubt(pair: Path, study: Path, tmp_path: Path, command: Command) -> None:
    named = command("predict", pair, study, "t1=3", "flair=7", "-o", tmp_path / "m.nii.gz")
    guessed = command("predict", pair, study, "-o", tmp_path / "n.nii.gz", "--strict", "--json")
    assert (named.returncode, guessed.returncode) == (0, 3)
    case = json.loads(guessed.stdout)["cases"][0]
    assert case["doubt_names"].count("guessed-channel") == 2
    assert 'channel flair was guessed from 7 "AX FLAIR" (10 slices); name it to be sure' in " ".join(case["doubts"])
    assert (tmp_path / "m.nii.gz").read_bytes() == (tmp_path / "n.nii.gz").read_bytes()


def test_a_channel_that_nothing_looks_like_lists_the_series(
    tmp_path: Path, study: Path, bundled: Bundled, command: Command
) -> None:
    bundle = bundled("t1", "t2")
    done = command("predict", bundle, study, "-o", tmp_path / "m.nii.gz")
    assert done.stderr == (
        f'error: {study}: no series looks like channel t2: 3 "T1 MPRAGE" (12 slices), 7 "AX FLAIR" (10 slices); '
        "give t1=SERIES t2=SERIES\n"
    )
    done = command("predict", bundle, study, "--series", "3", "-o", tmp_path / "m.nii.gz")
    assert "--series: names one series, and the bundle takes t1, t2; give t1=SERIES t2=SERIES beside" in done.stderr
    done = command("predict", bundle, study, "t1=3", "-o", tmp_path / "m.nii.gz")
    assert "channels given: t1; the bundle takes t1, t2, each once" in done.stderr


def test_another_frame_of_reference_is_refused(pair: Path, study: Path, tmp_path: Path, command: Command) -> None:
    other = made.series("flair", number=7, description="AX FLAIR", seed=1)
    for one in other:
        one.FrameOfReferenceUID = made.uid("another frame")
    made.write(tmp_path / "study", [*made.series(), *other])
    for more in ([], ["--align", "header"]):
        done = command("predict", pair, tmp_path / "study", "t1=3", "flair=7", "-o", tmp_path / "m.nii.gz", *more)
        assert done.returncode == 1
        assert "channel flair lies in another frame of reference than t1, so nothing says where it lies" in done.stderr


def test_nifti_channels_need_align_header(pair: Path, study: Path, tmp_path: Path, command: Command) -> None:
    for number in ("3", "7"):
        chosen(found(study), number).volume().save(tmp_path / f"{number}.nii.gz")
    words = [
        "predict",
        pair,
        f"t1={tmp_path / '3.nii.gz'}",
        f"flair={tmp_path / '7.nii.gz'}",
        "-o",
        tmp_path / "m.nii.gz",
    ]
    done = command(*words)
    assert done.returncode == 1
    assert "pass --align header if their headers place both in one space" in done.stderr
    assert command(*words, "--align", "header").returncode == 0
    assert command("predict", pair, study, "t1=3", "flair=7", "-o", tmp_path / "n.nii.gz").returncode == 0
    ours, theirs = (np.asanyarray(mask(tmp_path / name).dataobj) for name in ("m.nii.gz", "n.nii.gz"))
    assert np.mean(ours == theirs) > 0.999  # a NIfTI header has float32
    assert ours.any()
    assert command(*words, "--align", "sitk").returncode == 2
    assert command(*words, "--reference", "t2").returncode == 2


def test_nothing_private_is_told_or_kept(tiny: Path, tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "DOE^JANE" / "head"
    made.truncated(folder)
    for place, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"DOE_JANE {place}.dcm")
    made.no_pixels(tmp_path / "reports")
    out = tmp_path / "out"
    words = ["predict", tiny, folder, tmp_path / "reports", "-o", out, "--anonymous", "--json"]
    done = command(*words, "--provenance", tmp_path / "p.json", "--volume-table", tmp_path / "v.csv")
    assert done.returncode == 1
    kept = (
        (tmp_path / "p.json").read_text() + (tmp_path / "v.csv").read_text() + (out / ".lowres-seg.jsonl").read_text()
    )
    for text in (done.stdout, kept):
        assert "could not be read" in text
        assert not any(word in text for word in ("DOE", "JANE", "0815", "1970"))
    done = command("predict", tiny, tmp_path / "reports", "-o", tmp_path / "m.nii.gz", "-v")
    assert not any(word in done.stdout + done.stderr for word in ("DOE", "JANE", "0815", "1970"))
