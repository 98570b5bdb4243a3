"""What sdist and wheel hold, built as .ci/run builds them: the sdist of the checkout, the wheel of the sdist."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import lowres_seg

NAME = f"lowres_seg-{lowres_seg.__version__}"
MINE = {".github", "benchmarks", "docs", "export", "scripts", "src", "tests", "mkdocs.yml"}
ALWAYS = {".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "NOTICE", "PKG-INFO", "README.md"}
NEVER = re.compile(
    r"__pycache__|\.pyc$|_cache(/|$)|\.venv|\.egg-info|/(site|dist|build|shared)/|\.hypothesis|\.coverage"
)


@pytest.fixture(scope="module")
def dist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    uv = Path(sys.executable).with_name("uv")
    command = [
        uv,
        "build",
        "--quiet",
        "--no-python-downloads",
        "--python",
        sys.executable,
        "--out-dir",
        folder,
        checkout,
    ]
    subprocess.run(command, check=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def sdist(dist: Path) -> dict[str, int]:
    """Sizes of the files in the sdist, by path below its folder."""
    with tarfile.open(dist / f"{NAME}.tar.gz") as packed:
        members = packed.getmembers()
    assert all(member.isfile() and member.name.startswith(f"{NAME}/") for member in members)
    return {member.name.removeprefix(f"{NAME}/"): member.size for member in members}


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(dist / f"{NAME}-py3-none-any.whl")


def below(folder: Path) -> set[str]:
    """Files of a folder of the checkout, without what Python leaves there."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip


def test_the_sdist_has_what_builds_and_tests_the_package(sdist: dict[str, int], checkout: Path) -> None:
    top = {PurePosixPath(name).parts[0] for name in sdist}
    assert top - MINE == ALWAYS | {"constraints.txt", "pyproject.toml"}
    for folder in ("src", "export", "tests", "docs", "scripts"):
        assert {f"{folder}/{name}" for name in below(checkout / folder)} <= set(sdist), folder
    assert [name for name in sdist if NEVER.search(name)] == []
    assert sum(sdist.values()) < 12 << 20
    assert max(sdist.values()) < 2 << 20


def test_the_wheel_is_the_package_with_its_recipes(wheel: zipfile.ZipFile, checkout: Path) -> None:
    names = set(wheel.namelist())
    package = {f"lowres_seg/{name}" for name in below(checkout / "src" / "lowres_seg")}
    recipes = {f"lowres_seg/recipes/{name}" for name in below(checkout / "export")}
    about = {f"{NAME}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE", "licenses/NOTICE", "licenses/src/lowres_seg/view/niivue-licences.txt")}  # fmt: skip
    assert names == package | recipes | about
    assert "lowres_seg/recipes/msnet/network.py" in recipes
    assert Path(str(wheel.filename)).stat().st_size < 3 << 20


def test_the_metadata_says_what_pip_must_know(wheel: zipfile.ZipFile) -> None:
    metadata = wheel.read(f"{NAME}.dist-info/METADATA").decode()
    head, _, text = metadata.partition("\n\n")
    assert f"\nVersion: {lowres_seg.__version__}\n" in head
    assert "\nRequires-Python: >=3.10\n" in head
    assert "Project-URL" not in head
    base = [line for line in head.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert [line for line in base if "torch" in line or "nncf" in line] == []
    assert re.findall(r"\]\((?!https?://)", text) == []  # a package page has no folder that a link could lead to
    assert (
        wheel.read(f"{NAME}.dist-info/entry_points.txt").decode().split("\n")[1] == "lowres-seg = lowres_seg.cli:main"
    )
