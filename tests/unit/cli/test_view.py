"""What `view` writes and says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lowres_seg import Volume


def run(*words: object, at: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lowres_seg", "view", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, cwd=at, env=os.environ | environment
    )


@pytest.fixture
def place(tmp_path: Path, lopsided: Callable[..., Volume]) -> Path:
    """A folder with a scan and a mask of two labels."""
    scan = lopsided()
    scan.save(tmp_path / "head.nii.gz")
    mask = (scan.data > 0.5).astype(np.uint8)
    mask[0, 0, 0] = 3
    Volume(mask, scan.grid).save(tmp_path / "mask.nii.gz")
    return tmp_path


def test_the_page_lies_beside_the_mask_and_its_size_is_told(place: Path) -> None:
    done = run("head.nii.gz", "mask.nii.gz", at=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"mask.html: 2 labels, [\d.]+ [kM]B; open it in a browser\n", done.stdout)
    assert (place / "mask.html").read_text(encoding="utf-8").count("mask.nii.gz on head.nii.gz") == 1
    again = run("head.nii.gz", "mask.nii.gz", at=place)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("error: mask.html: exists already")
    assert run("head.nii.gz", "mask.nii.gz", "--force", "-q", at=place).stdout == ""


def test_names_come_from_the_bundle(place: Path, tiny: Path) -> None:
    done = run("head.nii.gz", "mask.nii.gz", "-o", "v.html", "--bundle", tiny, "--json", at=place)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["path"] == "v.html"
    assert told["bytes"] == (place / "v.html").stat().st_size
    assert [(label["value"], label["name"]) for label in told["labels"]] == [(1, "brain"), (3, "label 3")]


def test_a_browser_opens_the_page_when_it_is_asked_for(place: Path) -> None:
    browser = place / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{place}/opened"\n')
    browser.chmod(0o755)
    done = run("head.nii.gz", "mask.nii.gz", at=place, BROWSER=f"{browser} %s")
    assert done.returncode == 0
    assert not (place / "opened").exists()
    done = run("head.nii.gz", "mask.nii.gz", "--open", "--force", at=place, BROWSER=f"{browser} %s")
    assert (done.returncode, done.stderr) == (0, "")
    assert (place / "opened").read_text().strip() == (place / "mask.html").as_uri()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["mask.nii.gz", "other.nii.gz"], 1, "error: other.nii.gz: lies on another grid than mask.nii.gz (shape 16×16"),
        (["mask.nii.gz", "head.nii.gz"], 1, "error: head.nii.gz: holds 0.0"),
        (["head.nii.gz", "absent.nii.gz"], 1, "error: absent.nii.gz: "),
        (["head.nii.gz", "mask.nii.gz", "-o", "head.nii.gz"], 2, "expected a name that ends in .html"),
        (["head.nii.gz", "mask.nii.gz", "-o", "absent/v.html"], 1, "its folder absent does not exist"),
    ],
)
def test_what_cannot_be_shown_is_one_line(place: Path, words: list[str], code: int, says: str) -> None:
    Volume.from_array(np.ones((4, 4, 4), np.uint8), np.eye(4)).save(place / "other.nii.gz")
    before = sorted(place.iterdir())
    done = run(*words, at=place)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    assert says in done.stderr
    assert sorted(place.iterdir()) == before


def test_an_empty_mask_is_a_note(place: Path) -> None:
    Volume.from_array(np.zeros((16, 16, 16), np.uint8), Volume.load(place / "head.nii.gz").grid.affine).save(
        place / "no.nii"
    )
    done = run("head.nii.gz", "no.nii", at=place)
    assert (done.returncode, done.stderr) == (0, "note: no.nii: no voxel is labelled\n")
    assert "no.html: 0 labels" in done.stdout
