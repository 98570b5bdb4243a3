"""From a trained network to a bundle. Needs ``lowres-seg[export]``.

Importers read what a framework wrote and give a recipe. Frameworks load, convert and run networks.
The exporter checks parity with the source and writes the bundle.
"""

from typing import TYPE_CHECKING

from lowres_seg.extras import on_demand

if TYPE_CHECKING:
    from lowres_seg.export.exporter import export
    from lowres_seg.export.parity import ParityReport
    from lowres_seg.export.recipe import Recipe
    from lowres_seg.export.sources import Options

__all__ = [
    "Options",
    "ParityReport",
    "Recipe",
    "export",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "Options": "sources",
        "ParityReport": "parity",
        "Recipe": "recipe",
        "export": "exporter",
    },
    extra="export",
)
