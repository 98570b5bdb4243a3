"""Trained weights and a labelled head, from two published packages.

Both packages are downloaded as data and not installed: once, by ``pip download --no-deps`` with pinned digests, into
the user's cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lowres_seg import atomic
from lowres_seg.bundle.bundle import file_sha256
from lowres_seg.errors import InputError

_DEEPBET = ("deepbet", "1.0.2", "1999e2ea00ec48f6233b95b96f3901a962d3f70431c63aeb985e8a49a198473c")
_NIMARE = ("nimare", "0.22.1", "16025cbe44c97fb580fe129df230fca62c97c2c6197887abc83b6081552e7bc1")
_TEMPLATES = "nimare/resources/templates/"
_WEIGHTS = ("data/models/bbox_model.pt", "data/models/model.pt")
_HEAD = _TEMPLATES + "tpl-MNI152NLin6Asym_res-01_T1w.nii.gz"
_MASK = _TEMPLATES + "tpl-MNI152NLin6Asym_res-01_desc-brain_mask.nii.gz"


@dataclass(frozen=True)
class Assets:
    """Paths of the demo's inputs.

    Attributes
    ----------
    weights : pathlib.Path
        Folder of deepbet's two TorchScript files.
    head, mask : pathlib.Path
        Whole-head T1 template, and its brain mask.
    deepbet_wheel : pathlib.Path
        The package of the weights, for comparisons with it.
    """

    weights: Path
    head: Path
    mask: Path
    deepbet_wheel: Path


def cache_folder() -> Path:
    """Folder of this package in the user's cache."""
    if sys.platform == "win32" and "LOCALAPPDATA" in os.environ:
        base = Path(os.environ["LOCALAPPDATA"])
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "lowres-seg"


def fetch() -> Assets:
    """Download what is not in the cache yet, and check all of it.

    Raises
    ------
    InputError
        If a package cannot be downloaded, or has another digest than the pinned one.
    """
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    deepbet, nimare = _wheel(cache, *_DEEPBET), _wheel(cache, *_NIMARE)
    weights = [_extracted(cache, deepbet, member) for member in _WEIGHTS]
    return Assets(weights[0].parent, _extracted(cache, nimare, _HEAD), _extracted(cache, nimare, _MASK), deepbet)


def _wheel(cache: Path, name: str, version: str, sha256: str) -> Path:
    path = cache / f"{name}-{version}-py3-none-any.whl"
    if not path.is_file():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(cache),
            f"{name}=={version}",
        ]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)  # noqa: S603 - no input of others
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"
            raise InputError(f"{name} {version} cannot be downloaded ({reason}); the demo needs it once, from PyPI")
    found = file_sha256(path)
    if found != sha256:
        path.unlink()
        raise InputError(f"{path}: sha256 {found[:12]}…, expected {sha256[:12]}…; it was deleted, run the demo again")
    return path


def _extracted(cache: Path, wheel: Path, member: str) -> Path:
    folder = cache / wheel.name.removesuffix(".whl")
    target = folder / PurePosixPath(member).name
    if not target.is_file():
        folder.mkdir(exist_ok=True)
        with (
            atomic.file(target) as staged,
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as source,
            staged.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink)
    return target
