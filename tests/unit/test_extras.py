"""How an extra is installed, by what the installation says of its own origin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lowres_seg.extras import how_to_install

WHEEL = "file:///srv/wheels/lowres_seg-0.2.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        ({"url": WHEEL, "archive_info": {}}, f"pip install 'lowres-seg[sign] @ {WHEEL}'"),
        ({"url": "file:///home/me/seg", "dir_info": {}}, "pip install 'lowres-seg[sign] @ file:///home/me/seg'"),
        ({"url": "file:///home/me/a%20b", "dir_info": {"editable": True}}, "pip install -e '/home/me/a b[sign]'"),
        (None, "pip install 'lowres-seg[sign]'"),
    ],
)
def test_an_extra_comes_from_where_the_package_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, object] | None, command: str
) -> None:
    folder = tmp_path / "lowres_seg-0.2.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: lowres-seg\nVersion: 0.2.0\n", encoding="utf-8")
    if origin is not None:
        (folder / "direct_url.json").write_text(json.dumps(origin), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert how_to_install("sign") == command
