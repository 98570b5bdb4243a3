"""A command that is interrupted ends with the code of its signal, wherever it was."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lowres_seg import extras

#: Runs the command line, and sends this process a signal when a module is first looked for.
ASKS = """
import os, signal, sys
name, number, *sys.argv[1:] = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
class Asks:
    def find_spec(self, module, path=None, target=None):
        if module == name:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(number))
sys.meta_path.insert(0, Asks())
from lowres_seg.cli import main
main()
"""


def interrupted(module: str, number: int, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ASKS, module, str(int(number)), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["openvino._pyopenvino", "openvino.opset13", "pydantic.main"])
def test_a_command_ends_while_it_imports(tiny: Path, module: str, number: int) -> None:
    for words in (["predict", tiny, "a.nii", "-o", "m.nii"], ["verify", tiny]):
        done = interrupted(module, number, *words)
        assert (done.returncode, done.stderr, done.stdout) == (128 + number, "", "")


@pytest.mark.parametrize("words", [["export", "a.toml", "-o", "b"], ["bench", "a", "-o", "b.json"], ["show", "a"]])
def test_other_commands_end_while_they_import(words: list[str]) -> None:
    if words[0] == "export" and extras.missing("export"):
        pytest.skip("export is not installed")
    done = interrupted("pydantic.main", signal.SIGINT, *words)
    assert (done.returncode, done.stderr, done.stdout) == (130, "", "")


def test_openvino_is_whole_after_an_import_that_was_interrupted() -> None:
    code = (
        "import sys\n"
        "class Once:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'openvino.opset13':\n"
        "            sys.meta_path.remove(self); raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Once())\n"
        "try: import lowres_seg.runtime.openvino_engine\n"
        "except KeyboardInterrupt: print('interrupted')\n"
        "import openvino.tools.ovc; print(openvino.tools.ovc.convert_model.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    told = [line for line in done.stderr.splitlines() if "DeprecationWarning" not in line]  # of OpenVINO 2025.0
    assert (done.stdout.split(), told) == (["interrupted", "convert_model"], [])
