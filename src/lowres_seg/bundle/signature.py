"""Signatures of bundles: Ed25519 over the bytes of the manifest, which has the digest of every other file.

A signature is 64 bytes in ``manifest.sig``, as ``openssl pkeyutl -rawin`` makes and checks them. This is the home of
cryptography. It is imported where something is signed or a signature is required, and nowhere else.
"""

from __future__ import annotations

import hashlib
import os
import select
import stat
import time
from pathlib import Path
from typing import Any

from lowres_seg import atomic, extras
from lowres_seg.arguments import path as as_path
from lowres_seg.bundle.contents import SIGNATURE_NAME
from lowres_seg.errors import InputError, IntegrityError
from lowres_seg.wording import counted

#: Environment variable that names the public key of every bundle that is opened.
VARIABLE = "LOWRES_SEG_REQUIRE_KEY"
_BYTES = 64
#: Most bytes of a key's file.
_KEY_BYTES = 1 << 14
#: Seconds within which a pipe must give a key.
_PIPE_S = 5.0
_NEW = "make a pair with: lowres-seg sign --new-key FILE"


def required(key: str | os.PathLike[str] | None) -> Path | None:
    """Public key that must have signed a bundle: the one given, else that of `VARIABLE`; None if neither names one.

    Raises
    ------
    InputError
        If it is no path, or the variable is set and empty. The text of a key, which is no path, is not repeated.
    """
    if key is not None:
        return as_path(key, "require_key")
    named = os.environ.get(VARIABLE)
    if named is None:
        return None
    if not named.strip():
        raise InputError(f"{VARIABLE}: is empty, expected the path of a public key; unset it to require no signature")
    return Path(named)


def check(folder: Path, manifest: bytes, key: Path) -> str:
    """Check that a key has signed the bytes of a bundle's manifest.

    Parameters
    ----------
    folder : pathlib.Path
        The bundle.
    manifest : bytes
        Its manifest, as it will be parsed.
    key : pathlib.Path
        Public key in PEM.

    Returns
    -------
    str
        Id of the key, as of `identity`.

    Raises
    ------
    IntegrityError
        If the bundle is not signed, or not by this key.
    InputError
        If the key is none.
    MissingExtraError
        If cryptography is not installed.
    """
    extras.require("sign")
    from cryptography.exceptions import InvalidSignature

    public = _public(key)
    try:
        public.verify(_read_signature(folder, key), manifest)
    except InvalidSignature as error:
        raise IntegrityError(
            f"{folder}: its {SIGNATURE_NAME} is no signature by {key} of its manifest, which has changed or is signed "
            "by another key; get the bundle again from who signs it"
        ) from error
    return identity(public)


def signed(manifest: bytes, key: Path) -> tuple[bytes, str]:
    """Sign the bytes of a manifest.

    Parameters
    ----------
    manifest : bytes
    key : pathlib.Path
        Private key in PEM, without a passphrase.

    Returns
    -------
    signature : bytes
    identity : str
        Id of the key.

    Raises
    ------
    InputError
        If the key is none.
    MissingExtraError
        If cryptography is not installed.
    """
    extras.require("sign")
    private = _private(key)
    return private.sign(manifest), identity(private.public_key())


def new_key(path: Path) -> str:
    """Make a pair of keys: a private one at `path`, which only its owner may read, and its public one at `path`.pub.

    Returns
    -------
    str
        Id of the key.

    Raises
    ------
    InputError
        If one of the files exists, or cannot be written.
    MissingExtraError
        If cryptography is not installed.
    """
    extras.require("sign")
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    pair = [path, path.with_name(f"{path.name}.pub")]
    for file in pair:
        if os.path.lexists(file):
            raise InputError(f"{file}: exists already, and a key is never replaced; choose another name, or remove it")
    with atomic.files(pair) as (secret, known):
        descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(private.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()))
        known.write_bytes(public.public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo))
    return identity(public)


def key_identity(key: Path) -> str:
    """Id of the public key in a file; errors as of `check`."""
    extras.require("sign")
    return identity(_public(key))


def identity(public: Any) -> str:
    """Id of a public key: sha256 of its SubjectPublicKeyInfo in DER."""
    from cryptography.hazmat.primitives import serialization as forms

    return hashlib.sha256(public.public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _public(path: Path) -> Any:
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    text = _pem(path, "public", f"; --require-key, require_key or {VARIABLE} names it")
    if b"PRIVATE KEY" in text:
        raise InputError(
            f"{path}: is a private key, expected the public one; make it with: openssl pkey -pubout -in {path}"
        )
    return _of_kind(path, _loaded(path, text, "public", forms.load_pem_public_key), Ed25519PublicKey)


def _private(path: Path) -> Any:
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    text = _pem(path, "private", f"; {_NEW}")
    if b"PUBLIC KEY" in text:
        raise InputError(f"{path}: is a public key, expected the private one of the pair; {_NEW}")
    if b"ENCRYPTED" in text:
        raise InputError(
            f"{path}: is protected by a passphrase, expected a plain key; pipe it in: openssl pkey -in {path} | "
            "lowres-seg sign BUNDLE --key /dev/stdin"
        )
    return _of_kind(
        path, _loaded(path, text, "private", lambda pem: forms.load_pem_private_key(pem, None)), Ed25519PrivateKey
    )


def _pem(path: Path, which: str, cure: str) -> bytes:
    """Text of a file that holds one block of PEM."""
    try:
        text = _text(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), expected a {which} key in PEM{cure}") from error
    blocks = text.count(b"-----BEGIN ")
    if len(text) > _KEY_BYTES or blocks != 1:
        found = (
            f"has more than {_KEY_BYTES} bytes"
            if len(text) > _KEY_BYTES
            else f"holds {counted(blocks, 'block')} of PEM"
        )
        raise InputError(f"{path}: {found}, expected one {which} key in PEM; {_NEW}")
    return text


def _text(path: Path) -> bytes:
    """First bytes of a plain file or of a pipe, which need not be there at once but within `_PIPE_S`."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as stream:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISCHR(mode):
            raise InputError(f"{path}: is a device or a terminal, expected a file or a pipe with a key; {_NEW}")
        if not stat.S_ISFIFO(mode) or not hasattr(os, "O_NONBLOCK"):
            return stream.read(_KEY_BYTES + 1)
        text, end = b"", time.monotonic() + _PIPE_S
        while len(text) <= _KEY_BYTES:
            if not select.select([descriptor], [], [], max(0, end - time.monotonic()))[0]:
                raise InputError(
                    f"{path}: is a pipe that did not end within {_PIPE_S:g} s, expected a key; name a file, or write "
                    "the key into the pipe"
                )
            if not (block := os.read(descriptor, _KEY_BYTES + 1)):
                break
            text += block
        return text


def _loaded(path: Path, text: bytes, which: str, load: Any) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return load(text)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: is no {which} key in PEM that can be read; {_NEW}") from error


def _of_kind(path: Path, key: Any, kind: type) -> Any:
    if not isinstance(key, kind):
        raise InputError(f"{path}: holds a key of another kind ({type(key).__name__}), expected Ed25519; {_NEW}")
    return key


def _read_signature(folder: Path, key: Path) -> bytes:
    file = folder / SIGNATURE_NAME
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            raise IntegrityError(f"{file}: is a link, a folder or a device, expected a plain file of {_BYTES} bytes")
        with file.open("rb") as stream:
            found = stream.read(_BYTES + 1)
    except FileNotFoundError as error:
        raise IntegrityError(
            f"{folder}: is not signed, expected a {SIGNATURE_NAME} by {key}; get a signed bundle, or sign it with: "
            "lowres-seg sign"
        ) from error
    except OSError as error:
        raise IntegrityError(f"{file}: cannot be read ({error.strerror}); copy the bundle again") from error
    if len(found) != _BYTES:
        count = f"more than {_BYTES} bytes" if len(found) > _BYTES else counted(len(found), "byte")
        raise IntegrityError(
            f"{file}: has {count}, expected the {_BYTES} of an Ed25519 signature; copy the bundle again"
        )
    return found
