"""A bundle: a directory that holds a manifest and the files it lists, each with its sha256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lowres_seg import atomic
from lowres_seg.bundle.manifest import MANIFEST_NAME, Manifest, Network
from lowres_seg.errors import BundleError, IntegrityError


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: every file was there, and unchanged, when it was opened.

    Attributes
    ----------
    path : pathlib.Path
    manifest : Manifest
    digest : str
        sha256 of the manifest, and through it of the whole bundle.
    """

    path: Path
    manifest: Manifest
    digest: str

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Open a bundle and check every digest.

        Raises
        ------
        BundleError
            If `path` is no bundle.
        ManifestError
            If the manifest is not valid.
        IntegrityError
            If a file is missing, has changed, or lies outside the bundle.
        """
        path = Path(path)
        manifest_path = path / MANIFEST_NAME
        if not manifest_path.is_file():
            found = "is a folder without one" if path.is_dir() else "is a file" if path.exists() else "does not exist"
            raise BundleError(f"{path}: {found}, expected a bundle: a folder with a {MANIFEST_NAME}")
        text = manifest_path.read_bytes()
        bundle = cls(path, Manifest.parse(text, where=str(manifest_path)), hashlib.sha256(text).hexdigest())
        for name, expected in bundle.manifest.files.items():
            bundle._check(name, expected)
        return bundle

    def _check(self, name: str, expected: str) -> None:
        file = self.path / name
        # A link inside the bundle would let its content change behind the digest's back.
        if not file.resolve().is_relative_to(self.path.resolve()):
            raise IntegrityError(f"{self.path}: {name} is a link that leads outside the bundle; export it again")
        if not file.is_file():
            raise IntegrityError(f"{self.path}: {name} is missing; copy or export the bundle again")
        found = file_sha256(file)
        if found != expected:
            raise IntegrityError(
                f"{self.path}: {name} has changed: sha256 {found[:12]}…, the manifest says {expected[:12]}…; "
                "copy or export the bundle again"
            )

    def file(self, name: str) -> Path:
        """Path of a file that the manifest lists."""
        return self.path / name

    def network(self, name: str) -> Network:
        """Entry of a network in the manifest."""
        return self.manifest.networks[name]


@contextmanager
def staged(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a folder to fill; it becomes the bundle `target` if it proves to be a valid one.

    Raises
    ------
    InputError
        If `target` exists and not `force`, or cannot be written.
    BundleError
        If what was written is no valid bundle.
    """
    with atomic.directory(target, force=force) as folder:
        yield folder
        Bundle.open(folder)


def digests(folder: Path) -> dict[str, str]:
    """Digest of every file below `folder` but the manifest, by its relative path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST_NAME)
    return {file.relative_to(folder).as_posix(): file_sha256(file) for file in files}


def file_sha256(path: Path) -> str:
    """Digest of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
