"""Formats by suffix, with the base dependencies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lowres_seg import InputError, MissingExtraError, Volume, extras


def scan() -> Volume:
    return Volume.from_array(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([-1.0, 1.5, 2.0, 1.0]))


def test_every_suffix_of_the_base_gives_the_volume_back(tmp_path: Path) -> None:
    for suffix in (".nii.gz", ".nii", ".mgz", ".mgh", ".MGZ"):
        path = tmp_path / f"scan{suffix}"
        if suffix.islower():
            scan().save(path)
        else:
            path.write_bytes((tmp_path / f"scan{suffix.lower()}").read_bytes())
        found = Volume.load(path)
        assert np.array_equal(found.data, scan().data)
        assert found.grid.same_space(scan().grid)
        assert not Volume.blank(path).data.any()
        assert Volume.blank(path).grid == found.grid


def test_nrrd_says_how_to_install_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    (tmp_path / "scan.nrrd").write_bytes(b"NRRD0005\ntype: uchar\n\n")
    for use in (lambda: Volume.load(tmp_path / "scan.nrrd"), lambda: scan().save(tmp_path / "m.nrrd")):
        with pytest.raises(MissingExtraError, match="nrrd needs nrrd, not installed here: pip install"):
            use()
    assert not (tmp_path / "m.nrrd").exists()


@pytest.mark.parametrize("name", ["m.img", "m.nhdr", "m"])
def test_other_suffixes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        scan().save(tmp_path / name)
    assert "expected a name that ends in .nii.gz, .nii, .mgz, .mgh or .nrrd" in str(caught.value)


def test_a_detached_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.nhdr").write_text("NRRD0005\ndata file: scan.raw\n\n")
    with pytest.raises(InputError, match="is an NRRD header whose voxels lie in another file"):
        Volume.load(tmp_path / "scan.nhdr")
