from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lowres_seg import Volume
from lowres_seg.cohort.cases import Cases
from lowres_seg.cohort.naming import differing_parts


@pytest.mark.parametrize(
    ("paths", "parts"),
    [
        (["BraTS2021_00006/t1.nii.gz", "BraTS2021_00012/t1.nii.gz"], ["BraTS2021_00006", "BraTS2021_00012"]),
        (["d/sub-1/anat/t1.nii", "d/sub-2/anat/t1.nii"], ["sub-1", "sub-2"]),
        (
            ["d/sub-1/ses-1/t1.nii", "d/sub-1/ses-2/t1.nii", "d/sub-2/ses-1/t1.nii"],
            ["sub-1/ses-1", "sub-1/ses-2", "sub-2/ses-1"],
        ),
        (["s1/t1.nii", "x/s1/t1.nii"], ["s1", "x/s1"]),
        (["s1/t1.nii", "s1/x/t1.nii"], ["s1", "s1/x"]),
        (["s1/t1.nii", "t1.nii"], None),
        (["./s1/t1.nii", "s1/../s2/t1.nii"], ["s1", "s2"]),
        (["/t1.nii", "/x/t1.nii"], ["", "x"]),
        (["s1/t1.nii", "s1/t1.nii"], ["", ""]),
        (["s1/a.nii", "s2/b.nii"], ["", ""]),
        (["s1/a.nii", "s2/a.nii", "s1/b.nii", "s3/b.nii", "c.nii"], ["s1", "s2", "s1", "s3", ""]),
    ],
)
def test_parts(paths: list[str], parts: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = differing_parts([Path(p) for p in paths], [Path(p).name for p in paths])
    if parts is not None:
        assert found == parts
    whole = {(part, Path(path).name) for part, path in zip(found, paths, strict=True)}
    assert len(whole) == len({Path(path).resolve() for path in paths})
    assert not any(".." in part or part.startswith("/") for part in found)


def test_cases_of_one_file_name_are_called_by_their_folders(tmp_path: Path) -> None:
    volume = Volume.from_array(np.zeros((4, 4, 4), np.float32), np.eye(4))
    files = ["p/s1/t1.nii", "p/s2/t1.nii", "p/s1/t2.nii", "p/s2/t2.nii", "p/head.nii", "q/t1.nii"]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        volume.save(tmp_path / file)
    (tmp_path / "two.csv").write_text("t1\np/s1/t1.nii\np/s2/t1.nii\np/head.nii\n")
    assert [case.id for case in Cases.read(tmp_path / "two.csv", ["t1"])] == ["s1", "s2", "head.nii"]
    (tmp_path / "named.csv").write_text("id,t1\na,p/s1/t1.nii\n,p/s2/t1.nii\n,q/t1.nii\n")
    assert [case.id for case in Cases.read(tmp_path / "named.csv", ["t1"])] == ["a", "p/s2", "q"]
    (tmp_path / "four.csv").write_text("t1\n" + "\n".join(files[:4]) + "\n")
    assert [case.id for case in Cases.read(tmp_path / "four.csv", ["t1"])] == [
        "s1/t1.nii",
        "s2/t1.nii",
        "s1/t2.nii",
        "s2/t2.nii",
    ]
