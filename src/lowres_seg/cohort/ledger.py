"""The ledger of a folder run: what became of each case, in one line as it ends.

It lies in the folder of the masks. A line is JSON, and has the digests of the scan, of the bundle's manifest and of the
files that were written, the options that change them, and the outcome. A line is written before its files have their
names, so a case is believed done only when every digest agrees with what is on the disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

from lowres_seg import atomic
from lowres_seg.bundle.bundle import file_sha256
from lowres_seg.errors import InputError, in_one_line, shown

NAME = ".lowres-seg.jsonl"
#: Size of a ledger of some hundred thousand cases.
_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class Entry:
    """One line.

    Attributes
    ----------
    outcome : str
        ``done`` or ``failed``.
    scan : dict of str to str
        Path of each channel, as it was named; empty in an anonymous ledger.
    inputs : dict of str to str
        sha256 of each channel's file; empty if it failed before that was known.
    bundle : str
        sha256 of the manifest.
    version : str
        Of this tool.
    options : dict of str to bool, float or str
        Options that change what is written: whether each was given, its value, or the digest of the file it names.
    files : dict of str to str
        sha256 of each file written, by its path from the ledger's folder; the mask comes first. Of a case that failed
        they are empty, and an anonymous ledger names only files that are there.
    why : str
        Why it failed.
    voxels, volumes_ml, numbers, timings_s : dict of str to number
        As of the outcome.
    doubts, doubt_names : tuple of str
        Names are missing in ledgers of earlier versions.
    threads : int
        Threads that it was computed with; 0 in ledgers of earlier versions.
    """

    outcome: str
    scan: dict[str, str]
    bundle: str
    version: str
    options: dict[str, bool | float | str]
    files: dict[str, str]
    inputs: dict[str, str] = field(default_factory=dict)
    why: str = ""
    voxels: dict[str, int] = field(default_factory=dict)
    volumes_ml: dict[str, float] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    doubt_names: tuple[str, ...] = ()
    threads: int = 0


class Ledger:
    """The ledger of one folder, for runs with one bundle and one set of options.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the masks.
    bundle : str
        sha256 of the bundle's manifest.
    version : str
        Of this tool.
    options : dict of str to bool, float or str
        Options that change what is written.
    labels : iterable of str
        Names of the labels that results have.
    anonymous : bool
        Whether lines leave out the paths of scans. They name the files that lie beside the ledger all the same.

    Raises
    ------
    InputError
        If a ledger is there and cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        bundle: str,
        version: str,
        options: Mapping[str, bool | float | str],
        *,
        labels: Iterable[str],
        anonymous: bool = False,
    ) -> None:
        self.anonymous = anonymous
        self._labels = set(labels)
        self.folder = folder
        self.path = folder / NAME
        self._same: dict[str, Any] = {"bundle": bundle, "version": version, "options": dict(options)}
        self._entries: dict[str, list[Entry]] = {}
        try:
            found = read(self.path)
        except OSError as error:
            raise atomic.unwritable(self.path, error) from error
        for entry in found:
            self._add(entry)

    def done(self, files: list[Path], scan: Mapping[str, Sequence[Path]]) -> tuple[Entry | None, str]:
        """Entry of a case whose files are all there as it says, from the same scan and bundle.

        Parameters
        ----------
        files : list of pathlib.Path
            What the case writes, its mask first.
        scan : mapping of str to sequence of pathlib.Path
            Files of each channel.

        Returns
        -------
        entry : Entry or None
        why : str
            Why the case is to be done again; empty if nothing of it is there.

        Raises
        ------
        InputError
            If a file is there that no entry knows: another tool wrote it, or somebody has edited it.
        OSError
            If a file cannot be read.
        """
        if not any(os.path.lexists(file) for file in files):
            return None, ""
        names = {file: self._named(file) for file in files}
        entries = [entry for entry in self._entries.get(names[files[0]], []) if entry.outcome == "done"]
        there = {name: file_sha256(file) for file, name in names.items() if file.is_file()}
        for file, name in names.items():
            if os.path.lexists(file) and not any(there.get(name) == entry.files.get(name, "") for entry in entries):
                raise InputError(
                    f"{file}: exists, and is not what this tool wrote by its ledger; move it to keep it, or pass "
                    "--force to replace it"
                )
        last = [entry for entry in entries if any(entry.files.get(name) == there[name] for name in there)][-1]
        entries = [e for e in entries if {key: getattr(e, key) for key in self._same} == self._same]
        if not entries:
            return None, in_one_line(self._differs(last))
        entries = [entry for entry in entries if set(entry.voxels) == set(entry.volumes_ml) == self._labels]
        if not entries:
            return None, "its line in the ledger does not have the labels of this run"
        entries = [entry for entry in entries if entry.files == there]
        if not entries:
            return None, "not all of its files are there"
        inputs = digests(scan)
        entries = [entry for entry in entries if entry.inputs == inputs]
        return (entries[-1], "") if entries else (None, "its scan has changed")

    def write(self, outcome: str, scan: Mapping[str, Path], files: Mapping[Path, str], **more: Any) -> None:
        """Add a line, and wait until it is on the disk.

        Parameters
        ----------
        outcome : str
            ``done`` or ``failed``.
        scan : mapping of str to pathlib.Path
        files : mapping of pathlib.Path to str
            Digest of each file, its mask first; digests are empty if it failed.
        more
            Further fields of `Entry`.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        entry = Entry(
            outcome,
            {} if self.anonymous else {channel: str(path) for channel, path in scan.items()},
            files={self._named(file): digest for file, digest in files.items()},
            **self._same,
            **more,
        )
        line = json.dumps(asdict(entry)).encode() + b"\n"
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                if not _ends_a_line(descriptor):  # a run was killed while it wrote
                    line = b"\n" + line
                _write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise atomic.unwritable(self.path, error) from error
        self._add(entry)

    def _add(self, entry: Entry) -> None:
        for mask in list(entry.files)[:1]:
            self._entries.setdefault(mask, []).append(entry)

    def _differs(self, entry: Entry) -> str:
        """How a case was done that this run would do otherwise, in words."""
        options: dict[str, bool | float | str] = self._same["options"]
        ways = ["with another bundle"] if entry.bundle != self._same["bundle"] else []
        ways += [f"by version {entry.version}"] if entry.version != self._same["version"] else []
        for name in sorted({*entry.options, *options}):
            was = entry.options.get(name, False)
            if was != options.get(name, False):
                value = "" if isinstance(was, bool) else f" {was:g}" if isinstance(was, float) else f" {shown(was)}"
                ways.append(f"{'without' if was is False else 'with'} --{name.replace('_', '-')}{value}")
        return f"it was done {', '.join(ways) or 'by a version that did not say with which options'}"

    def _named(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()


def read(path: Path) -> list[Entry]:
    """Entries of a ledger; none if there is no file. A line that is no entry proves nothing, and is left out.

    Raises
    ------
    OSError
        If the file is there and cannot be read.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return []
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
        raise OSError(errno.EINVAL, f"is no regular file of at most {_MOST_BYTES >> 20} MiB")
    content = path.read_bytes()
    found = (_entry(line) for line in content.split(b"\n") if line.strip())
    return [entry for entry in found if entry is not None]


def digests(scan: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    """Digest of the file of each channel; of several files, that of their digests in their order.

    Raises
    ------
    OSError
        If one cannot be read.
    """
    found = {channel: [file_sha256(path) for path in paths] for channel, paths in scan.items()}
    return {
        channel: one[0] if len(one) == 1 else hashlib.sha256("".join(one).encode()).hexdigest()
        for channel, one in found.items()
    }


def _entry(line: bytes) -> Entry | None:
    """Entry of a line; None if it is no entry, or of a later version."""
    try:
        content = json.loads(line)
        names = tuple(content.get("doubt_names", ()))
        entry = Entry(**{**content, "doubts": tuple(content["doubts"]), "doubt_names": names})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    texts = (entry.scan, entry.inputs, entry.files)
    numbers = (entry.voxels, entry.volumes_ml, entry.numbers, entry.timings_s)
    words = (entry.outcome, entry.bundle, entry.version, entry.why, *entry.doubts, *entry.doubt_names)
    right = (
        all(isinstance(value, str) for value in words)
        and len(entry.doubt_names) in (0, len(entry.doubts))
        and isinstance(content.get("threads", 0), int)
        and all(_holds(part, (str,)) for part in texts)
        and all(_holds(part, (int, float)) and all(map(_is_plain, part.values())) for part in numbers)
        and _holds(entry.options, (bool, int, float, str))
        and all(isinstance(value, bool | str) or _is_plain(value) for value in entry.options.values())
        and (bool(entry.files) or entry.outcome == "failed")
        and all(map(_is_below, entry.files))
    )
    return entry if right else None


def _is_plain(number: float) -> bool:
    """Tell whether a number is finite, and of a size that a volume or a time has."""
    return not isinstance(number, bool) and abs(number) < 1e18


def _is_below(name: str) -> bool:
    """Tell whether a name is that of a file below the ledger's folder."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    path = PurePath(name)
    return "\0" not in name and not path.is_absolute() and ".." not in path.parts


def _holds(part: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(part, dict) and all(isinstance(value, kinds) for value in part.values())


def _ends_a_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    if size == 0:
        return True
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1) == b"\n"


def _write(descriptor: int, line: bytes) -> None:
    """Write all of a line. What a full disk takes of it is no line."""
    while line:
        line = line[os.write(descriptor, line) :]
