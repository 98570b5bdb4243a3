"""Arguments of another kind than expected: one line that says what was found."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowres_seg
from lowres_seg import (
    Bundle,
    EngineError,
    ExportError,
    Grid,
    InputError,
    LowresSegError,
    MissingExtraError,
    Segmenter,
    Volume,
)
from lowres_seg.cohort import Cases
from lowres_seg.errors import Lines, shown
from lowres_seg.runtime import CompiledCache

EYE = np.eye(4)
CUBE = np.zeros((3, 4, 5), np.float32)
NO_VOLUMES: dict[str, tuple[Any, str]] = {
    "four axes": (np.zeros((3, 4, 5, 2)), "ndarray of shape (3, 4, 5, 2) and dtype 'float64'"),
    "two axes": (np.zeros((3, 4)), "ndarray of shape (3, 4)"),
    "a list": ([[[0.0]]], "[[[0.0]]] (list)"),
    "a ragged list": ([[1], [1, 2]], "(list)"),
    "nothing": (None, "None (NoneType)"),
    "complex": (CUBE.astype(complex), "dtype 'complex128'"),
    "objects": (CUBE.astype(object), "dtype 'object'"),
    "words": (np.full((2, 2, 2), "x"), "dtype '<U1'"),
    "times": (np.zeros((2, 2, 2), "datetime64[s]"), "dtype 'datetime64[s]'"),
    "fields": (np.zeros((2, 2, 2), "f4,f4"), "dtype"),
    "masked": (np.ma.masked_array(CUBE, CUBE == 0), "MaskedArray of shape (3, 4, 5)"),
}
NO_AFFINES: dict[str, tuple[Any, str]] = {
    "three rows": (np.eye(4)[:3], "ndarray of shape (3, 4)"),
    "3 by 3": (np.eye(3), "ndarray of shape (3, 3)"),
    "nothing": (None, "None (NoneType)"),
    "ragged": ([[1], [1, 2]], "(list)"),
    "complex": (EYE.astype(complex), "dtype 'complex128'"),
    "words": (np.full((4, 4), "x"), "dtype '<U1'"),
    "not finite": (EYE * np.nan, "nan"),
    "transposed": (np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [5, 6, 7, 1]], float), "[5.0, 6.0, 7.0, 1.0]"),
    "singular": (np.diag([1.0, 1, 0, 1]), "singular"),
}


@pytest.mark.parametrize("case", NO_VOLUMES)
def test_what_is_no_volume_is_said(case: str) -> None:
    data, found = NO_VOLUMES[case]
    with pytest.raises(InputError) as caught:
        Volume.from_array(data, EYE)
    message = str(caught.value)
    assert found in message
    assert "Volume.from_array(data, affine)" in message
    assert "\n" not in message
    with pytest.raises(InputError):
        Volume(data, Grid((3, 4, 5), EYE))


@pytest.mark.parametrize("case", NO_AFFINES)
def test_what_is_no_affine_is_said(case: str) -> None:
    affine, found = NO_AFFINES[case]
    with pytest.raises(InputError, match="^affine: ") as caught:
        Volume.from_array(CUBE, affine)
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.int16, ">i2", np.float16, ">f4", np.float64])
def test_real_numbers_of_every_kind_are_taken(kind: Any) -> None:
    assert Volume.from_array(np.ones((2, 3, 4), kind), EYE.tolist()).grid.shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("scan", "found"),
    [
        (CUBE, "scan: found ndarray of shape (3, 4, 5) and dtype 'float32'"),
        (b"head.nii", "scan: found b'head.nii' (bytes)"),
        (None, "scan: found None (NoneType)"),
        (5, "scan: found 5 (int)"),
        (["head.nii"], "scan: found ['head.nii'] (list)"),
        ({"t1": CUBE}, "channel t1: found ndarray of shape (3, 4, 5)"),
    ],
)
def test_what_is_no_scan_is_said(tiny: Path, scan: Any, found: str) -> None:
    with pytest.raises(InputError) as caught:
        Segmenter.load(tiny, threads=1).predict(scan)
    assert str(caught.value).startswith(found)
    assert "Volume.from_array(data, affine)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_channels_of_strange_names_are_said(tiny: Path) -> None:
    with pytest.raises(InputError, match="channels given: 1; the bundle takes t1"):
        Segmenter.load(tiny, threads=1).predict({1: CUBE})  # type: ignore[dict-item]


@pytest.mark.parametrize("threads", [0, -1, 1.5, 2.0, True, "2", float("nan"), 10**6, [1]])
def test_threads_are_a_whole_number(tiny: Path, threads: Any) -> None:
    with pytest.raises(InputError, match="^threads: found .*, expected a whole number from 1 to 1024$"):
        Segmenter.load(tiny, threads=threads)


def test_numpys_whole_numbers_are_whole_numbers(tiny: Path) -> None:
    assert Segmenter.load(tiny, threads=np.int64(1)).threads == 1


@pytest.mark.parametrize("bound", [0, -5, "2GB", 1.5, True])
def test_a_bound_on_memory_is_a_whole_number(tiny: Path, bound: Any) -> None:
    with pytest.raises(InputError, match="^max_ram_bytes: found"):
        Segmenter.load(tiny, threads=1, max_ram_bytes=bound)


@pytest.mark.parametrize("path", [b"bundle", 5, None, ["a"]])
def test_a_path_is_str_or_pathlike(path: Any) -> None:
    for use in (Segmenter.load, Bundle.open):
        with pytest.raises(InputError, match="^bundle: found .*, expected a path as str or pathlib.Path$"):
            use(path)
    with pytest.raises(InputError, match="^path of a scan: found"):
        Volume.load(path)
    with pytest.raises(InputError, match="^path to write: found"):
        Volume.from_array(CUBE, EYE).save(path)


def test_dir_and_help_list_the_public_names() -> None:
    """In a new process, where no name has been used yet."""
    code = "import lowres_seg; print(*dir(lowres_seg)); help(lowres_seg)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, _, page = done.stdout.partition("\n")
    assert set(lowres_seg.__all__) <= set(listed.split())
    classes = [name for name in lowres_seg.__all__ if name != "__version__"]
    assert [name for name in classes if not re.search(rf"^    class {name}\b", page, re.MULTILINE)] == []


@pytest.mark.parametrize(
    "name", ["nope.nii.gz\nx", "a\r\nb.nii", "a\x1b[31mb.nii", "a\u2028b.nii", "a\x85b.nii", "a\tb.nii"]
)
def test_no_name_breaks_the_line_of_a_message(tiny: Path, tmp_path: Path, name: str) -> None:
    segmenter = Segmenter.load(tiny, threads=1)
    (tmp_path / f"bundle{name}").mkdir()
    uses: list[Callable[[], object]] = [
        lambda: segmenter.predict(tmp_path / name),
        lambda: Volume.load(tmp_path / name),
        lambda: Volume.from_array(np.ones((3, 3, 3)), EYE).save(tmp_path / "none" / name, force=True),
        lambda: Bundle.open(tmp_path / name),
        lambda: Segmenter.load(tmp_path / f"bundle{name}"),
        lambda: segmenter.predict({name: "a.nii"}),
    ]
    for use in uses:
        with pytest.raises(LowresSegError) as caught:
            use()
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        assert not any(unicodedata.category(one).startswith("C") for one in message)
        assert ascii(name)[1:-1].encode().decode() in message.replace("\\\\", "\\")
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again)) == (type(caught.value), message)
    assert str(EngineError("é ☃ \udcff")) == "é ☃ \udcff"  # what is no control stays, also of a name that is no text


def test_the_lines_of_a_table_stay(tmp_path: Path) -> None:
    assert str(MissingExtraError("a\nb")) == "a\\nb"
    assert str(ExportError(Lines.of(["a\nb", "c"]))) == "a\\nb\nc"


SECRET = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIsecret\n-----END PRIVATE KEY-----\n"
#: One value of each kind that no argument is.
ODD: list[Any] = [
    0,
    1.5,
    "",
    " \0",
    "n" * 5000,
    f"/{'n' * 300}.nii",
    b"x",
    SECRET,
    SECRET.encode(),
    [],
    {},
    object(),
    1j,
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:12])
def test_arguments_of_every_other_kind_are_one_line(tiny: Path, tmp_path: Path, odd: Any) -> None:
    bundle, volume = Bundle.open(tiny), Volume.from_array(CUBE + np.arange(5, dtype=np.float32), EYE)
    segmenter = Segmenter.load(bundle, threads=1)
    uses: dict[str, Callable[[], object]] = {
        "path": lambda: Segmenter.load(odd),
        "lean": lambda: Segmenter.load(bundle, lean=odd),
        "reproducible": lambda: Segmenter.load(bundle, reproducible=odd),
        "max_ram_bytes": lambda: Segmenter.load(bundle, max_ram_bytes=odd),
        "require_key": lambda: Segmenter.load(bundle, require_key=odd),
        "require_key of open": lambda: Bundle.open(tiny, require_key=odd),
        "bundle": lambda: Bundle.open(odd),
        "file of a bundle": lambda: bundle.read(odd),
        "network of a bundle": lambda: bundle.network(odd),
        "cache": lambda: Segmenter.load(bundle, cache=odd),
        "folder": lambda: CompiledCache(odd),
        "scan": lambda: segmenter.predict(odd),
        "progress": lambda: segmenter.predict(volume, progress=odd),
        "cancelled": lambda: segmenter.predict(volume, cancelled=odd),
        "volume": lambda: Volume.load(odd),
        "grid": lambda: Volume(CUBE, odd),
        "header": lambda: Volume(CUBE, Grid((3, 4, 5), EYE), odd),
        "shape": lambda: Grid(odd, EYE),
        "save": lambda: volume.save(odd),
        "force": lambda: volume.save(tmp_path / "m.nii", force=odd),
        "table": lambda: Cases.read(odd, ["t1"]),
        **({} if isinstance(odd, str) else {"name": lambda: Volume.from_array(CUBE, EYE, name=odd)}),
    }
    for name, use in uses.items():
        with pytest.raises(LowresSegError) as caught:
            use()
        message = str(caught.value)
        assert len(message.splitlines()) == 1, name
        assert len(message) < 400, name
        assert "secret" not in message, name
    assert not (tmp_path / "m.nii").exists()


def test_a_folder_for_the_cache_is_a_path_and_nothing_else(tiny: Path, tmp_path: Path) -> None:
    assert CompiledCache(str(tmp_path)) == CompiledCache(tmp_path)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^cache: found True \(bool\), expected a CompiledCache, .*, or a folder$"):
        Segmenter.load(tiny, threads=1, cache=True)  # type: ignore[arg-type]
    Segmenter.load(tiny, threads=1, cache=str(tmp_path / "cc"))
    assert len(list((tmp_path / "cc").glob("*.compiled"))) == 1


def test_numpys_truth_is_truth(tiny: Path) -> None:
    assert Segmenter.load(tiny, threads=1, lean=np.True_, reproducible=np.False_)._turns._most == 1


def test_a_volume_of_an_array_has_the_name_that_it_is_given(tiny: Path) -> None:
    scan = Volume.from_array(np.full((3, 4, 5), np.nan), EYE, name="case 7\n")
    with pytest.raises(InputError, match=r"^case 7\\n: 60 of 60 voxels are NaN or infinite"):
        Segmenter.load(tiny, threads=1).predict(scan)


def test_a_value_is_shown_in_one_line() -> None:
    volume = Volume.from_array(np.zeros((5, 4, 3)), EYE)
    for value in (np.zeros((50, 50)), volume, [volume], {"t1": volume}, "a\nb", np.array(["a\nb"] * 3, object)):
        text = shown(value)
        assert len(text.splitlines()) == 1
        assert 1 < len(text) <= 80
        assert text.isprintable()
    assert shown("two  spaces") == "'two  spaces'"
