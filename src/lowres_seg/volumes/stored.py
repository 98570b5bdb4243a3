"""The bytes of a file, plain or gzipped, read once and checked to the last one.

A file is never mapped into memory: if it is truncated while it is read, a map ends the process. A gzip stream is read
to its end, where its checksum stands. ISA-L decompresses it, in half of the time of zlib. Where it finds damage, zlib
reads the stream once more, and tells where.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from isal import isal_zlib

from lowres_seg.errors import InputError, one_line
from lowres_seg.wording import counted

#: Deflate shrinks no data by more than this factor, so a smaller file cannot hold what its header claims.
_DEFLATE_MAX_RATIO = 1032
_GZIP_MAGIC = b"\x1f\x8b"
#: Size of the pieces in which compressed bytes are read, and of those that come out.
_CHUNK, _PIECE = 1 << 18, 1 << 20
_REASONS = {"data check": "its gzip checksum does not match", "length check": "its gzip length does not match"}


class DamagedError(InputError):
    """A file ends too early, or its gzip stream is broken."""


class PlainBytes:
    """Bytes of a file as they are stored."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path, self._stream = path, stream

    def fill(self, view: memoryview) -> int:
        """Read into `view` until it is full or the file ends. Returns the number of bytes read."""
        done = 0
        while done < len(view):
            read = self._stream.readinto(view[done : done + _PIECE])  # type: ignore[attr-defined]
            if not read:
                break
            done += read
        return done

    def beyond(self, most: int) -> int:
        """Number of bytes behind those that were read. It may be more than `most`."""
        del most
        return max(0, os.fstat(self._stream.fileno()).st_size - self._stream.tell())

    def at_most(self) -> int:
        """Largest number of bytes that the file can hold: its size."""
        return os.fstat(self._stream.fileno()).st_size

    def held(self, claimed: int) -> int:
        """Number of bytes that the file holds."""
        del claimed
        return self.at_most()


class GzipBytes:
    """Bytes of a gzip stream of one or several members, decompressed.

    Zeros behind the last member are padding, as gzip has it. Other bytes there are damage.
    """

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path, self._stream = path, stream
        self._begin(isal_zlib.decompressobj)

    def _begin(self, decompressor: Callable[..., Any]) -> None:
        self._decompressor = decompressor
        self._left = b""
        self._member = decompressor(wbits=31)
        self._between, self._first = True, True
        self._count = 0

    def fill(self, view: memoryview) -> int:
        """Read into `view` until it is full or the stream ends. Returns the number of bytes read.

        Raises
        ------
        DamagedError
            If the stream is broken.
        """
        done = 0
        while done < len(view):
            piece = self._read(min(_PIECE, len(view) - done))
            if not piece:
                break
            view[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def beyond(self, most: int) -> int:
        """Number of bytes behind those that were read, counted until it is more than `most`.

        Raises
        ------
        DamagedError
            If the stream is broken.
        """
        count = 0
        while count <= most and (piece := self._read(_PIECE)):
            count += len(piece)
        return count

    def at_most(self) -> int:
        """Largest number of bytes that the stream can hold."""
        return os.fstat(self._stream.fileno()).st_size * _DEFLATE_MAX_RATIO

    def held(self, claimed: int) -> int:
        """Number of bytes that the stream holds, or `claimed` if it holds as many. The place in the stream stays.

        The trailer of a gzip member has its size modulo 2^32: it can confirm a claim, and not refute it.
        """
        place = self._stream.tell()
        self._stream.seek(-4, os.SEEK_END)
        trailer = self._stream.read(4)
        if int.from_bytes(trailer, "little") == claimed % 2**32:
            self._stream.seek(place)
            return claimed
        self._stream.seek(0)
        other = GzipBytes(self._path, self._stream)
        with suppress(DamagedError):  # what came before the damage is counted, and whoever reads on meets it again
            other.beyond(claimed - 1)
        self._stream.seek(place)
        return min(claimed, other._count)

    def _read(self, most: int) -> bytes:
        """At most `most` bytes; none at the end of the stream."""
        while True:
            if self._between and not self._begin_member():
                return b""
            data = self._left or self._stream.read(_CHUNK)
            before = self._member.copy() if self._decompressor is zlib.decompressobj else None
            try:
                piece = self._member.decompress(data, most)
            except isal_zlib.IsalError:  # type: ignore[misc]  # its stub gives it no type
                self._begin_again()
                continue
            except zlib.error as error:
                self._count += _whole_bytes(before, data)
                text = one_line(error)
                reason = next((said for word, said in _REASONS.items() if word in text), f"its gzip stream: {text}")
                raise DamagedError(
                    f"{self._path}: is damaged after {counted(self._count, 'byte')}, {reason}"
                ) from error
            self._count += len(piece)
            if self._member.eof:
                self._left, self._between = self._member.unused_data, True
            elif not data and not piece:
                raise DamagedError(
                    f"{self._path}: is truncated, its gzip stream ends after {counted(self._count, 'byte')}"
                )
            else:
                self._left = self._member.unconsumed_tail
            if piece:
                return piece

    def _begin_again(self) -> None:
        """Go to the same place of the stream with zlib."""
        done = self._count
        self._stream.seek(0)
        self._begin(zlib.decompressobj)
        while self._count < done and self._read(min(_PIECE, done - self._count)):
            pass

    def _begin_member(self) -> bool:
        """Go to the next member of the stream; false at its end."""
        while not self._first:
            self._left = self._left.lstrip(b"\0")
            if self._left:
                break
            self._left = self._stream.read(_CHUNK)
            if not self._left:
                return False
        self._left += self._stream.read(2) if len(self._left) < len(_GZIP_MAGIC) else b""
        if not self._left.startswith(_GZIP_MAGIC):
            if self._first:
                raise DamagedError(
                    f"{self._path}: cannot be read as NIfTI, its name says gzip and it is no gzip stream"
                )
            behind = len(self._left) + os.fstat(self._stream.fileno()).st_size - self._stream.tell()
            more = f"{counted(behind, 'byte')} {'lies' if behind == 1 else 'lie'}"
            raise DamagedError(
                f"{self._path}: is damaged, {more} behind its gzip stream of {counted(self._count, 'byte')}; copy it "
                "again, or cut them off"
            )
        if not self._first:
            self._member = self._decompressor(wbits=31)
        self._between = self._first = False
        return True


def _whole_bytes(member: Any, data: bytes) -> int:
    """Number of bytes that come out of `data` before its error. zlib itself drops those of the same call."""
    count = 0
    with suppress(zlib.error):
        for at in range(len(data)):
            count += len(member.decompress(data[at : at + 1]))
    return count


@contextmanager
def opened(path: Path, *, gzipped: bool) -> Iterator[PlainBytes | GzipBytes]:
    """Open a file for reading, and say in one line why it cannot be opened or read.

    Raises
    ------
    InputError
        If it does not exist, is no regular file, or cannot be read.
    """
    try:
        _check_kind(path)
        with path.open("rb", buffering=0) as stream:
            yield GzipBytes(path, stream) if gzipped else PlainBytes(path, stream)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: does not exist") from error
    except OSError as error:
        why = error.strerror or one_line(error)
        raise InputError(
            f"{path}: cannot be read ({why}); see that the file is there and that you may read it"
        ) from error


def _check_kind(path: Path) -> None:
    try:
        kind = path.stat().st_mode
    except ValueError as error:
        raise InputError(f"{str(path)!r}: is no path ({one_line(error)})") from error
    if not stat.S_ISREG(kind):
        raise InputError(f"{path}: is no regular file, expected a NIfTI file")
