"""The page for Python: its blocks run, in their order."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lowres_seg import Volume


def test_the_blocks_of_the_page_run(
    checkout: Path,
    tiny: Path,
    lopsided: Callable[..., Volume],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (checkout / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, tmp_path / "deepbet")
    lopsided().save("head.nii.gz")
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert Path("mask.nii.gz").is_file()
    assert capsys.readouterr().out.startswith("scan: found ndarray of shape (32, 40, 36)")
