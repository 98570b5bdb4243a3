"""Every command and every file of the tutorials, as a reader types and saves them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import pages
from lowres_seg.demo import Assets

CHECKOUT = Path(__file__).parents[2]
TUTORIALS = sorted(path.name for path in (CHECKOUT / "docs" / "tutorials").glob("*.md"))
#: Commands of the pages that have no comments, and why they are not typed here.
ELSEWHERE = (
    (r"(scripts/|lowres-seg )demo\b", "test_deepbet.py runs it"),
    (r"scripts/", "a script of the checkout, which .ci/run runs"),
    (r"(pip|git|cd)\b", "installs, which .ci/run does"),
)

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


def test_the_first_commands_run_as_they_are_written(assets: Assets, tmp_path: Path) -> None:
    """With a real head under the name that the pages use."""
    folder = tmp_path / "reader"
    folder.mkdir()
    shutil.copy(assets.head, folder / "head.nii.gz")
    reader = pages.Reader(folder, elsewhere=ELSEWHERE)
    reader.follow(CHECKOUT / "README.md")
    print(f"README.md: {reader.typed} commands and programs were run; not run: {reader.skipped}")  # noqa: T201
    assert reader.typed >= 2


def commands(page: str) -> list[str]:
    """Commands of a page that are typed, without comments."""
    lines = (CHECKOUT / page).read_text(encoding="utf-8").splitlines()
    typed = [line[2:].partition(" #")[0].strip() for line in lines if line.startswith("$ ")]
    return [command for command in typed if not any(re.match(pattern, command) for pattern, _ in ELSEWHERE)]


def test_the_start_page_has_the_first_commands_of_the_readme() -> None:
    assert len(commands("docs/index.md")) >= 2
    assert set(commands("docs/index.md")) <= set(commands("README.md"))


MISTAKES = {
    "an option": ("$ python run.py --mispelt\n", "exit code 2, expected 0"),
    "what is printed": ("$ python run.py\n1 head\n", "the page says"),
    "a number": ("$ python run.py\n3 heads\n", "the page says"),
    "the exit code": ("$ exit 3\n", "exit code 3, expected 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_page_is_found(mistake: str, tmp_path: Path) -> None:
    text, said = MISTAKES[mistake]
    page = tmp_path / "page.md"
    program = "import argparse\nargparse.ArgumentParser().parse_args()\nprint('2 heads')\n"
    page.write_text(f"<!-- file: run.py -->\n```python\n{program}```\n\n```console\n{text}```\n")
    with pytest.raises(AssertionError, match=said):
        pages.Reader(tmp_path).follow(page)
    page.write_text(
        page.read_text().replace(text, "$ python run.py\n2...\n$ echo 'One.' && python run.py\nOne.\n...\n")
    )
    reader = pages.Reader(tmp_path)
    reader.follow(page)
    assert reader.typed == 2


def test_a_block_that_does_not_run_has_a_reason(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- run: no -->\n```console\n$ false\n```\n")
    with pytest.raises(ValueError, match="expected run: no: REASON"):
        pages.Reader(tmp_path).follow(page)
    page.write_text("<!-- ran: no: it fails -->\n```console\n$ false\n```\n")
    with pytest.raises(ValueError, match="found the comment ran"):
        pages.Reader(tmp_path).follow(page)
