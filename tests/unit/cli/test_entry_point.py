"""The installed script, as a shell starts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import lowres_seg
from lowres_seg.cli import app

SCRIPT = Path(sys.executable).with_name("lowres-seg")
STARTS = {"script": [str(SCRIPT)], "module": [sys.executable, "-m", "lowres_seg"]}
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]


def started(start: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*STARTS[start], *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("start", STARTS)
def test_the_version_is_printed_and_nothing_else(start: str) -> None:
    done = started(start, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{lowres_seg.__version__}\n", "")


@pytest.mark.parametrize("start", STARTS)
def test_help_lists_every_command(start: str) -> None:
    done = started(start, "--help")
    assert done.returncode == 0
    assert all(f" {command} " in done.stdout for command in COMMANDS)
    bare = started(start)
    assert bare.returncode == 2
    assert "Usage" in bare.stdout + bare.stderr


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, flag: str) -> None:
    done = started("script", command, flag)
    assert done.returncode == 0, done.stderr
    assert f"lowres-seg {command}" in done.stdout
    assert done.stderr == ""


def test_the_pages_name_every_command_and_no_other(checkout: Path) -> None:
    pages = [checkout / "README.md", *(checkout / "docs").rglob("*.md")]
    lines = [line.split() for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    named = {words[2] for words in lines if words[:2] == ["$", "lowres-seg"] and not words[2].startswith("-")}
    assert named == set(COMMANDS)


def test_help_needs_no_openvino() -> None:
    code = (
        "import sys; sys.argv = ['lowres-seg', '--help']\n"
        "from lowres_seg.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('openvino', 'nibabel', 'torch', 'nncf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
