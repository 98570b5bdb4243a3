from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lowres_seg import InputError, atomic
from lowres_seg.atomic import renames
from lowres_seg.atomic.staging import PREFIX, is_over

WRITERS: dict[str, Callable[..., None]] = {}


def writer(function: Callable[..., None]) -> Callable[..., None]:
    WRITERS[function.__name__] = function
    return function


@writer
def a_file(target: Path, text: str, *, force: bool = False, during: Callable[[], None] = lambda: None) -> None:
    with atomic.file(target, force=force) as staged:
        staged.write_text(text)
        during()


@writer
def a_folder(target: Path, text: str, *, force: bool = False, during: Callable[[], None] = lambda: None) -> None:
    with atomic.directory(target, force=force) as staged:
        (staged / "x").write_text(text)
        during()


def content(target: Path) -> str:
    return (target / "x" if target.is_dir() else target).read_text()


@pytest.fixture(params=["renameat2", "without"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The system as it is, and one that has no renameat2."""
    if request.param == "without":
        monkeypatch.setattr(renames, "_LIBC", None)
    return request.param


@contextmanager
def living(code: str, *arguments: object, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has printed "in"; it is killed in the end."""
    code = "import os, sys, time; from pathlib import Path; from lowres_seg import atomic\n" + code
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as child:  # type: ignore[call-overload]
        assert child.stdout is not None
        assert child.stdout.readline() == b"in\n"
        try:
            yield child
        finally:
            child.kill()


WRITING = (
    "with atomic.file(Path(sys.argv[1])) as staged:\n"
    "    staged.write_text('1' * 100); print('in', flush=True); time.sleep(60)\n"
)


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


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith(PREFIX))


@pytest.mark.parametrize("write", WRITERS)
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_kept(tmp_path: Path, write: str) -> None:
    with living(WRITING, tmp_path / "c"):
        (kept,) = leftovers(tmp_path)
        with living(WRITING, tmp_path / "b") as killed:
            killed.kill()
            killed.wait()
        assert not (tmp_path / "b").exists()
        assert len(leftovers(tmp_path)) == 2
        WRITERS[write](tmp_path / "d", "1")
        assert leftovers(tmp_path) == [kept]
    atomic.check_target(tmp_path / "e")
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_what_another_host_left_is_removed_only_when_its_lock_is_free(tmp_path: Path) -> None:
    """Another host by its name: the lock is what counts."""
    elsewhere = "import platform; platform.node = lambda: 'elsewhere'\n" + WRITING
    with living(elsewhere, tmp_path / "b") as other:
        (name,) = leftovers(tmp_path)
        assert not is_over(name)
        atomic.check_target(tmp_path / "c")
        assert leftovers(tmp_path) == [name]
        other.kill()
        other.wait()
        atomic.check_target(tmp_path / "c")
        assert leftovers(tmp_path) == []


def test_without_locks_the_name_tells_whether_its_process_has_ended(tmp_path: Path) -> None:
    with living(WRITING, tmp_path / "b") as child:
        (name,) = leftovers(tmp_path)
        host, boot, pid, random = name.removeprefix(PREFIX).split("-")
        assert int(pid) == child.pid
        assert not is_over(name)
        child.kill()
        child.wait()
    assert is_over(name)
    assert is_over(f"{PREFIX}{host}-00000000-{os.getpid()}-{random}")
    assert not is_over(f"{PREFIX}{host}-{boot}-{os.getpid()}-{random}")
    assert not is_over(f"{PREFIX}00000000-{boot}-{pid}-{random}")


def test_a_process_killed_between_two_renames_has_them_undone_by_the_next(tmp_path: Path) -> None:
    """Only a system that cannot exchange two names has such a moment."""
    a_folder(tmp_path / "b", "old")
    code = (
        "from lowres_seg.atomic import renames; renames._LIBC = None; there = Path.rename\n"
        "def rename(self, target):\n"
        "    if self.name.endswith('.new'): print('in', flush=True); time.sleep(60)\n"
        "    return there(self, target)\n"
        "Path.rename = rename\n"
        "with atomic.directory(Path(sys.argv[1]), force=True) as staged: (staged / 'x').write_text('new')\n"
    )
    with living(code, tmp_path / "b") as child:
        assert not (tmp_path / "b").exists()
        child.kill()
        child.wait()
    atomic.check_target(tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert content(tmp_path / "b") == "old"


def test_an_error_between_two_renames_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_folder(tmp_path / "b", "old")
    monkeypatch.setattr(renames, "_LIBC", None)
    there = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError(5, "Input/output error")
        return there(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(InputError, match="cannot be written .Input/output error"):
        a_folder(tmp_path / "b", "new", force=True)
    assert content(tmp_path / "b") == "old"
    assert leftovers(tmp_path) == []


def test_a_folder_that_is_replaced_is_never_missing(tmp_path: Path) -> None:
    if renames._LIBC is None:
        pytest.skip("this system cannot exchange two names")
    target = tmp_path / "b"
    a_folder(target, "0")
    code = (
        "print('in', flush=True); n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    with atomic.directory(Path(sys.argv[1]), force=True) as staged: (staged / 'x').write_text(str(n))\n"
    )
    with living(code, target):
        end, seen = time.monotonic() + 1, set()
        while time.monotonic() < end:
            descriptor = os.open(target, os.O_RDONLY)  # a FileNotFoundError is a moment without a target
            os.close(descriptor)
            seen.add(target.stat().st_mtime_ns)
    assert len(seen) > 3


@pytest.mark.parametrize("write", WRITERS)
def test_the_second_writer_of_one_target_is_refused(tmp_path: Path, write: str, system: str) -> None:
    target = tmp_path / "b"
    with pytest.raises(InputError, match="b: exists already, another process made it meanwhile"):
        WRITERS[write](target, "late", during=lambda: WRITERS[write](target, "first"))
    assert content(target) == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("write", WRITERS)
def test_force_replaces_also_what_appears_meanwhile(tmp_path: Path, write: str, system: str) -> None:
    target = tmp_path / "b"
    WRITERS[write](target, "late", force=True, during=lambda: WRITERS[write](target, "first"))
    assert content(target) == "late"
    WRITERS[write](target, "later", force=True)
    assert content(target) == "later"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("force", [False, True])
def test_several_files_appear_together_or_not_at_all(tmp_path: Path, force: bool) -> None:
    targets = [tmp_path / "a", tmp_path / "b"]
    if force:
        (tmp_path / "a").write_text("old")
    message = "cannot be written" if force else "b: exists already"
    with pytest.raises(InputError, match=message), atomic.files(targets, force=force) as staged:
        for path in staged:
            path.write_text("new")
        (tmp_path / "b").mkdir()  # appears meanwhile, and a file cannot replace it
    assert [p.name for p in sorted(tmp_path.iterdir())] == (["a", "b"] if force else ["b"])
    assert not force or (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_that_is_removed_meanwhile_is_one_error(tmp_path: Path, write: str) -> None:
    (tmp_path / "out").mkdir()

    def vanish() -> None:
        import shutil

        shutil.rmtree(tmp_path / "out")

    with pytest.raises(InputError, match=r"out/b: cannot be written \(No such file.*\); its folder was removed"):
        WRITERS[write](tmp_path / "out" / "b", "1", during=vanish)


@pytest.mark.parametrize("write", WRITERS)
def test_a_limit_on_the_size_of_files_is_one_error(tmp_path: Path, write: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(InputError, match=r"b: cannot be written \(File too large\); raise the limit"):
            WRITERS[write](tmp_path / "b", "1" * (1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_the_content_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    there = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append((path.name, any((tmp_path / name).exists() for name in ("f", "d"))))
        there(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    a_file(tmp_path / "f", "1")
    assert seen == [("f", False), (tmp_path.name, True)]
    (tmp_path / "f").unlink()
    seen.clear()
    a_folder(tmp_path / "d", "1")
    assert seen == [("x", False), (".d.new", False), (tmp_path.name, True)]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["scan", "./sub/../scan", "symbolic", "hard", "there/scan"])
def test_an_input_is_never_an_output(tmp_path: Path, name: str, force: bool) -> None:
    scan = tmp_path / "scan"
    scan.write_text("precious")
    (tmp_path / "sub").mkdir()
    (tmp_path / "symbolic").symlink_to("scan")
    (tmp_path / "hard").hardlink_to(scan)
    (tmp_path / "there").symlink_to(tmp_path)
    with pytest.raises(InputError, match="is the input .*scan, and an input is never an output"):
        atomic.check_target(tmp_path / name, force=force, inputs=[scan])
    with pytest.raises(InputError, match="is the input"):
        atomic.check_target(scan, force=force, inputs=[tmp_path / name])


def test_a_folder_around_an_input_or_inside_of_one_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "weights").write_text("")
    for words in ({}, {"force": True}, {"force": True, "folder": True}):
        with pytest.raises(InputError, match="a: holds the input"):
            atomic.check_target(tmp_path / "a", inputs=[tmp_path / "a" / "b" / "weights"], **words)
        with pytest.raises(InputError, match="lies inside the input"):
            atomic.check_target(tmp_path / "a" / "b" / "new", inputs=[tmp_path / "a"], **words)
    atomic.check_target(tmp_path / "a" / "b" / "new", inputs=[tmp_path / "a" / "b" / "weights", tmp_path / "none"])


def test_force_replaces_nothing_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "notes").write_text("")
    atomic.check_target(tmp_path / "study", force=True, folder=True)
    for target, words, message in [
        (tmp_path / "study", {}, "is a folder, expected the path of a file"),
        (tmp_path / "study" / "notes", {"folder": True}, "is a file, expected the path of a folder"),
        (Path(os.devnull), {}, "is a device"),
    ]:
        with pytest.raises(InputError, match=message):
            atomic.check_target(target, force=True, **words)
    assert (tmp_path / "study" / "notes").exists()


def test_two_outputs_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two outputs have this name"):
        atomic.check_targets([tmp_path / "m", tmp_path / "." / "x" / ".." / "m"])
