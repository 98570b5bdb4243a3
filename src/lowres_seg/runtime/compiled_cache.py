"""Networks as OpenVINO compiled them, kept in a folder of the user's own, so that a process need not compile them anew.

A file is named after all that its content depends on, and begins with the digest of the rest. One that is damaged is
dropped, and its network is compiled again. Whoever can write the folder can run code in a process that uses it: so it
must be the user's own, and nobody else's to write or to exchange. That is judged whenever a network is taken from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lowres_seg import atomic, host, owners
from lowres_seg.arguments import described
from lowres_seg.arguments import path as as_path
from lowres_seg.atomic import staging
from lowres_seg.bundle.bundle import NetworkFiles
from lowres_seg.errors import InputError
from lowres_seg.logs import log

#: Environment variable that names the folder.
VARIABLE = "LOWRES_SEG_CACHE"
#: Bytes beyond which the files that were not used for the longest time are dropped.
MOST_BYTES = 2 << 30
_SUFFIX = ".compiled"
_DIGEST_BYTES = 32
#: Environment variables that change what OpenVINO compiles.
_SETTINGS = (*host.ISA_VARIABLES, "ONEDNN_CPU_ISA_HINTS", "DNNL_CPU_ISA_HINTS")


@dataclass(frozen=True)
class CompiledCache:
    """A folder of compiled networks.

    Attributes
    ----------
    folder : pathlib.Path
        A str is taken as a path, and a relative one as that of the folder that the process works in now.
    """

    folder: Path
    _taken: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        folder = as_path(self.folder, "folder of compiled networks")
        try:
            object.__setattr__(self, "folder", folder.absolute())
        except FileNotFoundError as error:
            raise InputError(
                f"{folder}: is relative to the working folder, which was removed; give the whole path of the folder"
            ) from error

    @classmethod
    def of_user(cls) -> CompiledCache | None:
        """The cache in the user's own folder, or in that of `VARIABLE`; None for a user without a home.

        The folder is made when the first network is kept.

        Raises
        ------
        InputError
            As of `check`; or if the folder is that of the variable, and cannot be made.
        """
        named = os.environ.get(VARIABLE)
        if named is not None and not named.strip():
            raise InputError(f"{VARIABLE}: is empty, expected a folder; unset it, or use no cache (--no-cache)")
        try:
            folder = host.cache_folder() / "compiled" if named is None else Path(named)
        except RuntimeError:  # Python finds no home
            return None
        cache = cls(folder)
        cache.check()
        if named is not None and not os.path.lexists(folder):
            above = next(parent for parent in folder.absolute().parents if os.path.lexists(parent))
            if not (above.is_dir() and os.access(above, os.W_OK)):
                raise InputError(
                    f"{folder}: cannot be made in {above}; name another folder in {VARIABLE}, or use none (--no-cache)"
                )
        return cache

    def check(self) -> None:
        """Check that nobody else can put a network into the folder. One that is not there yet is in order.

        Raises
        ------
        InputError
            If the folder is none, is another user's or can be written by others, or if others can put another one in
            its place.
        """
        if found := owners.doubt(self.folder):
            raise InputError(
                f"{self.folder}: {found}, expected a folder of your own that nobody else can write or exchange, "
                f"because compiled networks are code; chmod it to 0700, name another in {VARIABLE}, or use --no-cache"
            )

    def read(self, key: str) -> bytes | None:
        """Read a compiled network; None if it is not there, or is damaged, and then it is dropped.

        Raises
        ------
        InputError
            As of `check`.
        """
        self.check()
        file = self._file(key)
        try:
            # A pipe under the name of a network is not waited for.
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            with os.fdopen(os.open(file, flags), "rb") as stream:
                status = os.fstat(stream.fileno())
                foreign = owners.is_foreign(status)
                content = stream.read() if stat.S_ISREG(status.st_mode) and not foreign else b""
        except FileNotFoundError:
            return None
        except OSError as error:
            log.info("%s: cannot be read (%s), its network is compiled anew", file, error.strerror)
            return None
        blob = memoryview(content)[_DIGEST_BYTES:]
        if foreign or _digest(key, blob) != content[:_DIGEST_BYTES]:
            log.info("%s: is %s, its network is compiled anew", file, "of another user" if foreign else "damaged")
            self.drop(key)
            return None
        with suppress(OSError):  # another process may drop it now
            os.utime(file)
        self._taken.add(key)
        return bytes(blob)

    @property
    def was_used(self) -> bool:
        """True if a compiled network was taken from it by this object."""
        return bool(self._taken)

    def has(self, key: str) -> bool:
        """Tell whether a compiled network is there. It may be damaged.

        Raises
        ------
        InputError
            As of `check`.
        """
        self.check()
        return self._file(key).is_file()

    def keep(self, key: str, blob: bytes) -> None:
        """Write a compiled network, and drop those that were not used for the longest time.

        What cannot be written is no error, and the log says so. Folders that are missing are made for the user alone.
        """
        try:
            for folder in (*reversed(self.folder.parents), self.folder):
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, exist_ok=True)
            self.check()
            with atomic.file(self._file(key), force=True) as staged:
                staged.write_bytes(_digest(key, blob) + blob)
        except (InputError, OSError) as error:
            log.info("%s: keeps no compiled network: %s", self.folder, error)
            return
        total = 0
        for _, size, file in sorted(self._files(), reverse=True):
            total += size
            if total > MOST_BYTES:
                file.unlink(missing_ok=True)

    def drop(self, key: str) -> None:
        """Remove a compiled network, if it is there."""
        self._taken.discard(key)
        with suppress(OSError):
            self._file(key).unlink(missing_ok=True)

    def clear(self) -> int:
        """Remove every compiled network, and what killed processes left of others, and give the number of their bytes.

        Raises
        ------
        InputError
            As of `check`.
        OSError
            If one cannot be removed.
        """
        self.check()
        before = self.size_bytes()
        staging.sweep(self.folder)
        for _, _, file in self._files():
            file.unlink(missing_ok=True)
        return before - self.size_bytes()

    def size_bytes(self) -> int:
        """Bytes of all compiled networks, and of those that are being written or that killed processes left."""
        return sum(size for _, size, _ in self._files()) + sum(self._unplaced())

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _files(self) -> list[tuple[float, int, Path]]:
        """Time of last use, size and path of each file."""
        found = []
        for file in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):  # another process may have dropped it
                status = file.lstat()
                if not stat.S_ISDIR(status.st_mode):  # that is none of this package's
                    found.append((status.st_mtime, status.st_size, file))
        return found

    def _unplaced(self) -> Iterator[int]:
        """Size of each file in the folders that networks are written in."""
        for file in self.folder.glob(f"{staging.PREFIX}*/*"):
            with suppress(OSError):  # another process may have put it in its place
                yield file.lstat().st_size


def as_cache(value: object) -> CompiledCache | None:
    """Cache that a caller passed, or that of the folder that a caller named.

    Raises
    ------
    InputError
        If it is something else, or its folder is refused by `check`.
    """
    if isinstance(value, (str, os.PathLike)):
        value = CompiledCache(as_path(value, "cache"))
    if value is not None and not isinstance(value, CompiledCache):
        raise InputError(
            f"cache: found {described(value)}, expected a CompiledCache, such as CompiledCache.of_user(), or a folder"
        )
    if value is not None:
        value.check()
    return value


def key_of(files: NetworkFiles, *, openvino: str, threads: int, inference_precision: str, rewrite: str) -> str | None:
    """Name of a compiled network: a digest of all that it depends on. None for files without digests.

    Parameters
    ----------
    files : NetworkFiles
    openvino : str
        Version of OpenVINO.
    threads : int
    inference_precision : str
    rewrite : str
        Name of what changes the graph before it is compiled; empty if nothing does.
    """
    if files.sha256 is None:
        return None
    from lowres_seg import __version__

    machine = host.inspect()
    parts = {
        "files": files.sha256,
        "shapes": files.shapes,
        "versions": [__version__, openvino],
        "cpu": [machine.cpu, machine.features, machine.system],
        "settings": {name: os.environ.get(name, "") for name in _SETTINGS},
        "threads": threads,
        "precision": inference_precision,
        "rewrite": rewrite,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digest(key: str, blob: bytes | memoryview) -> bytes:
    """Digest of a compiled network and its name, so that one under another's name is damage too."""
    digest = hashlib.sha256(key.encode())
    digest.update(blob)
    return digest.digest()
