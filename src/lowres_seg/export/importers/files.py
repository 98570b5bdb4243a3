"""Files of other frameworks: JSON objects, and texts that become names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lowres_seg.errors import ExportError, one_line


def named(text: str) -> str:
    """Turn a text of another framework into a name as manifests have them; empty if nothing is left.

    Examples
    --------
    >>> named("Whole Tumor (WT)")
    'whole-tumor-wt'
    """
    return re.sub(r"[^a-z0-9_.]+", "-", text.lower()).strip("-_.")[:64]


def read_json(path: Path) -> dict[str, Any]:
    """Read the object of a JSON file.

    Raises
    ------
    ExportError
        If the file cannot be read, or holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path}: cannot be read as JSON ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise ExportError(f"{path}: is {type(content).__name__}, expected a JSON object")
    return content
