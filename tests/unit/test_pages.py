"""The pages of the repository: their links lead to files and headings, and the site has every page and every public name."""

from __future__ import annotations

import importlib
import posixpath
import re
from pathlib import Path

import pytest

#: A block of code, code in a line, or the target of a link or a picture.
CODE_OR_LINK = re.compile(r"^```.*?^```|`[^`\n]*`|\]\(([^()\s]+)\)", re.MULTILINE | re.DOTALL)


def pages(checkout: Path) -> list[Path]:
    found = [
        *checkout.glob("*.md"),
        *(checkout / "docs").rglob("*.md"),
        *checkout.glob("export/*/*.md"),
        *checkout.glob("benchmarks/*.md"),
    ]
    assert len(found) > 40
    return found


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MkDocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    heads = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head) for head in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}


def test_links_lead_to_files_and_headings(checkout: Path) -> None:
    broken, followed = [], 0
    for page in pages(checkout):
        for target in filter(None, CODE_OR_LINK.findall(page.read_text(encoding="utf-8"))):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            goal = page.parent / path if path else page
            followed += 1
            if not goal.exists() or (anchor and anchor not in anchors(goal)):
                broken.append(f"{page.relative_to(checkout)}: {target}")
    assert broken == []
    assert followed > 100


def test_the_readme_is_for_one_minute(checkout: Path) -> None:
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 90
    assert "(docs/index.md)" in readme


@pytest.mark.parametrize(
    ("package", "page", "left_out"),
    [
        ("lowres_seg", "python", {"__version__"}),
        ("lowres_seg.export", "python-build", set()),
        ("lowres_seg.quantize", "python-build", set()),
        ("lowres_seg.bench", "python-measure", set()),
        ("lowres_seg.metrics", "python-measure", {"BRATS_EMPTY_MM", "DEFINITIONS", "empty_policy"}),
    ],
)
def test_the_reference_has_every_public_name(checkout: Path, package: str, page: str, left_out: set[str]) -> None:
    text = (checkout / "docs" / "reference" / f"{page}.md").read_text(encoding="utf-8")
    named = set(re.findall(rf"^::: {re.escape(package)}\.(\w+)$", text, re.MULTILINE))
    assert named == set(importlib.import_module(package).__all__) - left_out


def test_every_page_is_in_the_navigation_of_the_site(checkout: Path) -> None:
    """MkDocs checks this too, where it is installed. A page that a script makes would be forgotten otherwise."""
    navigation = (checkout / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    docs = {path.relative_to(checkout / "docs").as_posix() for path in (checkout / "docs").rglob("*.md")}
    listed = set(re.findall(r": (\S+\.md)$", navigation, re.MULTILINE))
    listed |= {
        posixpath.relpath(path, checkout / "docs") for one in listed if "*" in one for path in checkout.glob(one)
    }
    assert docs - listed == {"package.md"}
