from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from lowres_seg import InputError, atomic


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    with atomic.directory(tmp_path / "b") as staging:
        (staging / "x").write_text("1")
        assert not (tmp_path / "b").exists()
    assert (tmp_path / "b" / "x").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half"), atomic.directory(tmp_path / "b") as staging:
        (staging / "x").write_text("1")
        raise RuntimeError("half")
    with pytest.raises(RuntimeError, match="half"), atomic.file(tmp_path / "f.txt") as staged:
        staged.write_text("1")
        raise RuntimeError("half")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("1")
    with pytest.raises(RuntimeError, match="half"), atomic.directory(tmp_path / "b", force=True):
        raise RuntimeError("half")
    assert (tmp_path / "b" / "old").read_text() == "1"


def test_force_replaces(tmp_path: Path) -> None:
    for text in ("1", "2"):
        with atomic.directory(tmp_path / "b", force=True) as staging:
            (staging / text).write_text(text)
        with atomic.file(tmp_path / "f", force=True) as staged:
            staged.write_text(text)
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["2"]
    assert (tmp_path / "f").read_text() == "2"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "f"]


def test_existing_targets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(InputError, match="exists already.*--force"):
        atomic.check_target(tmp_path / "f")
    with pytest.raises(InputError, match="does not exist; create it"):
        atomic.check_target(tmp_path / "no" / "f")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody, not even root, can write")
def test_an_unwritable_folder_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be written"):
        atomic.check_target(Path("/proc/mask.nii.gz"))


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(InputError, match="does not exist; create it"):
        atomic.check_target(tmp_path / "f" / "g")


def test_a_killed_process_leaves_nothing_at_the_target(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from lowres_seg import atomic\n"
        "with atomic.directory(Path(sys.argv[1])) as staging:\n"
        "    (staging / 'x').write_text('1'); print('in', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "b")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"in\n"
    child.kill()
    child.wait()
    child.stdout.close()
    time.sleep(0.1)
    assert not (tmp_path / "b").exists()
