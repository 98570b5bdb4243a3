"""Results of a long run so far, on disk, so that a killed run can go on.

Every result that took time is written under a key before it is used. A resumed run asks for the same keys in the same
order and finds the results there, so it ends as the first run would have ended.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lowres_seg import atomic
from lowres_seg.errors import InputError

_LOCK = "lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only process at work on the journal in `folder`.

    Raises
    ------
    InputError
        If another process is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = atomic.hold(folder / _LOCK)
    if descriptor is None:
        raise InputError(
            f"{folder}: another process is at work for the same output; wait until it ends, or choose another output"
        )
    try:
        yield
    finally:
        os.close(descriptor)
        if folder.is_dir() and [path.name for path in folder.iterdir()] == [_LOCK]:
            shutil.rmtree(folder)


class Journal:
    """Results of one run by key.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the journal; made if missing.
    parameters : dict
        Parameters of the run, as plain values. Results of a run with other parameters are of no use.
    resume : bool
        Keep the results that are there. Otherwise they are deleted.

    Raises
    ------
    InputError
        If the journal is of a run with other parameters, or cannot be read.
    """

    def __init__(self, folder: Path, parameters: dict[str, Any], *, resume: bool) -> None:
        self.folder = folder
        self._file = folder / "journal.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        for path in () if resume else folder.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._entries: dict[str, Any] = {}
        for entry in self._lines():
            self._entries[entry["key"]] = entry["value"]
        before = self._entries.get("parameters")
        if before is not None and before != parameters:
            other = sorted(k for k in {*before, *parameters} if before.get(k) != parameters.get(k))
            raise InputError(
                f"{folder}: cannot be resumed, the earlier run differs in: {', '.join(other)}; leave out --resume"
            )
        if before is None:
            self._write("parameters", parameters)

    def remember(self, key: str, compute: Callable[[], Any]) -> Any:
        """Value under `key`: from the journal; or computed, written, and read back as the journal gives it."""
        if key not in self._entries:
            self._write(key, compute())
        return self._entries[key]

    def knows(self, key: str) -> bool:
        """Tell whether there is a value under `key`."""
        return key in self._entries

    def close(self) -> None:
        """Delete the journal: the run has ended."""
        shutil.rmtree(self.folder)

    def _write(self, key: str, value: Any) -> None:
        line = json.dumps({"key": key, "value": value}, sort_keys=True)
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._entries[key] = json.loads(line)["value"]

    def _lines(self) -> list[dict[str, Any]]:
        if not self._file.is_file():
            return []
        text = self._file.read_text(encoding="utf-8")
        whole, newline, _ = text.rpartition("\n")
        # A run that was killed while it wrote leaves half a line. The next line must not follow it.
        if text and not text.endswith("\n"):
            self._file.write_text(whole + newline, encoding="utf-8")
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except json.JSONDecodeError as error:
            raise InputError(f"{self._file}: is damaged ({error}); leave out --resume") from error
