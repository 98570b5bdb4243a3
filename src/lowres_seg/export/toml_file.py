"""TOML files of recipes and plans. On Python 3.10 they need tomli, which the extra `export` installs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lowres_seg.errors import LowresSegError


def read(path: Path, error: type[LowresSegError]) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    LowresSegError
        As `error`, if the file cannot be read or is not TOML.
    """
    # Imported here, because other commands need no tomli.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise error(f"{path}: is not TOML ({problem})") from problem
