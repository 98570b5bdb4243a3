"""`sign` and `--require-key` where cryptography is not installed, and words that do not go together."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

#: Runs the command line where cryptography is not installed.
WITHOUT = """
import sys
from importlib import util
real = util.find_spec
util.find_spec = lambda name, *a: None if name == "cryptography" else real(name, *a)
sys.modules["cryptography"] = None
sys.argv = ["lowres-seg", *sys.argv[1:]]
from lowres_seg.cli import main
main()
"""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    "words",
    [
        ("sign", "{tiny}", "--key", "{dir}/key"),
        ("sign", "--new-key", "{dir}/key"),
        ("verify", "{tiny}", "--require-key", "{dir}/key.pub"),
        ("predict", "{tiny}", "{dir}/a.nii", "-o", "{dir}/b.nii", "--require-key", "{dir}/key.pub"),
    ],
)
def test_the_extra_is_named_where_it_is_missing(tiny: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run(*(word.format(tiny=tiny, dir=tmp_path) for word in words))
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (1, 1, "")
    assert re.search(r"pip install .*\[sign\]", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    "words",
    [
        ["sign"],
        ["sign", "b"],
        ["sign", "--key", "k"],
        ["sign", "b", "--new-key", "k"],
    ],
)
def test_words_that_do_not_go_together_are_a_usage_error(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
