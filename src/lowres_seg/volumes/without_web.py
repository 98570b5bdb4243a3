"""The import of nibabel, without the modules that it reads from the web and DICOM with. Import this before nibabel.

nibabel imports urllib, which loads ssl and http: a quarter of its import, for images that are read from an address.
Those modules are imported when something asks for them. It also imports pydicom where that is installed, for a DICOM
header within a NIfTI file, which is not read here: such an extension stays bytes.
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


def _kept_out() -> dict[str, ModuleType | None]:
    """What stands for a module that is not loaded, while nibabel is imported; of None, an import says it is missing."""
    places = {_NAME: _when_asked(), "pydicom": None}
    return {name: place for name, place in places.items() if name not in sys.modules}


if "nibabel" not in sys.modules:
    _places = _kept_out()
    sys.modules.update(_places)  # type: ignore[arg-type]
    try:
        import nibabel  # noqa: F401
    finally:
        for _place in _places:
            del sys.modules[_place]
