"""Compiled networks that are kept: used where they are right, and nowhere else."""

from __future__ import annotations

import grp
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lowres_seg import InputError, Segmenter, Volume, owners
from lowres_seg.bundle import NetworkFiles
from lowres_seg.cli import app
from lowres_seg.runtime import compiled_cache, openvino_engine, probe
from lowres_seg.runtime.compiled_cache import CompiledCache, key_of

posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no modes of files")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompiledCache:
    monkeypatch.setenv("LOWRES_SEG_CACHE", str(tmp_path / "cache"))
    found = CompiledCache.of_user()
    assert found is not None
    assert not found.folder.exists()
    return found


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Name of each graph that is read to be compiled."""
    names: list[str] = []
    real = openvino_engine.compile_model

    def noted(model: openvino_engine.Any, *rest: object, **more: object) -> object:
        names.append(model.get_friendly_name())
        return real(model, *rest, **more)

    monkeypatch.setattr(openvino_engine, "compile_model", noted)
    return names


def predicted(tiny: Path, volume: Volume, cache: CompiledCache | None, **options: object) -> np.ndarray:
    return Segmenter.load(tiny, threads=1, cache=cache, **options).predict(volume).labels.data.copy()


@pytest.mark.parametrize("lean", [False, True])
def test_the_second_run_compiles_nothing_and_gives_the_same(
    tiny: Path, lopsided: Callable[..., Volume], cache: CompiledCache, compiled: list[str], lean: bool
) -> None:
    volume = lopsided()
    expected = predicted(tiny, volume, None, lean=lean)
    assert len(compiled) == 1
    assert np.array_equal(predicted(tiny, volume, cache, lean=lean), expected)
    assert len(compiled) == 2
    assert np.array_equal(predicted(tiny, volume, cache, lean=lean), expected)
    assert len(compiled) == 2
    assert expected.any()
    assert cache.size_bytes() == sum(path.stat().st_size for path in cache.folder.iterdir()) > 0


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "of another network", "no network"])
def test_one_that_is_damaged_is_compiled_anew(
    tiny: Path, lopsided: Callable[..., Volume], cache: CompiledCache, compiled: list[str], damage: str
) -> None:
    volume = lopsided()
    expected = predicted(tiny, volume, cache)
    (file,) = cache.folder.iterdir()
    good = file.read_bytes()
    bad = {
        "cut": good[:-1],
        "flipped": good[:500] + bytes([good[500] ^ 1]) + good[501:],
        "empty": b"",
        "of another network": good,
        "no network": compiled_cache._digest(file.stem, b"nothing") + b"nothing",
    }[damage]
    if damage == "of another network":
        key = "0" * 64
        cache.keep(key, good[32:])
        bad = (cache.folder / f"{key}.compiled").read_bytes()
        cache.drop(key)
    file.write_bytes(bad)
    assert np.array_equal(predicted(tiny, volume, cache), expected)
    assert len(compiled) == 2
    assert file.read_bytes()[:32] == compiled_cache._digest(file.stem, file.read_bytes()[32:])
    assert np.array_equal(predicted(tiny, volume, cache), expected)
    assert len(compiled) == 2


def test_a_key_depends_on_all_that_the_compiled_network_does(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    xml = tiny / "networks" / "net.xml"
    shapes = ((1, 1, 16, 16, 16), (1, 2, 16, 16, 16))
    files = NetworkFiles(xml, xml.with_suffix(".bin"), ("a", "b"), shapes)
    usual = {"openvino": "1", "threads": 1, "inference_precision": "f32", "rewrite": ""}
    changes = [{"openvino": "2"}, {"threads": 2}, {"inference_precision": "bf16"}, {"rewrite": "sum_in_steps"}]
    found = {key_of(files, **{**usual, **change}) for change in ({}, *changes)}
    for others in (("c", "b"), ("a", "c")):
        found.add(key_of(NetworkFiles(xml, files.bin, others, shapes), **usual))
    found.add(key_of(NetworkFiles(xml, files.bin, files.sha256, (shapes[0], shapes[0])), **usual))
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_CPU_ISA_HINTS", "DNNL_CPU_ISA_HINTS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "AVX2")
            found.add(key_of(files, **usual))
    machine = compiled_cache.host.inspect()
    for change in ({"cpu": "another"}, {"features": ()}, {"system": "another"}):
        with monkeypatch.context() as patch:
            other = compiled_cache.host.Host(**{**vars(machine), **change})
            patch.setattr(compiled_cache.host, "inspect", lambda other=other: other)
            found.add(key_of(files, **usual))
    monkeypatch.setattr("lowres_seg.__version__", "another")
    found.add(key_of(files, **usual))
    assert len(found) == 5 + 3 + 4 + 3 + 1
    assert None not in found
    assert key_of(NetworkFiles.written(xml), **usual) is None


def test_networks_of_other_settings_are_not_taken(
    tiny: Path, lopsided: Callable[..., Volume], cache: CompiledCache, compiled: list[str]
) -> None:
    volume = lopsided()
    for options in ({}, {"threads": 2}, {"reproducible": True}):
        Segmenter.load(tiny, cache=cache, **{"threads": 1, **options}).predict(volume)
    assert len(compiled) == len(list(cache.folder.iterdir())) == 3


def test_the_oldest_are_dropped_when_there_are_too_many(cache: CompiledCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_cache, "MOST_BYTES", 3500)
    for number, key in enumerate("abcd"):
        cache.keep(key, bytes(1000))
        os.utime(cache.folder / f"{key}.compiled", (number, number))
    assert cache.read("b") == bytes(1000)  # used now
    cache.keep("e", bytes(1000))
    assert sorted(path.stem for path in cache.folder.iterdir()) == ["b", "d", "e"]


def test_what_cannot_be_kept_is_no_error(tiny: Path, lopsided: Callable[..., Volume], cache: CompiledCache) -> None:
    volume = lopsided()
    cache.folder.mkdir(mode=0o700)
    subprocess.run(["chattr", "+i", str(cache.folder)], check=False, capture_output=True)
    try:
        assert predicted(tiny, volume, cache).any()
    finally:
        subprocess.run(["chattr", "-i", str(cache.folder)], check=False, capture_output=True)
    cache.folder.rename(cache.folder.with_name("moved"))
    cache.folder.write_text("no folder", encoding="utf-8")
    cache.keep("a", b"x")
    assert cache.folder.read_text(encoding="utf-8") == "no folder"


@posix
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_is_refused(cache: CompiledCache, mode: int) -> None:
    cache.folder.mkdir()
    cache.folder.chmod(mode)
    for judged in (CompiledCache.of_user, lambda: cache.read("a"), lambda: cache.has("a"), cache.clear):
        with pytest.raises(InputError, match=rf"can be written by others \(mode {mode:04o}\).*--no-cache"):
            judged()
    cache.keep("a", b"x")
    assert list(cache.folder.iterdir()) == []
    cache.folder.chmod(0o700)
    assert CompiledCache.of_user() == cache


@posix
@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_is_judged_whenever_a_network_is_taken_from_it(
    tiny: Path, tmp_path: Path, lopsided: Callable[..., Volume], lean: bool, empty: bool
) -> None:
    """Also where Python names it itself, and in a service that has run for long."""
    folder = tmp_path / "cc"
    volume = lopsided()
    if not empty:
        predicted(tiny, volume, CompiledCache(folder), lean=lean)
        folder.chmod(0o777)
    else:
        folder.mkdir()
        folder.chmod(0o777)
    for named in (CompiledCache(folder), folder, str(folder)):
        with pytest.raises(InputError, match=r"cc: can be written by others \(mode 0777\).*compiled networks are code"):
            Segmenter.load(tiny, threads=1, lean=lean, cache=named)
    folder.chmod(0o700)
    service = Segmenter.load(tiny, threads=1, lean=True, cache=str(folder))
    assert service.predict(volume).labels.data.any()
    folder.chmod(0o777)
    with pytest.raises(InputError, match="can be written by others"):
        service.predict(volume)
    folder.chmod(0o700)
    assert service.predict(volume).labels.data.any()


@posix
def test_a_folder_that_others_can_exchange_is_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    above = tmp_path / "shared"
    above.mkdir()
    (above / "own").mkdir(mode=0o700)
    folder = above / "own" / "cc"
    for mode, refused in ((0o755, False), (0o1777, False), (0o777, True), (0o757, True)):
        above.chmod(mode)
        monkeypatch.setenv("LOWRES_SEG_CACHE", str(folder))
        for use in (CompiledCache.of_user, lambda: Segmenter.load(tiny, threads=1, cache=folder)):
            if not refused:
                assert use() is not None
                continue
            with pytest.raises(InputError, match=rf"cc: lies below .*shared, which .*\(mode {mode:04o}\)") as caught:
                use()
            assert "\n" not in str(caught.value)
    # A link in a safe place leads there too.
    (tmp_path / "link").symlink_to(above / "own")
    with pytest.raises(InputError, match="lies below .*shared"):
        CompiledCache(tmp_path / "link" / "cc").check()


@posix
def test_a_group_without_other_members_is_nobody_else(tmp_path: Path) -> None:
    above = tmp_path / "group"
    above.mkdir()
    above.chmod(0o775)
    groups = {"private": os.getegid()}
    if os.geteuid() == 0:
        groups["shared"] = next(one.gr_gid for one in grp.getgrall() if one.gr_name == "daemon")
    for kind, group in groups.items():
        os.chown(above, -1, group)
        if kind == "private" and owners._is_private(group):
            CompiledCache(above / "cc").check()
        else:
            with pytest.raises(InputError, match="group, which can be written by others"):
                CompiledCache(above / "cc").check()


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_is_not_taken(
    tiny: Path, lopsided: Callable[..., Volume], cache: CompiledCache, compiled: list[str]
) -> None:
    predicted(tiny, lopsided(), cache)
    (file,) = cache.folder.iterdir()
    os.chown(file, 12345, -1)  # it was put there while the folder was open to all
    predicted(tiny, lopsided(), cache)
    assert len(compiled) == 2
    assert next(cache.folder.iterdir()).stat().st_uid == os.geteuid()
    (cache.folder.parent / "other").mkdir()
    os.chown(cache.folder.parent / "other", 12345, -1)
    with pytest.raises(InputError, match="lies below .*other, which belongs to user 12345"):
        CompiledCache(cache.folder.parent / "other" / "cc").check()


@posix
def test_its_folder_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        CompiledCache(tmp_path / "a" / "b" / "cc").keep("a", b"x")
    finally:
        os.umask(before)
    for folder in ("a", "a/b", "a/b/cc"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


@posix
@pytest.mark.parametrize("kind", ["link", "file", "of another user"])
def test_what_is_no_folder_of_the_users_own_is_refused(
    cache: CompiledCache, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "link":
        cache.folder.with_name("real").mkdir()
        cache.folder.symlink_to("real")
    elif kind == "file":
        cache.folder.write_text("", encoding="utf-8")
    else:
        cache.folder.mkdir()
        monkeypatch.setattr(os, "geteuid", lambda: cache.folder.stat().st_uid + 1)
    for judged in (CompiledCache.of_user, lambda: cache.read("a")):
        with pytest.raises(InputError, match="no folder, or a link|belongs to user"):
            judged()


def test_its_place_is_named_or_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWRES_SEG_CACHE", " ")
    with pytest.raises(InputError, match="is empty"):
        CompiledCache.of_user()
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("LOWRES_SEG_CACHE", str(tmp_path / "file" / "nowhere" / "cache"))
    with pytest.raises(InputError, match=r"cannot be made in .*file;.*--no-cache"):
        CompiledCache.of_user()
    if sys.platform == "linux":
        monkeypatch.delenv("LOWRES_SEG_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert CompiledCache.of_user() == CompiledCache(tmp_path / "xdg" / "lowres-seg" / "compiled")
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert CompiledCache.of_user() == CompiledCache(tmp_path / ".cache" / "lowres-seg" / "compiled")


@posix
@pytest.mark.parametrize("kind", ["open to all", "below a folder open to all", "a file", "an empty variable"])
def test_doctor_shows_its_table_with_the_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    folder = tmp_path / "above" / "cc"
    folder.mkdir(parents=True)
    said = {
        "open to all": "can be written by others (mode 0777)",
        "below a folder open to all": "so that others can put another folder in its place",
        "a file": "is no folder",
        "an empty variable": "LOWRES_SEG_CACHE: is empty",
    }[kind]
    if kind == "open to all":
        folder.chmod(0o777)
        (folder / "x.compiled").write_bytes(b"x")
    elif kind == "a file":
        folder.rmdir()
        folder.write_text("", encoding="utf-8")
    elif kind == "below a folder open to all":
        folder.parent.chmod(0o777)
    monkeypatch.setenv("LOWRES_SEG_CACHE", " " if kind == "an empty variable" else str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "640")
    # The probe of the CPU takes seconds, and is shown under test elsewhere.
    monkeypatch.setattr(probe, "convolution_seconds", lambda *, threads: {"f32": 1.0})
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert said in found["cache"]["fault"]
    assert found["omp_num_threads"] == "OMP_NUM_THREADS=640 is more than this process may use, and changes nothing"
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 0
    table = " ".join(shown.stdout.split())
    assert "compiled networks" in table.partition(said[:10])[0]
    assert "versions lowres-seg" in table
    assert "load " in table
    assert "OMP_NUM_THREADS=640 is more than this process may use" in table
    cleared = CliRunner().invoke(app, ["doctor", "--clear-cache"])
    assert isinstance(cleared.exception, InputError)
    assert str(cleared.exception).endswith("; nothing was removed")
    if kind == "open to all":
        assert (folder / "x.compiled").exists()


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lowres_seg", *map(str, words)], capture_output=True, text=True, check=False, timeout=120
    )


@posix
def test_the_command_line_keeps_shows_and_clears(
    tiny: Path, tmp_path: Path, lopsided: Callable[..., Volume], cache: CompiledCache
) -> None:
    lopsided().save(tmp_path / "a.nii")
    masks = []
    for number, words in enumerate((["--no-cache"], ["--max-ram", "8GB"], [], [])):
        done = command("predict", tiny, tmp_path / "a.nii", "-o", tmp_path / f"m{number}.nii", *words)
        assert (done.returncode, done.stderr) == (0, "")
        masks.append((tmp_path / f"m{number}.nii").read_bytes())
        assert cache.folder.exists() == (number >= 2)
    assert len(set(masks)) == 1
    size = cache.size_bytes()
    assert json.loads(command("doctor", "--json").stdout)["cache"] == {"folder": str(cache.folder), "bytes": size}
    assert str(cache.folder) in command("doctor").stdout
    (cache.folder / "mine.txt").write_text("kept", encoding="utf-8")
    cache.folder.chmod(0o777)
    for words in (("verify", tiny), ("predict", tiny, tmp_path / "a.nii", "-o", tmp_path / "m.nii")):
        done = command(*words)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "can be written by others" in done.stderr
        assert command(*words, "--no-cache").returncode == 0
    cache.folder.chmod(0o700)
    assert f"{size / 1e6:.1f} MB of compiled networks removed" in command("doctor", "--clear-cache").stdout
    assert [path.name for path in cache.folder.iterdir()] == ["mine.txt"]
