"""Packages on PyPI as data: a wheel is downloaded once, checked by its digest, and never installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from lowres_seg import atomic, host
from lowres_seg.bundle.bundle import file_sha256
from lowres_seg.errors import InputError


@dataclass(frozen=True)
class Package:
    """A wheel on PyPI: name and version of the package, and the digest of the file."""

    name: str
    version: str
    sha256: str


def is_here(package: Package) -> bool:
    """Tell whether the wheel has been downloaded."""
    return _kept(package) is not None


def wheel(package: Package) -> Path:
    """Path of a package's wheel, which is downloaded if it is not in the user's cache yet.

    Raises
    ------
    InputError
        If it cannot be downloaded, or has another digest than the pinned one.
    """
    path = _kept(package) or _downloaded(package)
    found = file_sha256(path)
    if found != package.sha256:
        path.unlink()
        raise InputError(
            f"{path}: sha256 {found[:12]}…, expected {package.sha256[:12]}…; it was deleted, run the command again"
        )
    return path


def extracted(wheel: Path, folder: str, file: str) -> Path:
    """Path of one file of a wheel, which is unpacked beside it if it is not yet.

    Parameters
    ----------
    wheel : pathlib.Path
    folder : str
        Folder within the wheel.
    file : str
        Path of the file within `folder`.

    Raises
    ------
    InputError
        If the wheel has no such file.
    """
    member = str(PurePosixPath(folder, file))
    target = wheel.with_suffix("") / file
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist() or ".." in PurePosixPath(file).parts:
            raise InputError(f"{wheel}: has no {member}; expected a file within the package")
        if not target.is_file() or target.stat().st_size != archive.getinfo(member).file_size:
            target.parent.mkdir(parents=True, exist_ok=True)
            with (
                atomic.file(target, force=True) as staged,
                archive.open(member) as source,
                staged.open("wb") as sink,
            ):
                shutil.copyfileobj(source, sink)
    return target


def _kept(package: Package) -> Path | None:
    """The wheel in the user's cache; None if it is not there."""
    stem = re.sub(r"[-_.]+", "_", package.name).lower()
    return next(iter(sorted(host.cache_folder().glob(f"{stem}-{package.version}-*.whl"))), None)


def _downloaded(package: Package) -> Path:
    what = f"{package.name} {package.version}"
    if find_spec("pip") is None:
        raise InputError(f"{what}: needs pip to be downloaded, not installed here: {sys.executable} -m ensurepip")
    cache = host.cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as fresh:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        pip += ["--dest", fresh, f"{package.name}=={package.version}"]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)  # noqa: S603 - a recipe's own words
        files = list(Path(fresh).glob("*.whl"))
        if done.returncode or not files:
            reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"
            raise InputError(f"{what}: cannot be downloaded ({reason}); it is needed once, from PyPI")
        return files[0].replace(cache / files[0].name)
