"""Pictures of `predict --picture`: where they draw a label, and which files a run has with them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lowres_seg import Volume
from lowres_seg.cli import app
from lowres_seg.view.picture import MARGIN, SIDE, picture
from lowres_seg.view.planes import outline

ORANGE, BLUE = (230, 159, 0), (86, 180, 233)
#: 0.9×1.2×4 mm: to the right, in front, up.
AFFINE = np.diag([0.9, 1.2, 4.0, 1.0])


def volumes(data: np.ndarray, affine: np.ndarray = AFFINE) -> tuple[Volume, Volume]:
    grey = np.random.default_rng(0).uniform(0, 100, data.shape).astype(np.float32)
    return Volume.from_array(grey, affine), Volume.from_array(data, affine)


@pytest.fixture
def mask() -> np.ndarray:
    """Label 1 to the right, in front and up; label 3 to the left, behind and down."""
    data = np.zeros((60, 50, 20), np.uint8)
    data[40:55, 30:45, 12:17] = 1
    data[4:12, 5:15, 3:14] = 3
    return data


def drawn(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def box(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """First and last row and column of a colour."""
    found = np.argwhere((pixels == colour).all(axis=-1))
    return np.array([found.min(axis=0), found.max(axis=0)])


def test_labels_are_drawn_where_they_lie(mask: np.ndarray) -> None:
    """In millimetres from the right, from the front and from above, on one scale for all planes."""
    pixels = drawn(picture(*volumes(np.where(mask == 1, mask, 0)), {1: "one"}))
    extent = np.array(mask.shape) * np.diag(AFFINE)[:3]
    scale = SIDE / extent.max()
    low, high = np.array([40, 30, 12]) * np.diag(AFFINE)[:3], np.array([55, 45, 17]) * np.diag(AFFINE)[:3]
    tallest = max(extent[1], extent[2]) * scale + 2 * MARGIN
    left = 0.0
    for across, up, turned in ((0, 1, True), (0, 2, True), (1, 2, False)):
        width, height = extent[across] * scale, extent[up] * scale
        tile = pixels[: int(tallest), int(left) : int(left + width + 2 * MARGIN)]
        columns = (
            (extent[across] - high[across], extent[across] - low[across]) if turned else (low[across], high[across])
        )
        rows = extent[up] - high[up], extent[up] - low[up]
        top = (tallest - height) / 2
        expected = [
            [top + rows[0] * scale, MARGIN + columns[0] * scale],
            [top + rows[1] * scale, MARGIN + columns[1] * scale],
        ]
        np.testing.assert_allclose(box(tile, ORANGE), expected, atol=3)
        left += round(width) + 2 * MARGIN


def test_the_letters_are_those_of_the_sides(mask: np.ndarray) -> None:
    """An R at the left border of the axial slice, and an L at its right one."""
    pixels = drawn(picture(*volumes(mask), {})).max(axis=2)
    width = round(SIDE * 60 * 0.9 / 80)
    letters = []
    for column in (0, width + MARGIN):
        side = pixels[MARGIN + SIDE // 2 - 100 : MARGIN + SIDE // 2 + 100, column : column + MARGIN] > 100
        rows, columns = np.nonzero(side)
        letter = side[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        letters.append(letter[: letter.shape[0] // 2, letter.shape[1] // 2 :].mean())
    assert letters[0] > 0.2
    assert letters[1] == 0


@pytest.mark.parametrize("orientation", ["LPI", "SAR", "PIL"])
def test_copies_in_other_orientations_give_the_same_picture(mask: np.ndarray, orientation: str) -> None:
    scan, labels = volumes(mask)
    transform = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(AFFINE), nibabel.orientations.axcodes2ornt(orientation)
    )
    turned = []
    for one in (scan, labels):
        image = nibabel.Nifti1Image(one.data, AFFINE).as_reoriented(transform)
        turned.append(Volume.from_array(np.asarray(image.dataobj), image.affine))
    assert turned[0].grid.orientation == orientation
    assert picture(turned[0], turned[1], {}) == picture(scan, labels, {})


def test_every_label_has_its_colour_and_the_legend_names_some(mask: np.ndarray) -> None:
    pixels = drawn(picture(*volumes(mask), {}))
    assert (pixels == ORANGE).all(axis=-1).sum() > 200
    assert (pixels == BLUE).all(axis=-1).sum() > 200
    many = np.arange(60 * 50 * 20).reshape(mask.shape) // 60 % 400
    few = drawn(picture(*volumes(mask), {})).shape[0]
    assert drawn(picture(*volumes(many.astype(np.int16)), {})).shape[0] - few == 11 * 20


@pytest.mark.parametrize("shape", [(1, 40, 40), (40, 1, 1), (1, 1, 1)])
def test_thin_scans_have_pictures(shape: tuple[int, int, int]) -> None:
    data = np.zeros(shape, np.uint8)
    assert drawn(picture(*volumes(data), {})).size
    assert (drawn(picture(*volumes(data + np.uint8(1)), {})) == ORANGE).all(axis=-1).any()


def test_a_scan_of_no_numbers_is_black(mask: np.ndarray) -> None:
    scan, labels = volumes(mask)
    pixels = drawn(picture(Volume(np.full_like(scan.data, np.nan), scan.grid), labels, {}))
    inside = pixels[MARGIN + 5 : 100, MARGIN + 5 : 100]
    assert set(map(tuple, inside.reshape(-1, 3))) <= {(0, 0, 0), ORANGE, BLUE}


def test_an_outline_lies_within_its_label() -> None:
    labels = np.zeros((9, 9), int)
    labels[2:7, 2:5], labels[2:7, 5:8] = 1, 300
    edge = outline(labels)
    assert not edge[labels == 0].any()
    assert edge[2:7, 4:6].all()
    assert not edge[3:6, 3].any()


@pytest.fixture
def scans(tmp_path: Path, lopsided: Callable[..., Volume]) -> list[Path]:
    paths = [tmp_path / f"{name}.nii.gz" for name in "ab"]
    for seed, path in enumerate(paths):
        lopsided(seed=seed).save(path)
    return paths


def here(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.stdout, str(done.exception)


def test_each_case_of_a_folder_has_a_picture(tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said, _ = here("predict", tiny, *scans, "-o", out, "--picture", "--provenance", tmp_path / "p.json")
    assert code == 0
    assert sorted(path.name for path in out.glob("*_mask.*")) == [
        *("a_mask.nii.gz", "a_mask.png", "b_mask.nii.gz", "b_mask.png")
    ]
    assert f"{out / 'a_mask.png'}: written, three planes through the labels" in said
    cases = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))["cases"]
    assert [sorted(case["outputs"]) for case in cases] == [["mask", "picture"]] * 2
    names = {1: "brain"}
    assert (out / "a_mask.png").read_bytes() == picture(
        Volume.load(scans[0]), Volume.load(out / "a_mask.nii.gz"), names
    )
    (out / "b_mask.png").unlink()
    code, said, _ = here("predict", tiny, *scans, "-o", out, "--picture", "--resume", "--json")
    assert [case["outcome"] for case in json.loads(said)["cases"]] == ["skipped", "done"]
    assert (out / "b_mask.png").is_file()


def test_a_picture_that_exists_is_kept(tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(b"mine")
    code, _, error = here("predict", tiny, scans[0], "-o", tmp_path / "m.nii.gz", "--picture")
    assert code == 1
    assert "m.png: exists already" in error
    assert not (tmp_path / "m.nii.gz").exists()
    assert here("predict", tiny, scans[0], "-o", tmp_path / "m.nii.gz", "--picture", "--force")[0] == 0
    assert (tmp_path / "m.png").read_bytes()[:4] == b"\x89PNG"


def test_without_the_extra_it_says_which(tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    code = "import sys\nsys.modules['PIL'] = None\nsys.argv[0] = 'lowres-seg'\nfrom lowres_seg.cli import main\nmain()"
    words = ["predict", tiny, scans[0], "-o", tmp_path / "m.nii.gz", "--picture"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("error: picture needs PIL, not installed here: pip install ")
    assert "[picture]" in done.stderr
    assert not (tmp_path / "m.nii.gz").exists()
