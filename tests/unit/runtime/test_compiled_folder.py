"""The folder of compiled networks, whatever else has come into it, and wherever it lies."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13 as opset

from lowres_seg import Bundle, InputError, Segmenter, Volume
from lowres_seg.runtime import openvino_engine
from lowres_seg.runtime.compiled_cache import CompiledCache

KILLED = """
import os, signal, sys
from pathlib import Path
from lowres_seg.runtime.compiled_cache import CompiledCache
from lowres_seg import atomic
CompiledCache(Path(sys.argv[1])).keep("kept", b"0" * 100)
with atomic.file(Path(sys.argv[1]) / "other.compiled", force=True) as staged:
    staged.write_bytes(b"1" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def cache(tmp_path: Path) -> CompiledCache:
    return CompiledCache(tmp_path / "compiled")


@pytest.mark.skipif(os.name != "posix", reason="this system cannot kill a process so")
def test_what_a_killed_process_left_is_counted_and_cleared(cache: CompiledCache) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(cache.folder)], check=False, timeout=60)
    assert len(list(cache.folder.iterdir())) == 2
    kept = (cache.folder / "kept.compiled").stat().st_size
    assert cache.size_bytes() == kept + 1000
    (cache.folder / "zz.compiled").mkdir()
    (cache.folder / "mine.txt").write_text("mine")
    assert cache.clear() == kept + 1000
    assert cache.size_bytes() == 0
    assert sorted(path.name for path in cache.folder.iterdir()) == ["mine.txt", "zz.compiled"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("lean", [False, True])
def test_what_is_no_file_is_not_waited_for(
    tiny: Path, lopsided: Callable[..., Volume], cache: CompiledCache, lean: bool
) -> None:
    expected = Segmenter.load(tiny, threads=1, cache=cache).predict(lopsided()).labels.data
    (file,) = cache.folder.iterdir()
    for make in (os.mkfifo, os.mkdir):
        file.unlink()
        make(file)
        found = Segmenter.load(tiny, threads=1, lean=lean, cache=cache).predict(lopsided()).labels.data
        assert np.array_equal(found, expected)
        assert file.is_file() == (make is os.mkfifo)


def test_a_network_of_other_shapes_is_compiled_anew(
    tiny: Path, lopsided: Callable[..., Volume], cache: CompiledCache
) -> None:
    x = opset.parameter([1, 1, 8, 8, 8], np.float32)
    other = openvino.Model([opset.concat([x, opset.negative(x)], 1)], [x], "other")
    stream = io.BytesIO()
    openvino_engine.compile_model(other, 1, "f32").export_model(stream)
    blob = stream.getvalue()
    expected = Segmenter.load(tiny, threads=1, cache=cache).predict(lopsided()).labels.data
    (file,) = cache.folder.iterdir()
    right = file.read_bytes()
    cache.keep(file.stem, blob)
    assert np.array_equal(Segmenter.load(tiny, threads=1, cache=cache).predict(lopsided()).labels.data, expected)
    assert len(file.read_bytes()) == len(right)


@pytest.mark.parametrize("where", [".", "compiled", ".hidden/compiled", "link"])
def test_a_folder_in_the_bundle_is_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    before = sorted(tiny.rglob("*"))
    monkeypatch.chdir(tmp_path)
    named: Path = tiny / where
    if where == "link":
        named = tmp_path / "link" / "compiled"
        (tmp_path / "link").symlink_to(tiny)
    for bundle in (tiny, tiny.name):
        with pytest.raises(InputError, match="is, or lies in, the bundle"):
            Segmenter.load(bundle, threads=1, cache=named)
    assert sorted(tiny.rglob("*")) == before
    shutil.copytree(tiny, tmp_path / "copy")
    Segmenter.load(tmp_path / "copy", threads=1, cache=tmp_path / "copy-compiled")
    assert Bundle.open(tiny).path == tiny
