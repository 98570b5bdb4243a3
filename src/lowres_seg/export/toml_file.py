"""TOML of recipes and plans. On Python 3.10 it needs tomli, which the extra `export` installs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lowres_seg.errors import ExportError, LowresSegError


def read(path: Path, error: type[LowresSegError]) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    LowresSegError
        As `error`, if the file cannot be read or is not TOML.
    """
    try:
        return parsed(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from problem
    except (ExportError, UnicodeDecodeError) as problem:
        raise error(f"{path}: is not TOML ({problem})") from problem


def parsed(text: str) -> dict[str, Any]:
    """Content of a text in TOML.

    Raises
    ------
    ExportError
        If it is not TOML. The message is the parser's own.
    """
    # Imported here, because other commands need no tomli.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise ExportError(str(problem)) from problem
