"""A bundle: a folder that holds a manifest and the files that it lists, each with its sha256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from lowres_seg import atomic
from lowres_seg.arguments import path as as_path
from lowres_seg.bundle import contents, signature
from lowres_seg.bundle.bounds import MANIFEST_BYTES
from lowres_seg.bundle.dropout import DropoutMask
from lowres_seg.bundle.manifest import MANIFEST_NAME, Manifest, Network
from lowres_seg.errors import BundleError, InputError, IntegrityError, ManifestError, shown
from lowres_seg.wording import counted


def _working_folder() -> Path:
    """Folder that this process works in; empty if it was removed, where absolute paths alone are of use."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path()


@dataclass(frozen=True)
class NetworkFiles:
    """The two files of a network in IR.

    Attributes
    ----------
    xml, bin : pathlib.Path
    sha256 : pair of str or None
        Digests that the files must have whenever they are read. None for files that this process wrote itself.
    shapes : tuple of tuple or None
        Shapes of inputs and output that the graph must have. None for files that this process wrote itself.
    start : pathlib.Path
        Folder that relative paths begin in; by default the one that this process works in when they are read.
    dropout : tuple of DropoutMask
        Masks that the network takes behind its input.
    """

    xml: Path
    bin: Path
    sha256: tuple[str, str] | None = None
    shapes: tuple[tuple[int, ...], ...] | None = None
    start: Path = Path()
    dropout: tuple[DropoutMask, ...] = ()

    @classmethod
    def written(cls, xml: Path, dropout: tuple[DropoutMask, ...] = ()) -> NetworkFiles:
        """Files that this process wrote itself: an .xml, with the .bin beside it."""
        return cls(xml, xml.with_suffix(".bin"), dropout=dropout)

    def read(self) -> tuple[bytes, bytes]:
        """Read both files.

        Raises
        ------
        IntegrityError
            If one is missing, or has another digest than it had when its bundle was opened.
        """
        expected = self.sha256 or (None, None)
        return (
            checked_bytes(self.xml, expected[0], start=self.start),
            checked_bytes(self.bin, expected[1], start=self.start),
        )


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Every file was there, with its digest, when the bundle was opened.

    A file that is read later is checked once more, by `read` or `NetworkFiles.read`: what runs is what was checked.

    Attributes
    ----------
    path : pathlib.Path
        As it was given. A relative one is that of the folder that the process worked in when the bundle was opened.
    manifest : Manifest
    digest : str
        sha256 of the manifest, and through it of the whole bundle.
    signed_by : str or None
        Id of the key whose signature was required and checked.
    """

    path: Path
    manifest: Manifest
    digest: str
    signed_by: str | None = None
    _start: Path = field(default_factory=_working_folder, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, require_key: str | os.PathLike[str] | None = None) -> Bundle:
        """Open a bundle and check every digest.

        Parameters
        ----------
        path : path
        require_key : path, optional
            Public key (Ed25519, in PEM) that must have signed the manifest; by default that of the environment variable
            ``LOWRES_SEG_REQUIRE_KEY``, if it is set. The bytes whose signature is checked are those that are parsed.

        Raises
        ------
        BundleError
            If `path` is not a bundle.
        ManifestError
            If the manifest is not valid, or beyond the bounds.
        IntegrityError
            If a file is missing, has changed, is no plain file of the bundle's own, or is not listed; or if the key has
            not signed the bundle.
        InputError
            If `path` is no path, such as bytes; or if the key is none.
        MissingExtraError
            If a key is required, and the extra ``sign`` is not installed.
        """
        return cls._open(as_path(path, "bundle"), signature.required(require_key))

    @classmethod
    def _open(cls, path: Path, key: Path | None) -> Bundle:
        text = _manifest_text(path)
        signed_by = None if key is None else signature.check(path, text, key)
        manifest = Manifest.parse(text, where=str(path / MANIFEST_NAME))
        try:
            manifest.check_scores()
        except ValueError as error:
            raise ManifestError(f"{path / MANIFEST_NAME}: {error}") from error
        contents.check(path, manifest.most_bytes)
        bundle = cls(path, manifest, hashlib.sha256(text).hexdigest(), signed_by)
        for name, expected in manifest.files.items():
            bundle._check(name, expected)
        return bundle

    def requiring(self, key: str | os.PathLike[str] | None) -> Bundle:
        """Give the bundle itself if it was opened with the key that is required; errors as of `open`.

        Without a key here, that of the environment must have signed it, unless it was opened with another one.
        """
        required = signature.required(key) if key is not None or self.signed_by is None else None
        if required is not None and self.signed_by != signature.key_identity(required):
            raise IntegrityError(
                f"{self.path}: was opened without a check of its signature by {required}; open it with require_key"
            )
        return self

    def _check(self, name: str, expected: str) -> None:
        file = self.path / name
        try:
            found = file_sha256(file)
        except OSError as error:
            raise IntegrityError(_unreadable(file, error)) from error
        if found != expected:
            raise IntegrityError(_changed(file, found, expected))

    def holds(self, path: Path) -> bool:
        """Tell whether a path is the bundle's folder or lies in it, whatever links lead there."""
        folder = os.path.realpath(self._start / self.path)
        return Path(os.path.realpath(path)).is_relative_to(folder)

    def file(self, name: str) -> Path:
        """Path of a file of the bundle."""
        return self.path / name

    def read(self, name: str) -> bytes:
        """Content of a file that the manifest lists.

        Raises
        ------
        IntegrityError
            If it is missing, or has changed since the bundle was opened.
        InputError
            If the manifest lists no such file.
        """
        given: object = name
        if not isinstance(given, str) or given not in self.manifest.files:
            raise InputError(
                f"{self.path}: lists no file {shown(given)}; see its {MANIFEST_NAME} for those that it has"
            )
        return checked_bytes(self.path / name, self.manifest.files[name], start=self._start)

    def network(self, name: str) -> Network:
        """Entry of a network in the manifest.

        Raises
        ------
        InputError
            If the manifest has no such network.
        """
        given: object = name
        if not isinstance(given, str) or given not in self.manifest.networks:
            raise InputError(f"{self.path}: has no network {shown(given)}; it has {', '.join(self.manifest.networks)}")
        return self.manifest.networks[name]

    def network_files(self) -> dict[str, NetworkFiles]:
        """Files of each network, by name."""
        digests = self.manifest.files
        return {
            name: NetworkFiles(
                self.path / n.xml,
                self.path / n.bin,
                (digests[n.xml], digests[n.bin]),
                n.shapes,
                self._start,
                n.dropout,
            )
            for name, n in self.manifest.networks.items()
        }


class Staging:
    """A folder to fill, which becomes a bundle.

    Attributes
    ----------
    folder : pathlib.Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bundle: Bundle | None = None

    @property
    def bundle(self) -> Bundle:
        """The bundle at its target, after the block has ended."""
        assert self._bundle is not None  # noqa: S101 - the block has ended
        return self._bundle


def check_place(target: Path, *, force: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Check before any work that a bundle can be put in place.

    Raises
    ------
    InputError
        As of `atomic.check_targets`; and if `target` is a folder of something else, which is not replaced with `force`.
    """
    atomic.check_target(target, force=force, inputs=inputs, folder=True)
    if not target.is_dir() or (target / MANIFEST_NAME).is_file():
        return
    held = sorted(path.name for path in target.iterdir())
    if held:
        raise InputError(
            f"{target}: is a folder of {counted(len(held), 'thing')}, such as {held[0]}, and no bundle; force "
            "(--force, force=True) replaces a bundle alone, so choose another output"
        )


@contextmanager
def staged(target: Path, *, force: bool = False) -> Iterator[Staging]:
    """Yield a folder to fill. It becomes the bundle `target` if it proves to be a valid bundle.

    Raises
    ------
    InputError
        As of `check_place`, or if it cannot be written.
    BundleError
        If the folder is not a valid bundle in the end.
    """
    check_place(target, force=force)
    with atomic.directory(target, force=force) as folder:
        staging = Staging(folder)
        yield staging
        found = Bundle._open(folder, None)  # noqa: SLF001 - its own module; nobody has signed it yet
    staging._bundle = replace(found, path=target)  # noqa: SLF001 - its own module


def sign(path: Path, key: Path, *, force: bool = False) -> str:
    """Check every digest of a bundle, and write the signature of its manifest beside it.

    Parameters
    ----------
    path : pathlib.Path
        The bundle.
    key : pathlib.Path
        Private key (Ed25519, in PEM).
    force : bool
        Whether another signature may be replaced.

    Returns
    -------
    str
        Id of the key.

    Raises
    ------
    BundleError
        If it is no bundle, or has changed.
    InputError
        If the key is none, or the signature exists or cannot be written.
    MissingExtraError
        If the extra ``sign`` is not installed.
    """
    bundle = Bundle._open(path, None)  # noqa: SLF001 - its own module; who signs it trusts it
    content, identity = signature.signed(checked_bytes(path / MANIFEST_NAME, bundle.digest), key)
    with atomic.file(path / contents.SIGNATURE_NAME, force=force) as staged:
        staged.write_bytes(content)
    return identity


def manifest_of(path: str | os.PathLike[str]) -> Manifest:
    """Manifest of a bundle, whose files are not checked. Use it before `Bundle.open`, and not in place of it.

    Raises
    ------
    BundleError
        If `path` is not a bundle, or not signed by the key that the environment requires.
    ManifestError
        If the manifest is not valid.
    """
    path = Path(path)
    text = _manifest_text(path)
    if (key := signature.required(None)) is not None:
        signature.check(path, text, key)
    return Manifest.parse(text, where=str(path / MANIFEST_NAME))


def digests(folder: Path) -> dict[str, str]:
    """Digest of every file below `folder` that a manifest lists, by relative path."""
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    return {name: file_sha256(files[name]) for name in sorted(files) if not contents.is_apart(name)}


def file_sha256(path: Path) -> str:
    """Digest of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _manifest_text(path: Path) -> bytes:
    try:
        return _text_of_manifest(path)
    except OSError as error:
        raise BundleError(_unreadable(path / MANIFEST_NAME, error)) from error


def _text_of_manifest(path: Path) -> bytes:
    file = path / MANIFEST_NAME
    if file.is_symlink():
        raise BundleError(f"{file}: is a link, expected a plain file; copy the bundle with its links resolved")
    if file.is_file():
        with file.open("rb") as stream:
            text = stream.read(MANIFEST_BYTES + 1)
        if len(text) > MANIFEST_BYTES:
            raise ManifestError(f"{file}: has more than {MANIFEST_BYTES} bytes, the most that a manifest may have")
        return text
    found = (
        f"is a folder without a {MANIFEST_NAME}"
        if path.is_dir() and not file.exists()
        else f"has a {MANIFEST_NAME} that is no plain file"
        if path.is_dir()
        else "is a file"
        if path.exists()
        else "does not exist"
    )
    raise BundleError(f"{path}: {found}, expected a bundle: a folder with a {MANIFEST_NAME}")


def checked_bytes(path: Path, expected: str | None, *, start: Path = Path()) -> bytes:
    """Read a file, and check that it has the sha256 `expected`; None for a file that this process wrote itself.

    A relative path is that of the folder `start`. Messages have it as it was given.

    Raises
    ------
    IntegrityError
        If it cannot be read, or has another digest.
    """
    try:
        content = (start / path).read_bytes()
    except OSError as error:
        raise IntegrityError(_unreadable(path, error)) from error
    if expected is not None and (found := hashlib.sha256(content).hexdigest()) != expected:
        raise IntegrityError(_changed(path, found, expected))
    return content


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path}: cannot be read ({error.strerror}); copy or export the bundle again"


def _changed(path: Path, found: str, expected: str) -> str:
    return (
        f"{path}: has changed: sha256 {found[:12]}…, the manifest says {expected[:12]}…; "
        "copy or export the bundle again"
    )
