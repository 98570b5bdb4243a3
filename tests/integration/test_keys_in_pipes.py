"""Keys that come through pipes, as from a store of secrets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lowres_seg import Bundle, InputError, Segmenter, Volume
from lowres_seg.bundle import bundle as bundles
from lowres_seg.bundle import signature

pytest.importorskip("cryptography")
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def public(tiny: Path, tmp_path: Path) -> Path:
    """Public key that has signed the bundle."""
    signature.new_key(tmp_path / "key")
    bundles.sign(tiny, tmp_path / "key")
    return tmp_path / "key.pub"


def bash(command: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which L is the command line, and $1 and on are the words."""
    line = f'L() {{ "{sys.executable}" -m lowres_seg "$@"; }}; {command}'
    return subprocess.run(
        ["bash", "-c", line, "bash", *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    "command",
    [
        'L verify "$1" --require-key <(cat "$2")',
        'L verify "$1" --require-key <(sleep 1; cat "$2")',
        'cat "$2" | L verify "$1" --require-key /dev/stdin',
        'cat "$2" | LOWRES_SEG_REQUIRE_KEY=/dev/stdin L verify "$1"',
        'L predict "$1" "$3" -o "$4" --require-key <(cat "$2")',
    ],
)
def test_a_key_comes_through_a_pipe(
    tiny: Path, public: Path, lopsided: Callable[..., Volume], tmp_path: Path, command: str
) -> None:
    lopsided().save(tmp_path / "a.nii")
    done = bash(command, tiny, public, tmp_path / "a.nii", tmp_path / "m.nii")
    assert done.returncode == 0, done.stderr
    refused = bash(command.replace('cat "$2"', 'sed "2s/.$/A/" "$2"'), tiny, public, tmp_path / "a.nii", "m.nii")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)


def test_what_gives_no_key_is_refused_in_time(tiny: Path, public: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for key, words in (
        (tmp_path / "fifo", "is a pipe that did not end within 5 s"),
        ("/dev/zero", "is a device or a terminal"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(InputError, match=words) as refused:
            Bundle.open(tiny, require_key=key)
        assert str(refused.value).startswith(f"{key}: ")
    assert Segmenter.load(tiny, require_key=public).bundle.signed_by is not None
