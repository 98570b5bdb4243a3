"""The import of nibabel, without the modules that it reads from the web with. Import this module before nibabel.

nibabel imports urllib, which loads ssl and http: a quarter of its import, for images that are read from an address.
Those modules are imported when something asks for them.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_NAME = "urllib.request"


def _when_asked() -> ModuleType:
    """A module in the place of another one, which is imported when an attribute of it is asked for."""

    def find(attribute: str) -> Any:
        return getattr(importlib.import_module(_NAME), attribute)

    module = ModuleType(_NAME)
    module.__getattr__ = find  # type: ignore[method-assign]
    return module


if "nibabel" not in sys.modules and _NAME not in sys.modules:
    sys.modules[_NAME] = _when_asked()
    try:
        import nibabel  # noqa: F401
    finally:
        del sys.modules[_NAME]
