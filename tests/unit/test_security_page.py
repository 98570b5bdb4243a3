"""docs/security.md names a test for each thing that an attacker can try."""

from __future__ import annotations

import ast
import re
from pathlib import Path


def test_every_row_names_tests_that_exist(checkout: Path) -> None:
    page = (checkout / "docs" / "security.md").read_text(encoding="utf-8")
    there: dict[str, set[str]] = {}
    for path in (checkout / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        there.setdefault(path.name, set()).update(names)
    rows = [row for row in re.findall(r"^\| (.*) \|$", page, re.MULTILINE) if row != "attempt | what stops it | test"]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(\w+)`", row.rpartition(" | ")[2])
        assert named, row
        assert [(file, name) for file, name in named if name not in there.get(file, set())] == []
    parts = re.findall(r"^## (.*)$", page, re.MULTILINE)
    for who in ("scan", "bundle", "checkpoint", "cache", "network"):
        assert any(who in part for part in parts), who


def test_other_pages_lead_to_it(checkout: Path) -> None:
    assert "(docs/security.md)" in (checkout / "README.md").read_text(encoding="utf-8")
