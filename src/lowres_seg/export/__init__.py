"""From a trained network to a bundle. Needs ``lowres-seg[export]``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lowres_seg.extras import require

if TYPE_CHECKING:
    from lowres_seg.export.exporter import export
    from lowres_seg.export.parity import ParityReport
    from lowres_seg.export.recipe import Recipe
    from lowres_seg.export.sources import Options

__all__ = ["Options", "ParityReport", "Recipe", "export"]

_HOMES = {"Options": "sources", "ParityReport": "parity", "Recipe": "recipe", "export": "exporter"}


def __getattr__(name: str) -> Any:
    # Imported when asked for: the benchmark that times torch takes its loader from here and nothing else.
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    require("export")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
