"""Commands in processes that begin with a standard stream closed, as some services start them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import pytest

from lowres_seg import Volume

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a POSIX shell closes the streams")


def shell(command: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a line of sh in which "$@" is the command line."""
    line = ["sh", "-c", command, "sh", sys.executable, "-m", "lowres_seg", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize("option", ["--quiet", "--json", "--verbose"])
def test_the_mask_is_whole_and_the_code_tells_of_lost_output(
    tiny: Path, lopsided: Callable[..., Volume], tmp_path: Path, closed: str, option: str
) -> None:
    lopsided().save(tmp_path / "a.nii")
    mask = tmp_path / "m.nii.gz"
    done = shell(f'"$@" {closed}', "predict", tiny, tmp_path / "a.nii", "-o", mask, option)
    assert nib.load(mask).get_fdata().any()
    loses = option != "--quiet" and closed != "2>&-"
    assert done.returncode == (1 if loses else 0)
    assert "Traceback" not in done.stderr
    told = "standard output: cannot be written (it is closed)"
    assert (told in done.stderr) == (loses and closed == ">&-")


def test_errors_keep_their_codes(tmp_path: Path) -> None:
    for closed in ("2>&-", ">&- 2>&-"):
        done = shell(f'"$@" {closed}', "predict", tmp_path / "none", "a.nii", "-o", tmp_path / "m.nii")
        assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
        assert shell(f'"$@" {closed}', "predict").returncode == 2
