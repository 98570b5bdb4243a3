"""Every command and every file of the tutorials, as a reader types and saves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pages

CHECKOUT = Path(__file__).parents[2]
TUTORIALS = sorted(path.name for path in (CHECKOUT / "docs" / "tutorials").glob("*.md"))
Ended = Callable[[str], Path]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Function that follows a tutorial once, and gives the folder that it ends with."""
    folders: dict[str, Path] = {}

    def follow(name: str) -> Path:
        if name not in folders:
            folder = tmp_path_factory.mktemp(name.removesuffix(".md"))
            reader = pages.Reader(folder)
            reader.follow(CHECKOUT / "docs" / "tutorials" / name, start=follow)
            print(f"{name}: {reader.typed} commands and programs were run; not run: {reader.skipped or 'none'}")  # noqa: T201
            assert reader.typed > 3
            folders[name] = folder
        return folders[name]

    return follow


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_runs_as_it_is_written(name: str, ended: Ended) -> None:
    ended(name)
