"""The import of nibabel, without modules that it has no use for here. Import this module before nibabel.

nibabel imports urllib, which loads ssl and http: a quarter of its import, for images that are read from an address.
Those modules are imported when something asks for them. It imports pydicom where that is installed, for DICOM headers
within extensions, which nothing here reads; nibabel then takes them as bytes.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_WEB, _DICOM = "urllib.request", "pydicom"


def _when_asked() -> ModuleType:
    """A module in the place of another one, which is imported when an attribute of it is asked for."""

    def find(attribute: str) -> Any:
        return getattr(importlib.import_module(_WEB), attribute)

    module = ModuleType(_WEB)
    module.__getattr__ = find  # type: ignore[method-assign]
    return module


if "nibabel" not in sys.modules:
    stands: dict[str, Any] = {_WEB: _when_asked(), _DICOM: None}  # a module that is None cannot be imported
    stands = {name: stand for name, stand in stands.items() if name not in sys.modules}
    sys.modules.update(stands)
    try:
        import nibabel  # noqa: F401
    finally:
        for name in stands:
            del sys.modules[name]
